"""Known users and their histories, as a bundle keeps them: the latest interactions included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.texts import Index

_USERS = "users"


class KnownUsers:
    """The users of a bundle, by name, and all items that each has, the oldest first.

    Args:
        index: of the user tokens.
        starts: int64 [n_users + 2], where the history of each number begins; that of number 0, no user, is empty.
        items: int32 or int64 [n], item numbers.
    """

    def __init__(self, index: Index, starts: np.ndarray, items: np.ndarray) -> None:
        self._index, self._starts, self._items = index, starts, items

    @classmethod
    def of(cls, user_tokens: Sequence[str] | np.ndarray, starts: np.ndarray, items: np.ndarray) -> KnownUsers:
        """Make them of `starts` int64 [n_users + 1] and item numbers [n]."""
        small = items.astype(np.int32 if items.max(initial=0) < 1 << 31 else np.int64)
        return cls(Index.of(user_tokens), np.concatenate([np.zeros(1, np.int64), starts]).astype(np.int64), small)

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], n_items: int, source: str) -> KnownUsers:
        """Take them from a bundle's arrays.

        Raises:
            InputError: if something is missing or damaged, or names an item that there is not.
        """
        starts, items = arrays.get("starts"), arrays.get("items")
        if (
            starts is None
            or items is None
            or (starts.dtype, starts.ndim) != (np.int64, 1)
            or items.dtype not in (np.int32, np.int64)
            or items.ndim != 1
            or len(starts) < 2
            or starts[0] != 0
            or starts[-1] != len(items)
            or bool((starts[1:] < starts[:-1]).any())
            or (len(items) and (items.min() < 1 or items.max() >= n_items))
        ):
            raise InputError(f"{source} is damaged: it holds no histories of this catalogue; make the bundle again.")
        return cls(Index.read(arrays, _USERS, len(starts) - 1, source), starts, items)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `read` takes."""
        return {**self._index.arrays(_USERS), "starts": self._starts, "items": self._items}

    @property
    def n_users(self) -> int:
        """How many there are."""
        return self._index.texts.n_texts - 1

    def numbers(self, users: Sequence[str]) -> np.ndarray:
        """Return the number of each user, from 1; 0 where it is unknown: int64 [n]."""
        return self._index.numbers(users)

    def tokens(self, numbers: np.ndarray) -> list[str]:
        """Return the tokens of users by number."""
        return self._index.texts.take(np.ravel(numbers)).tolist()

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many items each user has, int64 [n]."""
        return self._starts[np.asarray(numbers) + 1] - self._starts[numbers]

    def last(self, numbers: np.ndarray, longest: int) -> Histories:
        """Return the last items of users by number, at most `longest` of each.

        Returns:
            histories; the length of an unknown user (number 0) is 0.
        """
        ends, lengths = self._starts[np.asarray(numbers) + 1], np.minimum(self.lengths(numbers), longest)
        width = max(1, int(lengths.max(initial=0)))
        step = np.arange(width)
        inside = step < lengths[:, None]
        where = np.where(inside, (ends - lengths)[:, None] + step, 0)
        items = self._items[where] if len(self._items) else np.zeros(where.shape, np.int64)
        return Histories(np.where(inside, items, 0).astype(np.int64), lengths)

    def all(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all items of users by number, one user behind the other: items int64 [m], starts int64 [n + 1]."""
        lengths = self.lengths(numbers)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        where = np.arange(starts[-1]) + np.repeat(self._starts[numbers] - starts[:-1], lengths)
        return self._items[where].astype(np.int64), starts
