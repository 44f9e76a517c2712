"""What is compared: models with their settings, seeds, and how each trained model is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.capabilities import capabilities_of
from recbole_sid.config import PROPERTIES, Config
from recbole_sid.errors import InputError, nearest, require_known
from recbole_sid.generalization.ensemble import AdaptiveEnsemble
from recbole_sid.generalization.members import is_id_model, is_sid_model
from recbole_sid.model.teacher import is_teacher
from recbole_sid.property_files import PAPER
from recbole_sid.registry import get_model
from recbole_sid.util.reading import read_yaml
from recbole_sid.util.values import PropertyLoader

# What may differ between evaluations of one trained model.
EVALUATION_KEYS = ("constrained", "decoding", "normaliser")
_TEACHER_EVALUATIONS: dict[str, dict[str, Any]] = {"": {"constrained": False}, "constrained": {"constrained": True}}
_OWN_KEYS = ("model", "teacher", "evaluate", "files", "id_model", "sid_model")
_TUNED = PROPERTIES / "tuned"
_PLAN_KEYS = ("dataset", "settings", "seeds", "models", "tuned")


class Entry(NamedTuple):
    """One model of a comparison.

    Attributes:
        name: of its row.
        model: class name, ours or RecBole's.
        files: its property files, later ones win.
        settings: its configuration over the files.
        teacher: name of the entry that it learns from; None for models without a teacher, or with one of their own.
        evaluations: suffix of the row -> what is set on the trained model for it (of `EVALUATION_KEYS`).
        members: of an ensemble: id_model_path and sid_model_path -> names of the entries that it combines.
    """

    name: str
    model: str
    files: tuple[str, ...]
    settings: dict[str, Any]
    teacher: str | None
    evaluations: dict[str, dict[str, Any]]
    members: dict[str, str]

    def rows(self) -> dict[str, str]:
        """Return the names of its rows -> the evaluations that they are of."""
        return {self.row(suffix): suffix for suffix in self.evaluations}

    def row(self, suffix: str) -> str:
        """Return the name of the row of one evaluation."""
        return f"{self.name}-{suffix}" if suffix else self.name

    def reference(self) -> str:
        """Return the evaluation that students are compared with: constrained, if there is one, else the first."""
        return "constrained" if "constrained" in self.evaluations else next(iter(self.evaluations))


class Plan(NamedTuple):
    """A comparison.

    Attributes:
        dataset: name of the dataset.
        entries: in the order of their rows; teachers before their students.
        seeds: every model is trained with each.
    """

    dataset: str
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]


def read_plan(
    file: str | Path,
    overrides: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    files: Sequence[str] = (),
) -> Plan:
    """Read a plan: YAML with ``dataset``, ``settings`` (for all), ``seeds``, ``models`` (name -> settings), ``tuned``.

    With ``tuned: True`` every entry starts from the property file tuned on the dataset that ships with the package, if
    there is one of its name or of its model's, unless it is of another ``size`` than the paper's.

    An entry's ``model`` says which model it is of, if its name does not; ``teacher`` which entry it learns from, if not
    the last one that can teach; ``evaluate`` how it is evaluated; ``files`` its property files, below all others.

    Args:
        file: the YAML file.
        overrides: settings over those of the file, for the models that know them.
        seeds: in place of the file's.
        files: property files of all models, below the plan's settings.

    Raises:
        InputError: for a missing or wrong file, and where nothing is tuned on the dataset though the plan says so.
    """
    if not Path(file).is_file():
        raise InputError(f"The plan '{file}' does not exist.")
    return plan_of(read_yaml(file), f"The plan '{file}'", overrides, seeds, files)


def plan_of(
    content: Any,
    source: str,
    overrides: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    files: Sequence[str] = (),
) -> Plan:
    """Return the plan that the content of a file is, which messages call `source`; as `read_plan`."""
    if not isinstance(content, dict) or not content.get("dataset") or not isinstance(content.get("models"), dict):
        raise InputError(f"{source} must name dataset and models (name: settings).")
    for name, own in content["models"].items():
        if own is not None and not isinstance(own, dict):
            raise InputError(f"{source} gives {name} the settings {own!r}: write {name}: {{key: value}}.")
    for key in content:
        require_known("key of a plan", key, _PLAN_KEYS)
    seeds = seeds or content.get("seeds") or [2020]
    models = content["models"]
    if content.get("tuned"):
        folder = _TUNED / str(content["dataset"])
        if not folder.is_dir():
            raise InputError(
                f"{source} says tuned, but nothing is tuned on {content['dataset']} (only on "
                f"{', '.join(sorted(path.name for path in _TUNED.iterdir()))}): leave out tuned."
            )
        models = with_tuned_files(content["dataset"], models, files, content.get("settings"), overrides)
    return make_plan(content["dataset"], models, seeds, files, content.get("settings"), overrides)


def make_plan(
    dataset: str,
    models: Mapping[str, Mapping[str, Any] | None],
    seeds: Sequence[int],
    files: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of `models` (name -> settings, with the keys that `read_plan` names).

    Raises:
        InputError: for duplicate seeds, an unknown model or teacher, a key that no model knows.
    """
    _check_seeds(seeds)
    if not models:
        raise InputError("There is no model to compare: name at least one.")
    entries: list[Entry] = []
    for name, own in models.items():
        own = dict(own or {})
        model = own.get("model", name)
        settings_of_entry = {**(settings or {}), **{key: own[key] for key in own if key not in _OWN_KEYS}}
        teacher = _teacher(name, own.get("teacher"), get_model(model), settings_of_entry, entries)
        own_files = (*(own.get("files") or ()), *files)
        evaluations = _evaluations(name, model, own.get("evaluate"))
        members = _members(name, model, own, entries)
        entries.append(Entry(name, model, own_files, settings_of_entry, teacher, evaluations, members))
    entries = _with_overrides(entries, dataset, overrides or {})
    return Plan(dataset, tuple(entries), tuple(seeds))


def with_tuned_files(
    dataset: str,
    models: Mapping[str, Mapping[str, Any] | None],
    files: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Mapping[str, Any] | None]:
    """Return `models` above the property files tuned on `dataset`, which are of the paper's sizes or their own.

    Models of another ``size`` have settings of that size; `report` is told that their tuned files are left out.

    Args: as `make_plan`.
    """
    found: dict[str, Mapping[str, Any] | None] = {}
    for name, own in models.items():
        tuned = with_tuned_file(dataset, name, own)
        size = _size((*((own or {}).get("files") or ()), *files), settings, own, overrides)
        found[name] = tuned if size == PAPER else own
        if size != PAPER and tuned != dict(own or {}):
            report(f"{name}: size={size} in place of the settings tuned on {dataset}.")
    return found


def _size(files: Sequence[str], *settings: Mapping[str, Any] | None) -> Any:
    """Return the size that the last of `settings` names that names one, else the last of the property `files`."""
    read = [read_yaml(file, PropertyLoader) for file in files if Path(file).is_file()]
    named = [found["size"] for found in (*read, *settings) if isinstance(found, Mapping) and "size" in found]
    return named[-1] if named else PAPER


def with_tuned_file(dataset: str, name: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an entry's settings above the property file tuned on `dataset`, if there is one.

    It is that of the entry's name, if this begins with its model's as `SIDMLPPlusPlus-token`, or else of its model.
    """
    own = dict(own or {})
    model = str(own.get("model", name))
    files = [_TUNED / dataset / f"{stem}.yaml" for stem in (name, model) if stem.startswith(model)]
    tuned = [str(file) for file in files if file.is_file()][:1]
    return {**own, "files": [*tuned, *(own.get("files") or ())]} if tuned else own


def check_baseline(plan: Plan, baseline: str | None) -> None:
    """Raise InputError if `baseline` is no row of the comparison; None stands for the first."""
    rows = [row for entry in plan.entries for row in entry.rows()]
    if baseline is not None and baseline not in rows:
        raise InputError(f"baseline='{baseline}' is no row of the comparison: one of {', '.join(rows)}.")


def _check_seeds(seeds: Sequence[int]) -> None:
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise InputError(f"seeds={list(seeds)} must be whole numbers of at least 0, such as [2020, 2021, 2022].")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={list(seeds)} names a seed twice: each counts once.")


def _teacher(
    name: str, wanted: str | None, model: type, settings: Mapping[str, Any], before: Sequence[Entry]
) -> str | None:
    """Return the entry that this one learns from: the one named, else the last before it that can teach."""
    teachers = [entry.name for entry in before if is_teacher(get_model(entry.model))]
    if wanted is not None:
        if wanted not in teachers:
            raise InputError(
                f"{name} learns from '{wanted}'{nearest(wanted, teachers)}, which is no teacher before it in the list."
            )
        return wanted
    learns = capabilities_of(model).learns_with(settings)
    return teachers[-1] if teachers and learns and not settings.get("teacher_path") else None


def _members(name: str, model: str, own: Mapping[str, Any], before: Sequence[Entry]) -> dict[str, str]:
    """Return the entries that an ensemble combines: those named, else the last before it of each kind."""
    if not issubclass(get_model(model), AdaptiveEnsemble):
        return {}
    found = {}
    for kind, fits in (("id_model", is_id_model), ("sid_model", is_sid_model)):
        candidates = [entry.name for entry in before if fits(entry.model)]
        wanted = own.get(kind, candidates[-1] if candidates else None)
        if own.get(f"{kind}_path"):
            continue
        if wanted not in candidates:
            raise InputError(
                f"{name} needs {kind}={wanted or 'NAME'}: one of the models before it in the list, which has "
                f"{', '.join(candidates) or 'none that fits'}."
            )
        found[f"{kind}_path"] = wanted
    return found


def _evaluations(name: str, model: str, wanted: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    if wanted is None:
        teaches = is_teacher(get_model(model))
        return {suffix: dict(changes) for suffix, changes in _TEACHER_EVALUATIONS.items()} if teaches else {"": {}}
    if not isinstance(wanted, Mapping) or not wanted:
        raise InputError(f"evaluate of {name} must be a dictionary, such as {{exact: {{decoding: exact}}}}.")
    for changes in wanted.values():
        for key in changes or ():
            require_known("key of an evaluation", key, EVALUATION_KEYS)
    return {suffix: dict(changes or {}) for suffix, changes in wanted.items()}


def _with_overrides(entries: list[Entry], dataset: str, overrides: Mapping[str, Any]) -> list[Entry]:
    """Return `entries` with the overrides that each one's model knows.

    Raises:
        InputError: if no model knows a key.
    """
    if not overrides:
        return entries
    # Of the model alone: an entry's settings may need the overrides to be right.
    known = {entry.name: Config(entry.model, dataset).known_keys(overrides) for entry in entries}
    everything = set().union(*known.values())
    for key in overrides:
        if key not in everything:
            raise InputError(f"Unknown configuration key '{key}'{nearest(key, everything)}.")
    return [
        entry._replace(
            settings={**entry.settings, **{key: overrides[key] for key in overrides if key in known[entry.name]}}
        )
        for entry in entries
    ]
