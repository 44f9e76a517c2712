"""Compiled: beam search in one call, for few users at a time: calls from Python would cost as much as the search."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import Kept
from recbole_sid.fast.compiled.asking import Asked, Model
from recbole_sid.fast.compiled.expansion import second_level
from recbole_sid.fast.compiled.first_level import items_of, order_ties
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.search import first_wave, search_beams, second_wave

NEVER = np.float32(-np.inf)


@jit
def search_codes(model: Model, asked: Asked, k: int, items: np.ndarray, scores: np.ndarray) -> None:
    """Write what `decoders.beam` finds with width `k` as items int64 [B, W] and scores [B, W]; 0 and -inf beyond.

    Args:
        asked: as many prefixes of the first level are ranked as there are, or k.
    """
    heads, prefixes = model.heads, model.prefixes
    n_users, n_levels, _ = asked.parts.shape
    n_leaves = len(prefixes.code) - prefixes.code_at[n_levels - 1]
    floors = np.full(n_users, NEVER)
    at, values = np.full(asked.first.shape, -1), np.empty(0, np.float32)
    if n_levels > 1:
        wanted = np.zeros(asked.first.shape, np.bool_)
        first_wave(asked.first, asked.ranked, at, floors, wanted)
        values = second_level(heads, prefixes, asked.parts, wanted, at, values)
        second_wave(prefixes, k, asked.first, asked.ranked, at, values, floors, wanted)
        values = second_level(heads, prefixes, asked.parts, wanted, at, values)
    deeper = Kept(
        np.empty((n_users, 0), np.int64),
        np.empty((n_users, 0), np.int32),
        np.empty((n_users, 0), np.float32),
        np.zeros((n_users, 2), np.int64),
    )
    width = min(k, n_leaves)
    leaves, found = np.empty((n_users, width), np.int64), np.empty((n_users, width), np.float32)
    search_beams(heads, prefixes, asked.parts, asked.first, asked.ranked, at, values, deeper, floors, leaves, found)
    items_of(model.places, leaves, found, items, scores)
    order_ties(items, scores)
