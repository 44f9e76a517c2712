"""A bundle's arrays and settings as an engine reads them: each checked, so that compiled loops can trust them."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.fast.compiled.arrays import filled_up, in_panels
from recbole_sid.fast.compiled.jit import is_kept, place_of

# Of anything that is counted in settings: sizes, windows, beams.
_LARGEST = 1 << 30


class Reader:
    """Reads arrays and settings; what is wrong with one is an InputError.

    Args:
        arrays: of the bundle.
        settings: of the bundle, as JSON gives them.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        self._arrays, self._settings = arrays, settings

    def array(self, name: str, dtype: Any, *shape: int | None) -> np.ndarray:
        """Return an array, contiguous and not copied if it was; None in `shape` is any length."""
        found = self._arrays.get(name)
        if found is None:
            raise InputError(f"The bundle lacks the array '{name}': export it again.")
        fits = len(found.shape) == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, found.shape, strict=True)
        )
        if found.dtype != np.dtype(dtype) or not fits:
            wanted = f"{np.dtype(dtype).name} [{', '.join('any' if n is None else str(n) for n in shape)}]"
            raise InputError(
                f"The bundle's array '{name}' is {found.dtype.name} {list(found.shape)}, not {wanted}: export it again."
            )
        return _usable(found)

    def panels(self, name: str, n_out: int, n_in: int, *above: int) -> np.ndarray:
        """Return weights [*above, n_out, n_in] as compiled products read them."""
        return in_panels(self.array(name, np.float32, *above, n_out, n_in))

    def bias(self, name: str, n_out: int, *above: int) -> np.ndarray:
        """Return biases [*above, n_out] as compiled products read them."""
        return filled_up(self.array(name, np.float32, *above, n_out))

    def within(self, name: str, values: np.ndarray, least: int, below: int) -> None:
        """Refuse `values` of an array that are not from `least` to `below` - 1."""
        if values.size and (int(values.min()) < least or int(values.max()) >= below):
            raise InputError(f"The bundle's array '{name}' names what is not there: export it again.")

    def starts(self, name: str, values: np.ndarray, end: int) -> None:
        """Refuse `values` that do not rise from 0 to `end`."""
        if values[0] != 0 or values[-1] != end or bool((np.diff(values) < 0).any()):
            raise InputError(
                f"The bundle's array '{name}' does not begin and end where its entries do: export it again."
            )

    def whole(self, key: str, least: int = 0) -> int:
        """Return a whole number of the settings."""
        value = self._settings.get(key)
        if type(value) is not int or not least <= value <= _LARGEST:
            raise InputError(f"The bundle's setting {key}={value!r} is not a whole number of at least {least}.")
        return value

    def divides(self, part: str, of_part: int, whole: str, of_whole: int) -> None:
        """Refuse a setting that is no divisor of another."""
        if of_whole % of_part:
            raise InputError(f"The bundle's setting {part}={of_part} does not divide {whole}={of_whole}.")

    def number(self, key: str, least: float = 0.0, most: float = float(_LARGEST)) -> float:
        """Return a number of the settings."""
        value: Any = self._settings.get(key)
        if type(value) not in (int, float) or not least <= value <= most:
            raise InputError(f"The bundle's setting {key}={value!r} is not a number from {least:g} to {most:g}.")
        return float(value)

    def word(self, key: str, known: tuple[str, ...]) -> str:
        """Return a word of the settings, one of those known."""
        value = self._settings.get(key)
        if value not in known:
            raise InputError(f"The bundle's setting {key}={value!r} is not one of {', '.join(known)}.")
        return value

    def sizes(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers from 1 of the settings."""
        value = self._settings.get(key)
        if not isinstance(value, list) or not all(type(size) is int and 1 <= size <= _LARGEST for size in value):
            raise InputError(f"The bundle's setting {key}={value!r} is not a list of whole numbers of at least 1.")
        return tuple(value)

    def knows(self, key: str) -> bool:
        """Say whether a setting is there that only some bundles have."""
        return self._settings.get(key) is not None

    def has(self, key: str) -> bool:
        """Return a setting that is true or false."""
        value = self._settings.get(key)
        if type(value) is not bool:
            raise InputError(f"The bundle's setting {key}={value!r} is neither true nor false.")
        return value


def announce(compiled: Any) -> None:
    """Say once that answers will wait for the compiler, if `compiled`, one of an engine's loops, is not on disk."""
    if is_kept(compiled) or compiled.signatures:
        return
    place = place_of(compiled)
    kept = f"once for this processor; what is compiled is kept in {place}" if place else "each time: no folder keeps it"
    getLogger().warning(f"The first answer takes a minute: its loops have to be compiled ({kept}).")


def check_items(items: np.ndarray, n_items: int) -> None:
    """Refuse numbers that are no items, or 0: compiled loops would read beyond their arrays."""
    if items.size and not (items.min() >= 0 and items.max() < n_items):
        raise InputError(f"Items are numbered from 1 to {n_items - 1} here.")


class _Writable:
    """What numpy takes for the same memory, open for writing.

    Compiled loops are made, and kept on disk, for one kind of array; none of them writes to a bundle's. Those of a
    memory map that is read-only would be of a second kind, and be compiled again.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _usable(array: np.ndarray) -> np.ndarray:
    if not (array.flags.c_contiguous and array.flags.aligned):
        return np.array(array, order="C")
    if not array.size:
        return np.empty(array.shape, array.dtype)
    return np.asarray(_Writable(array)) if not array.flags.writeable or type(array) is not np.ndarray else array
