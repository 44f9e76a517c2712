"""Configuration: RecBole's, with our property files below the user's and unknown keys refused.

Order, later wins: RecBole's property files; ours for all (``properties/overall.yaml``); what RecBole sets for a kind of
model (labels for context-aware ones, ``.kg`` and ``.link`` for knowledge-aware ones); ours (``dataset/``, ``model/``,
``size/`` if one is chosen); the user's files; `config_dict`. ``sys.argv`` is never read here: entry points decide what
is an override.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import recbole
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.evaluator import metric_information, metric_types
from recbole.utils import EvaluatorType, ModelType

from recbole_sid import __version__, compat
from recbole_sid.capabilities import ChecksConfig, capabilities_of, lacks_teacher
from recbole_sid.distributed.place import device_of, launched_place, visible_gpus, was_launched
from recbole_sid.errors import InputError, first_line, nearest, require_known
from recbole_sid.property_files import PAPER, PROPERTIES, models_with, size_files, sizes
from recbole_sid.registry import METRICS, get_model, get_trainer, is_ours, resolve
from recbole_sid.settings.declared import Key, check_value
from recbole_sid.settings.known import common_settings, flagged, metric_settings, semantic_id_keys, settings_of
from recbole_sid.settings.recbole_checks import check_launch, check_recbole_keys
from recbole_sid.settings.run import LaunchSettings, RecBoleSettings
from recbole_sid.settings.time_split import with_time_defaults
from recbole_sid.settings.whole_data import with_whole_data_defaults
from recbole_sid.util.atomic_files import atomic_path
from recbole_sid.util.hashing import as_json_type, fingerprint
from recbole_sid.util.names import check_dataset_name
from recbole_sid.util.reading import read_yaml
from recbole_sid.util.values import PropertyLoader
from recbole_sid.util.values import parse_value as parse_value
from recbole_sid.util.visible_gpus import hiding_gpus

_RECBOLE_MODELS = Path(recbole.__file__).resolve().parent / "properties" / "model"
_KIND_FOLDER = "quick_start_config"  # where RecBole keeps what it sets for a kind of model

# What RecBole derives from the settings.
DERIVED_KEYS = frozenset(
    "MODEL_TYPE MODEL_INPUT_TYPE eval_type device single_spec local_rank valid_metric_bigger valid_neg_sample_args "
    "test_neg_sample_args".split()
)
# Keys that a student's run and its teacher's run share: the data, the semantic IDs and how results are measured.
_SHARED_SECTIONS = ("Dataset", "Evaluation", "General")


class Config(RecBoleConfig):
    """RecBole's Config that knows our models and property files and refuses unknown keys.

    Args: as RecBole's Config. `model` may be ours or RecBole's.

    Raises:
        InputError: for an unknown key (with the nearest known one), a missing file, an unknown model, or a value that
            RecBole, the model or its trainer (their `check_config`) refuses.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        for file in config_file_list or ():
            if not Path(file).is_file():
                raise InputError(f"The configuration file '{file}' does not exist.")
        compat.add_metrics({name: resolve(METRICS, name, "metric") for name in METRICS})
        try:
            super().__init__(model, dataset, list(config_file_list or ()), dict(config_dict or {}))
        except InputError:
            raise
        except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError, yaml.YAMLError) as error:
            raise InputError(f"RecBole cannot use the configuration ({first_line(error)}).") from error
        self._check_keys()
        self._check_values()
        trainers = [get_trainer(self)] if is_ours(self.model_class) else []
        for ours in (self.model_class, *trainers):
            if issubclass(ours, ChecksConfig):
                ours.check_config(self)
        self.made_by: dict[str, str] = {}  # key -> name of the run that makes the file which the key names
        self.settle_name()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out a user's own class: RecBole pickles the Config into its checkpoints, which load without code."""
        state = dict(self.__dict__)
        if not self.model_class.__module__.startswith(("recbole.", "recbole_sid.")):
            del state["model_class"]
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def _load_config_files(self, file_list: Sequence[str]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for file in file_list:
            content = read_yaml(file, self.yaml_loader) or {}
            if not isinstance(content, dict):
                raise InputError(f"The configuration file '{file}' must hold lines of `key: value`.")
            settings.update(content)
        return settings

    def _build_yaml_loader(self) -> Any:
        return PropertyLoader

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict  # RecBole runs every string through `eval` here

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}  # RecBole reads sys.argv here, so that pytest's and Ray's arguments leak in.

    def _get_model_and_dataset(self, model: Any, dataset: Any) -> tuple[str, type, str]:
        model = model or self.external_config_dict.get("model")
        dataset = dataset or self.external_config_dict.get("dataset")
        if model is None or dataset is None:
            raise InputError("Name a model and a dataset, for example `--model=TIGER --dataset=ml-100k`.")
        check_dataset_name(dataset)
        if isinstance(model, str):
            return model, get_model(model), dataset
        return model.__name__, model, dataset

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        self._kind_files: list[str] = []
        super()._load_internal_config_dict(model, model_class, dataset)
        of_all: list[str | Path] = [PROPERTIES / "overall.yaml", PROPERTIES / "semantic_ids.yaml"]
        for declared in common_settings():
            self.internal_config_dict.update(declared.defaults())
        for file in (*of_all, *self._kind_files):
            self._update_internal_config_dict(file)
        load_col = self.internal_config_dict["load_col"]
        if (PROPERTIES / f"dataset/{dataset}.yaml").is_file():
            self._update_internal_config_dict(PROPERTIES / f"dataset/{dataset}.yaml")
            # The dataset knows the fields of its own .inter; the kind of model, which further files it needs.
            self.internal_config_dict["load_col"] = {**load_col, **self.internal_config_dict["load_col"]}
        self.internal_config_dict.update(capabilities_of(model_class).settings.defaults())
        size = self.external_config_dict.get("size", PAPER)
        require_known("size", size, sizes())
        sized = size_files(size, _names_from_base_to(model, model_class))
        for file in (*_files_from_base_to(model, model_class), *sized):
            self._update_internal_config_dict(file)

    def _update_internal_config_dict(self, file: str | Path) -> Any:
        if Path(file).parent.name == _KIND_FOLDER and str(file) not in self._kind_files:
            self._kind_files.append(str(file))
        return super()._update_internal_config_dict(file)

    def _get_final_config_dict(self) -> dict[str, Any]:
        """Merge all sources. Cross entropy takes no sampled negatives, so RecBole's default of one is left out then,
        which RecBole itself refuses (recbole/config/configurator.py, `_set_default_parameters`). A split by time, and
        training on everything, bring their order.
        """
        final = super()._get_final_config_dict()
        final["eval_args"] = with_whole_data_defaults(with_time_defaults(final["eval_args"]))
        chosen = {"train_neg_sample_args", "neg_sampling"} & set(self.external_config_dict)
        by_loss = final["MODEL_TYPE"] == ModelType.SEQUENTIAL and not hasattr(self.model_class, "input_type")
        if by_loss and final.get("loss_type") == "CE" and not chosen:
            final["train_neg_sample_args"] = None
        if launched_place().rank > 0:  # the main process shows what all do
            final["show_progress"] = final["log_wandb"] = False
        return final

    def _set_default_parameters(self) -> None:
        for key in ("topk", "metrics"):
            if self.final_config_dict[key] in ([], (), "", None):
                raise InputError(f"{key}={self.final_config_dict[key]!r} measures nothing: name at least one.")
        for key in ("metrics", "valid_metric"):
            names = self.final_config_dict[key]
            names = names if key == "metrics" and isinstance(names, (list, tuple)) else [names]
            if not all(isinstance(name, str) for name in names):
                raise InputError(f"{key}={self.final_config_dict[key]!r} must be names, such as NDCG.")
        own = os.path.join(self.final_config_dict["data_path"], self.dataset)
        super()._set_default_parameters()
        # RecBole 1.2.1 reads its own copy of ml-100k whatever data_path says (config/configurator.py, line 330).
        if atomic_path(own, self.dataset, "inter").is_file():
            self.final_config_dict["data_path"] = own

    def _init_device(self) -> None:
        # RecBole 1.2.1 takes the GPU even when use_gpu is False.
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["gpu_id"] = ""
        check_launch(self.external_config_dict)
        place = launched_place()
        if was_launched() and self.final_config_dict["use_gpu"] and "gpu_id" not in self.external_config_dict:
            self.final_config_dict["gpu_id"] = visible_gpus(place)  # RecBole hides all but these; its default is one
        with hiding_gpus():
            super()._init_device()
        if place.size > 1 and self.final_config_dict["device"].type == "cuda":
            self.final_config_dict["device"] = device_of(place)

    def _check_keys(self) -> None:
        known = self.known_keys()
        for key in self.external_config_dict:
            if key not in known:
                others = models_with(key)
                hint = f": {self['model']} has no such key; {', '.join(others)} have" if others else nearest(key, known)
                raise InputError(f"Unknown configuration key '{key}'{hint}.")

    def known_keys(self, asked: Iterable[str] | None = None) -> set[str]:
        """Return the keys that mean something to this model: from property files, and those that RecBole's code reads
        without listing them anywhere, if one of `asked` (by default what the user set) is not among the first.
        """
        known = set(self.internal_config_dict) | {*RecBoleSettings.flagged("volatile"), "model", "dataset"}
        known.update(key for keys in self.parameters.values() for key in keys)
        if not known.issuperset(
            self.external_config_dict if asked is None else asked
        ):  # only then pay for reading sources
            known |= _keys_read_by(self.model_class)
        return known

    def _check_values(self) -> None:
        check_recbole_keys(self)
        if is_ours(self.model_class) and self["benchmark_filename"]:
            raise InputError(f"{self['model']} needs whole sequences of interactions: leave out benchmark_filename.")
        RecBoleSettings.of(self)
        ours = settings_of(self.model_class)
        for declared in ours:
            declared.of(self)
        for key, value in self.external_config_dict.items():
            if not any(key in declared.declarations() for declared in ours):
                self._check_kind(key, value)
        if self["tokenizer"] == "file" and not self["semantic_ids_path"]:
            raise InputError("tokenizer=file takes ready-made semantic IDs: name their file in semantic_ids_path.")
        if capabilities_of(self.model_class).retrieves:
            self._check_search()
        metrics = [name for metric in self["metrics"] for name in _measured(metric.lower(), self["topk"])]
        if self["valid_metric"].lower() not in metrics:
            raise InputError(
                f"valid_metric={self['valid_metric']} is not measured{nearest(self['valid_metric'].lower(), metrics)}: "
                "add it to metrics and topk."
            )

    def pretrained_files(self) -> dict[str, str]:
        """Return the files that a model of RecBole starts from, by key."""
        named = {key: self[key] for key in RecBoleSettings.flagged("tensors") if isinstance(self[key], str)}
        return {key: file for key, file in named.items() if Path(file).is_file()}

    def _check_search(self) -> None:
        """Refuse what a model that retrieves items by a beam search cannot do."""
        largest, beam = max(self["topk"]), self["beam_size"]
        if beam < largest:
            raise InputError(f"beam_size={beam} is smaller than the largest topk={largest}: raise beam_size.")
        if self["train_neg_sample_args"]["dynamic"]:
            raise InputError(
                f"{self.model} learns from the codes of its targets and takes no negatives: leave out "
                "train_neg_sample_args."
            )

    def _check_kind(self, key: str, value: Any) -> None:
        """Refuse what is no number, truth or dictionary where the default, RecBole's, is one."""
        default = self.internal_config_dict.get(key)
        kind = next((each for each in (bool, int, float, dict) if isinstance(default, each)), None)
        if kind is not None and not (kind is dict and value is None):
            check_value(key, value, kind, Key(least=-math.inf), default)

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON types; a Config made of them is equal to this one."""
        return plain_settings(self.final_config_dict)

    def model_keys(self) -> list[str]:
        """Return the keys that the model itself declares (ours)."""
        return list(capabilities_of(self.model_class).settings.declarations())

    def shared_with_teacher(self) -> dict[str, Any]:
        """Return the settings that a student's run and its teacher's have in common (data, SIDs, evaluation)."""
        keys = {key for section in _SHARED_SECTIONS for key in self.parameters[section]}
        keys |= {*semantic_id_keys(), *flagged("shared")}
        keys |= {key for declared in metric_settings() for key in declared.declarations()}
        keys -= DERIVED_KEYS
        keys -= {"use_gpu", "gpu_id"} - self.external_config_dict.keys()  # a GPU that nobody asked for is not missed
        shared = {key: value for key, value in self.final_config_dict.items() if key in keys}
        return {**shared, "data_path": _data_root(self.final_config_dict)}

    def run_name(self) -> str:
        """Return ``model-dataset-fingerprint``, which names this run's files."""
        return f"{self['model']}-{self['dataset']}-{self.fingerprint()}"

    def settle_name(self) -> None:
        """Let the settings as they are now name the run: what it writes into its Config later, as the settings of the
        teacher that it loaded, does not. Done when a Config is made and when its run begins.
        """
        self._asked = self.plain()
        self._fingerprint: str | None = None

    def fingerprint(self) -> str:
        """Return 16 hex digits that name what this run computes, wherever and whenever it runs: its settings as they
        were when its name was settled, the content of all files that it reads, and the package's version.

        Files are read when it is first asked for; it then stays as it is.
        """
        if self._fingerprint is None:
            self._fingerprint = self._fingerprint_with({})
        return self._fingerprint

    def run_name_with(self, changes: Mapping[str, Any]) -> str:
        """Return the `run_name` of the run that differs in these settings only."""
        return f"{self['model']}-{self['dataset']}-{self._fingerprint_with(changes)}"

    def _fingerprint_with(self, changes: Mapping[str, Any]) -> str:
        from recbole_sid.identity import data_hash, with_contents  # which read this module

        asked = {**self.deciding_settings(), **changes}
        settings = with_contents(asked, flagged("file", self.model_class), self.made_by)
        return fingerprint({"settings": settings, "data": data_hash(self), "version": __version__})

    def deciding_settings(self) -> dict[str, Any]:
        """Return the settings that decide what this run computes, as they were when its name was settled."""
        # RecBole's own models draw negatives in the loader's processes, each its own.
        volatile = {*flagged("volatile", self.model_class)} - (set() if is_ours(self.model_class) else {"worker"})
        settings = {key: value for key, value in self._asked.items() if key not in volatile}
        # `size` counts by the settings that it chose, so that two runs of equal settings are one, however they came by
        # them; but it also chose those of a teacher that this run trains itself, which are not among its own.
        if settings.get("size") == PAPER or not lacks_teacher(self):
            settings.pop("size", None)
        return settings


def _files_from_base_to(model: str, model_class: type) -> list[Path]:
    """Return the property files that a model's settings begin with: those of its base classes, and its own last.

    RecBole's own file of `model` is not among them, as RecBole has loaded it, unless it is one that RecBole does not
    find where names are case-sensitive: lightgbm.yaml of LightGBM.
    """
    recboles = {file.stem.lower(): file for file in _RECBOLE_MODELS.glob("*.yaml")}
    recboles.pop(model.lower() if (_RECBOLE_MODELS / f"{model}.yaml").is_file() else "", None)
    names = _names_from_base_to(model, model_class)
    candidates = [(recboles.get(name.lower()), PROPERTIES / f"model/{name}.yaml") for name in names]
    return [file for pair in candidates for file in pair if file is not None and file.is_file()]


def _names_from_base_to(model: str, model_class: type) -> list[str]:
    return [*(base.__name__ for base in reversed(model_class.__mro__[1:])), model]


def _measured(metric: str, topk: Sequence[int]) -> list[str]:
    """Return the names under which RecBole reports `metric`: one a cut-off, if it has cut-offs."""
    if metric_types[metric] == EvaluatorType.VALUE or "rec.meanrank" in metric_information[metric]:
        return [metric]
    return [f"{metric}@{k}" for k in topk]


def plain_settings(final_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Config's ``final_config_dict`` as JSON types that make an equal Config."""
    left_out = {*DERIVED_KEYS, *LaunchSettings.declarations(), "offset"}  # where it was launched makes no other Config
    settings = {key: value for key, value in final_config.items() if key not in left_out}
    settings["data_path"] = _data_root(final_config)
    if (settings.get("train_neg_sample_args") or {}).get("distribution") == "none":
        settings["train_neg_sample_args"] = None
    return json.loads(json.dumps(settings, default=as_json_type, sort_keys=True))


def _data_root(final_config: Mapping[str, Any]) -> str:
    """Return data_path as the user gave it: RecBole appends the dataset's name when it builds the configuration."""
    return str(Path(final_config["data_path"]).parent)


def _keys_read_by(model_class: type) -> set[str]:
    """Return the keys that the model's own modules and RecBole's data, trainer and evaluator code read."""
    import recbole.data as data
    import recbole.evaluator as evaluator
    import recbole.trainer as trainer

    # Ours declare theirs, and ask in passing for keys of other models.
    bases = [base for base in model_class.__mro__ if not base.__module__.startswith(("builtins", "recbole_sid."))]
    files = [Path(inspect.getfile(base)) for base in bases]
    for package in (data, evaluator, trainer):
        files += sorted(Path(package.__path__[0]).rglob("*.py"))
    return set(_keys_in(files))


def _keys_in(files: Iterable[Path]) -> Iterable[str]:
    for file in files:
        if file.suffix == ".py":
            yield from re.findall(r"""config\[["'](\w+)["']\]""", file.read_text(encoding="utf-8"))
