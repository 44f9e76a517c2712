"""SID-MLP's search as compiled loops over users (numba, the optional extra ``fast``): CPU, fp32.

One head evaluation is a sum of table rows, a variance, a GELU and one dot product per child. A prefix with one child
needs none. No child is more probable than its prefix, so prefixes that can no longer reach the beam are left out. At
the second level, where prefixes have many children and users share prefixes, all users' prefixes are grouped by their
code, so that the output rows of its children are read once for several users.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np

# fp32 throughout: a Python float in an expression would make it fp64. Reassociation lets sums use vector lanes; NaN and
# infinity keep their meaning.
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})

# Inlined where called: a call passes arrays with reference counts, which costs more than the short body.
_inlined = numba.njit(nogil=True, error_model="numpy", inline="always")

_ONE, _HALF, _ROOT_HALF = np.float32(1), np.float32(0.5), np.float32(math.sqrt(0.5))
_NEVER = np.float32(-np.inf)
# Of the bound of exact search, against rounding.
_SLACK = np.float32(1e-4)
# Prefixes of each user that are expanded before it is decided which others still can reach the beam.
_FIRST_WAVE = 8
# Users whose activations are held at a time: they stay in the first-level cache.
_TILE = 4


class Heads(NamedTuple):
    """Weights of all levels; H is the hidden width, rows are fp32 and contiguous.

    Attributes:
        tables: [rows, H], contributions of codes to the centred first layer.
        table_start: int64 [L, L], row where level t's table of an earlier level begins.
        gain, shift: LayerNorm's weight and bias [L, H].
        eps: [L], LayerNorm's.
        weight: [sum of sizes, H], output rows, level by level.
        bias: [sum of sizes].
        weight_start: int64 [L], where each level's output rows begin.
    """

    tables: np.ndarray
    table_start: np.ndarray
    gain: np.ndarray
    shift: np.ndarray
    eps: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    weight_start: np.ndarray


class Prefixes(NamedTuple):
    """A trie as flat arrays.

    Attributes:
        start: int32, ``start[start_at[level] + node]`` is the first child of a prefix of that depth.
        code: int32, ``code[code_at[level] + child]`` its last code.
        start_at, code_at: int64 [L].
        widest: most children of any prefix.
    """

    start: np.ndarray
    code: np.ndarray
    start_at: np.ndarray
    code_at: np.ndarray
    widest: int


@_jit
def _erf(x: np.float32) -> np.float32:
    """Error function to fp32 rounding, as a rational function of x on [-4, 4] (its values beyond are +-1)."""
    x = min(max(x, np.float32(-4)), np.float32(4))
    y = x * x
    top = np.float32(-2.72614225801306e-10)
    top = top * y + np.float32(2.77068142495902e-08)
    top = top * y + np.float32(-2.10102402082508e-06)
    top = top * y + np.float32(-5.69250639462346e-05)
    top = top * y + np.float32(-7.34990630326855e-04)
    top = top * y + np.float32(-2.95459980854025e-03)
    top = top * y + np.float32(-1.60960333262415e-02)
    low = np.float32(-1.45660718464996e-05)
    low = low * y + np.float32(-2.13374055278905e-04)
    low = low * y + np.float32(-1.68282697438203e-03)
    low = low * y + np.float32(-7.37332916720468e-03)
    low = low * y + np.float32(-1.42647390514189e-02)
    return x * top / low


@_jit
def _exp(x: np.float32) -> np.float32:
    """Exponential of x <= 0 to fp32 rounding: 2^n times a polynomial; unlike numpy's, it vectorises."""
    t = max(x, np.float32(-87)) * np.float32(1.4426950408889634)
    n = np.floor(t + _HALF)
    f = (t - n) * np.float32(0.6931471805599453)
    p = np.float32(1 / 5040) * f + np.float32(1 / 720)
    p = p * f + np.float32(1 / 120)
    p = p * f + np.float32(1 / 24)
    p = p * f + np.float32(1 / 6)
    p = p * f + _HALF
    p = p * f + _ONE
    p = p * f + _ONE
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_jit
def _prefix_part(heads: Heads, level: int, path: np.ndarray, out: np.ndarray) -> None:
    """Write what the codes path[:level] contribute to the first layer [H] of the head of `level`."""
    out[:] = np.float32(0)
    for earlier in range(level):
        row = heads.tables[heads.table_start[level, earlier] + path[earlier]]
        for h in range(len(out)):
            out[h] += row[h]


@_jit
def _activate(heads: Heads, level: int, user_part: np.ndarray, prefix_part: np.ndarray, out: np.ndarray) -> None:
    """Write the activations [H] of the head of `level`: LayerNorm of centred parts, then GELU."""
    width = len(out)
    square = np.float32(0)
    for h in range(width):
        x = user_part[h] + prefix_part[h]
        out[h] = x
        square += x * x
    scale = _ONE / np.sqrt(square / np.float32(width) + heads.eps[level])
    gain, shift = heads.gain[level], heads.shift[level]
    for h in range(width):
        x = out[h] * scale * gain[h] + shift[h]
        out[h] = x * _HALF * (_ONE + _erf(x * _ROOT_HALF))


@_jit
def _dots(weight: np.ndarray, codes: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> None:
    """Write the products of rows `codes` [n] of `weight` with hidden [H]; four rows at a time share its reading."""
    n, width = len(codes), len(hidden)
    for child in range(0, n - n % 4, 4):
        a, b, c, d = weight[codes[child]], weight[codes[child + 1]], weight[codes[child + 2]], weight[codes[child + 3]]
        at, bt, ct, dt = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for h in range(width):
            x = hidden[h]
            at += x * a[h]
            bt += x * b[h]
            ct += x * c[h]
            dt += x * d[h]
        out[child], out[child + 1], out[child + 2], out[child + 3] = at, bt, ct, dt
    for child in range(n - n % 4, n):
        row = weight[codes[child]]
        total = np.float32(0)
        for h in range(width):
            total += hidden[h] * row[h]
        out[child] = total


@_jit
def _dots_of_four(weight: np.ndarray, codes: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> None:
    """Write the products of rows `codes` [n] of `weight` with each of hidden [4, H] to out [4, n].

    Two rows at a time: eight sums share six loads.
    """
    n, width = len(codes), hidden.shape[1]
    p, q, r, s = hidden[0], hidden[1], hidden[2], hidden[3]
    for child in range(0, n, 2):
        a, b = weight[codes[child]], weight[codes[min(child + 1, n - 1)]]
        pa, qa, ra, sa = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        pb, qb, rb, sb = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for h in range(width):
            x, y = a[h], b[h]
            pa += p[h] * x
            qa += q[h] * x
            ra += r[h] * x
            sa += s[h] * x
            pb += p[h] * y
            qb += q[h] * y
            rb += r[h] * y
            sb += s[h] * y
        out[0, child], out[1, child], out[2, child], out[3, child] = pa, qa, ra, sa
        if child + 1 < n:
            out[0, child + 1], out[1, child + 1], out[2, child + 1], out[3, child + 1] = pb, qb, rb, sb


@_jit
def _normalise(heads: Heads, level: int, codes: np.ndarray, log_probs: np.ndarray) -> None:
    """Turn products [n] into log-probabilities, renormalised over the children `codes`."""
    n, first = len(codes), heads.weight_start[level]
    peak = _NEVER
    for child in range(n):
        log_probs[child] += heads.bias[first + codes[child]]
        peak = max(peak, log_probs[child])
    mass = np.float32(0)
    for child in range(n):
        mass += _exp(log_probs[child] - peak)
    shift = peak + np.log(mass)
    for child in range(n):
        log_probs[child] -= shift


@_jit
def _tile_log_probs(
    heads: Heads, level: int, weight: np.ndarray, codes: np.ndarray, hidden: np.ndarray, out: np.ndarray
) -> None:
    """Write the log-probabilities of children `codes` [n] for each of hidden [<= 4, H] to out [4, >= n]."""
    if len(hidden) == _TILE:
        _dots_of_four(weight, codes, hidden, out)
    else:
        for row in range(len(hidden)):
            _dots(weight, codes, hidden[row], out[row])
    for row in range(len(hidden)):
        _normalise(heads, level, codes, out[row, : len(codes)])


@_inlined
def _children(prefixes: Prefixes, level: int, node: int) -> Any:
    """Return the first child of a prefix of depth `level`, and its children's codes."""
    at = prefixes.start_at[level] + node
    first, last = prefixes.start[at], prefixes.start[at + 1]
    return first, prefixes.code[prefixes.code_at[level] + first : prefixes.code_at[level] + last]


@_jit
def _rows_of_level(heads: Heads, level: int) -> np.ndarray:
    return heads.weight[heads.weight_start[level] :]


@_jit
def _sift_up(score: np.ndarray, entry: np.ndarray, place: int) -> None:
    while place > 0:
        above = (place - 1) >> 1
        if score[above] <= score[place]:
            return
        score[above], score[place] = score[place], score[above]
        entry[above], entry[place] = entry[place], entry[above]
        place = above


@_jit
def _sift_down(score: np.ndarray, entry: np.ndarray, size: int) -> None:
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            return
        if below + 1 < size and score[below + 1] < score[below]:
            below += 1
        if score[place] <= score[below]:
            return
        score[below], score[place] = score[place], score[below]
        entry[below], entry[place] = entry[place], entry[below]
        place = below


@_inlined
def _offer(score: np.ndarray, entry: np.ndarray, size: int, value: np.float32, what: int) -> int:
    """Put a value among the largest len(score), held as a heap with the least on top; return the heap's size."""
    if size < len(score):
        score[size], entry[size] = value, what
        _sift_up(score, entry, size)
        return size + 1
    if value > score[0]:
        score[0], entry[0] = value, what
        _sift_down(score, entry, size)
    return size


@_jit
def _sort_heap(score: np.ndarray, entry: np.ndarray, size: int) -> None:
    """Turn a heap into a list by falling score."""
    for last in range(size - 1, 0, -1):
        score[0], score[last] = score[last], score[0]
        entry[0], entry[last] = entry[last], entry[0]
        _sift_down(score, entry, last)


@_jit
def _second_level(
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
        n = len(_children(prefixes, 1, node)[1])
        for user in range(n_users):
            if wanted[user, node]:
                known_at[user, node] = used
                used += n
    grown = np.empty(used, np.float32)
    grown[: len(known)] = known
    hidden, out = np.empty((_TILE, width), np.float32), np.empty((_TILE, prefixes.widest), np.float32)
    path, tile, prefix_part = np.empty(1, np.int64), np.empty(_TILE, np.int64), np.empty(width, np.float32)
    weight = _rows_of_level(heads, 1)
    for node in range(n_nodes):
        codes = _children(prefixes, 1, node)[1]
        n = len(codes)
        path[0] = prefixes.code[prefixes.code_at[0] + node]
        _prefix_part(heads, 1, path, prefix_part)
        held = 0
        for user in range(n_users):
            if wanted[user, node]:
                wanted[user, node] = False
                if n == 1:
                    grown[known_at[user, node]] = np.float32(0)
                    continue
                tile[held] = user
                _activate(heads, 1, user_parts[user, 1], prefix_part, hidden[held])
                held += 1
            if held == _TILE or (held and user == n_users - 1):
                _tile_log_probs(heads, 1, weight, codes, hidden[:held], out)
                for row in range(held):
                    at = known_at[tile[row], node]
                    grown[at : at + n] = out[row, :n]
                held = 0
    return grown


@_jit
def _room(width: int, widest: int, n_levels: int) -> Any:
    """Return scratch space for one head: prefix part, activations, log-probabilities, codes of the prefix."""
    return (
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.empty(widest, np.float32),
        np.empty(n_levels, np.int64),
    )


@_jit
def _new_pool(size: int) -> Any:
    """Return room for prefixes: score, node, parent entry, last code, depth."""
    return (
        np.empty(size, np.float32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int8),
    )


@_inlined
def _with_room(pool: Any, used: int, needed: int) -> Any:
    """Return the pool, or a larger copy if it has no room for `needed` more."""
    if used + needed <= len(pool[0]):
        return pool
    score, node, parent, code, depth = _new_pool(2 * len(pool[0]) + needed)
    score[:used], node[:used], parent[:used] = pool[0][:used], pool[1][:used], pool[2][:used]
    code[:used], depth[:used] = pool[3][:used], pool[4][:used]
    return score, node, parent, code, depth


@_inlined
def _expand(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    room: Any,
    pool: Any,
    used: int,
    entry: int,
    bound: np.float32,
) -> int:
    """Append the children of a prefix that score at least `bound` to the pool, which has room for them.

    Returns:
        how much of the pool is used.
    """
    score, node, parent, code, depth = pool
    prefix_part, hidden, log_probs, path = room
    level = depth[entry]
    first, codes = _children(prefixes, level, node[entry])
    n = len(codes)
    values = log_probs[:n]
    if n == 1:
        values[0] = np.float32(0)
    elif level == 1 and known_at[node[entry]] >= 0:
        at = known_at[node[entry]]
        values = known[at : at + n]
    else:
        above = entry
        for earlier in range(level - 1, -1, -1):
            path[earlier] = code[above]
            above = parent[above]
        _prefix_part(heads, level, path, prefix_part)
        _activate(heads, level, user_parts[level], prefix_part, hidden)
        _dots(_rows_of_level(heads, level), codes, hidden, values)
        _normalise(heads, level, codes, values)
    for child in range(n):
        total = score[entry] + values[child]
        if total >= bound:
            score[used], node[used], parent[used] = total, first + child, entry
            code[used], depth[used] = codes[child], level + 1
            used += 1
    return used


@_jit
def _plant(prefixes: Prefixes, first_scores: np.ndarray, nodes: np.ndarray, pool: Any) -> None:
    """Begin the pool with these first-level prefixes."""
    score, node, parent, code, depth = pool
    for new in range(len(nodes)):
        score[new], node[new], parent[new] = first_scores[nodes[new]], nodes[new], -1
        code[new], depth[new] = prefixes.code[prefixes.code_at[0] + nodes[new]], 1


@_jit
def _search_beams(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    leaves: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Search every user's beam and write its leaves and scores [B, K] by falling score, -1 and -inf beyond.

    The first level's beam is `ranked` [B, R] (by falling score, R >= K or all there are), the others' K wide.
    """
    n_users, n_levels, width = user_parts.shape
    k, n_first = leaves.shape[1], ranked.shape[1]
    room = _room(width, prefixes.widest, n_levels)
    pool = _new_pool(n_first + 8 * prefixes.widest + 64 * k)
    best, entry, beams = np.empty(k, np.float32), np.empty(k, np.int64), np.empty(max(k, n_first), np.int64)
    for user in range(n_users):
        _plant(prefixes, first_scores[user], ranked[user], pool)
        used, held = n_first, min(n_first, k)
        n_beams = n_first
        beams[:n_first], best[:held], entry[:held] = np.arange(n_first), pool[0][:held], np.arange(held)
        for _ in range(1, n_levels):
            held = 0
            for place in range(n_beams):
                bound = best[0] if held == k else _NEVER
                if held == k and pool[0][beams[place]] <= bound:
                    break
                pool = _with_room(pool, used, prefixes.widest)
                before = used
                used = _expand(
                    heads, prefixes, user_parts[user], known_at[user], known, room, pool, used, beams[place], bound
                )
                for new in range(before, used):
                    held = _offer(best, entry, held, pool[0][new], new)
            _sort_heap(best, entry, held)
            n_beams = held
            beams[:held] = entry[:held]
        for place in range(k):
            reached = place < held and best[place] > _NEVER
            leaves[user, place] = pool[1][entry[place]] if reached else -1
            scores[user, place] = best[place] if reached else _NEVER


@_jit
def _search_above(
    heads: Heads,
    prefixes: Prefixes,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    leaves: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Replace leaves and scores [B, K] of a beam by the true best: all that score at least the beam's last.

    `ranked` holds all first-level prefixes.
    """
    n_users, n_levels, width = user_parts.shape
    k, n_first = leaves.shape[1], ranked.shape[1]
    room = _room(width, prefixes.widest, n_levels)
    pool = _new_pool(n_first + 8 * prefixes.widest + 64 * k)
    best, leaf = np.empty(k, np.float32), np.full(k, -1, np.int64)
    for user in range(n_users):
        bound = scores[user, k - 1]
        if bound == _NEVER:  # the beam never left a prefix out
            continue
        bound -= _SLACK
        _plant(prefixes, first_scores[user], ranked[user], pool)
        used, held, entry = n_first, 0, 0
        while entry < used:
            if pool[0][entry] >= bound:
                pool = _with_room(pool, used, prefixes.widest)
                before = used
                used = _expand(heads, prefixes, user_parts[user], known_at[user], known, room, pool, used, entry, bound)
                if pool[4][entry] == n_levels - 1:
                    for new in range(before, used):
                        held = _offer(best, leaf, held, pool[0][new], pool[1][new])
                    used = before
                    if held == k:
                        bound = best[0]
            entry += 1
        _sort_heap(best, leaf, held)
        leaves[user], scores[user] = leaf, best


@_jit
def _first_wave(ranked: np.ndarray, wanted: np.ndarray) -> None:
    """Want the best prefixes of every user."""
    for user in range(len(ranked)):
        for place in range(min(_FIRST_WAVE, ranked.shape[1])):
            wanted[user, ranked[user, place]] = True


@_jit
def _second_wave(
    prefixes: Prefixes,
    k: int,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    wanted: np.ndarray,
) -> None:
    """Want those other prefixes of every user's beam that can reach the k best of the second level."""
    best, entry = np.empty(k, np.float32), np.empty(k, np.int64)
    for user in range(len(ranked)):
        held = 0
        for place in range(min(_FIRST_WAVE, ranked.shape[1])):
            node = ranked[user, place]
            at = known_at[user, node]
            for child in range(len(_children(prefixes, 1, node)[1])):
                held = _offer(best, entry, held, first_scores[user, node] + known[at + child], 0)
        bound = best[0] if held == k else _NEVER
        for place in range(_FIRST_WAVE, ranked.shape[1]):
            node = ranked[user, place]
            wanted[user, node] = first_scores[user, node] > bound


@_jit
def _last_wave(first_scores: np.ndarray, bounds: np.ndarray, known_at: np.ndarray, wanted: np.ndarray) -> None:
    """Want every prefix that can hide a leaf as good as the beam's last."""
    for user in range(len(bounds)):
        for node in range(first_scores.shape[1]):
            wanted[user, node] = known_at[user, node] < 0 and first_scores[user, node] >= bounds[user]


@_jit
def _all_leaves(
    heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, first_scores: np.ndarray, scores: np.ndarray
) -> None:
    """Write the log-probability of every leaf of every user: scores [B, n_leaves].

    Users go through the trie four at a time, and share a prefix's table rows and its children's output rows.
    """
    n_users, n_levels, width = user_parts.shape
    hidden, log_probs = np.empty((_TILE, width), np.float32), np.empty((_TILE, prefixes.widest), np.float32)
    prefix_part = np.empty(width, np.float32)
    path, ancestor = np.empty(n_levels, np.int64), np.empty(n_levels, np.int64)
    above = np.empty((_TILE, scores.shape[1]), np.float32)
    below = np.empty((_TILE, scores.shape[1]), np.float32)
    for user in range(0, n_users, _TILE):
        held = min(_TILE, n_users - user)
        n_nodes = first_scores.shape[1]
        above[:held, :n_nodes] = first_scores[user : user + held]
        for level in range(1, n_levels):
            ancestor[:] = 0
            weight = _rows_of_level(heads, level)
            for node in range(n_nodes):
                first, codes = _children(prefixes, level, node)
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
                _prefix_part(heads, level, path, prefix_part)
                for row in range(held):
                    _activate(heads, level, user_parts[user + row, level], prefix_part, hidden[row])
                _tile_log_probs(heads, level, weight, codes, hidden[:held], log_probs)
                for row in range(held):
                    for child in range(n):
                        below[row, first + child] = above[row, node] + log_probs[row, child]
            n_nodes = prefixes.start[prefixes.start_at[level] + n_nodes]
            above, below = below, above
        scores[user : user + held] = above[:held]


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
    _share(
        lambda users: _all_leaves(heads, prefixes, user_parts[users], first_scores[users], scores[users]),
        len(user_parts),
        n_threads,
    )
    return scores


class _Found(NamedTuple):
    """Children's log-probabilities of first-level prefixes, as `_second_level` gives them, and rankings [B, K]."""

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
        _first_wave(ranked, wanted)
        known = _second_level(heads, prefixes, user_parts, wanted, known_at, known)
        _second_wave(prefixes, k, first_scores, ranked, known_at, known, wanted)
        known = _second_level(heads, prefixes, user_parts, wanted, known_at, known)
    _search_beams(heads, prefixes, user_parts, first_scores, ranked, known_at, known, leaves, scores)
    return _Found(known_at, known, leaves, scores)


def _exact(
    heads: Heads, prefixes: Prefixes, user_parts: np.ndarray, first_scores: np.ndarray, ranked: np.ndarray, k: int
) -> _Found:
    known_at, known, leaves, scores = _beam(heads, prefixes, user_parts, first_scores, ranked, k)
    if user_parts.shape[1] == 1:  # with one level the beam is exact
        return _Found(known_at, known, leaves, scores)
    wanted = np.zeros(first_scores.shape, np.bool_)
    _last_wave(first_scores, scores[:, -1], known_at, wanted)
    known = _second_level(heads, prefixes, user_parts, wanted, known_at, known)
    # A beam over all that matters of the second level, and wider below, nearly closes the gap to the true bound.
    wide_leaves, wide_scores = np.empty((len(leaves), 2 * k), np.int64), np.empty((len(leaves), 2 * k), np.float32)
    _search_beams(heads, prefixes, user_parts, first_scores, ranked, known_at, known, wide_leaves, wide_scores)
    leaves, scores = wide_leaves[:, :k].copy(), wide_scores[:, :k].copy()
    _search_above(heads, prefixes, user_parts, first_scores, ranked, known_at, known, leaves, scores)
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

    _share(work, len(user_parts), n_threads)
    return leaves, scores


def _share(work: Callable[[slice], None], n_users: int, n_threads: int) -> None:
    """Call `work` on slices of the users in threads; numba's own threads cannot be entered from several at once."""
    if n_threads <= 1 or n_users <= 1:
        work(slice(0, n_users))
        return
    step = -(-n_users // min(n_threads, n_users))
    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(work, [slice(first, first + step) for first in range(0, n_users, step)]))
