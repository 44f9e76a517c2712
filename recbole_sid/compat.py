"""The only module that patches RecBole, so that 1.2.1 works on current Python, numpy and torch.

Every patch names the RecBole line it mends, and does nothing where RecBole works as it is. They are applied when this
module is imported, which every module of ours that imports RecBole does, itself or through another.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib.metadata
import os
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch

from recbole_sid.errors import InputError, first_line
from recbole_sid.util.panel import Bar
from recbole_sid.util.plain_values import as_plain, from_plain
from recbole_sid.util.reading import check_tensor_file
from recbole_sid.util.recorded_values import STAND_INS, restored

RECBOLE_VERSION = "1.2.1"
INSTALL_COMMAND = f"pip install --no-deps recbole=={RECBOLE_VERSION}"


def require_recbole() -> None:
    """Raise ImportError, with the command that mends it, unless RecBole 1.2.1 is installed."""
    try:
        found = importlib.metadata.version("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f"recbole_sid needs RecBole {RECBOLE_VERSION}, which is not installed: run `{INSTALL_COMMAND}` "
            "(without its dependencies, because its metadata pins an old Ray)."
        ) from None
    if found != RECBOLE_VERSION:
        raise ImportError(f"recbole_sid needs RecBole {RECBOLE_VERSION} but found {found}: run `{INSTALL_COMMAND}`.")


def apply() -> None:
    """Apply all patches; calling it again changes nothing."""
    _patch_numpy_aliases()
    _patch_ensure_dir()
    _patch_loaders_numbers()
    _patch_repeatable_sampler()
    _patch_checkpoint_loading()
    _patch_other_parameters()
    _patch_collector()
    _patch_dok_update()
    _patch_saved_loaders()
    _patch_popularity()
    _patch_bars()
    _patch_one_epoch()
    _silence_future_warnings()


def _patch_numpy_aliases() -> None:
    """recbole/config/configurator.py, `Config.compatibility_settings`: reads np.float_, np.complex_ and
    np.unicode_, which numpy 2 removed. We set the aliases that RecBole's own code uses, from names both have.
    """
    import numpy as np
    from recbole.config import Config

    if hasattr(np, "float_"):
        return

    def compatibility_settings(self: Config) -> None:
        for alias, name in {
            "bool": "bool_",
            "int": "int_",
            "float": "float64",
            "complex": "complex128",
            "object": "object_",
            "str": "str_",
            "long": "int_",
            "unicode": "str_",
        }.items():
            setattr(np, alias, getattr(np, name))

    Config.compatibility_settings = compatibility_settings


def _patch_ensure_dir() -> None:
    """recbole/utils/utils.py, `ensure_dir`: makes a directory after it has looked whether there is one, which fails
    where another process (a job of a comparison, a trial, a rank) made it in between.
    """
    from recbole.utils import utils

    original = utils.ensure_dir
    if original is _ensure_dir:
        return
    for name, module in list(sys.modules.items()):
        if name.startswith("recbole.") and vars(module).get("ensure_dir") is original:
            vars(module)["ensure_dir"] = _ensure_dir


def _ensure_dir(dir_path: str) -> None:
    os.makedirs(dir_path, exist_ok=True)


def _patch_loaders_numbers() -> None:
    """recbole/data/dataloader/abstract_dataloader.py, `AbstractDataLoader.__init__`: makes a list of the numbers of all
    rows, 36 bytes a row, where torch takes a range.
    """
    from recbole.data.dataloader import abstract_dataloader

    vars(abstract_dataloader)["list"] = lambda numbers: numbers if isinstance(numbers, range) else list(numbers)


def _patch_repeatable_sampler() -> None:
    """recbole/sampler/sampler.py, `RepeatableSampler.get_used_ids`: makes an empty set for every user, 216 bytes each,
    that nothing is ever added to.
    """
    import numpy as np
    from recbole.sampler import RepeatableSampler

    RepeatableSampler.get_used_ids = lambda self: np.full(self.user_num, frozenset(), dtype=object)


def _patch_dok_update() -> None:
    """recbole/model/general_recommender/lightgcn.py, `get_norm_adj_mat` (and ngcf, gcmc, ncl, spectralcf, kgin, mcclk):
    fills a matrix by `dok_matrix._update`, which scipy 1.13 removed.
    """
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


def _patch_popularity() -> None:
    """recbole/model/general_recommender/pop.py, `calculate_loss`: adds 1 for an item however often a batch holds it,
    and so counts batches.
    """
    from recbole.model.general_recommender import Pop

    def calculate_loss(self: Any, interaction: Any) -> torch.Tensor:
        items = interaction[self.ITEM_ID]
        self.item_cnt.index_add_(0, items, torch.ones_like(items).unsqueeze(1))
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.nn.Parameter(torch.zeros(1)).to(self.device)

    Pop.calculate_loss = calculate_loss


def _patch_bars() -> None:
    """recbole/trainer/trainer.py, `_train_epoch` and `evaluate`: draw bars of tqdm's own, ten lines a second in a file
    and through a panel below them.
    """
    from recbole.trainer import trainer

    trainer.tqdm = Bar


def _patch_one_epoch() -> None:
    """recbole/trainer/trainer.py, `TraditionalTrainer.__init__`: sets `epochs` to 1 after `eval_step` was bounded by
    what it was before, so that with a larger one nothing is validated or saved.
    """
    from recbole.trainer.trainer import TraditionalTrainer

    original = TraditionalTrainer.__init__
    if getattr(original, "bounds_eval_step", False):
        return

    def init(self: Any, config: Any, model: Any) -> None:
        original(self, config, model)
        self.eval_step = min(self.eval_step, self.epochs)

    init.bounds_eval_step = True  # type: ignore[attr-defined]
    TraditionalTrainer.__init__ = init


def _patch_saved_loaders() -> None:
    """recbole/data/utils.py, `load_split_dataloaders`: unpickles, and so runs, whatever lies at
    ``dataloaders_save_path`` or, under a certain name, in ``checkpoint_dir``, also where these stand in somebody's
    checkpoint. Loaders are made anew instead.
    """
    from recbole.data import utils

    utils.load_split_dataloaders = lambda config: None


def _patch_checkpoint_loading() -> None:
    """recbole/trainer/trainer.py, `Trainer.evaluate` and `Trainer.resume_checkpoint`: `torch.load` of a pickled
    Config fails with torch>=2.6, where `weights_only=True` is the default and knows neither the class nor the pickle
    protocol. While these two run, `torch.load` reads what RecBole writes and nothing else.
    """
    from recbole.trainer import Trainer

    if getattr(Trainer, "_recbole_sid_patched", False):
        return

    def loading_recbole_files(original: Any) -> Any:
        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            with mock.patch.object(torch, "load", load_recbole_checkpoint):
                return original(*args, **kwargs)

        return method

    Trainer.evaluate = loading_recbole_files(Trainer.evaluate)
    Trainer.resume_checkpoint = loading_recbole_files(Trainer.resume_checkpoint)
    Trainer._recbole_sid_patched = True


def _patch_other_parameters() -> None:
    """recbole/model/abstract_recommender.py, `other_parameter`: what a model keeps beside its weights goes into the
    checkpoint as it is: scipy matrices (EASE, ItemKNN, AsymKNN, SLIMElastic), arrays (GRU4RecF, RippleNet) and whole
    modules with the data they hold (DIN, DIEN, FDSA, SASRecF). Reading those back would mean unpickling code. They are
    written as tensors and plain types instead; modules of the model are left out, as their weights are in state_dict.

    recbole/model/context_aware_recommender/fwfm.py: a weight that is no Parameter, and so in no state_dict, is written
    with them.
    """
    from recbole.model.abstract_recommender import AbstractRecommender

    if getattr(AbstractRecommender, "_recbole_sid_patched", False):
        return
    original, original_load = AbstractRecommender.other_parameter, AbstractRecommender.load_other_parameter

    def other_parameter(self: Any) -> dict[str, Any]:
        kept = {key: value for key, value in original(self).items() if not isinstance(value, torch.nn.Module)}
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf:
                kept[name] = value.detach()
        try:
            return {key: as_plain(value) for key, value in kept.items()}
        except InputError as error:
            raise InputError(
                f"{type(self).__name__}.other_parameter_name names what cannot be kept: {error}"
            ) from error

    def load_other_parameter(self: Any, para: dict[str, Any] | None) -> None:
        # Checkpoints that RecBole wrote hold records in place of modules.
        kept = {key: value for key, value in (para or {}).items() if not isinstance(value, RecordedConfig)}
        original_load(self, {key: from_plain(value) for key, value in kept.items()})

    AbstractRecommender.other_parameter = other_parameter
    AbstractRecommender.load_other_parameter = load_other_parameter
    AbstractRecommender._recbole_sid_patched = True


def _patch_collector() -> None:
    """recbole/evaluator/collector.py, `get_data_struct`: calls `cpu` on all that was collected, which fails on the
    number of items and the counters that the metrics of coverage, popularity and diversity need.
    """
    from recbole.evaluator.collector import Collector, DataStruct

    if getattr(Collector, "_recbole_sid_patched", False):
        return

    def get_data_struct(self: Any) -> Any:
        collected = DataStruct()
        for name, value in list(self.data_struct._data_dict.items()):
            collected.set(name, value.cpu() if isinstance(value, torch.Tensor) else value)
            if name.startswith("rec.") or name == "data.label":
                del self.data_struct[name]  # of the batches, and outdated by the next evaluation
        return collected

    Collector.get_data_struct = get_data_struct
    Collector._recbole_sid_patched = True


def add_metrics(metrics: Mapping[str, Any]) -> None:
    """recbole/evaluator/register.py, `cluster_info`: knows the metrics of one module of RecBole's only. Add further
    ones, by name.

    Raises:
        InputError: if a name is one of RecBole's, or a class is no metric.
    """
    from recbole.evaluator import register
    from recbole.evaluator.base_metric import AbstractMetric

    for name, metric in metrics.items():
        known = register.metrics_dict.get(name.lower(), metric)
        if known is not metric and known.__module__ == register.metric_module_name:
            raise InputError(f"The metric '{name}' is RecBole's: give yours another name.")
        is_metric = isinstance(metric, type) and issubclass(metric, AbstractMetric) and hasattr(metric, "metric_need")
        if not is_metric:
            raise InputError(f"The metric '{name}' must be a subclass of RecBole's TopkMetric, LossMetric or the like.")
        register.metrics_dict[name.lower()] = metric
        register.metric_information[name.lower()] = metric.metric_need
        register.metric_types[name.lower()] = metric.metric_type
        if metric.smaller and name.lower() not in register.smaller_metrics:
            register.smaller_metrics.append(name.lower())


def _silence_future_warnings() -> None:
    """recbole/data/dataset/dataset.py, `_fill_nan` and others: chained in-place `fillna` works in pandas 2 but warns a
    dozen times a run that pandas 3 will ignore it (our metadata requires pandas<3); recbole/trainer/trainer.py,
    `_train_epoch`: `torch.cuda.amp.GradScaler` is deprecated.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")


class _Whole(str):
    """A text of which every part is all of it."""

    def __getitem__(self, part: Any) -> str:
        return str(self)


def start_log(config: Any) -> None:
    """recbole/utils/logger.py, `init_logger`: names a run's log, and tensorboard's folder by it, by a hash of its own.
    Here it has that of the run, as the run's other files do.
    """
    from recbole.utils import logger

    of_run = types.SimpleNamespace(hexdigest=lambda: _Whole(config.fingerprint()))
    with mock.patch.object(logger, "hashlib", types.SimpleNamespace(md5=lambda text: of_run)):
        logger.init_logger(config)


@contextlib.contextmanager
def without_tensorboard() -> Iterator[None]:
    """recbole/trainer/trainer.py, `Trainer.__init__`: opens a log for tensorboard in every process of a group. In here
    trainers have one that writes nothing.
    """
    from recbole.trainer import trainer

    silent = types.SimpleNamespace(add_scalar=lambda *given: None, add_hparams=lambda *given: None)
    with mock.patch.object(trainer, "get_tensorboard", return_value=silent):
        yield


@contextlib.contextmanager
def reading_csv_by(reader: Callable[..., Any]) -> Iterator[None]:
    """recbole/data/dataset/dataset.py, `_load_feat`: reads atomic files by pandas' parser in Python, seconds for every
    million lines. While this runs, `reader` is asked first, and pandas where it returns None.
    """
    import pandas as pd

    original = pd.read_csv

    def read_csv(*args: Any, **options: Any) -> Any:
        found = reader(*args, **options)
        return original(*args, **options) if found is None else found

    with mock.patch.object(pd, "read_csv", read_csv):
        yield


@contextlib.contextmanager
def keeping_anomaly_mode() -> Iterator[None]:
    """recbole/model/sequential_recommender/sine.py: importing any sequential model of RecBole turns on torch's anomaly
    detection for the whole process, which slows down all training from then on. Importing them in here does not.
    """
    enabled = torch.is_anomaly_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(enabled)


# What RecBole writes into a checkpoint beside plain types and its own classes.
_ALLOWED_NAMES = frozenset(
    "collections.OrderedDict builtins.set torch.device torch.Size torch._utils._rebuild_tensor_v2 "
    "torch._utils._rebuild_parameter numpy.dtype numpy.core.multiarray.scalar numpy._core.multiarray.scalar".split()
)
# The modules that RecBole keeps in other_parameter hold parts of torch and a logger.
_INERT_MODULES = ("recbole.", "recbole_sid.", "yaml.", "torch.nn.modules.", "logging.getLogger")


class RecordedConfig:
    """What a RecBole checkpoint records of its Config: the settings, without the code of the class."""

    final_config_dict: dict[str, Any]
    is_ours = False  # whether recbole_sid wrote it, or plain RecBole

    def __init__(self, *recorded: Any) -> None:
        pass

    def __getitem__(self, key: str) -> Any:
        return self.final_config_dict.get(key)


class _OurConfig(RecordedConfig):
    is_ours = True


class _RecBoleUnpickler(pickle.Unpickler):
    """Reads tensors, plain types, RecBole's enums, and records of arrays and sparse matrices; every other class of
    RecBole becomes a `RecordedConfig`.
    """

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        if whole in _ALLOWED_NAMES or is_storage:
            return super().find_class(module, name)
        if whole in STAND_INS:
            return STAND_INS[whole]
        if module == "recbole.utils.enum_type" and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and issubclass(found, enum.Enum):
                return found
        if whole.startswith(_INERT_MODULES):
            return _OurConfig if module.startswith("recbole_sid.") else RecordedConfig
        raise pickle.UnpicklingError(f"it holds '{whole}', which RecBole never writes")


# torch.load takes a module that offers Unpickler and load.
_recbole_pickle = types.SimpleNamespace(
    Unpickler=_RecBoleUnpickler,
    load=lambda file, **options: _RecBoleUnpickler(file, **options).load(),
    __name__="recbole_pickle",
)
_torch_load = torch.load


def load_recbole_checkpoint(file: str | os.PathLike[str], map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint that RecBole wrote (a pickle), refusing anything that RecBole does not write into one.

    Its ``config`` comes back as a `RecordedConfig`.

    Raises:
        InputError: if the file is missing, damaged, or holds something else.
    """
    if not os.path.isfile(file):
        raise InputError(f"There is no checkpoint at '{file}'.")
    try:
        check_tensor_file(file)
        with open(file, "rb") as stream, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = _torch_load(stream, map_location=map_location, weights_only=False, pickle_module=_recbole_pickle)
        if isinstance(content, dict) and isinstance(content.get("other_parameter"), dict):
            content["other_parameter"] = restored(content["other_parameter"])
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"'{file}' is not a readable checkpoint of RecBole ({first_line(error)}).") from error
    if not isinstance(content, dict) or not hasattr(content.get("config"), "final_config_dict"):
        raise InputError(f"'{file}' is not a readable checkpoint of RecBole (it holds no configuration).")
    return content


require_recbole()  # keep these two last
apply()
