"""Compiled: the best items of a mixture of what a memory holds and what level heads say.

Candidates of a user are the items that the memory (or another head) gives something. None is computed whose score
cannot reach the k best so far: that of the part of its prefix that is known bounds it, as no child is more probable
than its prefix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, ItemRows, Kept, Looked, Mixing, Places, Prefixes
from recbole_sid.fast.compiled.expansion import children, keep, place_in, room_for_a_head
from recbole_sid.fast.compiled.heads import activate, dot, dots, exp, normalise, prefix_part_of, rows_of_level
from recbole_sid.fast.compiled.jit import inlined, jit
from recbole_sid.fast.compiled.recall import where_is
from recbole_sid.fast.compiled.top_k import offer, offer_anew, sort_heap

NEVER = np.float32(-np.inf)
_ZERO = np.float32(0)
# Of bounds, against rounding.
_SLACK = np.float32(1e-4)
# So few children of a prefix are as quickly known as bounded.
_FEW = 4
# An item with mass needs less log p0 than one without: so much less at most, as far as is looked, in so many halvings.
_WIDE, _HALVINGS = np.float32(32), 12


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
    if mixing.own.shape[1]:
        return mixing.own[user, item]
    return _of_row(mixing.rows, user, item) if mixing.rows.query.shape[1] else NEVER


@jit
def _of_row(rows: ItemRows, user: int, item: int) -> np.float32:
    """Return the log-probability of an item by a head over items."""
    row = rows.row[item]
    if row < 0 or not rows.totals[user] > NEVER:
        return NEVER
    return dot(rows.table[row], rows.query[user]) - rows.totals[user]


@jit
def _needed(mixing: Mixing, user: int, score: np.float32, mass: np.float32) -> np.float32:
    """Return log p0 below which an item of no more than `mass` has no more than `score`."""
    high = (score - np.log(mixing.remaining[user])) / (np.float32(1) + mixing.sharpness)
    if mass == _ZERO or not high > NEVER:
        return high
    low = high - _WIDE
    if _score(mixing, user, mass, low) >= score:
        return NEVER
    for _ in range(_HALVINGS):
        middle = (low + high) / np.float32(2)
        if _score(mixing, user, mass, middle) < score:
            low = middle
        else:
            high = middle
    return low


@jit
def floors_of(mixing: Mixing, candidates: Looked, best: np.ndarray, held: np.ndarray, floors: np.ndarray) -> None:
    """Write the log-probabilities [B] of semantic IDs below which no item but a candidate reaches the best [B, k]."""
    for user in range(len(best)):
        floors[user] = NEVER
        if held[user] == best.shape[1]:
            needed = _needed(mixing, user, best[user, 0], candidates.others.most[user])
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
def want_best(
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    first_scores: np.ndarray,
    n_wanted: int,
    wanted: np.ndarray,
    bounds: np.ndarray,
) -> None:
    """Bound every user's candidates by their first codes, and want the prefixes of the best; leave out items without.

    Args:
        candidates: written over.
        n_wanted: so many candidates of each user.
        wanted: bool [B, number of first-level prefixes].
        bounds: float32, of the candidates; written.
    """
    chosen_bounds, chosen = np.empty(n_wanted, np.float32), np.empty(n_wanted, np.int64)
    for user in range(len(candidates.found)):
        start, n, n_chosen = candidates.room[user], 0, 0
        for place in range(start, start + candidates.found[user]):
            item, mass = candidates.items[place], candidates.masses[place]
            node = places.nodes[item, 0]
            if node >= 0:
                bound = _score(mixing, user, mass, _log_p0(mixing, _own(mixing, user, item), first_scores[user, node]))
                candidates.items[start + n], candidates.masses[start + n], bounds[start + n] = item, mass, bound
                n += 1
                if n_chosen < n_wanted or bound > chosen_bounds[0]:
                    n_chosen = offer(chosen_bounds, chosen, n_chosen, bound, node)
        candidates.found[user] = n
        for place in range(n_chosen):
            wanted[user, chosen[place]] = True


@jit
def settle(
    heads: Heads,
    prefixes: Prefixes,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    bounds: np.ndarray,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    kept: Kept,
    best: np.ndarray,
    entry: np.ndarray,
    held: np.ndarray,
) -> int:
    """Offer every user's candidates below known prefixes to its best; leave out those that cannot be among them.

    Args:
        candidates, bounds: as of `want_best`; written over.
        known_at: int64 [B, number of first-level prefixes], ``known``: float32, as of `second_level`.
        best, entry, held: of each user a heap of scores [B, k] and items [B, k], and its size [B]; empty at first.

    Returns:
        how many are left, below prefixes that are not known.
    """
    n_open = 0
    for user in range(len(held)):
        n_open += _settle_known(
            heads, prefixes, places, mixing, candidates, user_parts, first_scores, known_at, known, kept, bounds,
            best, entry, held, user,
        )  # fmt: skip
    return n_open


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
    start, n, k = candidates.room[user], candidates.found[user], best.shape[1]
    its_best, its_entry, size = best[user], entry[user], held[user]
    least = its_best[0] - _SLACK if size == k else NEVER
    its_items, its_masses = np.empty(n, np.int32), np.empty(n, np.float32)
    its_bounds, values = np.empty(n, np.float32), np.empty(n, np.float32)
    n_open, n_reached = 0, 0
    for place in range(start, start + n):
        bound = bounds[place]
        if not bound >= least:
            continue
        item, mass = candidates.items[place], candidates.masses[place]
        node = places.nodes[item, 0]
        value = first_scores[user, node]
        if n_levels > 1:
            first = prefixes.start[prefixes.start_at[1] + node]
            if prefixes.start[prefixes.start_at[1] + node + 1] > first + 1:
                at = known_at[user, node]
                if at < 0:
                    candidates.items[start + n_open], candidates.masses[start + n_open] = item, mass
                    bounds[start + n_open] = bound
                    n_open += 1
                    continue
                value += known[at + places.nodes[item, 1] - first]
                bound = _score(mixing, user, mass, _log_p0(mixing, _own(mixing, user, item), value))
                if not bound >= least:
                    continue
        its_items[n_reached], its_masses[n_reached] = item, mass
        its_bounds[n_reached], values[n_reached] = -bound, value
        n_reached += 1
    room = room_for_a_head(width, prefixes.widest, n_levels)
    for rank in np.argsort(its_bounds[:n_reached]):
        item, mass, value, bound = its_items[rank], its_masses[rank], values[rank], -its_bounds[rank]
        if size == k and bound < its_best[0] - _SLACK:
            break
        nodes, own, level = places.nodes[item], _own(mixing, user, item), 2
        while level < n_levels and (size < k or bound >= its_best[0] - _SLACK):
            at = prefixes.start_at[level] + nodes[level - 1]
            if prefixes.start[at + 1] > prefixes.start[at] + 1:
                value += _below(heads, prefixes, nodes, user_parts[user], room, kept, user, level)
                bound = _score(mixing, user, mass, _log_p0(mixing, own, value))
            level += 1
        if level >= n_levels:
            size = offer(its_best, its_entry, size, bound, item)
    held[user], candidates.found[user] = size, n_open
    return n_open


@jit
def want_open(
    heads: Heads,
    prefixes: Prefixes,
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    bounds: np.ndarray,
    user_parts: np.ndarray,
    first_scores: np.ndarray,
    best: np.ndarray,
    held: np.ndarray,
    wanted: np.ndarray,
) -> None:
    """Want the first-level prefixes of candidates that can still be among the best.

    To open a prefix, all its children's output rows have to be read. Their mean alone bounds what they are shared by
    from below (Jensen), and so what a child has from above: close, where no child stands out.
    """
    n_levels, width = user_parts.shape[1], user_parts.shape[2]
    prefix_part, hidden, _, path = room_for_a_head(width, prefixes.widest, n_levels)
    last = np.full(first_scores.shape[1], -1, np.int64)
    weight, bias = rows_of_level(heads, 1), heads.bias[heads.weight_start[1] :]
    for user in range(len(held)):
        start, n = candidates.room[user], candidates.found[user]
        least = best[user, 0] - _SLACK if held[user] == best.shape[1] else NEVER
        before = np.empty(n, np.int64)
        for place in range(n):
            if bounds[start + place] >= least:
                node = places.nodes[candidates.items[start + place], 0]
                before[place], last[node] = last[node], place
        for final in range(n):
            node = places.nodes[candidates.items[start + final], 0]
            if last[node] != final:
                continue
            first, codes = children(prefixes, 1, node)
            place, is_bounded = final, len(codes) > _FEW and len(heads.mean_rows) > 0
            if is_bounded:
                path[0] = prefixes.code[prefixes.code_at[0] + node]
                prefix_part_of(heads, 1, path, prefix_part)
                activate(heads, 1, user_parts[user, 1], prefix_part, hidden)
                mean = heads.mean_bias[node] + dot(heads.mean_rows[node], hidden)
            while place >= 0:
                item = candidates.items[start + place]
                if is_bounded:
                    code = codes[places.nodes[item, 1] - first]
                    most = _most(len(codes), bias[code] + dot(weight[code], hidden), mean)
                    log_p0 = _log_p0(mixing, _own(mixing, user, item), first_scores[user, node] + most)
                    bounds[start + place] = _score(mixing, user, candidates.masses[start + place], log_p0)
                if bounds[start + place] >= least:
                    wanted[user, node] = True
                    break
                place = before[place]
            last[node] = -1


@inlined
def _most(n: int, logit: np.float32, mean: np.float32) -> np.float32:
    """Return what the log-probability of one of n > 1 children is at most, by its logit and the mean of all logits."""
    rest = (np.float32(n) * mean - logit) / np.float32(n - 1)
    high = max(logit, rest)
    return logit - high - np.log(exp(logit - high) + np.float32(n - 1) * exp(rest - high)) + _SLACK


@jit
def finish(
    places: Places,
    mixing: Mixing,
    candidates: Looked,
    leaves: np.ndarray,
    scores: np.ndarray,
    best: np.ndarray,
    entry: np.ndarray,
    held: np.ndarray,
) -> None:
    """Offer every user's best the items of the leaves [B, K] that a search found; sort them, 0 and -inf beyond.

    One of `Looked.others` has its mass. A candidate among them was offered before, or cannot be among the best: without
    its mass it scores less than it did.
    """
    others = candidates.others
    for user in range(len(leaves)):
        its_best, its_entry, size = best[user], entry[user], held[user]
        first, most = others.start[user], others.most[user]
        its_others = candidates.items[first : others.end[user]]
        for place in range(leaves.shape[1]):
            leaf = leaves[user, place]
            if leaf < 0:
                break
            for at in range(places.leaf_start[leaf], places.leaf_start[leaf + 1]):
                item = places.leaf_items[at]
                log_p0 = _log_p0(mixing, _own(mixing, user, item), scores[user, place])
                mass = _ZERO
                if most > _ZERO and (size < len(its_best) or _score(mixing, user, most, log_p0) > its_best[0]):
                    known = where_is(its_others, item)
                    if known >= 0:
                        mass = candidates.masses[first + known]
                size = offer_anew(its_best, its_entry, size, _score(mixing, user, mass, log_p0), item)
        sort_heap(its_best, its_entry, size)
        its_best[size:], its_entry[size:] = NEVER, 0
        held[user] = size
