"""Compiled: the best items of a mixture of what a memory holds and what level heads say.

Candidates of a user are the items that the memory (or another head) gives something. None is computed whose score
cannot reach the k best so far: that of the part of its prefix that is known bounds it, as no child is more probable
than its prefix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Mixing, Places, Prefixes
from recbole_sid.fast.compiled.expansion import children
from recbole_sid.fast.compiled.heads import activate, dots, exp, normalise, prefix_part_of, rows_of_level
from recbole_sid.fast.compiled.jit import inlined, jit
from recbole_sid.fast.compiled.top_k import offer, sort_heap

NEVER = np.float32(-np.inf)
_ZERO = np.float32(0)
# Of bounds, against rounding.
_SLACK = np.float32(1e-4)
# Prefixes of one user, and values of their children, that are kept while its candidates are settled.
_KEPT_PREFIXES, _KEPT_VALUES = 256, 4096


@inlined
def _log_p0(mixing: Mixing, own: np.float32, log_prob: np.float32) -> np.float32:
    """Return log p0 of an item from what another head gives it and the log-probability of its semantic ID."""
    total = mixing.log_share + log_prob
    if own > NEVER:
        high, low = max(own, total), min(own, total)
        total = high + np.log(np.float32(1) + exp(low - high))
    return total


@inlined
def _score(mixing: Mixing, user: int, mass: np.float32, log_p0: np.float32) -> np.float32:
    """Return the score of an item."""
    remaining = mixing.remaining[user]
    mixed = np.log(mass + remaining * exp(log_p0)) if mass > _ZERO else np.log(remaining) + log_p0
    return mixed + mixing.sharpness * log_p0


@inlined
def _own(mixing: Mixing, user: int, item: int) -> np.float32:
    """Return what another head gives an item."""
    return mixing.own[user, item] if mixing.own.shape[1] else NEVER


@jit
def floors_of(mixing: Mixing, best: np.ndarray, held: np.ndarray, floors: np.ndarray) -> None:
    """Write the log-probabilities [B] of semantic IDs below which no item but a candidate reaches the best [B, k]."""
    for user in range(len(best)):
        floors[user] = NEVER
        if held[user] == best.shape[1]:
            needed = (best[user, 0] - np.log(mixing.remaining[user])) / (np.float32(1) + mixing.sharpness)
            rest = mixing.rest[user]
            if needed > rest:
                if rest > NEVER:
                    needed += np.log(np.float32(1) - exp(rest - needed))
                floors[user] = needed - mixing.log_share - _SLACK


@jit
def _room(width: int, widest: int, n_levels: int) -> Any:
    """Return scratch space of one user: for a head, and for prefixes whose children are known."""
    return (
        np.empty(width, np.float32),
        np.empty(width, np.float32),
        np.empty(n_levels, np.int64),
        np.empty(_KEPT_PREFIXES, np.int64),
        np.empty(_KEPT_PREFIXES, np.int64),
        np.empty(max(_KEPT_VALUES, widest) + widest, np.float32),
        np.zeros(2, np.int64),
    )


@jit
def _below(
    heads: Heads,
    prefixes: Prefixes,
    nodes: np.ndarray,
    user_parts: np.ndarray,
    room: Any,
    level: int,
) -> np.float32:
    """Return the log-probability of an item's code of `level` after its codes before, of which there are several.

    Args:
        nodes: int32 [L], the item's.
    """
    prefix_part, hidden, path, kept, kept_at, values, used = room
    node = nodes[level - 1]
    first, codes = children(prefixes, level, node)
    key = (np.int64(node) << 8) | level
    for place in range(used[0]):
        if kept[place] == key:
            return values[kept_at[place] + nodes[level] - first]
    n = len(codes)
    if used[0] == len(kept) or used[1] + n > len(values):
        used[:] = 0
    at = used[1]
    for depth in range(level):
        path[depth] = prefixes.code[prefixes.code_at[depth] + nodes[depth]]
    prefix_part_of(heads, level, path, prefix_part)
    activate(heads, level, user_parts[level], prefix_part, hidden)
    dots(rows_of_level(heads, level), codes, hidden, values[at : at + n])
    normalise(heads, level, codes, values[at : at + n])
    kept[used[0]], kept_at[used[0]] = key, at
    used[0] += 1
    used[1] += n
    return values[at + nodes[level] - first]


@jit
def settle(
    heads: Heads,
    prefixes: Prefixes,
    places: Places,
    mixing: Mixing,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    starts: np.ndarray,
    items: np.ndarray,
    masses: np.ndarray,
    found: np.ndarray,
    best: np.ndarray,
    entry: np.ndarray,
    held: np.ndarray,
    n_wanted: int,
    wanted: np.ndarray,
) -> int:
    """Offer every user's candidates below known prefixes to its best, drop those that cannot be among them, and say
    which prefixes to make known for the others.

    Args:
        starts: int64 [B + 1], where each user's candidates begin.
        items, masses: int32 and float32; the first `found` of each user's are open, and are moved together.
        found: int64 [B].
        best, entry, held: of each user a heap of scores [B, k] and items [B, k], and its size [B].
        n_wanted: prefixes of the best so many open candidates of each user are wanted.
        wanted: bool [B, number of first-level prefixes].

    Returns:
        how many are wanted.
    """
    n_users, n_levels, width = user_parts.shape
    k, total = best.shape[1], 0
    room = _room(width, prefixes.widest, n_levels)
    most = 0
    for user in range(n_users):
        most = max(most, found[user])
    bounds, order = np.empty(most, np.float32), np.empty(most, np.int64)
    chosen_bounds, chosen = np.empty(n_wanted, np.float32), np.empty(n_wanted, np.int64)
    for user in range(n_users):
        room[6][:] = 0
        its_items, its_masses = items[starts[user] :], masses[starts[user] :]
        its_best, its_entry = best[user], entry[user]
        size = held[user]
        n_open, n_known = 0, 0
        for place in range(found[user]):
            item, mass = its_items[place], its_masses[place]
            nodes = places.nodes[item]
            if nodes[0] < 0:
                continue
            value = first_scores[user, nodes[0]]
            is_known = True
            if n_levels > 1:
                first, codes = children(prefixes, 1, nodes[0])
                if len(codes) > 1:
                    at = known_at[user, nodes[0]]
                    is_known = at >= 0
                    if is_known:
                        value += known[at + nodes[1] - first]
            bound = _score(mixing, user, mass, _log_p0(mixing, _own(mixing, user, item), value))
            if size == k and bound < its_best[0] - _SLACK:
                continue
            its_items[n_open], its_masses[n_open], bounds[n_open] = item, mass, bound
            n_open += 1
            if is_known:
                # Known ones to the front.
                last = n_open - 1
                its_items[n_known], its_items[last] = its_items[last], its_items[n_known]
                its_masses[n_known], its_masses[last] = its_masses[last], its_masses[n_known]
                bounds[n_known], bounds[last] = bounds[last], bounds[n_known]
                n_known += 1
        order[:n_known] = np.argsort(-bounds[:n_known])
        for rank in range(n_known):
            place = order[rank]
            if size == k and bounds[place] < its_best[0] - _SLACK:
                break
            item, mass = its_items[place], its_masses[place]
            nodes, own = places.nodes[item], _own(mixing, user, item)
            value = first_scores[user, nodes[0]]
            for level in range(1, n_levels):
                first, codes = children(prefixes, level, nodes[level - 1])
                if len(codes) == 1:
                    continue
                if level == 1:
                    value += known[known_at[user, nodes[0]] + nodes[1] - first]
                    continue
                if size == k and _score(mixing, user, mass, _log_p0(mixing, own, value)) < its_best[0] - _SLACK:
                    value = NEVER
                    break
                value += _below(heads, prefixes, nodes, user_parts[user], room, level)
            if value > NEVER:
                size = offer(its_best, its_entry, size, _score(mixing, user, mass, _log_p0(mixing, own, value)), item)
        held[user] = size
        n_left, n_chosen = 0, 0
        for place in range(n_known, n_open):
            if size == k and bounds[place] < its_best[0] - _SLACK:
                continue
            its_items[n_left], its_masses[n_left] = its_items[place], its_masses[place]
            n_chosen = offer(chosen_bounds, chosen, n_chosen, bounds[place], n_left)
            n_left += 1
        found[user] = n_left
        for place in range(n_chosen):
            node = places.nodes[its_items[chosen[place]], 0]
            total += 1
            wanted[user, node] = True
    return total


@jit
def finish(
    places: Places,
    mixing: Mixing,
    leaves: np.ndarray,
    scores: np.ndarray,
    best: np.ndarray,
    entry: np.ndarray,
    held: np.ndarray,
) -> None:
    """Offer every user's best the items of the leaves [B, K] that a search found; sort them, 0 and -inf beyond.

    A candidate among them was offered before, or dropped: as an item without mass it scores less than it did.
    """
    k = best.shape[1]
    for user in range(len(leaves)):
        its_best, its_entry, size = best[user], entry[user], held[user]
        before = its_entry[:size].copy()
        for place in range(leaves.shape[1]):
            leaf = leaves[user, place]
            if leaf < 0:
                break
            for at in range(places.leaf_start[leaf], places.leaf_start[leaf + 1]):
                item = places.leaf_items[at]
                log_p0 = _log_p0(mixing, _own(mixing, user, item), scores[user, place])
                score = _score(mixing, user, _ZERO, log_p0)
                if size == k and score <= its_best[0]:
                    continue
                is_there = False
                for other in before:
                    is_there |= other == item
                if not is_there:
                    size = offer(its_best, its_entry, size, score, item)
        sort_heap(its_best, its_entry, size)
        its_best[size:], its_entry[size:] = NEVER, 0
        held[user] = size
