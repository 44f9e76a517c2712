"""Lists of the best items: cut out of scores, ties to the lower number, without a loop over histories."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.serving.engine import Histories


class Lists(NamedTuple):
    """The best items of B histories.

    Attributes:
        items: int64 [B, K], 0 behind the last.
        scores: float32 [B, K], falling, -inf behind the last and for items that the model says nothing of.
        counts: int64 [B], how many there are.
    """

    items: np.ndarray
    scores: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(cls, n_rows: int, width: int) -> Lists:
        """Return no items at all."""
        scores = np.full((n_rows, width), -np.inf, dtype=np.float32)
        return cls(np.zeros((n_rows, width), dtype=np.int64), scores, np.zeros(n_rows, dtype=np.int64))

    def widened(self, width: int) -> Lists:
        """Return these, with room for as many items as `width`."""
        if self.items.shape[1] >= width:
            return self
        wide = Lists.empty(len(self.counts), width)
        wide.put(np.arange(len(self.counts)), self)
        return wide

    def put(self, rows: np.ndarray, lists: Lists) -> None:
        """Set the lists of histories int64 [n] to others, which are no wider."""
        width = lists.items.shape[1]
        self.items[rows, :width], self.items[rows, width:] = lists.items, 0
        self.scores[rows, :width], self.scores[rows, width:] = lists.scores, -np.inf
        self.counts[rows] = lists.counts

    def append(self, rows: np.ndarray, lists: Lists) -> None:
        """Put the items of `lists` behind those of histories int64 [n]; there is room for them."""
        places = np.repeat(np.arange(len(rows)), lists.counts)
        column = np.arange(len(places)) - np.repeat(np.cumsum(lists.counts) - lists.counts, lists.counts)
        target = column + self.counts[rows][places]
        self.items[rows[places], target] = lists.items[places, column]
        self.scores[rows[places], target] = lists.scores[places, column]
        self.counts[rows] += lists.counts


def kept(items: np.ndarray, scores: np.ndarray, keep: np.ndarray, k: np.ndarray) -> Lists:
    """Return, of candidates, the best that are kept.

    Args:
        items, scores: [B, W].
        keep: bool [B, W].
        k: int64 [B], how many at most.
    """
    order = np.lexsort((items, np.where(keep, -scores, np.inf)))[:, : int(k.max())]
    if len(items) > 1:
        order += np.arange(0, items.size, items.shape[1])[:, None]  # places in all of them: quicker than along an axis
    return _cut(items.ravel()[order], scores.ravel()[order], keep.sum(1), k)


def best(scores: np.ndarray, items: np.ndarray | None, k: np.ndarray) -> Lists:
    """Return the best of all that is scored above -inf.

    Args:
        scores: float32 [B, M].
        items: int64 [M], rising: what the columns stand for; None: their own numbers.
        k: int64 [B], how many at most.
    """
    n_rows, n_columns = scores.shape
    width = min(int(k.max()), n_columns)
    if width <= 0:
        return Lists.empty(n_rows, 0)
    least = np.partition(scores, n_columns - width, axis=1)[:, n_columns - width, None]
    rows, columns = np.nonzero((scores >= least) & (scores > -np.inf))
    found = scores[rows, columns]
    order = np.lexsort((columns, -found, rows))
    columns, found = columns[order], found[order]  # rows rise already
    return ragged(rows, columns if items is None else items[columns], found, np.minimum(k, width), n_rows)


def ragged(rows: np.ndarray, items: np.ndarray, scores: np.ndarray, k: np.ndarray, n_rows: int) -> Lists:
    """Return the first items of each history.

    Args:
        rows, items, scores: [n], by history, the best first.
        k: int64 [n_rows], how many at most.
    """
    counts = np.bincount(rows, minlength=n_rows)
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    taken = place < k[rows]
    lists = Lists.empty(n_rows, int(k.max()) if n_rows else 0)
    lists.items[rows[taken], place[taken]] = items[taken]
    lists.scores[rows[taken], place[taken]] = scores[taken]
    np.minimum(counts, k, out=lists.counts)
    return lists


def _cut(items: np.ndarray, scores: np.ndarray, n_kept: np.ndarray, k: np.ndarray) -> Lists:
    """Return the first of `n_kept` items, and no more than `k`, both int64 [B]."""
    counts = np.minimum(n_kept, k)
    if items.shape[1] and counts.min() == items.shape[1]:
        return Lists(items, scores, counts)
    beyond = np.arange(items.shape[1]) >= counts[:, None]
    return Lists(np.where(beyond, 0, items), np.where(beyond, np.float32(-np.inf), scores), counts)


def padded(numbers: np.ndarray, rows: np.ndarray, n_rows: int, longest: int) -> Histories:
    """Return histories of item numbers in a rectangle, cut to their last `longest` items.

    Args:
        numbers, rows: int64 [n], the items of all histories, one after another, and the history that each is of.
        n_rows: how many histories there are; some may be empty.
        longest: as of the engine.
    """
    counts = np.bincount(rows, minlength=n_rows)
    lengths = np.minimum(counts, longest)
    step = np.arange(max(1, int(lengths.max(initial=0))))
    inside = step < lengths[:, None]
    if not len(numbers):
        return Histories(np.zeros(inside.shape, dtype=np.int64), lengths)
    places = (np.cumsum(counts) - lengths)[:, None] + step
    return Histories(np.where(inside, numbers.take(places, mode="clip"), 0), lengths)
