"""The table of transitions: how often, and how closely, one item came after another in the training sequences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

# Pairs that are counted together (16 bytes each, and as much again while they are sorted).
_PAIRS = 1 << 22


class Table(NamedTuple):
    """What was counted.

    Attributes:
        counts: float32 [n_items, n_items], columns rising within a row, no entry zero; of each row the largest only, if
            their number is limited.
        row_sums: float64 [n_items], of all counts of a row, also those that are left out.
    """

    counts: csr_matrix
    row_sums: np.ndarray


def transition_table(
    items: np.ndarray,
    offsets: np.ndarray,
    n_items: int,
    hops: int,
    decay: float,
    row_limit: int | None = None,
    beside: csr_matrix | None = None,
) -> Table:
    """Count which item follows which: ``T[a, b]`` is the sum over pairs, a and then b `d` positions later in one
    sequence, d = 1..hops, of ``decay ** (d - 1)``.

    Time is linear in interactions x hops; memory is that of the result, twice, and of a block of pairs.

    Args:
        items: int [n], below `n_items`, one sequence after the other.
        offsets: int64 [n_sequences + 1], where each starts.
        n_items: size of the catalogue.
        hops: the largest distance that counts.
        decay: 0 to 1; 0 counts neighbours only.
        row_limit: entries of a row that are kept, the largest, of equal ones those of the smaller numbers; None: all.
        beside: float32 [n_items, n_items], added to what is counted.
    """
    items = np.asarray(items).astype(np.int32)
    lengths = np.diff(offsets)
    hops = int(min(hops if decay > 0 else 1, max(0, lengths.max(initial=0) - 1)))
    left = (np.repeat(offsets[1:], lengths) - 1 - np.arange(len(items))).clip(max=hops).astype(np.int32)
    by_item = np.argsort(items, kind="stable")
    ends = np.cumsum(np.bincount(items, minlength=n_items))
    columns, counts, sizes, sums = [], [], [], []
    for first, last in _blocks(ends, hops):
        start = ends[first - 1] if first else 0
        rows = _rows(items, left, by_item[start : ends[last - 1]], first, (last - first, n_items), hops, decay)
        if beside is not None:
            rows = rows + beside[first:last]
        sums.append(np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel())
        if row_limit is not None:
            rows = _largest(rows, row_limit)
        columns.append(rows.indices)
        counts.append(rows.data)
        sizes.append(np.diff(rows.indptr))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes), dtype=np.int64)])
    data = np.concatenate(counts)
    counts.clear()  # the pieces are as large as the whole
    table = csr_matrix((data, np.concatenate(columns), starts), shape=(n_items, n_items))
    return Table(table, np.concatenate(sums))


def _largest(rows: csr_matrix, limit: int) -> csr_matrix:
    """Return `rows` with at most `limit` entries each, the largest."""
    sizes = np.diff(rows.indptr)
    long = sizes > limit
    if not long.any():
        return rows
    sized = np.repeat(np.where(long, sizes, 0), sizes)
    place = np.flatnonzero(sized)  # entries of long rows
    row = np.repeat(np.arange(len(sizes)), sizes)[place]
    order = np.lexsort((rows.indices[place], -rows.data[place], row))
    first = np.cumsum(np.where(long, sizes, 0)) - np.where(long, sizes, 0)
    rank = np.arange(len(place)) - first[row]  # sorted by row, so `row` is as it was
    kept = np.ones(len(rows.data), dtype=bool)
    kept[place[order[rank >= limit]]] = False
    indptr = np.concatenate([[0], np.cumsum(np.minimum(sizes, limit))])
    return csr_matrix((rows.data[kept], rows.indices[kept], indptr), shape=rows.shape)


def _blocks(ends: np.ndarray, hops: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of items whose occurrences make about `_PAIRS` pairs; a block holds at least one item."""
    block = ends * max(1, hops) // _PAIRS
    bounds = np.flatnonzero(np.diff(block, prepend=-1))
    yield from zip(bounds.tolist(), [*bounds[1:].tolist(), len(ends)], strict=True)


def _rows(
    items: np.ndarray,
    left: np.ndarray,
    positions: np.ndarray,
    first: int,
    shape: tuple[int, int],
    hops: int,
    decay: float,
) -> csr_matrix:
    """Return some rows of the table.

    Args:
        items: int32 [n], all.
        left: int32 [n], how many of the next `hops` are of the same sequence.
        positions: int64, where the items of these rows occur.
        first: the item of the first row.
        shape: of these rows.
        hops, decay: as of `transition_table`.
    """
    rows, columns, counts = [], [], []
    for gap in range(1, hops + 1):
        positions = positions[left[positions] >= gap]
        rows.append(items[positions] - first)
        columns.append(items[positions + gap])
        counts.append(np.full(len(positions), decay ** (gap - 1), dtype=np.float32))
    if not rows:
        return csr_matrix(shape, dtype=np.float32)
    pairs = coo_matrix((np.concatenate(counts), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    found = pairs.tocsr()
    found.eliminate_zeros()  # a small decay of a far hop
    found.sort_indices()
    return found
