"""Synthetic catalogues whose semantic IDs branch as those of a residual quantiser do, and sequences of their items."""

from __future__ import annotations

import numpy as np
import torch

from recbole_sid.decoding.trie import Trie
from recbole_sid.semantic_ids.artefact import SemanticIDs

_CODES = 256
_FOLLOWERS = 20  # of an item, in sequences
_SHORTEST, _MEAN_LENGTH = 3, 7  # of sequences
# Exponent and shift of the Zipf-Mandelbrot law (rank + shift)^-exponent by which each level's codes are drawn given the
# codes before. Fitted so that 25,000 items have about 14,941 prefixes of two codes and 22,604 of three, of which 73 and
# 90 per cent have a single child: the counts of a residual quantiser on a real catalogue of that size.
_SKEW = ((0.515, 1.0), (1.0, 4.0), (1.36, 1.0))


def synthetic_semantic_ids(n_items: int, seed: int) -> SemanticIDs:
    """Return semantic IDs of three levels of 256 codes and a rank that makes them unique.

    Args:
        n_items: at least 1.
        seed: decides the codes.

    Returns:
        codes [n_items, 4]; the last codebook has 256 codes, or as many as the largest rank needs.
    """
    rng = np.random.default_rng(seed)
    prefix = np.zeros(n_items, dtype=np.int64)
    columns = []
    for level, (exponent, shift) in enumerate(_SKEW):
        codes = _spread(_zipf(rng, n_items, exponent, shift), prefix, level)
        prefix = prefix * _CODES + codes
        columns.append(codes)
    rank = _rank_within(prefix)
    sizes = (_CODES,) * len(_SKEW) + (max(_CODES, int(rank.max()) + 1),)
    tokens = np.char.add("i", np.arange(n_items).astype(str))
    return SemanticIDs(np.stack([*columns, rank], axis=1), sizes, tokens, {"synthetic": n_items, "seed": seed})


def synthetic_sequences(n: int, n_items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return items int32 [n], from 1, and the offsets of their sequences.

    Sequences have at least 3 items, 7 on average: half of the steps go to one of 20 fixed followers of an item, the
    other half to an item drawn by a popularity with a long tail. So a history remembers as much (`TransitionMemory`) as
    on Amazon's data sets: 290 items on average and 205 in the middle, from rows of 28 (5 hops, 5 items looked up).
    """
    rng = np.random.default_rng(seed)
    popularity = (np.arange(n_items) + n_items / 1000) ** -0.6  # 11% of all draws are of the most popular 1%
    bounds = np.cumsum(popularity / popularity.sum())
    items = (np.searchsorted(bounds, rng.random(n, dtype=np.float32)).clip(max=n_items - 1) + 1).astype(np.int32)
    lengths = _SHORTEST + rng.negative_binomial(1, 1 / (1 + _MEAN_LENGTH - _SHORTEST), size=n // _SHORTEST + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = np.append(offsets[offsets < n], n)
    follows = rng.random(n, dtype=np.float32) < 0.5
    follows[offsets[:-1]] = False
    step = rng.integers(1, _FOLLOWERS + 1, size=n, dtype=np.int32)
    # A run of followers goes on from the last item that was drawn, so that no loop over positions is needed.
    drawn = np.maximum.accumulate(np.where(follows, 0, np.arange(n, dtype=np.int32)))
    run = np.cumsum(np.where(follows, step, 0), dtype=np.int64)
    return ((items[drawn] - 1 + run - run[drawn]) % n_items + 1).astype(np.int32), offsets


def branching(trie: Trie) -> list[dict[str, float]]:
    """Return a row per depth from 1 to L - 1: prefixes, mean number of children and share with a single child."""
    rows = []
    for depth in range(1, trie.n_levels):
        children = trie.n_children(depth, torch.arange(trie.n_nodes(depth), device=trie.start(depth).device)).double()
        rows.append(
            {
                "depth": depth,
                "prefixes": trie.n_nodes(depth),
                "children_mean": float(children.mean()),
                "single_child": float((children == 1).double().mean()),
            }
        )
    return rows


def _zipf(rng: np.random.Generator, n: int, exponent: float, shift: float) -> np.ndarray:
    """Draw n popularity ranks 0 .. 255."""
    share = np.cumsum((np.arange(_CODES) + shift) ** -exponent)
    return np.searchsorted(share, rng.random(n) * share[-1])


def _spread(ranks: np.ndarray, prefix: np.ndarray, level: int) -> np.ndarray:
    """Return codes: which one is the most popular, the second, ... differs from prefix to prefix.

    rank -> odd * rank + shift modulo 256 is a permutation, with both factors drawn from the prefix by a hash.
    """
    mixed = (prefix + level + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    odd = 2 * ((mixed >> np.uint64(32)) % np.uint64(128)).astype(np.int64) + 1
    shift = ((mixed >> np.uint64(48)) % np.uint64(_CODES)).astype(np.int64)
    return (ranks * odd + shift) % _CODES


def _rank_within(keys: np.ndarray) -> np.ndarray:
    """Return each row's place, from 0, among the rows of the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    position = np.arange(len(keys))
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    rank = np.empty_like(position)
    rank[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return rank
