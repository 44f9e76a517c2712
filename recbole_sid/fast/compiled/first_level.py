"""Compiled: what every search begins with, and items in place of the leaves that it ends with."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Places, Prefixes
from recbole_sid.fast.compiled.expansion import children
from recbole_sid.fast.compiled.heads import TILE, activate, prefix_part_of, rows_of_level, tile_log_probs
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.top_k import offer, sort_heap

NEVER = np.float32(-np.inf)


@jit
def score_first_level(heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, scores: np.ndarray) -> None:
    """Write the log-probabilities [B, n_nodes(1)] of the first level's prefixes."""
    n_users, width = len(user_parts), user_parts.shape[2]
    codes = children(prefixes, 0, 0)[1]
    hidden, nothing = np.empty((TILE, width), np.float32), np.zeros(width, np.float32)
    weight = rows_of_level(heads, 0)
    for user in range(0, n_users, TILE):
        held = min(TILE, n_users - user)
        for row in range(held):
            activate(heads, 0, user_parts[user + row, 0], nothing, hidden[row])
        tile_log_probs(heads, 0, weight, codes, hidden[:held], held, scores[user : user + held])


@jit
def rank_first_level(scores: np.ndarray, ranked: np.ndarray) -> None:
    """Write the best of scores [B, n] by falling ones: ranked int64 [B, k], k <= n."""
    n_users, k = ranked.shape
    best = np.empty(k, np.float32)
    for user in range(n_users):
        held = 0
        for node in range(scores.shape[1]):
            held = offer(best, ranked[user], held, scores[user, node], node)
        sort_heap(best, ranked[user], held)


@jit
def items_of(places: Places, leaves: np.ndarray, of_leaves: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
    """Write the items of ranked leaves [B, K], in order, and their scores [B, k]; 0 and -inf beyond those there are."""
    for user in range(len(items)):
        held = 0
        for place in range(leaves.shape[1]):
            leaf = leaves[user, place]
            if leaf < 0:
                break
            for at in range(places.leaf_start[leaf], places.leaf_start[leaf + 1]):
                if held < items.shape[1]:
                    items[user, held], scores[user, held] = places.leaf_items[at], of_leaves[user, place]
                    held += 1
        for place in range(held, items.shape[1]):
            items[user, place], scores[user, place] = 0, NEVER


@jit
def order_ties(items: np.ndarray, scores: np.ndarray) -> None:
    """Put items int64 [B, k] of falling scores [B, k] in order of their numbers where scores are equal."""
    for user in range(len(items)):
        for place in range(1, items.shape[1]):
            item = items[user, place]
            at = place
            while item > 0 and at > 0 and scores[user, at - 1] == scores[user, place] and items[user, at - 1] > item:
                items[user, at] = items[user, at - 1]
                at -= 1
            items[user, at] = item


@jit
def score_leaves(
    heads: Heads,
    prefixes: Prefixes,
    nodes: np.ndarray,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Write the log-probabilities [B, M] of semantic IDs, which are best in order: they then share prefixes' work.

    Args:
        nodes: int32 [M, L], the prefixes that lead to each; -1 of none, which gets -inf.
    """
    n_users, n_levels, width = user_parts.shape
    hidden, prefix_part = np.empty((1, width), np.float32), np.empty(width, np.float32)
    path = np.empty(n_levels, np.int64)
    known = np.empty((n_levels, 1, prefixes.widest), np.float32)
    of = np.empty(n_levels, np.int64)
    for user in range(n_users):
        of[:] = -1
        for place in range(len(nodes)):
            if nodes[place, 0] < 0:
                scores[user, place] = NEVER
                continue
            total = first_scores[user, nodes[place, 0]]
            path[0] = prefixes.code[prefixes.code_at[0] + nodes[place, 0]]
            for level in range(1, n_levels):
                above, node = nodes[place, level - 1], nodes[place, level]
                path[level] = prefixes.code[prefixes.code_at[level] + node]
                first, codes = children(prefixes, level, above)
                if len(codes) == 1:
                    continue
                if of[level] != above:
                    of[level] = above
                    prefix_part_of(heads, level, path, prefix_part)
                    activate(heads, level, user_parts[user, level], prefix_part, hidden[0])
                    tile_log_probs(heads, level, rows_of_level(heads, level), codes, hidden, 1, known[level])
                total += known[level, 0, node - first]
            scores[user, place] = total


@jit
def best_of(all_scores: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
    """Write the best items int64 [B, k] and their scores of all scores [B, n_items]; 0 and -inf beyond."""
    for user in range(len(items)):
        held = 0
        for item in range(1, all_scores.shape[1]):
            if all_scores[user, item] > NEVER:
                held = offer(scores[user], items[user], held, all_scores[user, item], item)
        sort_heap(scores[user], items[user], held)
        for place in range(held, items.shape[1]):
            items[user, place], scores[user, place] = 0, NEVER


@jit
def score_children(
    heads: Heads, prefixes: Prefixes, level: int, nodes: np.ndarray, user_part: np.ndarray, scores: np.ndarray
) -> int:
    """Write the log-probabilities [>= n] of a prefix's children of `level`, and return how many there are.

    Args:
        nodes: int32 [L], the prefixes of each depth from 1 that lead to the prefix.
        user_part: [H], the user's of this level.
    """
    path = np.empty(max(1, level), np.int64)
    for depth in range(level):
        path[depth] = prefixes.code[prefixes.code_at[depth] + nodes[depth]]
    codes = children(prefixes, level, nodes[level - 1] if level else 0)[1]
    hidden, prefix_part = np.empty((1, len(user_part)), np.float32), np.empty(len(user_part), np.float32)
    prefix_part_of(heads, level, path, prefix_part)
    activate(heads, level, user_part, prefix_part, hidden[0])
    tile_log_probs(heads, level, rows_of_level(heads, level), codes, hidden, 1, scores.reshape(1, -1))
    return len(codes)
