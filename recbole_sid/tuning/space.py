"""Search spaces: what a trial may set, from YAML or from RecBole's ``hyper.test`` lines.

A YAML space maps a configuration key to one of

- ``choice: [a, b]``, ``int: [low, high]`` (both included), ``uniform: [low, high]``, ``loguniform: [low, high]``,
  ``quniform: [low, high, step]``, with an optional ``when: {other_key: value or list}`` beside it: the key is set only
  in trials where that holds;
- or a plain value, which every trial takes.

``teacher_config.d_model`` is the key d_model inside teacher_config.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.config import Config
from recbole_sid.errors import InputError, nearest
from recbole_sid.model.teacher import teacher_config
from recbole_sid.settings.known import flagged
from recbole_sid.util.reading import LARGEST_YAML, parse_yaml, read_text
from recbole_sid.util.values import PropertyLoader, parse_literal

# Scores of trials that differ in these could not be compared; or the search itself decides on them.
_FIXED_KEYS = frozenset("size model dataset seed metrics topk valid_metric eval_args eval_step".split())
_N_ARGUMENTS = {"uniform": 2, "loguniform": 2, "quniform": 3, "int": 2}
KINDS = ("choice", *_N_ARGUMENTS)


class Parameter(NamedTuple):
    """One searched key.

    Attributes:
        key: configuration key, with a dot where it lies inside another.
        kind: one of `KINDS`.
        values: the choices, or the bounds (both included; quniform: and the step).
        when: other key -> values of it under which this one is set.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    when: dict[str, tuple[Any, ...]] = {}

    @property
    def labels(self) -> tuple[Any, ...]:
        """The choices as searchers know them: lists, dictionaries and None as JSON text."""
        if all(isinstance(value, (str, int, float)) for value in self.values):
            return self.values
        return tuple(json.dumps(value) for value in self.values)

    def value(self, sampled: Any) -> Any:
        """Return the configuration value of a sampled one."""
        if self.kind == "choice":
            return self.values[self.labels.index(sampled)]
        return int(sampled) if self.kind == "int" else float(sampled)

    def extremes(self) -> tuple[Any, ...]:
        """Return values that any other is like: all choices, or both bounds."""
        return self.values if self.kind == "choice" else self.values[:2]

    def is_whole(self) -> bool:
        """Say whether all values are whole numbers."""
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)
        return whole and self.kind in ("choice", "int")

    def grid(self) -> tuple[Any, ...]:
        """Return all values.

        Raises:
            InputError: if there is no end of them.
        """
        if self.kind == "choice":
            return self.values
        low, high = self.values[:2]
        if self.kind == "int":
            return tuple(range(low, high + 1))
        if self.kind == "quniform":
            step = self.values[2]
            return tuple(low + step * number for number in range(math.floor((high - low) / step + 1e-9) + 1))
        raise InputError(f"A grid cannot hold every value of {self.key} ({self.kind}): use choice, int or quniform.")

    def domain(self) -> Any:
        """Return Ray's sample space."""
        from ray import tune

        low, high = self.values[0], self.values[-1]
        if self.kind == "choice":
            return tune.choice(list(self.labels))
        if self.kind == "int":
            return tune.randint(low, high + 1)
        if self.kind == "quniform":
            return tune.quniform(*self.values)
        return tune.loguniform(low, high) if self.kind == "loguniform" else tune.uniform(low, high)


class Space(NamedTuple):
    """What trials set: searched keys, in an order in which `when` looks back only, and values common to all."""

    parameters: tuple[Parameter, ...]
    constants: dict[str, Any]

    def domains(self) -> dict[str, Any]:
        """Return Ray's sample space of every searched key; `settings` drops what does not apply."""
        return {parameter.key: parameter.domain() for parameter in self.parameters}

    def grid(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the samples of all different combinations of values, each without keys that do not apply."""
        combinations = product(*(parameter.grid() for parameter in self.parameters))
        samples: dict[str, dict[str, Any]] = {}
        for values in combinations:
            pairs = zip(self.parameters, values, strict=True)
            sample = {parameter.key: _label(parameter, value) for parameter, value in pairs}
            active = self.active(sample, given)
            samples[json.dumps(active, sort_keys=True)] = {key: sample[key] for key in active}
        return list(samples.values())

    def active(self, sample: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the searched keys that apply in `sample`, with their values.

        Args:
            sample: key -> sampled value.
            given: settings outside the space that conditions may look at.
        """
        known = {**given, **self.constants}
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            known.pop(parameter.key, None)
            if parameter.key in sample and all(known.get(key) in values for key, values in parameter.when.items()):
                chosen[parameter.key] = known[parameter.key] = parameter.value(sample[parameter.key])
        return chosen

    def settings(self, sample: Mapping[str, Any], base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return `base` with the constants and what `sample` sets; keys with a dot go inside their dictionary."""
        return nested(base, {**self.constants, **self.active(sample, given)})


def nested(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`, whose key ``a.b`` sets b inside dictionary a."""
    settings = dict(base)
    for key, value in changes.items():
        outer, dot, inner = key.partition(".")
        settings[outer] = {**(settings.get(outer) or {}), inner: value} if dot else value
    return settings


def read_space(file: str | Path) -> Space:
    """Read a space from YAML (``.yaml``, ``.yml``) or from lines as in RecBole's ``hyper.test``.

    Raises:
        InputError: if the file is missing, holds nothing to search, or an entry cannot be understood.
    """
    if not Path(file).is_file():
        raise InputError(f"The search space '{file}' does not exist.")
    text = read_text(file, "search space", LARGEST_YAML)
    what = f"The search space '{file}'"
    if Path(file).suffix not in (".yaml", ".yml"):
        return _not_empty(_from_lines(text, str(file)), what)
    return space_of(parse_yaml(text, what, PropertyLoader) or {}, what)


def space_of(entries: Any, what: str) -> Space:
    """Return the space of entries as YAML has them: key -> ``{"choice": [...]}`` or the like, or a plain value.

    Args:
        entries: what is searched, in order.
        what: they are, for messages.

    Raises:
        InputError: if there is nothing to search, or an entry cannot be understood.
    """
    if not isinstance(entries, Mapping):
        raise InputError(f"{what} must hold lines of `key: {{choice: [...]}}`.")
    parameters: list[Parameter] = []
    constants: dict[str, Any] = {}
    for key, entry in entries.items():
        if isinstance(entry, dict):
            parameters.append(_parameter(str(key), entry))
        else:
            constants[str(key)] = entry
    _check_conditions(parameters)
    return _not_empty(Space(tuple(parameters), constants), what)


def _not_empty(space: Space, what: str) -> Space:
    if not space.parameters:
        raise InputError(f"{what} is empty: name at least one key to search, with choice or a range.")
    return space


def _parameter(key: str, entry: dict[str, Any]) -> Parameter:
    kinds = [kind for kind in entry if kind != "when"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        wrong = next((str(kind) for kind in kinds if kind not in KINDS), "")
        raise InputError(f"{key} needs one of {', '.join(KINDS)}{nearest(wrong, KINDS)}, as in `{{choice: [1, 2]}}`.")
    when = entry.get("when") or {}
    if not isinstance(when, dict):
        raise InputError(f"The condition of {key} must name a key and its values, as in `when: {{tokenizer: rq_vae}}`.")
    conditions = {str(name): tuple(value if isinstance(value, list) else [value]) for name, value in when.items()}
    return _checked(key, kinds[0], entry[kinds[0]], conditions)


def _checked(key: str, kind: str, values: Any, when: dict[str, tuple[Any, ...]]) -> Parameter:
    """Return the parameter, or raise InputError if its values are none or no range."""
    if not isinstance(values, (list, tuple)) or not values:
        raise InputError(f"{key} needs a list of values behind {kind}.")
    if kind != "choice":
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        whole = kind != "int" or all(isinstance(value, int) for value in values)
        right = len(values) == _N_ARGUMENTS[kind] and numbers and whole and values[0] < values[1]
        if not right or (kind == "loguniform" and values[0] <= 0) or (kind == "quniform" and values[2] <= 0):
            shape = {"loguniform": "[low, high], above 0", "quniform": "[low, high, step]"}.get(kind, "[low, high]")
            kinds = "whole numbers" if kind == "int" else "numbers"
            raise InputError(f"{key}: {kind} needs {kinds} {shape}, not {list(values)}.")
    return Parameter(key, kind, tuple(values), when)


def _check_conditions(parameters: list[Parameter]) -> None:
    later = [parameter.key for parameter in parameters]
    for parameter in parameters:
        for key in parameter.when:
            if key in later:
                raise InputError(f"{parameter.key} depends on {key}: write {key} above it in the search space.")
        later.remove(parameter.key)


def _from_lines(text: str, file: str) -> Space:
    """Read ``key type values`` lines; RecBole's loguniform gives the logarithms of its bounds."""
    parameters = []
    for line in text.splitlines():
        words = line.split(maxsplit=2)
        if len(words) < 3 or line.lstrip().startswith("#"):
            continue
        key, kind, rest = words
        if kind not in ("choice", "uniform", "quniform", "loguniform"):
            raise InputError(f"'{file}': {key} has the unknown type '{kind}': choice, uniform, quniform or loguniform.")
        try:
            values = parse_literal(rest if kind == "choice" else f"[{rest}]")
            if kind == "loguniform":
                values = [math.exp(value) for value in values]
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"'{file}': the values of {key} cannot be read: {rest[:200]}.") from error
        parameters.append(_checked(key, kind, values, {}))
    return Space(tuple(parameters), {})


def check_space(space: Space, config: Config) -> None:
    """Check every key and value of `space` against the model, before anything runs.

    Args:
        space: the space.
        config: the configuration below it, without it.

    Raises:
        InputError: for a key that the model does not know, or that trials must have in common, or a value that it
            refuses, whatever value another searched key has.
    """
    keys = [*space.constants, *(parameter.key for parameter in space.parameters)]
    for parameter in space.parameters:
        for key in parameter.when:
            if key not in keys and key not in config:
                raise InputError(f"{parameter.key} depends on '{key}', which is no configuration key.")
    for key in keys:
        _check_key(key, config)
    base = {**config.external_config_dict, **{k: v for k, v in space.constants.items() if "." not in k}}
    base = nested(base, {key: value for key, value in space.constants.items() if "." in key})
    for change in _each_value(space):
        if not any(_accepts(config, nested(base, {**other, **change})) for other in _each_value(space)):
            Config(config["model"], config["dataset"], config_dict=nested(base, change))  # says why


def _accepts(config: Config, settings: Mapping[str, Any]) -> bool:
    try:
        Config(config["model"], config["dataset"], config_dict=settings)
    except InputError:
        return False
    return True


def _each_value(space: Space) -> Iterator[dict[str, Any]]:
    """Yield changes that set one searched key, and the keys that it depends on, to one of its extreme values."""
    yield {}
    for parameter in space.parameters:
        conditions = {key: values[0] for key, values in parameter.when.items()}
        for value in parameter.extremes():
            yield {**conditions, parameter.key: value}


def _check_key(key: str, config: Config) -> None:
    outer, dot, inner = key.partition(".")
    if outer in _FIXED_KEYS or outer in flagged("volatile"):
        raise InputError(f"{outer} cannot be searched: set it for the whole search, by --{outer}=VALUE.")
    known = {outer} if outer in config.external_config_dict else config.known_keys()
    if outer not in known:
        raise InputError(f"The search space names the unknown key '{outer}'{nearest(outer, known)}.")
    if outer.startswith("teacher_") and config["teacher_path"]:
        raise InputError(f"teacher_path fixes the teacher: leave it out, or {key} out of the search space.")
    if not dot:
        return
    inside = teacher_config(config).known_keys() if outer == "teacher_config" else set(config[outer] or {})
    if inner not in inside:
        raise InputError(f"The search space names '{key}', but {outer} has no '{inner}'{nearest(inner, inside)}.")


def _label(parameter: Parameter, value: Any) -> Any:
    return parameter.labels[parameter.values.index(value)] if parameter.kind == "choice" else value
