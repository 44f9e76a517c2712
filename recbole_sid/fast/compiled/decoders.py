"""SID-MLP's search as compiled loops over users, in threads (numba, the optional extra ``fast``): CPU, fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Prefixes
from recbole_sid.fast.compiled.expansion import second_level
from recbole_sid.fast.compiled.search import (
    first_wave,
    last_wave,
    score_all_leaves,
    search_above,
    search_beams,
    second_wave,
)
from recbole_sid.fast.compiled.threads import share


def beam(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    k: int,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Beam search with the children's normaliser.

    Args:
        user_parts: fp32 [B, L, H], the user's part of every head's centred first layer.
        first_scores: fp32 [B, n_nodes(1)], log-probabilities of the first level's prefixes.
        ranked: int64 [B, R], prefixes of the first level by falling score: the best k at least (or all there are).
        k: the beam's width.
        n_threads: users are shared among this many threads.

    Returns:
        leaves int64 [B, K] by falling score, -1 beyond those there are, and log-probabilities [B, K], -inf there.
    """
    return _by_search(_beam, heads, prefixes, user_parts, first_scores, ranked, k, n_threads)


def exact(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    k: int,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The true best k of all leaves; arguments and result as `beam`, but all first-level prefixes are `ranked`."""
    return _by_search(_exact, heads, prefixes, user_parts, first_scores, ranked, k, n_threads)


def all_leaves(
    heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, first_scores: np.ndarray, n_threads: int
) -> np.ndarray:
    """Return log-probabilities [B, n_leaves] of all leaves; arguments as `beam`."""
    scores = np.empty((len(user_parts), _n_leaves(prefixes)), np.float32)
    share(
        lambda users: score_all_leaves(heads, prefixes, user_parts[users], first_scores[users], scores[users]),
        len(user_parts),
        n_threads,
    )
    return scores


class _Found(NamedTuple):
    """Children's log-probabilities of first-level prefixes, as `second_level` gives them, and rankings [B, K]."""

    known_at: np.ndarray
    known: np.ndarray
    leaves: np.ndarray
    scores: np.ndarray


def _beam(
    heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, first_scores: np.ndarray, ranked: np.ndarray, k: int
) -> _Found:
    shape = len(user_parts), k
    leaves, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
    known_at, known = np.full(first_scores.shape, -1), np.empty(0, np.float32)
    ranked = np.ascontiguousarray(ranked[:, :k])
    if user_parts.shape[1] > 1:
        wanted = np.zeros(first_scores.shape, np.bool_)
        first_wave(ranked, wanted)
        known = second_level(heads, prefixes, user_parts, wanted, known_at, known)
        second_wave(prefixes, k, first_scores, ranked, known_at, known, wanted)
        known = second_level(heads, prefixes, user_parts, wanted, known_at, known)
    search_beams(heads, prefixes, user_parts, first_scores, ranked, known_at, known, leaves, scores)
    return _Found(known_at, known, leaves, scores)


def _exact(
    heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, first_scores: np.ndarray, ranked: np.ndarray, k: int
) -> _Found:
    known_at, known, leaves, scores = _beam(heads, prefixes, user_parts, first_scores, ranked, k)
    if user_parts.shape[1] == 1:  # with one level the beam is exact
        return _Found(known_at, known, leaves, scores)
    wanted = np.zeros(first_scores.shape, np.bool_)
    last_wave(first_scores, scores[:, -1], known_at, wanted)
    known = second_level(heads, prefixes, user_parts, wanted, known_at, known)
    # A beam over all that matters of the second level, and wider below, nearly closes the gap to the true bound.
    wide_leaves, wide_scores = np.empty((len(leaves), 2 * k), np.int64), np.empty((len(leaves), 2 * k), np.float32)
    search_beams(heads, prefixes, user_parts, first_scores, ranked, known_at, known, wide_leaves, wide_scores)
    leaves, scores = wide_leaves[:, :k].copy(), wide_scores[:, :k].copy()
    search_above(heads, prefixes, user_parts, first_scores, ranked, known_at, known, leaves, scores)
    return _Found(known_at, known, leaves, scores)


def _n_leaves(prefixes: Prefixes) -> int:
    return len(prefixes.code) - int(prefixes.code_at[-1])


def _by_search(
    search: Callable[..., _Found],
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    k: int,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    shape = len(user_parts), min(k, _n_leaves(prefixes))
    leaves, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)

    def work(users: slice) -> None:
        found = search(heads, prefixes, user_parts[users], first_scores[users], ranked[users], shape[1])
        leaves[users], scores[users] = found.leaves, found.scores

    share(work, len(user_parts), n_threads)
    return leaves, scores
