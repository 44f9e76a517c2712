"""Compiled: search of the trie. No child is more probable than its prefix, so what cannot win is left out."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Kept, Prefixes
from recbole_sid.fast.compiled.expansion import children, expand, new_pool, plant, room_for_a_head, with_room
from recbole_sid.fast.compiled.heads import TILE, activate, prefix_part_of, rows_of_level, tile_log_probs
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.top_k import offer, sort_heap

NEVER = np.float32(-np.inf)
# Of the bound of exact search, against rounding.
_SLACK = np.float32(1e-4)
# Prefixes of each user that are expanded before it is decided which others still can reach the beam.
_FIRST_WAVE = 8


@jit
def first_wave(
    first_scores: np.ndarray, ranked: np.ndarray, known_at: np.ndarray, floors: np.ndarray, wanted: np.ndarray
) -> None:
    """Want the best prefixes of every user that are not known, and not below its floor."""
    for user in range(len(ranked)):
        for place in range(min(_FIRST_WAVE, ranked.shape[1])):
            node = ranked[user, place]
            wanted[user, node] = known_at[user, node] < 0 and first_scores[user, node] >= floors[user]


@jit
def second_wave(
    prefixes: Prefixes,
    k: int,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    floors: np.ndarray,
    wanted: np.ndarray,
) -> None:
    """Want those other prefixes of every user's beam that can reach the k best of the second level, and its floor."""
    best, entry = np.empty(k, np.float32), np.empty(k, np.int64)
    for user in range(len(ranked)):
        held = 0
        for place in range(min(_FIRST_WAVE, ranked.shape[1])):
            node = ranked[user, place]
            at = known_at[user, node]
            if at < 0:  # below the floor
                break
            reached = first_scores[user, node]
            if held == k and reached <= best[0]:
                break
            for child in range(len(children(prefixes, 1, node)[1])):
                value = reached + known[at + child]
                if held < k or value > best[0]:
                    held = offer(best, entry, held, value, 0)
        bound = max(best[0] if held == k else NEVER, floors[user])
        for place in range(_FIRST_WAVE, ranked.shape[1]):
            node = ranked[user, place]
            wanted[user, node] = known_at[user, node] < 0 and first_scores[user, node] > bound


@jit
def last_wave(first_scores: np.ndarray, bounds: np.ndarray, known_at: np.ndarray, wanted: np.ndarray) -> None:
    """Want every prefix that can hide a leaf as good as the beam's last."""
    for user in range(len(bounds)):
        for node in range(first_scores.shape[1]):
            wanted[user, node] = known_at[user, node] < 0 and first_scores[user, node] >= bounds[user]


@jit
def search_beams(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    kept: Kept,
    floors: np.ndarray,
    leaves: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Search every user's beam and write its leaves and scores [B, K] by falling score, -1 and -inf beyond.

    The first level's beam is `ranked` [B, R] (by falling score, R >= K or all there are), the others' K wide. Prefixes
    below a user's floor [B] are left out.
    """
    n_users, n_levels, width = user_parts.shape
    k, n_first = leaves.shape[1], ranked.shape[1]
    room = room_for_a_head(width, prefixes.widest, n_levels)
    pool = new_pool(n_first + 8 * prefixes.widest + 64 * k)
    best, entry, beams = np.empty(k, np.float32), np.empty(k, np.int64), np.empty(max(k, n_first), np.int64)
    for user in range(n_users):
        plant(prefixes, first_scores[user], ranked[user], pool)
        used, held = n_first, min(n_first, k)
        n_beams = n_first
        beams[:n_first], best[:held], entry[:held] = np.arange(n_first), pool[0][:held], np.arange(held)
        for _ in range(1, n_levels):
            held = 0
            for place in range(n_beams):
                bound = max(best[0] if held == k else NEVER, floors[user])
                reached = pool[0][beams[place]]
                if reached < bound or (held == k and reached <= bound):
                    break
                pool = with_room(pool, used, prefixes.widest)
                before = used
                used = expand(
                    heads, prefixes, user_parts[user], known_at[user], known, kept, user, room, pool, used,
                    beams[place], bound,
                )  # fmt: skip
                for new in range(before, used):
                    held = offer(best, entry, held, pool[0][new], new)
            sort_heap(best, entry, held)
            n_beams = held
            beams[:held] = entry[:held]
        for place in range(k):
            reached = place < held and best[place] > NEVER
            leaves[user, place] = pool[1][entry[place]] if reached else -1
            scores[user, place] = best[place] if reached else NEVER


@jit
def search_above(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    kept: Kept,
    floors: np.ndarray,
    leaves: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Replace leaves and scores [B, K] of a beam by the true best: all that score at least the beam's last.

    `ranked` holds all first-level prefixes. Leaves below a user's floor [B] are not looked for.
    """
    n_users, n_levels, width = user_parts.shape
    k, n_first = leaves.shape[1], ranked.shape[1]
    room = room_for_a_head(width, prefixes.widest, n_levels)
    pool = new_pool(n_first + 8 * prefixes.widest + 64 * k)
    best, leaf = np.empty(k, np.float32), np.full(k, -1, np.int64)
    for user in range(n_users):
        bound = max(scores[user, k - 1] - _SLACK, floors[user])
        if bound == NEVER:  # the beam never left a prefix out
            continue
        plant(prefixes, first_scores[user], ranked[user], pool)
        used, held, entry = n_first, 0, 0
        while entry < used:
            if pool[0][entry] >= bound:
                pool = with_room(pool, used, prefixes.widest)
                before = used
                used = expand(
                    heads, prefixes, user_parts[user], known_at[user], known, kept, user, room, pool, used, entry, bound
                )
                if pool[4][entry] == n_levels - 1:
                    for new in range(before, used):
                        held = offer(best, leaf, held, pool[0][new], pool[1][new])
                    used = before
                    if held == k:
                        bound = best[0]
            entry += 1
        sort_heap(best, leaf, held)
        best[held:], leaf[held:] = NEVER, -1
        leaves[user], scores[user] = leaf, best


@jit
def score_all_leaves(
    heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, first_scores: np.ndarray, scores: np.ndarray
) -> None:
    """Write the log-probability of every leaf of every user: scores [B, n_leaves].

    Users go through the trie four at a time, and share a prefix's table rows and its children's output rows.
    """
    n_users, n_levels, width = user_parts.shape
    hidden, log_probs = np.zeros((TILE, width), np.float32), np.empty((TILE, prefixes.widest), np.float32)
    prefix_part = np.empty(width, np.float32)
    path, ancestor = np.empty(n_levels, np.int64), np.empty(n_levels, np.int64)
    above = np.empty((TILE, scores.shape[1]), np.float32)
    below = np.empty((TILE, scores.shape[1]), np.float32)
    for user in range(0, n_users, TILE):
        held = min(TILE, n_users - user)
        n_nodes = first_scores.shape[1]
        above[:held, :n_nodes] = first_scores[user : user + held]
        for level in range(1, n_levels):
            ancestor[:] = 0
            weight = rows_of_level(heads, level)
            for node in range(n_nodes):
                first, codes = children(prefixes, level, node)
                n = len(codes)
                if n == 1:
                    below[:held, first] = above[:held, node]
                    continue
                lower = node
                for depth in range(level - 1, -1, -1):  # nodes come in order, so ancestors only move forward
                    while prefixes.start[prefixes.start_at[depth] + ancestor[depth] + 1] <= lower:
                        ancestor[depth] += 1
                    path[depth] = prefixes.code[prefixes.code_at[depth] + lower]
                    lower = ancestor[depth]
                prefix_part_of(heads, level, path, prefix_part)
                for row in range(held):
                    activate(heads, level, user_parts[user + row, level], prefix_part, hidden[row])
                tile_log_probs(heads, level, weight, codes, hidden, held, log_probs)
                for row in range(held):
                    for child in range(n):
                        below[row, first + child] = above[row, node] + log_probs[row, child]
            n_nodes = prefixes.start[prefixes.start_at[level] + n_nodes]
            above, below = below, above
        scores[user : user + held] = above[:held]
