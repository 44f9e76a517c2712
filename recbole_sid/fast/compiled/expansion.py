"""Compiled: children of prefixes with their log-probabilities, kept in a pool that knows each one's parent.

At the second level, where prefixes have many children and users share prefixes, all users' prefixes are grouped by
their code, so that the output rows of its children are read once for several users.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Kept, Prefixes
from recbole_sid.fast.compiled.heads import (
    TILE,
    activate,
    dots,
    normalise,
    prefix_part_of,
    rows_of_level,
    tile_log_probs,
)
from recbole_sid.fast.compiled.jit import inlined, jit

_SPREAD = 0x9E3779B97F4A7  # odd: neighbouring prefixes fall on far slots


@inlined
def children(prefixes: Prefixes, level: int, node: int) -> Any:
    """Return the first child of a prefix of depth `level`, and its children's codes."""
    at = prefixes.start_at[level] + node
    first, last = prefixes.start[at], prefixes.start[at + 1]
    return first, prefixes.code[prefixes.code_at[level] + first : prefixes.code_at[level] + last]


@jit
def second_level(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    wanted: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """Compute the children's log-probabilities of first-level prefixes, grouped by prefix.

    Args:
        wanted: bool [B, number of first-level prefixes], which to compute; cleared.
        known_at: int64 of the same shape, where in `known` the children of a prefix begin, -1 where not computed.
        known: log-probabilities so far.

    Returns:
        `known`, longer.
    """
    n_users, n_nodes = wanted.shape
    width = user_parts.shape[2]
    used = len(known)
    for node in range(n_nodes):
        n = len(children(prefixes, 1, node)[1])
        for user in range(n_users):
            if wanted[user, node]:
                known_at[user, node] = used
                used += n
    grown = np.empty(used, np.float32)
    grown[: len(known)] = known
    hidden, out = np.zeros((TILE, width), np.float32), np.empty((TILE, prefixes.widest), np.float32)
    path, tile, prefix_part = np.empty(1, np.int64), np.empty(TILE, np.int64), np.empty(width, np.float32)
    weight = rows_of_level(heads, 1)
    for node in range(n_nodes):
        codes = children(prefixes, 1, node)[1]
        n = len(codes)
        path[0] = prefixes.code[prefixes.code_at[0] + node]
        held, is_first = 0, True
        for user in range(n_users):
            if wanted[user, node]:
                wanted[user, node] = False
                if n == 1:
                    grown[known_at[user, node]] = np.float32(0)
                    continue
                if is_first:
                    prefix_part_of(heads, 1, path, prefix_part)
                    is_first = False
                tile[held] = user
                activate(heads, 1, user_parts[user, 1], prefix_part, hidden[held])
                held += 1
            if held == TILE or (held and user == n_users - 1):
                tile_log_probs(heads, 1, weight, codes, hidden, held, out)
                for row in range(held):
                    at = known_at[tile[row], node]
                    grown[at : at + n] = out[row, :n]
                held = 0
    return grown


@inlined
def _slot_of(keys: np.ndarray, key: int) -> int:
    """Return the slot of a key, or the free one where it belongs."""
    mask = len(keys) - 1
    slot = ((key * _SPREAD) >> 16) & mask
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@jit
def place_in(kept: Kept, user: int, level: int, node: int) -> int:
    """Return where in a user's values the children of a prefix of depth `level` begin, -1 if they are not kept."""
    keys = kept.keys[user]
    if not len(keys):
        return -1
    slot = _slot_of(keys, (np.int64(node) << 8) | np.int64(level))
    return np.int64(kept.at[user, slot]) if keys[slot] != -1 else -1


@jit
def keep(kept: Kept, user: int, level: int, node: int, values: np.ndarray) -> None:
    """Keep the log-probabilities of a prefix's children, if there is room."""
    n, at = kept.used[user]
    keys = kept.keys[user]
    if 2 * n < len(keys) and at + len(values) <= kept.values.shape[1]:
        key = (np.int64(node) << 8) | np.int64(level)
        slot = _slot_of(keys, key)
        keys[slot], kept.at[user, slot] = key, at
        kept.values[user, at : at + len(values)] = values
        kept.used[user, 0], kept.used[user, 1] = n + 1, at + len(values)


@jit
def room_for_a_head(width: int, widest: int, n_levels: int) -> Any:
    """Return scratch space for one head: prefix part, activations, log-probabilities, codes of the prefix."""
    return (
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.empty(widest, np.float32),
        np.empty(n_levels, np.int64),
    )


@jit
def new_pool(size: int) -> Any:
    """Return room for prefixes: score, node, parent entry, last code, depth."""
    return (
        np.empty(size, np.float32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int8),
    )


@inlined
def with_room(pool: Any, used: int, needed: int) -> Any:
    """Return the pool, or a larger copy if it has no room for `needed` more."""
    if used + needed <= len(pool[0]):
        return pool
    score, node, parent, code, depth = new_pool(2 * len(pool[0]) + needed)
    score[:used], node[:used], parent[:used] = pool[0][:used], pool[1][:used], pool[2][:used]
    code[:used], depth[:used] = pool[3][:used], pool[4][:used]
    return score, node, parent, code, depth


@inlined
def expand(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    kept: Kept,
    user: int,
    room: Any,
    pool: Any,
    used: int,
    entry: int,
    bound: np.float32,
) -> int:
    """Append the children of a prefix of `user` that score at least `bound` to the pool, which has room for them.

    Returns:
        how much of the pool is used.
    """
    score, node, parent, code, depth = pool
    prefix_part, hidden, log_probs, path = room
    level = depth[entry]
    first, codes = children(prefixes, level, node[entry])
    n = len(codes)
    values = log_probs[:n]
    if n == 1:
        values[0] = np.float32(0)
    elif level == 1 and known_at[node[entry]] >= 0:
        at = known_at[node[entry]]
        values = known[at : at + n]
    else:
        at = place_in(kept, user, level, node[entry])
        if at >= 0:
            values = kept.values[user, at : at + n]
        else:
            above = entry
            for earlier in range(level - 1, -1, -1):
                path[earlier] = code[above]
                above = parent[above]
            prefix_part_of(heads, level, path, prefix_part)
            activate(heads, level, user_parts[level], prefix_part, hidden)
            dots(rows_of_level(heads, level), codes, hidden, values)
            normalise(heads, level, codes, values)
            keep(kept, user, level, node[entry], values)
    for child in range(n):
        total = score[entry] + values[child]
        if total >= bound:
            score[used], node[used], parent[used] = total, first + child, entry
            code[used], depth[used] = codes[child], level + 1
            used += 1
    return used


@jit
def plant(prefixes: Prefixes, first_scores: np.ndarray, nodes: np.ndarray, pool: Any) -> None:
    """Begin the pool with these first-level prefixes."""
    score, node, parent, code, depth = pool
    for new in range(len(nodes)):
        score[new], node[new], parent[new] = first_scores[nodes[new]], nodes[new], -1
        code[new], depth[new] = prefixes.code[prefixes.code_at[0] + nodes[new]], 1
