"""Compiled: the best items of a mixture of what a memory holds and of popularity."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import Looked
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.top_k import offer, sort_heap

NEVER = np.float32(-np.inf)


@jit
def best_with_popularity(
    looked: Looked,
    popularity: np.ndarray,
    popular: np.ndarray,
    sums: np.ndarray,
    items: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Write the best items int64 [B, k] by ``mass + remaining * popularity`` and its logarithms, exactly.

    An item that is not remembered is among them only if it is among the k most popular.

    Args:
        popularity: float32 [n_items], of sum 1.
        popular: int64 [n_items], items by falling popularity.
        sums: float32 [n_items], all 0, and 0 again afterwards.
        items, scores: by falling score; 0 and -inf beyond those that have any.
    """
    k = items.shape[1]
    for user in range(len(items)):
        first, n, held = looked.room[user], looked.found[user], 0
        remaining = looked.remaining[user]
        for place in range(first, first + n):
            item = looked.items[place]
            sums[item] = looked.masses[place]
            held = offer(scores[user], items[user], held, looked.masses[place] + remaining * popularity[item], item)
        for place in range(min(k, len(popular))):
            item = popular[place]
            own = remaining * popularity[item]
            if own == 0 or (held == k and own <= scores[user, 0]):
                break
            if sums[item] == 0:
                held = offer(scores[user], items[user], held, own, item)
        for place in range(first, first + n):
            sums[looked.items[place]] = np.float32(0)
        sort_heap(scores[user], items[user], held)
        for place in range(k):
            if place < held:
                scores[user, place] = np.log(scores[user, place])
            else:
                items[user, place], scores[user, place] = 0, NEVER


@jit
def add_popularity(
    looked: Looked, popularity: np.ndarray, items: np.ndarray, sums: np.ndarray, scores: np.ndarray
) -> None:
    """Write the logarithms [B, M] of ``mass + remaining * popularity`` of items int64 [M].

    Args:
        sums: float32 [n_items], all 0, and 0 again afterwards.
    """
    for user in range(len(scores)):
        first, n = looked.room[user], looked.found[user]
        for place in range(first, first + n):
            sums[looked.items[place]] = looked.masses[place]
        for column in range(len(items)):
            item = items[column]
            scores[user, column] = np.log(sums[item] + looked.remaining[user] * popularity[item])
        for place in range(first, first + n):
            sums[looked.items[place]] = np.float32(0)
