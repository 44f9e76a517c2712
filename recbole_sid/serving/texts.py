"""Many short texts in two arrays, and their numbers by a hash index: what is mapped and asked for, never unfolded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

import numpy as np

from recbole_sid.errors import InputError


class Texts(NamedTuple):
    """Texts one behind the other.

    Attributes:
        text: uint8 [m], in UTF-8.
        starts: int64 [n + 1], where each begins; the last is m.
    """

    text: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Put `texts` in a row."""
        encoded = [text.encode("utf-8") for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), starts)

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], name: str, n_texts: int, source: str) -> Texts:
        """Take them from a file's arrays.

        Raises:
            InputError: if they are missing or damaged, or of another number.
        """
        text, starts = (arrays.get(f"{name}.{part}") for part in cls._fields)
        if (
            text is None
            or starts is None
            or (text.dtype, text.ndim) != (np.uint8, 1)
            or (starts.dtype, starts.shape) != (np.int64, (n_texts + 1,))
            or starts[0] != 0
            or starts[-1] != len(text)
            or bool((starts[1:] < starts[:-1]).any())
        ):
            raise InputError(f"{source} is damaged: its texts '{name}' are not {n_texts:,}; make the bundle again.")
        return cls(text, starts)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return what `read` takes."""
        return {f"{name}.{part}": values for part, values in self._asdict().items()}

    @property
    def n_texts(self) -> int:
        """How many there are."""
        return len(self.starts) - 1

    def take(self, rows: np.ndarray) -> Texts:
        """Return those of `rows`, int [n], in their order, as new texts: for Arrow, which holds texts so too."""
        begin, lengths = self.starts[rows], self.starts[np.asarray(rows) + 1] - self.starts[rows]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        where = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], lengths)
        return Texts(self.text[where], starts)

    def tolist(self) -> list[str]:
        """Return them all as Python's; what is no UTF-8 is marked."""
        content = self.text.tobytes()
        return [content[begin:end].decode("utf-8", "replace") for begin, end in pairwise(self.starts.tolist())]


class Index:
    """Finds the number of a text: a hash table of the numbers, with the next free place for those of equal hashes.

    Args:
        texts: whose numbers are wanted; text 0 is none, it stands for what is not there.
        slots: int32 or int64 [m], numbers of texts by hash, 0 where free, as `Index.slots_of` makes them.
    """

    def __init__(self, texts: Texts, slots: np.ndarray) -> None:
        self._mask = _places(texts.n_texts) - 1
        self.texts, self.slots = texts, slots
        # Python's own numbers come out of these ten times as fast as out of numpy's arrays.
        self._text, self._starts, self._slots = texts.text.data, texts.starts.data, slots.data

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], name: str, n_texts: int, source: str) -> Index:
        """Take it from a file's arrays.

        Raises:
            InputError: if it is missing or damaged, or of another number of texts.
        """
        texts, slots = Texts.read(arrays, name, n_texts, source), arrays.get(f"{name}.slots")
        if (
            slots is None
            or slots.dtype not in (np.int32, np.int64)
            or slots.ndim != 1
            or len(slots) < _places(n_texts) + 1
            or slots[-1] != 0
            or slots.min() < 0
            or slots.max() >= n_texts
        ):
            raise InputError(f"{source} is damaged: its index of '{name}' is none; make the bundle again.")
        return cls(texts, slots)

    @classmethod
    def of(cls, texts: Sequence[str] | np.ndarray) -> Index:
        """Index `texts`, which are numbered from 1.

        Raises:
            ValueError: if one occurs twice.
        """
        names = [str(text) for text in texts]
        if len(set(names)) < len(names):
            raise ValueError("a text occurs twice")
        return cls(Texts.of(["", *names]), slots_of(names))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return what `read` takes."""
        return {**self.texts.arrays(name), f"{name}.slots": self.slots}

    def number(self, text: str) -> int:
        """Return the number of `text`, 0 if it is unknown."""
        encoded = text.encode("utf-8", "surrogatepass")
        place = crc32(encoded) & self._mask
        while number := self._slots[place]:
            if self._text[self._starts[number] : self._starts[number + 1]] == encoded:
                return number
            place += 1
        return 0

    def numbers(self, texts: Sequence[str]) -> np.ndarray:
        """Return the number of each of `texts`, 0 where it is unknown: int64 [n]."""
        return np.fromiter(map(self.number, texts), np.int64, len(texts))


def slots_of(texts: Sequence[str]) -> np.ndarray:
    """Return the hash table of texts that are numbered from 1, with a free place at its end."""
    n_places = _places(len(texts) + 1)
    home = np.fromiter((crc32(text.encode("utf-8")) for text in texts), np.int64, len(texts)) & (n_places - 1)
    order = np.argsort(home, kind="stable")
    rank = np.arange(len(texts))
    place = np.maximum.accumulate(home[order] - rank) + rank  # its own, or that behind the one before
    slots = np.zeros(max(n_places, int(place.max(initial=0)) + 1) + 1, np.int32 if len(texts) < 1 << 31 else np.int64)
    slots[place] = order + 1
    return slots


def _places(n_texts: int) -> int:
    """Return the number of places that a hash chooses among: a power of two, twice the texts or more."""
    return 1 << max(1, int(2 * n_texts - 1).bit_length())
