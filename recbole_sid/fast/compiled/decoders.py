"""SID-MLP's search as compiled loops over users, in threads (numba, the optional extra ``fast``): CPU, fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Looked, Mixing, Places, Prefixes
from recbole_sid.fast.compiled.expansion import second_level
from recbole_sid.fast.compiled.mixture import finish, floors_of, settle
from recbole_sid.fast.compiled.search import (
    first_wave,
    last_wave,
    score_all_leaves,
    search_above,
    search_beams,
    second_wave,
)
from recbole_sid.fast.compiled.threads import share

# Prefixes of a user's best candidates that are made known first, beside the beam's first: then twice as many, ...
_FIRST_WANTED = 16


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
    return _by_search(_beam, users, k, n_threads)


def exact(users: Users, k: int, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The true best k of all leaves; arguments and result as `beam`, but all first-level prefixes are `ranked`."""
    return _by_search(_exact, users, k, n_threads)


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
    width = min(k, _n_leaves(users.prefixes))

    def work(part: slice) -> None:
        own, its_mixing = users.of(part), mixing.of(part)
        its_best, its_entry = best[part], entry[part]
        known, held = _settle(own, places, its_mixing, candidates.of(part), its_best, its_entry)
        floors = np.empty(len(its_best), np.float32)
        floors_of(its_mixing, its_best, held, floors)
        leaves, scores = np.empty((len(its_best), width), np.int64), np.empty((len(its_best), width), np.float32)
        _SEARCHES[decoding](own, width, known, floors, leaves, scores)
        finish(places, its_mixing, leaves, scores, its_best, its_entry, held)

    share(work, n_users, n_threads)
    return entry, best


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
    """Children's log-probabilities of first-level prefixes, as `second_level` gives them.

    Attributes:
        at: int64 [B, number of prefixes], where in `values` each one's begin, -1 where they are not known.
        values: float32.
    """

    at: np.ndarray
    values: np.ndarray

    @classmethod
    def nothing(cls, first_scores: np.ndarray) -> _Known:
        return cls(np.full(first_scores.shape, -1), np.empty(0, np.float32))


def _beam(users: Users, k: int, known: _Known, floors: np.ndarray, leaves: np.ndarray, scores: np.ndarray) -> _Known:
    """Write the beam's leaves and scores [B, K]; return what is known then."""
    heads, prefixes, user_parts, first_scores, ranked = users
    ranked = np.ascontiguousarray(ranked[:, :k])
    at, values = known
    if user_parts.shape[1] > 1:
        wanted = np.zeros(first_scores.shape, np.bool_)
        first_wave(ranked, at, wanted)
        values = second_level(heads, prefixes, user_parts, wanted, at, values)
        second_wave(prefixes, k, first_scores, ranked, at, values, floors, wanted)
        values = second_level(heads, prefixes, user_parts, wanted, at, values)
    search_beams(heads, prefixes, user_parts, first_scores, ranked, at, values, floors, leaves, scores)
    return _Known(at, values)


def _exact(users: Users, k: int, known: _Known, floors: np.ndarray, leaves: np.ndarray, scores: np.ndarray) -> _Known:
    """As `_beam`, the true best."""
    heads, prefixes, user_parts, first_scores, ranked = users
    known = _beam(users, k, known, floors, leaves, scores)
    if user_parts.shape[1] == 1:  # with one level the beam is exact
        return known
    at, values = known
    wanted = np.zeros(first_scores.shape, np.bool_)
    last_wave(first_scores, np.maximum(scores[:, -1], floors), at, wanted)
    values = second_level(heads, prefixes, user_parts, wanted, at, values)
    # A beam over all that matters of the second level, and wider below, nearly closes the gap to the true bound.
    wide_leaves, wide_scores = np.empty((len(leaves), 2 * k), np.int64), np.empty((len(leaves), 2 * k), np.float32)
    search_beams(heads, prefixes, user_parts, first_scores, ranked, at, values, floors, wide_leaves, wide_scores)
    leaves[:], scores[:] = wide_leaves[:, :k], wide_scores[:, :k]
    search_above(heads, prefixes, user_parts, first_scores, ranked, at, values, floors, leaves, scores)
    return _Known(at, values)


_SEARCHES = {"beam": _beam, "exact": _exact}


def _settle(
    users: Users, places: Places, mixing: Mixing, candidates: Looked, best: np.ndarray, entry: np.ndarray
) -> tuple[_Known, np.ndarray]:
    """Offer all candidates that can be among the best [B, k]; return what is known then, and how many are held [B]."""
    heads, prefixes, user_parts, first_scores, ranked = users
    room, items, masses, found, _ = candidates
    at, values = _Known.nothing(first_scores)
    held, wanted = np.zeros(len(best), np.int64), np.zeros(first_scores.shape, np.bool_)
    if user_parts.shape[1] > 1:
        first_wave(ranked, at, wanted)
    n_wanted = _FIRST_WANTED
    while settle(
        heads,
        prefixes,
        places,
        mixing,
        user_parts,
        first_scores,
        at,
        values,
        room,
        items,
        masses,
        found,
        best,
        entry,
        held,
        n_wanted,
        wanted,
    ):
        values = second_level(heads, prefixes, user_parts, wanted, at, values)
        n_wanted *= 2
    return _Known(at, values), held


def _n_leaves(prefixes: Prefixes) -> int:
    return len(prefixes.code) - int(prefixes.code_at[-1])


def _by_search(search: Callable[..., _Known], users: Users, k: int, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
    shape = len(users.parts), min(k, _n_leaves(users.prefixes))
    leaves, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)

    def work(part: slice) -> None:
        own = users.of(part)
        floors = np.full(len(own.parts), -np.inf, np.float32)
        search(own, shape[1], _Known.nothing(own.first_scores), floors, leaves[part], scores[part])

    share(work, len(users.parts), n_threads)
    return leaves, scores
