"""SID-MLP's search as compiled loops over users, in threads (numba, the optional extra ``fast``): CPU, fp32."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, ItemRows, Kept, Looked, Mixing, Places, Prefixes
from recbole_sid.fast.compiled.expansion import second_level
from recbole_sid.fast.compiled.items import best_prefixes, best_under
from recbole_sid.fast.compiled.lookup import with_items
from recbole_sid.fast.compiled.mixture import finish
from recbole_sid.fast.compiled.one_mixture import beam_of_mixture, search_with_candidates
from recbole_sid.fast.compiled.search import (
    first_wave,
    last_wave,
    score_all_leaves,
    search_above,
    search_beams,
    second_wave,
)
from recbole_sid.fast.compiled.threads import share

# Slots for prefixes below the first level, and values of their children, that are kept of each user.
_KEPT = (512, 2048)


class Users(NamedTuple):
    """Who to search for, and in what.

    Attributes:
        heads, prefixes: heads and trie.
        parts: fp32 [B, L, H], the user's part of every head's centred first layer.
        first_scores: fp32 [B, n_nodes(1)], log-probabilities of the first level's prefixes.
        ranked: int64 [B, R], prefixes of the first level by falling score: the best k at least (or all there are).
    """

    heads: Heads
    prefixes: Prefixes
    parts: np.ndarray
    first_scores: np.ndarray
    ranked: np.ndarray

    def of(self, part: slice) -> Users:
        """Return some of them."""
        return Users(self.heads, self.prefixes, self.parts[part], self.first_scores[part], self.ranked[part])

    def by(self, width: int) -> Users:
        """Return them with the best prefixes only, as many as a beam is wide."""
        return self._replace(ranked=np.ascontiguousarray(self.ranked[:, :width]))


def beam(users: Users, k: int, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Beam search with the children's normaliser.

    Args:
        users: `ranked` may hold the best k prefixes only.
        k: the beam's width.
        n_threads: users are shared among this many threads.

    Returns:
        leaves int64 [B, K] by falling score, -1 beyond those there are, and log-probabilities [B, K], -inf there.
    """
    return _search(users, k, n_threads, is_exact=False)


def exact(users: Users, k: int, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The true best k of all leaves; arguments and result as `beam`, but all first-level prefixes are `ranked`."""
    return _search(users, k, n_threads, is_exact=True)


def mixture(
    users: Users,
    decoding: str,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    width: int,
    k: int,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The best k items of what a search by p0 finds and of candidates, by the score of `Mixing`.

    Args:
        users: as `beam` or `exact` wants them.
        decoding: "beam" or "exact".
        candidates: what is remembered; written over.
        width: of the search, at least k.

    Returns:
        items int64 [B, k] by falling score, 0 beyond those there are, and scores [B, k], -inf there.
    """
    n_users = len(users.parts)
    best, entry = np.empty((n_users, k), np.float32), np.empty((n_users, k), np.int64)

    def work(part: slice) -> None:
        own = users.of(part)
        known = _Known.nothing(own.first_scores, _KEPT)
        rank = _rank_exactly if decoding == "exact" else _rank
        rank(own, places, mixing.of(part), candidates.of(part), known, width, best[part], entry[part])

    share(work, n_users, n_threads)
    return entry, best


def mixture_by_index(
    users: Users,
    places: Places,
    mixing: Mixing,
    remembered: Looked,
    index: tuple[int, int],
    log_share: float,
    width: int,
    k: int,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """As `mixture` by a beam, with the best by a head over items among those under the best prefixes of two codes.

    Args:
        mixing: its `rows` share probability among the items under these prefixes; their `totals` and its `rest` are
            written over.
        remembered: of the memory.
        index: how many prefixes of one code, and of two, are kept for the head over items.
        log_share: of the head over items.
    """
    n_users = len(users.parts)
    best, entry = np.empty((n_users, k), np.float32), np.empty((n_users, k), np.int64)

    def work(part: slice) -> None:
        own, its_mixing = users.of(part), mixing.of(part)
        logits, items, known = _best_by_index(own, places, its_mixing.rows, index, width)
        its_mixing.rows.totals[:] -= log_share
        # Below fewer prefixes than those of the beam any item that this finds can be a good one of the other head.
        its_mixing.rest[:] = logits[:, -1] - its_mixing.rows.totals if index[1] >= width <= index[0] else np.inf
        candidates = with_items(remembered.of(part), items)
        _rank(own, places, its_mixing, candidates, known, width, best[part], entry[part])

    share(work, n_users, n_threads)
    return entry, best


def write_totals(users: Users, places: Places, rows: ItemRows, index: tuple[int, int]) -> None:
    """Write to `rows.totals` what a head over items shares probability among: arguments as of `mixture_by_index`."""
    _best_by_index(users, places, rows, index, 1)


def _best_by_index(
    users: Users, places: Places, rows: ItemRows, index: tuple[int, int], k: int
) -> tuple[np.ndarray, np.ndarray, _Known]:
    """Return logits and items [B, k] by a head over items of those under the best prefixes, and what is known then."""
    n_first, n_prefixes = index
    own = users.by(n_first)
    known = _Known.nothing(own.first_scores, _KEPT)
    known = _open_for_beam(own, known, max(index), _no_floors(own))
    nodes = np.empty((len(own.parts), n_prefixes), np.int64)
    best_prefixes(own.prefixes, own.first_scores, own.ranked, known.at, known.values, nodes)
    logits, items = np.empty((len(nodes), k), np.float32), np.empty((len(nodes), k), np.int64)
    best_under(own.prefixes, places, nodes, rows, logits, items)
    return logits, items, known


def _rank(
    users: Users,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    known: _Known,
    width: int,
    best: np.ndarray,
    entry: np.ndarray,
) -> None:
    """Write the scores and items [B, k] of `mixture` by a beam."""
    width = min(width, _n_leaves(users.prefixes))
    heads, prefixes, *of_users = users.by(width)
    beam_of_mixture(heads, prefixes, places, mixing, candidates, *of_users, *known, width, best, entry)


def _rank_exactly(
    users: Users,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    known: _Known,
    width: int,
    best: np.ndarray,
    entry: np.ndarray,
) -> None:
    """Write the scores and items [B, k] of `mixture` by exact search."""
    width, n_users = min(width, _n_leaves(users.prefixes)), len(best)
    floors, held = np.empty(n_users, np.float32), np.zeros(n_users, np.int64)
    leaves, scores = np.empty((n_users, width), np.int64), np.empty((n_users, width), np.float32)
    heads, prefixes, *of_users = users.by(width)
    values = search_with_candidates(
        heads, prefixes, places, mixing, candidates, *of_users, *known, floors, leaves, scores, best, entry, held
    )
    _complete(users, known._replace(values=values), floors, leaves, scores)
    finish(places, mixing, candidates, leaves, scores, best, entry, held)


def all_leaves(
    heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, first_scores: np.ndarray, n_threads: int
) -> np.ndarray:
    """Return log-probabilities [B, n_leaves] of all leaves; arguments as of `Users`."""
    scores = np.empty((len(user_parts), _n_leaves(prefixes)), np.float32)
    share(
        lambda users: score_all_leaves(heads, prefixes, user_parts[users], first_scores[users], scores[users]),
        len(user_parts),
        n_threads,
    )
    return scores


class _Known(NamedTuple):
    """Children's log-probabilities of first-level prefixes, as `second_level` gives them, and of deeper ones.

    Attributes:
        at: int64 [B, number of prefixes], where in `values` each one's begin, -1 where they are not known.
        values: float32.
        deeper: of the other levels.
    """

    at: np.ndarray
    values: np.ndarray
    deeper: Kept

    @classmethod
    def nothing(cls, first_scores: np.ndarray, room: tuple[int, int] = (0, 0)) -> _Known:
        """Return that of users who nothing is known of; `room` for so many deeper prefixes and values of each."""
        return cls(np.full(first_scores.shape, -1), np.empty(0, np.float32), Kept.room(len(first_scores), *room))


def _beam(users: Users, known: _Known, floors: np.ndarray, leaves: np.ndarray, scores: np.ndarray) -> _Known:
    """Write the leaves and scores [B, K] of the beam above every user's floor [B]; return what is known then."""
    known = _open_for_beam(users, known, leaves.shape[1], floors)
    _search_known(users, known, floors, leaves, scores)
    return known


def _open_for_beam(users: Users, known: _Known, k: int, floors: np.ndarray) -> _Known:
    """Return what is known when all is that the best k of the second level, above floors [B], can be below."""
    heads, prefixes, user_parts, first_scores, ranked = users
    if user_parts.shape[1] == 1:
        return known
    ranked = np.ascontiguousarray(ranked[:, :k])
    at, values, deeper = known
    wanted = np.zeros(first_scores.shape, np.bool_)
    first_wave(first_scores, ranked, at, floors, wanted)
    values = second_level(heads, prefixes, user_parts, wanted, at, values)
    second_wave(prefixes, k, first_scores, ranked, at, values, floors, wanted)
    return _Known(at, second_level(heads, prefixes, user_parts, wanted, at, values), deeper)


def _search_known(users: Users, known: _Known, floors: np.ndarray, leaves: np.ndarray, scores: np.ndarray) -> None:
    """Write the leaves and scores [B, K] of the beam above every user's floor [B]."""
    heads, prefixes, user_parts, first_scores, ranked = users
    ranked = np.ascontiguousarray(ranked[:, : leaves.shape[1]])
    search_beams(heads, prefixes, user_parts, first_scores, ranked, *known, floors, leaves, scores)


def _no_floors(users: Users) -> np.ndarray:
    return np.full(len(users.parts), -np.inf, np.float32)


def _complete(users: Users, known: _Known, floors: np.ndarray, leaves: np.ndarray, scores: np.ndarray) -> None:
    """Turn a beam's leaves and scores [B, K] into the true best, those above every user's floor [B]."""
    heads, prefixes, user_parts, first_scores, ranked = users
    if user_parts.shape[1] == 1:  # with one level the beam is exact
        return
    at, values, deeper = known
    wanted = np.zeros(first_scores.shape, np.bool_)
    last_wave(first_scores, np.maximum(scores[:, -1], floors), at, wanted)
    values = second_level(heads, prefixes, user_parts, wanted, at, values)
    # A beam over all that matters of the second level, and wider below, nearly closes the gap to the true bound.
    shape = len(leaves), 2 * leaves.shape[1]
    wide_leaves, wide_scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
    of_users = heads, prefixes, user_parts, first_scores, ranked, at, values, deeper, floors
    search_beams(*of_users, wide_leaves, wide_scores)
    leaves[:], scores[:] = wide_leaves[:, : leaves.shape[1]], wide_scores[:, : leaves.shape[1]]
    search_above(*of_users, leaves, scores)


def _n_leaves(prefixes: Prefixes) -> int:
    return len(prefixes.code) - int(prefixes.code_at[-1])


def _search(users: Users, k: int, n_threads: int, is_exact: bool) -> tuple[np.ndarray, np.ndarray]:
    shape = len(users.parts), min(k, _n_leaves(users.prefixes))
    leaves, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)

    def work(part: slice) -> None:
        own = users.of(part)
        floors = _no_floors(own)
        known = _beam(own, _Known.nothing(own.first_scores), floors, leaves[part], scores[part])
        if is_exact:
            _complete(own, known, floors, leaves[part], scores[part])

    share(work, len(users.parts), n_threads)
    return leaves, scores
