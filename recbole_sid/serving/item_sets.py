"""Sets of items, one for all histories or one for each: what may not be recommended, and what alone may."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ItemSets(NamedTuple):
    """Sets of item numbers.

    Attributes:
        keys: int64 [n], sorted, each once: ``row * n_items + item``; of a set for all, the items.
        n_items: as the engine's.
        is_shared: whether it is one set for all.
    """

    keys: np.ndarray
    n_items: int
    is_shared: bool

    @classmethod
    def for_all(cls, items: np.ndarray, n_items: int) -> ItemSets:
        """Return one set of `items` int64 [n] for all histories; 0, which stands for unknown ones, is left out."""
        return cls(_sorted_once(items[items > 0]), n_items, True)

    @classmethod
    def for_each(cls, rows: np.ndarray, items: np.ndarray, n_items: int) -> ItemSets:
        """Return the sets that hold ``items[i]`` for history ``rows[i]``, both int64 [n]; 0 is left out."""
        known = items > 0
        return cls(_sorted_once(rows[known] * n_items + items[known]), n_items, False)

    def holds(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return whether the sets of histories int64 [B] hold `items` int64 [B, W]: bool [B, W]."""
        if not len(self.keys):
            return np.zeros(items.shape, dtype=bool)
        wanted = items if self.is_shared else items + (rows * self.n_items)[:, None]
        return self.keys.take(self.keys.searchsorted(wanted), mode="clip") == wanted

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return how many items the sets of histories int64 [B] hold: int64 [B]."""
        if self.is_shared:
            return np.full(len(rows), len(self.keys))
        first = rows * self.n_items
        return self.keys.searchsorted(first + self.n_items) - self.keys.searchsorted(first)

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the sets of histories int64 [B] hold, as places in `rows` and items, both int64 [n]."""
        if self.is_shared:
            return np.repeat(np.arange(len(rows)), len(self.keys)), np.tile(self.keys, len(rows))
        first = rows * self.n_items
        starts = self.keys.searchsorted(first)
        sizes = self.keys.searchsorted(first + self.n_items) - starts
        places = np.repeat(np.arange(len(rows)), sizes)
        return places, self.keys[spread(starts, sizes)] - first[places]


class Rules(NamedTuple):
    """What may be recommended after which history.

    Attributes:
        n_items: as the engine's.
        excluded: what may not; None: nothing.
        allowed: what alone may; None: everything.
    """

    n_items: int
    excluded: ItemSets | None = None
    allowed: ItemSets | None = None

    def keep(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return whether `items` int64 [B, W], 0 for none, may follow histories int64 [B]: bool [B, W]."""
        kept = items > 0
        if self.excluded is not None:
            kept &= ~self.excluded.holds(rows, items)
        if self.allowed is not None:
            kept &= self.allowed.holds(rows, items)
        return kept

    def n_excluded(self, rows: np.ndarray) -> np.ndarray:
        """Return how many items are excluded after histories int64 [B]: int64 [B]."""
        return np.zeros(len(rows), dtype=np.int64) if self.excluded is None else self.excluded.sizes(rows)

    def available(self, rows: np.ndarray) -> np.ndarray:
        """Return how many items may follow histories int64 [B]: int64 [B]."""
        if self.allowed is None:
            return self.n_items - 1 - self.n_excluded(rows)
        sizes = self.allowed.sizes(rows)
        if self.excluded is None:
            return sizes
        if self.excluded.is_shared and self.allowed.is_shared:
            return sizes - int(self.allowed.holds(rows, self.excluded.keys[None]).sum())
        if self.excluded.is_shared:
            places, items = self.allowed.pairs(rows)
            both = self.excluded.holds(rows, items[None])[0]
        else:
            places, items = self.excluded.pairs(rows)
            both = self.allowed.holds(rows[places], items[:, None])[:, 0]
        return sizes - np.bincount(places[both], minlength=len(rows))

    def with_excluded(self, rows: np.ndarray, items: np.ndarray) -> Rules:
        """Return these rules for histories int64 [B] alone, numbered anew, without `items` int64 [B, W] either."""
        places = np.repeat(np.arange(len(rows)), items.shape[1])
        found = items.ravel()
        if self.excluded is not None:
            more_places, more = self.excluded.pairs(rows)
            places, found = np.concatenate([places, more_places]), np.concatenate([found, more])
        allowed = self.allowed
        if allowed is not None and not allowed.is_shared:
            allowed = ItemSets.for_each(*allowed.pairs(rows), self.n_items)
        return Rules(self.n_items, ItemSets.for_each(places, found, self.n_items), allowed)


def spread(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the numbers ``starts[i] .. starts[i] + sizes[i] - 1`` of all i, one after another."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)


def _sorted_once(keys: np.ndarray) -> np.ndarray:
    keys = np.sort(keys)
    first = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]
