"""Collision rules that move items to free codes of the last level, so that semantic IDs are unique."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.collisions import CollisionContext, group_numbers
from recbole_sid.tokenizer.transport import balancing_prices

_CELLS = 1 << 24  # of a table items x codes that is held at a time


class _Movable(NamedTuple):
    """Items whose last code may change.

    Attributes:
        rows: int64 [m], by prefix.
        prefix: int64 [m], number of the codes before the last.
        occupied_prefix, occupied_code: int64 [k], what items that stay have, by prefix.
    """

    rows: np.ndarray
    prefix: np.ndarray
    occupied_prefix: np.ndarray
    occupied_code: np.ndarray


def nearest(
    codes: np.ndarray, codebook_sizes: Sequence[int], context: CollisionContext
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Move all but one of the items of equal codes to free codes of the last level, smallest added distortion first.

    The one that stays is the one that moving would cost most; items that do not collide never move.

    Args:
        codes: int64 [n_items, L].
        codebook_sizes: length L.
        context: needs `features` and `tokenizer`; with `kept`, those semantic IDs are taken.

    Returns:
        unique codes int64 [n_items, L] and the sizes.

    Raises:
        InputError: without features and tokenizer, or if a prefix has more items than the last level has codes.
    """
    movable = _movable(codes, codebook_sizes, context)
    result = codes.copy()
    for part, group, taken in _parts(movable, codebook_sizes[-1]):
        costs = _distortions(codes, context, part)
        result[part, -1] = free_codes(costs, codes[part, -1], group, taken)
    return result, tuple(codebook_sizes)


def sinkhorn(
    codes: np.ndarray, codebook_sizes: Sequence[int], context: CollisionContext
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Spread the items of equal codes evenly over the last level by optimal transport, then settle as `nearest`.

    Uniform semantic mapping: B. Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics
    for Recommendation" (LC-Rec), ICDE 2024; the transport is M. Cuturi's, NeurIPS 2013. What it leaves colliding is
    settled, so that semantic IDs are unique.

    Args, returns and raises as `nearest`.
    """
    movable = _movable(codes, codebook_sizes, context)
    result = codes.copy()
    if len(movable.rows) == 0:
        return result, tuple(codebook_sizes)
    step = max(1, len(movable.rows) * codebook_sizes[-1] // _CELLS)
    prices = balancing_prices(_distortions(codes, context, movable.rows[::step]))
    for part, group, taken in _parts(movable, codebook_sizes[-1]):
        costs = _distortions(codes, context, part) + prices
        preferred = np.where(taken[group], np.inf, costs).argmin(axis=1)
        result[part, -1] = free_codes(costs, preferred, group, taken)
    return result, tuple(codebook_sizes)


def free_codes(costs: np.ndarray, preferred: np.ndarray, group: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Give each item a code that no other item of its group has.

    Of the items that prefer the same untaken code, the one whom another code would cost most gets it; the others move,
    in each group the smallest added cost first.

    Args:
        costs: float [m, K] of each code.
        preferred: int64 [m], the code that each would have.
        group: int64 [m], from 0.
        taken: bool [n_groups, K], codes that nobody can have; a group has as many others as items.

    Returns:
        int64 [m].
    """
    code, taken = preferred.copy(), taken.copy()
    own = np.take_along_axis(costs, preferred[:, None], axis=1)[:, 0]
    claims = np.flatnonzero(~taken[group, preferred])
    taken[group[claims], preferred[claims]] = True
    target, cost = _cheapest(costs, ~taken[group])
    added = cost - own
    order = claims[np.lexsort((-added[claims], preferred[claims], group[claims]))]
    stays = order[_first_of(group[order] * costs.shape[1] + preferred[order])]
    moving = np.setdiff1d(np.arange(len(code)), stays)
    while len(moving):  # once per item that moves in the fullest group
        moving = moving[np.lexsort((added[moving], group[moving]))]
        first = _first_of(group[moving])
        moved, moving = moving[first], moving[~first]
        code[moved] = target[moved]
        taken[group[moved], target[moved]] = True
        stale = moving[taken[group[moving], target[moving]]]
        target[stale], cost = _cheapest(costs[stale], ~taken[group[stale]])
        added[stale] = cost - own[stale]
    return code


def _cheapest(costs: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's cheapest free code and its cost, infinite if there is none."""
    masked = np.where(free, costs, np.inf)
    code = masked.argmin(axis=1)
    return code, np.take_along_axis(masked, code[:, None], axis=1)[:, 0]


def _first_of(ordered: np.ndarray) -> np.ndarray:
    """Return which entries differ from the one before: bool."""
    return np.diff(ordered, prepend=-1) != 0


def _movable(codes: np.ndarray, codebook_sizes: Sequence[int], context: CollisionContext) -> _Movable:
    """Find the rows that collide with another row or with a kept semantic ID."""
    if context.features is None or context.tokenizer is None:
        raise InputError(
            "The collision rules nearest and sinkhorn need the tokenizer and the features that made the codes, which "
            "ready-made semantic IDs lack: use collision=rank or collision=keep."
        )
    size = codebook_sizes[-1]
    kept = codes[:0] if context.kept is None else context.kept
    everyone = np.concatenate([kept, codes])
    prefix = group_numbers(everyone[:, :-1])
    slot = group_numbers(everyone)
    movable = np.bincount(slot)[slot] > 1
    movable[: len(kept)] = False
    largest = int(np.bincount(prefix)[prefix[movable]].max(initial=0))
    if largest > size:
        enough = [*codebook_sizes[:-1], 1 << (largest - 1).bit_length()]  # a power of two, which all tokenizers take
        again = " (sizes are fixed once a model is trained: make all semantic IDs anew)" if len(kept) else ""
        raise InputError(
            f"{largest} items share all codes but the last, which has only {size}: use a larger last codebook, such "
            f"as codebook_sizes={enough}{again}, or collision=rank or collision=keep."
        )
    rows, others = (indices[np.argsort(prefix[indices], kind="stable")] for indices in _split(movable))
    others = others[np.isin(prefix[others], prefix[rows])]
    return _Movable(rows - len(kept), prefix[rows], prefix[others], everyone[others, -1])


def _split(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(mask), np.flatnonzero(~mask)


def _parts(movable: _Movable, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows, groups from 0 and taken codes [n_groups, size] of some prefixes at a time, to bound the memory."""
    prefixes, start = np.unique(movable.prefix, return_index=True)
    part = start * size // _CELLS
    for first in np.flatnonzero(_first_of(part)):
        last = int(np.searchsorted(part, part[first], side="right"))
        low, high = prefixes[first], prefixes[last - 1]
        mine = slice(*np.searchsorted(movable.prefix, [low, high + 1]))
        theirs = slice(*np.searchsorted(movable.occupied_prefix, [low, high + 1]))
        taken = np.zeros((last - first, size), dtype=bool)
        at = np.searchsorted(prefixes[first:last], movable.occupied_prefix[theirs])
        taken[at, movable.occupied_code[theirs]] = True
        yield movable.rows[mine], np.searchsorted(prefixes[first:last], movable.prefix[mine]), taken


def _distortions(codes: np.ndarray, context: CollisionContext, rows: np.ndarray) -> np.ndarray:
    assert context.features is not None  # checked by _movable
    assert context.tokenizer is not None
    return context.tokenizer.distortions(context.features[rows], codes[rows])
