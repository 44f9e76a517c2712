"""How configuration keys are declared and read: `Settings`, a dataclass whose fields are keys."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from recbole_sid.errors import InputError, require_known

S = TypeVar("S", bound="Settings")
Choices = Iterable[str] | Callable[[], Iterable[str]]

FROM_RECBOLE: Any = object()  # the default of a key that has one in RecBole's own property files
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", dict: "a dictionary"}


@dataclass(frozen=True)
class Key:
    """What is said of a configuration key beside its type and default.

    Attributes:
        help: one line.
        least, most, below: bounds of a number (of each in a list); `below` itself is not allowed.
        choices: the texts that are allowed, or a function that gives them.
        file: it names a file or folder; what this holds counts for a run's identity, not where it lies.
        model: the file is a model to load, which settings in somebody's file alone never make a run do: its code would
            run, or it would be downloaded.
        tensors: RecBole hands the file to torch.
        growing: the file later gets rows for new items, which makes no other semantic IDs of the old ones.
        volatile: it decides where and how a run happens, not what it computes.
        shared: a student's run and its teacher's have it in common.
    """

    help: str = ""
    least: float | None = None
    most: float | None = None
    below: float | None = None
    choices: Choices | None = None
    file: bool | None = None
    model: bool = False
    tensors: bool = False
    growing: bool = False
    volatile: bool = False
    shared: bool = False

    def names(self) -> list[str]:
        """Return the choices; empty if any value goes."""
        return list(self.choices() if callable(self.choices) else self.choices or ())


def declare(default: Any, help: str = "", **said: Any) -> Any:
    """Declare a key: a field of a `Settings` class.

    Args:
        default: its value if nobody sets it.
        help: one line.
        said: further attributes of `Key`.
    """
    metadata = {"key": Key(help, **said)}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, eq=False)
class Settings:
    """Keys of one model, tokenizer, feature or part of the package.

    Subclasses are frozen dataclasses. A key of a base class that is given again without `declare` has another default
    and is else the same.
    """

    @classmethod
    def declarations(cls) -> dict[str, Key]:
        """Return what is said of each key, those of the class itself first."""
        return dict(_keys(cls))  # type: ignore[arg-type]  # mypy takes a dataclass's __hash__ for its class's

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of each key that RecBole's own property files give none."""
        return {name: value for name in cls.declarations() if (value := cls.default(name)) is not FROM_RECBOLE}

    @classmethod
    def default(cls, name: str) -> Any:
        """Return the default of one key."""
        field = cls.__dataclass_fields__[name]
        return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()

    @classmethod
    def flagged(cls, flag: str) -> tuple[str, ...]:
        """Return the keys whose declaration sets `flag`, an attribute of `Key`."""
        return tuple(name for name, said in cls.declarations().items() if getattr(said, flag))

    @classmethod
    def undecided(cls) -> tuple[str, ...]:
        """Return the keys that hold any text and of which it is not said whether they name a file."""
        return tuple(
            name
            for name, said in cls.declarations().items()
            if said.file is None and said.choices is None and _may_be_text(cls.types()[name])
        )

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Return the type of each key."""
        return _types(cls)  # type: ignore[arg-type]

    @classmethod
    def of(cls: type[S], config: Mapping[str, Any] | Any) -> S:
        """Read the keys from a Config or dictionary.

        Raises:
            InputError: for a value of another type, out of bounds or not among the choices, or values that do not fit
                together.
        """
        declarations, kinds = cls.declarations(), cls.types()
        values = {name: config[name] for name in declarations}
        for name, value in values.items():
            check_value(name, value, kinds[name], declarations[name], cls.default(name))
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise InputError for values that do not fit together."""


@cache
def _keys(cls: type[Settings]) -> tuple[tuple[str, Key], ...]:
    found: dict[str, Key] = {}
    for base in cls.__mro__:
        for name in inspect.get_annotations(base):
            if name in cls.__dataclass_fields__ and name not in found:
                found[name] = _said_of(cls, name)
    return tuple(found.items())


def _said_of(cls: type[Settings], name: str) -> Key:
    for base in cls.__mro__:
        field = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if field is not None and "key" in field.metadata:
            return field.metadata["key"]
    raise TypeError(f"{cls.__name__}.{name} is declared without `declare(default, help)`.")


@cache
def _types(cls: type[Settings]) -> dict[str, Any]:
    return get_type_hints(cls)


def check_value(name: str, value: Any, kind: Any, said: Key, default: Any) -> None:
    """Check one value.

    Args:
        name: of the key.
        value: to be checked.
        kind: the key's type.
        said: of the key.
        default: for the message.

    Raises:
        InputError: if it is of another type, out of bounds, or not among the choices.
    """
    optional, kind = without_none(kind)
    if value is None and optional:
        return
    if not _is_a(value, kind):
        shown = "" if default is FROM_RECBOLE else f" (default: {default!r})"
        raise InputError(f"{name}={value!r} must be {in_words(kind, said)}{shown}.")
    for each in value if isinstance(value, (list, tuple)) else [value]:
        _check_bounds(name, each, value, kind, said)
    if said.choices is not None:
        for each in value if isinstance(value, (list, tuple)) else [value]:
            require_known(name, each, said.names())


def _check_bounds(name: str, each: Any, value: Any, kind: Any, said: Key) -> None:
    if isinstance(each, bool) or not isinstance(each, (int, float)):
        return
    least = _least(kind, said)
    small = least is not None and not each >= least  # not each < least: NaN is refused too
    large = (said.most is not None and not each <= said.most) or (said.below is not None and not each < said.below)
    if small or large:
        raise InputError(f"{name}={value!r} must be {in_words(kind, said)}.")


def _least(kind: Any, said: Key) -> float | None:
    """Return the smallest value: as declared, else 1 for whole numbers and 0 for others."""
    if said.least is not None:
        return said.least
    number = next((each for each in (kind, *get_args(kind)) if each in (int, float)), None)
    return {int: 1, float: 0}.get(number) if number is not None else None


def without_none(kind: Any) -> tuple[bool, Any]:
    """Return whether a type has None, and what else it is."""
    if get_origin(kind) not in (Union, types.UnionType):
        return False, kind
    others = [each for each in get_args(kind) if each is not type(None)]
    return len(others) < len(get_args(kind)), functools.reduce(operator.or_, others)


def _may_be_text(kind: Any) -> bool:
    return kind is str or any(_may_be_text(each) for each in get_args(kind))


def _is_a(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if get_origin(kind) in (Union, types.UnionType):
        return any(_is_a(value, each) for each in get_args(kind))
    if get_origin(kind) is list or kind is list:
        inner = (get_args(kind) or (Any,))[0]
        return isinstance(value, (list, tuple)) and all(_is_a(each, inner) for each in value)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)


def in_words(kind: Any, said: Key) -> str:
    """Return what a key of a type takes, such as ``a whole number of at least 1``."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [in_words(each, said) for each in get_args(kind)]
        return " or ".join(sorted(kinds, key=len))  # the list, which has a comma, comes last
    if get_origin(kind) is list or kind is list:
        inner = (get_args(kind) or (Any,))[0]
        return "a list" if inner is Any else f"a list, each {in_words(inner, said)}"
    words = _WORDS.get(get_origin(kind) or kind, "another value")
    least = _least(kind, said)
    if kind in (int, float) and least is not None:
        words += f" of at least {least:g}"
    if kind in (int, float) and said.most is not None:
        words += f" and at most {said.most:,.10g}"
    if kind in (int, float) and said.below is not None:
        words += f" and below {said.below:g}"
    return words


def short_type(kind: Any) -> str:
    """Return a type as property files name it, such as ``int``, ``str or list``."""
    _, kind = without_none(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(short_type(each) for each in get_args(kind))
    return "" if kind is Any else (get_origin(kind) or kind).__name__
