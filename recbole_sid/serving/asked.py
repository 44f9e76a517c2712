"""What a caller asks for, checked and flat: item ids of histories, allow-lists and exclusions, numbers of items."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from recbole_sid.errors import InputError

SEEN = "seen"  # stands for the items of a history
_MOST = np.iinfo(np.int64).max
_TEXTS = {str, np.str_}


class FlatLists(NamedTuple):
    """Lists of item ids, one after another.

    Attributes:
        ids: of all lists.
        lengths: int64 [B], how many each has.
    """

    ids: Sequence[str]
    lengths: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The list that each id is of, int64 [n]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def flat_histories(histories: Any) -> FlatLists:
    """Return histories of item ids, the oldest first.

    Raises:
        InputError: if they are no lists of texts.
    """
    if isinstance(histories, FlatLists):
        return histories
    if isinstance(histories, (str, bytes, Mapping, AbstractSet)) or not isinstance(histories, Iterable):
        raise InputError(
            f"The histories are {_shown(histories)}: give a list of histories, each a list of item ids, the oldest "
            'first, such as [["A", "B"], ["C"]].'
        )
    lists = list(histories)
    for row, history in enumerate(lists) if not set(map(type, lists)) <= {list, tuple} else ():
        if isinstance(history, (str, np.str_)):
            raise InputError(
                f"History {row} is the text {history[:50]!r}, not a list of item ids: one history goes into a list "
                'too, such as [["A", "B"]].'
            )
        if isinstance(history, (bytes, Mapping, AbstractSet)) or not isinstance(history, Iterable):
            raise InputError(f"History {row} is {_shown(history)}: give a list of item ids, the oldest first.")
        lists[row] = list(history)
    found = flat(lists)
    if not set(map(type, found.ids)) <= _TEXTS:
        for row, history in enumerate(lists):
            id_list(history, f"History {row}")
    return found


def wanted_numbers(k: Any, n_rows: int) -> np.ndarray:
    """Return how many items are wanted for each history, int64 [n_rows], of one whole number or one for each.

    Raises:
        InputError: if they are none of at least 1.
    """
    if type(k) is int and 1 <= k <= _MOST:
        return np.full(n_rows, k)
    try:
        numbers = np.asarray(k)
    except (ValueError, TypeError, OverflowError):
        numbers = np.zeros(0, dtype=object)
    if numbers.dtype == object and isinstance(k, int):  # of more than 64 bits
        numbers = np.asarray(_MOST if k > 0 else 0)
    if numbers.ndim > 1 or numbers.dtype.kind not in "iu" or (numbers < 1).any():
        raise InputError(f"k is {_shown(k)}: give how many items are wanted, a whole number of at least 1.")
    if numbers.ndim and len(numbers) != n_rows:
        raise InputError(f"k has {len(numbers):,} numbers for {n_rows:,} histories: give one for each, or one for all.")
    return np.broadcast_to(numbers.clip(max=_MOST), (n_rows,)).astype(np.int64)


def is_for_each(given: Any) -> bool:
    """Say whether `given` is a list for each history, rather than one of item ids for all."""
    if not isinstance(given, (Sequence, np.ndarray)) or not len(given):
        return False
    return any(part is None or _is_collection(part) for part in given) or all(part == SEEN for part in given)


def id_list(given: Any, name: str) -> list[str]:
    """Return a collection of ids as a list; `name` is the argument's.

    Raises:
        InputError: if it is no collection of texts.
    """
    if not _is_collection(given):
        raise InputError(f"{name} is {_shown(given)}: give a list of ids.")
    found = list(given)
    if not set(map(type, found)) <= _TEXTS:
        for place, part in enumerate(found):
            if not isinstance(part, str):
                raise InputError(f"{name} holds {_shown(part)} in place {place}: ids are texts, so give str(...).")
    return found


def lists_of_each(given: Sequence[Any], name: str, n_rows: int) -> list[Any]:
    """Return what `given` has for each of so many histories: lists, None and texts.

    Raises:
        InputError: if these are more, or fewer, or something else.
    """
    if len(given) != n_rows:
        raise InputError(
            f"{name} has {len(given):,} lists for {n_rows:,} histories: give one for each, or one list of ids for all."
        )
    return [
        part if part is None or isinstance(part, str) else id_list(part, f"{name}[{row}]")
        for row, part in enumerate(given)
    ]


def flat(lists: Sequence[Collection[str]]) -> FlatLists:
    """Return lists of ids one after another."""
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    return FlatLists(list(chain.from_iterable(lists)), lengths)


def _is_collection(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _shown(value: Any) -> str:
    """Return how a message calls a wrong value."""
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return text if value is None else f"{text} ({type(value).__name__})"
