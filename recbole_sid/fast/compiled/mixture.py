"""Compiled: the best items of a mixture of what a memory holds and what level heads say.

Candidates of a user are the items that the memory (or another head) gives something. None is computed whose score
cannot reach the k best so far: that of the part of its prefix that is known bounds it, as no child is more probable
than its prefix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Kept, Looked, Mixing, Places, Prefixes
from recbole_sid.fast.compiled.expansion import children, keep, place_in, room_for_a_head, second_level
from recbole_sid.fast.compiled.heads import activate, dots, exp, normalise, prefix_part_of, rows_of_level
from recbole_sid.fast.compiled.jit import inlined, jit
from recbole_sid.fast.compiled.top_k import offer, offer_anew, sort_heap

NEVER = np.float32(-np.inf)
_ZERO = np.float32(0)
# Of bounds, against rounding.
_SLACK = np.float32(1e-4)
# Prefixes of so many of a user's best candidates are made known first; then of twice as many, ...
_FIRST_WANTED = 16


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
def _below(
    heads: Heads,
    prefixes: Prefixes,
    nodes: np.ndarray,
    user_parts: np.ndarray,
    room: Any,
    kept: Kept,
    user: int,
    level: int,
) -> np.float32:
    """Return the log-probability of an item's code of `level` after its codes before, of which there are several.

    Args:
        nodes: int32 [L], the item's.
        user_parts: [L, H], the user's.
    """
    prefix_part, hidden, log_probs, path = room
    node = nodes[level - 1]
    first, codes = children(prefixes, level, node)
    at = place_in(kept, user, level, node)
    if at >= 0:
        return kept.values[user, at + nodes[level] - first]
    for depth in range(level):
        path[depth] = prefixes.code[prefixes.code_at[depth] + nodes[depth]]
    values = log_probs[: len(codes)]
    prefix_part_of(heads, level, path, prefix_part)
    activate(heads, level, user_parts[level], prefix_part, hidden)
    dots(rows_of_level(heads, level), codes, hidden, values)
    normalise(heads, level, codes, values)
    keep(kept, user, level, node, values)
    return values[nodes[level] - first]


@jit
def settle(
    heads: Heads,
    prefixes: Prefixes,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    kept: Kept,
    wanted: np.ndarray,
    best: np.ndarray,
    entry: np.ndarray,
    held: np.ndarray,
) -> np.ndarray:
    """Offer every user's candidates to its best, but for those that cannot be among them.

    What has to be known is made known in rounds: prefixes of the first level for all users together.

    Args:
        candidates: written over.
        known_at: int64 [B, number of first-level prefixes], ``known``: float32, as of `second_level`.
        wanted: bool [B, number of first-level prefixes], what to make known in any case.
        best, entry, held: of each user a heap of scores [B, k] and items [B, k], and its size [B].

    Returns:
        `known`, longer.
    """
    found = candidates.found
    bounds = np.empty(len(candidates.items), np.float32)
    bounds[:] = np.inf
    n_wanted = _FIRST_WANTED
    while True:
        n_open = 0
        for user in range(len(found)):
            n_open += _settle_known(
                heads, prefixes, places, mixing, candidates, user_parts, first_scores, known_at, known, kept,
                bounds, best, entry, held, user,
            )  # fmt: skip
        if not n_open:
            return known
        for user in range(len(found)):
            _want(places, candidates, bounds, user, n_wanted, wanted)
        known = second_level(heads, prefixes, user_parts, wanted, known_at, known)
        n_wanted *= 2


@jit
def _want(places: Places, candidates: Looked, bounds: np.ndarray, user: int, n_wanted: int, wanted: np.ndarray) -> None:
    """Want the first-level prefixes of a user's `n_wanted` candidates of the largest bounds."""
    start, n = candidates.room[user], candidates.found[user]
    chosen_bounds, chosen, n_chosen = np.empty(n_wanted, np.float32), np.empty(n_wanted, np.int64), 0
    for place in range(start, start + n):
        n_chosen = offer(chosen_bounds, chosen, n_chosen, bounds[place], candidates.items[place])
    for place in range(n_chosen):
        wanted[user, places.nodes[chosen[place], 0]] = True


@jit
def _known_of(
    prefixes: Prefixes,
    nodes: np.ndarray,
    user: int,
    first_scores: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    kept: Kept,
) -> Any:
    """Return the first level, from 1, whose head has to be asked for an item with `nodes` [L]; L if none has.

    Returns:
        level, and the log-probability of the codes before.
    """
    value = first_scores[user, nodes[0]]
    for level in range(1, len(nodes)):
        first, codes = children(prefixes, level, nodes[level - 1])
        if len(codes) == 1:
            continue
        if level == 1:
            at = known_at[user, nodes[0]]
            if at < 0:
                return level, value
            value += known[at + nodes[1] - first]
        else:
            at = place_in(kept, user, level, nodes[level - 1])
            if at < 0:
                return level, value
            value += kept.values[user, at + nodes[level] - first]
    return len(nodes), value


@jit
def _settle_known(
    heads: Heads,
    prefixes: Prefixes,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    kept: Kept,
    bounds: np.ndarray,
    best: np.ndarray,
    entry: np.ndarray,
    held: np.ndarray,
    user: int,
) -> int:
    """Offer a user's open candidates below known prefixes; keep those open that are not, and can be among the best.

    Returns:
        how many are open.
    """
    n_levels, width = user_parts.shape[1], user_parts.shape[2]
    start, n = candidates.room[user], candidates.found[user]
    items, masses, its_bounds = candidates.items[start:], candidates.masses[start:], bounds[start:]
    its_best, its_entry, size, k = best[user], entry[user], held[user], best.shape[1]
    pending, pending_bounds = np.empty(n, np.int64), np.empty(n, np.float32)
    n_open, n_pending = 0, 0
    for place in range(n):
        least = its_best[0] - _SLACK if size == k else NEVER
        if not its_bounds[place] >= least:
            continue
        item, mass = items[place], masses[place]
        nodes = places.nodes[item]
        if nodes[0] < 0:
            continue
        level, value = _known_of(prefixes, nodes, user, first_scores, known_at, known, kept)
        bound = _score(mixing, user, mass, _log_p0(mixing, _own(mixing, user, item), value))
        if not bound >= least:
            continue
        if level == n_levels:
            size = offer_anew(its_best, its_entry, size, bound, item)
            continue
        # Open ones to the front, those to walk further are taken out of these below.
        items[n_open], masses[n_open], its_bounds[n_open] = item, mass, bound
        if level > 1:
            pending[n_pending], pending_bounds[n_pending] = n_open, -bound
            n_pending += 1
        n_open += 1
    if n_pending:
        room = room_for_a_head(width, prefixes.widest, n_levels)
        for rank in np.argsort(pending_bounds[:n_pending]):
            place = pending[rank]
            if size == k and its_bounds[place] < its_best[0] - _SLACK:
                break
            item, mass = items[place], masses[place]
            nodes, own = places.nodes[item], _own(mixing, user, item)
            level, value = _known_of(prefixes, nodes, user, first_scores, known_at, known, kept)
            # Others may have made more of it known.
            bound = _score(mixing, user, mass, _log_p0(mixing, own, value))
            while level < n_levels and (size < k or bound >= its_best[0] - _SLACK):
                value += _below(heads, prefixes, nodes, user_parts[user], room, kept, user, level)
                level += 1
                while level < n_levels and len(children(prefixes, level, nodes[level - 1])[1]) == 1:
                    level += 1
                bound = _score(mixing, user, mass, _log_p0(mixing, own, value))
            if level == n_levels:
                size = offer_anew(its_best, its_entry, size, bound, item)
        for rank in range(n_pending):
            its_bounds[pending[rank]] = NEVER
    held[user] = size
    n_left = 0
    least = its_best[0] - _SLACK if size == k else NEVER
    for place in range(n_open):
        if its_bounds[place] > NEVER and its_bounds[place] >= least:
            items[n_left], masses[n_left], its_bounds[n_left] = items[place], masses[place], its_bounds[place]
            n_left += 1
    candidates.found[user] = n_left
    return n_left


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

    A candidate among them was offered before, or cannot be among the best: without its mass it scores less than it did.
    """
    for user in range(len(leaves)):
        its_best, its_entry, size = best[user], entry[user], held[user]
        for place in range(leaves.shape[1]):
            leaf = leaves[user, place]
            if leaf < 0:
                break
            for at in range(places.leaf_start[leaf], places.leaf_start[leaf + 1]):
                item = places.leaf_items[at]
                log_p0 = _log_p0(mixing, _own(mixing, user, item), scores[user, place])
                size = offer_anew(its_best, its_entry, size, _score(mixing, user, _ZERO, log_p0), item)
        sort_heap(its_best, its_entry, size)
        its_best[size:], its_entry[size:] = NEVER, 0
        held[user] = size
