"""Compiled: what a memory of transitions gives the items after each history."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import Looked, Transitions
from recbole_sid.fast.compiled.jit import inlined, jit

# Of float32: 0 times the logarithm of nothing is no number.
_LOWEST = np.finfo(np.float32).min


@jit
def n_successors(table: Transitions, looked_up: np.ndarray, found: np.ndarray) -> None:
    """Write to found [B] how many entries the rows of `looked_up` int64 [B, W] have; 0 looks up none."""
    for user in range(len(looked_up)):
        n = 0
        for place in range(looked_up.shape[1]):
            item = looked_up[user, place]
            if item > 0:
                n += table.starts[item + 1] - table.starts[item]
        found[user] = n


@jit
def recall(
    table: Transitions,
    looked_up: np.ndarray,
    room: np.ndarray,
    sums: np.ndarray,
    items: np.ndarray,
    masses: np.ndarray,
    found: np.ndarray,
    remaining: np.ndarray,
) -> None:
    """Look up every user's items int64 [B, W], the most recent first, 0 for none.

    Args:
        room: int64 [B + 1], where each user's part of `items` and `masses` begins: with room for `n_successors`.
        sums: float32 [n_items], all 0, and 0 again afterwards.
        items, masses: int32 and float32, written in no order.
        found: int64 [B], how many there are; written.
        remaining: float32 [B], what is left for the base measure; written.
    """
    for user in range(len(looked_up)):
        first = room[user]
        touched, mass_of = items[first:], masses[first:]
        whole = 0.0
        for place in range(looked_up.shape[1]):
            if looked_up[user, place] > 0:
                whole += table.decays[place]
        held, left = 0, 0.0 if whole > 0 else 1.0
        for place in range(looked_up.shape[1]):
            item = looked_up[user, place]
            if item <= 0:
                continue
            share = table.decays[place] / whole / (table.row_sums[item] + table.pseudo_counts)
            left += share * (table.pseudo_counts + table.left_out[item])
            weight = np.float32(share)
            for entry in range(table.starts[item], table.starts[item + 1]):
                successor = table.successors[entry]
                before = sums[successor]
                touched[held] = successor
                held += before == 0  # without a branch: it could not be foreseen
                sums[successor] = before + weight * table.counts[entry]
        n = 0
        for place in range(held):
            successor = touched[place]
            mass = sums[successor]
            sums[successor] = np.float32(0)
            if mass > 0:  # the weight of a far item may be too small for a number, and the item be touched again
                touched[n], mass_of[n] = successor, mass
                n += 1
        found[user], remaining[user] = n, left


@jit
def narrow(looked: Looked, k: int) -> None:
    """Leave the k items of the largest masses in each `found`, of equal ones the first; the rest are `others`."""
    others = looked.others
    for user in range(len(looked.found)):
        start, n = looked.room[user], looked.found[user]
        if n <= k:
            continue
        items, masses = looked.items[start : start + n], looked.masses[start : start + n]
        least = np.partition(masses, n - k)[n - k]
        equal = np.sort(items[masses == least])
        last = equal[k - 1 - np.sum(masses > least)]
        kept = 0
        for place in range(n):
            if masses[place] > least or (masses[place] == least and items[place] <= last):
                items[kept], items[place] = items[place], items[kept]
                masses[kept], masses[place] = masses[place], masses[kept]
                kept += 1
        looked.found[user] = k
        others.start[user], others.end[user], others.most[user] = start + k, start + n, least


@jit
def join(looked: Looked, extra: np.ndarray, room: np.ndarray, items: np.ndarray, masses: np.ndarray) -> None:
    """Write what was looked up with `extra` items int64 [B, K], 0 for none, without mass where they have none.

    Args:
        room: int64 [B + 1], where each user's part of `items` and `masses` begins: with room for all.
    """
    others = looked.others
    for user in range(len(extra)):
        old, new, n = looked.room[user], room[user], looked.found[user]
        items[new : new + n] = looked.items[old : old + n]
        masses[new : new + n] = looked.masses[old : old + n]
        used, first, n_others = new + n, others.start[user], others.end[user] - others.start[user]
        its_others = looked.items[first : first + n_others]
        for item in extra[user]:
            is_there = item == 0
            for place in range(new, new + n):
                is_there |= items[place] == item
            if not is_there:
                at = where_is(its_others, item)
                items[used], masses[used] = item, looked.masses[first + at] if at >= 0 else np.float32(0)
                used += 1
        items[used : used + n_others] = its_others
        masses[used : used + n_others] = looked.masses[first : first + n_others]
        looked.found[user] = used - new
        others.start[user], others.end[user] = used, used + n_others


@inlined
def where_is(items: np.ndarray, item: int) -> int:
    """Return where an item stands among int32 [n], in which it is at most once; -1 where it is not."""
    at = 0
    for place in range(len(items)):  # without a branch: processors look at many at a time
        at += (place + 1) * (items[place] == item)
    return at - 1


@jit
def mix_in(looked: Looked, items: np.ndarray, sharpness: np.float32, sums: np.ndarray, scores: np.ndarray) -> None:
    """Turn log p0 [B, M] of items int64 [M] into ``log p + sharpness * log p0``, p the mixture with what was looked up.

    Args:
        sums: float32 [n_items], all 0, and 0 again afterwards.
        scores: written over.
    """
    for user in range(len(scores)):
        first, n = looked.room[user], looked.found[user]
        for place in range(first, first + n):
            sums[looked.items[place]] = looked.masses[place]
        log_remaining = np.log(looked.remaining[user])
        for column in range(len(items)):
            log_p0, mass = scores[user, column], sums[items[column]]
            if mass > 0:
                mixed = np.log(mass + looked.remaining[user] * np.exp(log_p0))
                scores[user, column] = mixed + sharpness * max(log_p0, _LOWEST)
            else:
                scores[user, column] = log_remaining + (np.float32(1) + sharpness) * log_p0
        for place in range(first, first + n):
            sums[looked.items[place]] = np.float32(0)
