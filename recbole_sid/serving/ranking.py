"""The best items that the rules allow: by the model's own search, which widens where it finds too few, then exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.serving.engine import Engine, Histories
from recbole_sid.serving.item_sets import Rules
from recbole_sid.serving.lists import Lists, best, kept, ragged

# An allow-list of at most so many items is scored as it is, without a search.
_SHORT_LIST = 1000
# So many scores are computed together, so that those of a large catalogue fit the memory.
_SCORES = 1 << 24
# A search as wide as this part of the catalogue takes longer than the scores of all of it.
_WIDEST_PART = 32


class Ranked(NamedTuple):
    """The lists of a model: of B histories; and whether each is of the best of all items, bool [B], rather than of the
    best that the model's search finds.
    """

    lists: Lists
    is_exact: np.ndarray


def ranked(engine: Engine, histories: Histories, rows: np.ndarray, k: np.ndarray, rules: Rules) -> Ranked:
    """Return the best items that the model can rank and the rules allow.

    What is found for a history depends on nothing that is asked for beside it.

    Args:
        engine: the model.
        histories: of B.
        rows: int64 [B], the numbers by which the rules know them.
        k: int64 [B], how many items are wanted.
        rules: what is allowed.

    Raises:
        InputError: if the model's scores are not finite.
    """
    lists = None
    left = np.arange(len(rows))
    for widths in _widths(engine, rows, k, rules):
        for part, width in _alike(left, widths[left]):
            if width:
                items, scores = engine.rank(histories.part(part), width)
                found = kept(items, scores, rules.keep(rows[part], items) & (scores > -np.inf), k[part])
                lists = _with(lists, part, found, k)
        if lists is not None:  # else nothing was searched
            left = left[too_short(lists, left, rows, k, rules) | (widths[left] == 0)]
        if not len(left):
            break
    for part in blocks(left, engine.n_items):
        lists = _with(lists, part, _exact(engine, histories.part(part), rows[part], k[part], rules), k)
    is_exact = np.zeros(len(rows), dtype=bool)
    is_exact[left] = True
    assert lists is not None
    return Ranked(lists.widened(int(k.max())), is_exact)


def too_short(lists: Lists, among: np.ndarray, rows: np.ndarray, k: np.ndarray, rules: Rules) -> np.ndarray:
    """Return which of the lists `among`, int64 [n], have fewer than `k` items, int64 [B], where more are allowed."""
    short = lists.counts[among] < k[among]
    if short.any():
        short[short] = lists.counts[among[short]] < rules.available(rows[among[short]])
    return short


def blocks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yield parts of `rows` for each of which `width` numbers a row fit the memory."""
    size = max(1, _SCORES // max(1, width))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def popular(order: np.ndarray, scores: np.ndarray, rows: np.ndarray, k: np.ndarray, rules: Rules) -> Lists:
    """Return the most popular items that the rules allow.

    Args:
        order: int64 [n_items - 1], all items by falling popularity.
        scores: float32 [n_items], of popularity.
        rows: int64 [B], the numbers by which the rules know the histories.
        k: int64 [B].
        rules: what is allowed.
    """
    if rules.allowed is not None and not rules.allowed.is_shared:
        places, items = rules.allowed.pairs(rows)
        if rules.excluded is not None:
            left = ~rules.excluded.holds(rows[places], items[:, None])[:, 0]
            places, items = places[left], items[left]
        sorting = np.lexsort((items, -scores[items], places))
        items = items[sorting]
        return ragged(places, items, scores[items], k, len(rows))
    if rules.allowed is not None:
        order = order[rules.allowed.holds(rows, order[None])[0]]
    lists = Lists.empty(len(rows), int(k.max()))
    reach = k + rules.n_excluded(rows)
    for part in blocks(np.arange(len(rows)), int(reach.max())):
        items = np.broadcast_to(order[: int(reach[part].max())], (len(part), min(len(order), int(reach[part].max()))))
        lists.put(part, kept(items, scores[items], rules.keep(rows[part], items), k[part]))
    return lists


def _widths(engine: Engine, rows: np.ndarray, k: np.ndarray, rules: Rules) -> Iterator[np.ndarray]:
    """Yield the widths to search with, one after the other, for each history: int64 [B] each, 0 for no search."""
    first = _rung(engine, k)
    if rules.allowed is not None:  # a wider search would mostly find what is not on the list
        yield np.where(rules.allowed.sizes(rows) > _SHORT_LIST, first, 0)
        return
    yield first
    second = _rung(engine, k + rules.n_excluded(rows))
    yield np.where(second > first, second, 0)


def _rung(engine: Engine, wanted: np.ndarray) -> np.ndarray:
    """Return the model's own beam, doubled until it holds so many as `wanted`; 0 where scores of all are cheaper."""
    beam = engine.beam_size
    if beam == 0 or wanted.max() <= beam:
        return np.full(len(wanted), beam)
    doublings = np.ceil(np.log2(np.maximum(wanted, beam) / beam)).astype(np.int64)
    width = beam << doublings
    return np.where(width <= max(beam, (engine.n_items - 1) // _WIDEST_PART), width, 0)


def _alike(rows: np.ndarray, widths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the rows, both int64 [n], of each width."""
    if (widths == widths[0]).all():
        yield rows, int(widths[0])
        return
    for width in np.unique(widths).tolist():
        yield rows[widths == width], width


def _exact(engine: Engine, histories: Histories, rows: np.ndarray, k: np.ndarray, rules: Rules) -> Lists:
    """Return the best of all items that the rules allow."""
    items = None
    if rules.allowed is None:
        scores = engine.all_scores(histories)
    elif rules.allowed.is_shared:
        items = rules.allowed.keys
        scores = engine.scores(histories, items)
    else:
        places, of_place = rules.allowed.pairs(rows)
        items = np.unique(of_place)
        if not len(items):
            return Lists.empty(len(rows), 0)
        columns = items.searchsorted(of_place)
        found = engine.scores(histories, items)
        scores = np.full_like(found, -np.inf)
        scores[places, columns] = found[places, columns]
    if np.isnan(scores).any():
        raise InputError("The model's scores are not finite, so nothing can be ranked: its weights are damaged.")
    if rules.excluded is not None:
        scores = _without(scores, items, *rules.excluded.pairs(rows))
    return best(scores, items, k)


def _without(scores: np.ndarray, items: np.ndarray | None, places: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Return `scores` [B, M] with -inf for ``excluded[i]`` of history ``places[i]``, where it is among `items`."""
    scores = scores if scores.flags.writeable else scores.copy()
    if items is not None:
        columns = items.searchsorted(excluded)
        there = items.take(columns, mode="clip") == excluded
        places, excluded = places[there], columns[there]
    scores[places, excluded] = -np.inf
    return scores


def _with(lists: Lists | None, rows: np.ndarray, found: Lists, k: np.ndarray) -> Lists:
    """Return `lists` of `k` items, int64 [B], or none so far, with those `found` for `rows`."""
    if lists is None and len(rows) == len(k):
        return found
    lists = Lists.empty(len(k), int(k.max())) if lists is None else lists.widened(found.items.shape[1])
    lists.put(rows, found)
    return lists
