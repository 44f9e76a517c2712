"""SID-MLP's search as compiled loops over users, in threads (numba, the optional extra ``fast``): CPU, fp32."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Kept, Looked, Mixing, Places, Prefixes
from recbole_sid.fast.compiled.expansion import second_level
from recbole_sid.fast.compiled.items import best_prefixes, best_under
from recbole_sid.fast.compiled.lookup import with_items
from recbole_sid.fast.compiled.mixture import finish, floors_of, settle, want_best, want_open
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
    k: int,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The best k items of what a search by p0 finds and of candidates, by the score of `Mixing`.

    Args:
        users: as `beam` or `exact` wants them.
        decoding: "beam" or "exact".
        candidates: what is remembered; written over.

    Returns:
        items int64 [B, k] by falling score, 0 beyond those there are, and scores [B, k], -inf there.
    """
    n_users = len(users.parts)
    best, entry = np.empty((n_users, k), np.float32), np.empty((n_users, k), np.int64)

    def work(part: slice) -> None:
        own = users.of(part)
        known = _Known.nothing(own.first_scores, _KEPT)
        _rank(own, decoding, places, mixing.of(part), candidates.of(part), known, best[part], entry[part])

    share(work, n_users, n_threads)
    return entry, best


def mixture_by_index(
    users: Users,
    places: Places,
    mixing: Mixing,
    remembered: Looked,
    n_prefixes: int,
    log_share: float,
    k: int,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """As `mixture` by a beam, with the best k by a head over items among those under the best prefixes of two codes.

    Args:
        mixing: its `rows` share probability among the items under these prefixes; their `totals` and its `rest` are
            written over.
        remembered: of the memory.
        n_prefixes: of two codes.
        log_share: of the head over items.
    """
    n_users = len(users.parts)
    best, entry = np.empty((n_users, k), np.float32), np.empty((n_users, k), np.int64)

    def work(part: slice) -> None:
        own, its_mixing = users.of(part), mixing.of(part)
        known = _open_for_beam(own, _Known.nothing(own.first_scores, _KEPT), max(n_prefixes, k), _no_floors(own))
        nodes = np.empty((len(own.parts), n_prefixes), np.int64)
        best_prefixes(own.prefixes, own.first_scores, own.ranked, known.at, known.values, nodes)
        logits, items = np.empty((len(nodes), k), np.float32), np.empty((len(nodes), k), np.int64)
        best_under(own.prefixes, places, nodes, its_mixing.rows, logits, items)
        its_mixing.rows.totals[:] -= log_share
        # Below fewer prefixes than those of the beam any item that this finds can be a good one of the other head.
        its_mixing.rest[:] = logits[:, -1] - its_mixing.rows.totals if n_prefixes >= k else np.inf
        candidates = with_items(remembered.of(part), items)
        _rank(own, "beam", places, its_mixing, candidates, known, best[part], entry[part])

    share(work, n_users, n_threads)
    return entry, best


def _rank(
    users: Users,
    decoding: str,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    known: _Known,
    best: np.ndarray,
    entry: np.ndarray,
) -> None:
    """Write the scores and items [B, k] of `mixture`."""
    width = min(best.shape[1], _n_leaves(users.prefixes))
    ranking = best, entry, np.zeros(len(best), np.int64)
    floors = np.empty(len(best), np.float32)
    known = _settle(users, places, mixing, candidates, known, floors, *ranking)
    leaves, scores = np.empty((len(floors), width), np.int64), np.empty((len(floors), width), np.float32)
    _search_known(users, known, floors, leaves, scores)
    if decoding == "exact":
        _complete(users, known, floors, leaves, scores)
    finish(places, mixing, leaves, scores, *ranking)


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


def _settle(
    users: Users,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    known: _Known,
    floors: np.ndarray,
    *ranking: np.ndarray,
) -> _Known:
    """Offer candidates to every user's ranking (`settle`: best, entry, held), and write its floor [B] for the beam.

    What has to be known is made known twice, prefixes of the first level for all users together: those of the best
    candidates and of the best score; then those of all candidates that can still be among the best, and of the beam.

    Returns:
        what is known then: all that the beam above the floors needs of the second level.
    """
    heads, prefixes, user_parts, first_scores, _ = users
    n_levels, (best, _, held) = user_parts.shape[1], ranking
    at, values, deeper = known
    wanted, bounds = np.zeros(at.shape, np.bool_), np.empty(len(candidates.items), np.float32)
    ranked = np.ascontiguousarray(users.ranked[:, : best.shape[1]])
    first_wave(first_scores, ranked, at, _no_floors(users), wanted)
    want_best(places, mixing, candidates, first_scores, best.shape[1], wanted, bounds)
    of_candidates = heads, prefixes, places, mixing, candidates, bounds, user_parts, first_scores
    if n_levels > 1:
        values = second_level(heads, prefixes, user_parts, wanted, at, values)
    n_open = settle(*of_candidates, at, values, deeper, *ranking)
    floors_of(mixing, best, held, floors)
    if n_levels > 1:
        second_wave(prefixes, best.shape[1], first_scores, ranked, at, values, floors, wanted)
        if n_open:
            want_open(*of_candidates, best, held, wanted)
        values = second_level(heads, prefixes, user_parts, wanted, at, values)
    if n_open:
        settle(*of_candidates, at, values, deeper, *ranking)
        floors_of(mixing, best, held, floors)
    return _Known(at, values, deeper)


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
