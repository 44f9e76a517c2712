"""Compiled: the best items of a mixture in one call: calls from Python would cost as much as their loops."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Kept, Looked, Mixing, Places, Prefixes
from recbole_sid.fast.compiled.expansion import second_level
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.mixture import finish, floors_of, settle, want_best, want_open
from recbole_sid.fast.compiled.search import first_wave, search_beams, second_wave

NEVER = np.float32(-np.inf)


@jit
def search_with_candidates(
    heads: Heads,
    prefixes: Prefixes,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    at: np.ndarray,
    values: np.ndarray,
    deeper: Kept,
    floors: np.ndarray,
    leaves: np.ndarray,
    scores: np.ndarray,
    best: np.ndarray,
    entry: np.ndarray,
    held: np.ndarray,
) -> np.ndarray:
    """Offer candidates to every user's best items, and search for leaves that can still be among them.

    What has to be known is made known twice, prefixes of the first level for all users together: those of the best
    candidates and of the best score; then those of all candidates that can still be among the best, and of the beam.

    Args:
        candidates: written over.
        ranked: int64 [B, R], of the beam's width: as of `search_beams`.
        at, values, deeper: what is known, as of `second_level`; written.
        floors: float32 [B], log-probabilities below which leaves are left out; written.
        leaves, scores: [B, K], what the beam finds; written.
        best, entry, held: of each user a heap of scores [B, k] and items [B, k], and its size [B]; empty at first.

    Returns:
        `values`, longer.
    """
    k, n_levels = leaves.shape[1], user_parts.shape[1]
    wanted, bounds = np.zeros(at.shape, np.bool_), np.empty(len(candidates.items), np.float32)
    floors[:] = NEVER
    first_wave(first_scores, ranked, at, floors, wanted)
    want_best(places, mixing, candidates, first_scores, best.shape[1], wanted, bounds)
    if n_levels > 1:
        values = second_level(heads, prefixes, user_parts, wanted, at, values)
    n_open = settle(
        heads, prefixes, places, mixing, candidates, bounds, user_parts, first_scores, at, values, deeper,
        best, entry, held,
    )  # fmt: skip
    floors_of(mixing, candidates, best, held, floors)
    if n_levels > 1:
        second_wave(prefixes, k, first_scores, ranked, at, values, floors, wanted)
        if n_open:
            want_open(heads, prefixes, places, mixing, candidates, bounds, user_parts, first_scores, best, held, wanted)
        values = second_level(heads, prefixes, user_parts, wanted, at, values)
    if n_open:
        settle(
            heads, prefixes, places, mixing, candidates, bounds, user_parts, first_scores, at, values, deeper,
            best, entry, held,
        )  # fmt: skip
        floors_of(mixing, candidates, best, held, floors)
    search_beams(heads, prefixes, user_parts, first_scores, ranked, at, values, deeper, floors, leaves, scores)
    return values


@jit
def beam_of_mixture(
    heads: Heads,
    prefixes: Prefixes,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    at: np.ndarray,
    values: np.ndarray,
    deeper: Kept,
    width: int,
    best: np.ndarray,
    entry: np.ndarray,
) -> None:
    """Write the scores and items [B, k] of the mixture, of what a beam of `width` finds and of candidates.

    Args:
        All others are as of `search_with_candidates`.
    """
    n_users = len(user_parts)
    floors, held = np.empty(n_users, np.float32), np.zeros(n_users, np.int64)
    leaves, scores = np.empty((n_users, width), np.int64), np.empty((n_users, width), np.float32)
    search_with_candidates(
        heads, prefixes, places, mixing, candidates, user_parts, first_scores, ranked, at, values, deeper, floors,
        leaves, scores, best, entry, held,
    )  # fmt: skip
    finish(places, mixing, candidates, leaves, scores, best, entry, held)
