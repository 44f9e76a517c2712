"""The transition graph of a training set: which item follows which within how many positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from recbole_sid.errors import InputError

# Entries of the two matrices of neighbours that are intersected at a time (12 bytes each, and the product's).
_ENTRIES = 1 << 23


class Ragged(NamedTuple):
    """Sequences of different lengths in two arrays.

    Attributes:
        values: [n], one sequence after the other.
        offsets: int64 [n_sequences + 1], where each starts.
    """

    values: np.ndarray
    offsets: np.ndarray


def ragged(sequences: Ragged | tuple[np.ndarray, np.ndarray] | Sequence[Sequence[int] | np.ndarray]) -> Ragged:
    """Return sequences as `Ragged`: a list of arrays or lists, or a tuple of values and offsets already.

    Raises:
        InputError: if offsets do not cut the values into sequences.
    """
    if isinstance(sequences, tuple) and len(sequences) == 2:
        values, offsets = np.asarray(sequences[0]), np.asarray(sequences[1], dtype=np.int64)
        cuts = offsets.ndim == 1 and len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(values)
        if not cuts or (np.diff(offsets) < 0).any():
            raise InputError("A tuple of sequences must be (values, offsets): rising offsets from 0 to len(values).")
        return Ragged(values, offsets)
    arrays = [np.asarray(sequence) for sequence in sequences]
    filled = [array for array in arrays if len(array)]  # an empty list would make floats of all others
    values = np.concatenate(filled) if filled else np.zeros(0, dtype=np.int64)
    return Ragged(values, np.cumsum([0, *map(len, arrays)]))


def last_items(histories: Ragged, hops: int) -> np.ndarray:
    """Return the last items of each history, the most recent first: int64 [n, hops], -1 beyond the first item."""
    ends, starts = histories.offsets[1:, None], histories.offsets[:-1, None]
    where = ends - 1 - np.arange(hops)
    values = np.append(histories.values, -1)  # so that no history at all can be looked into
    return np.where(where >= starts, values[np.maximum(where, -1)], -1)


class Gaps:
    """How many positions after one node another comes at the least, up to `hops`, in any of the sequences.

    A_h of the paper holds the pairs (u, v) with ``gap(u, v) <= h``.

    Args:
        sequences: node numbers, not negative.
        n_nodes: nodes are below this.
        hops: the largest number of positions that counts, H.
    """

    def __init__(self, sequences: Ragged, n_nodes: int, hops: int) -> None:
        self.n_nodes, self.hops = n_nodes, hops
        sequence = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
        nodes = sequences.values.astype(np.int64)
        found, gaps = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int8)
        for gap in range(1, hops + 1):
            together = sequence[gap:] == sequence[:-gap]
            pairs = np.unique(nodes[:-gap][together] * n_nodes + nodes[gap:][together])
            pairs = pairs[~_contains(found, pairs)]
            order = np.argsort(np.concatenate([found, pairs]), kind="stable")
            found = np.concatenate([found, pairs])[order]
            gaps = np.concatenate([gaps, np.full(len(pairs), gap, dtype=np.int8)])[order]
        self.pairs, self.gaps = found, gaps

    def gap(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the least number of positions from `first` to `second`, hops + 1 if there is none or one is -1."""
        keys = np.where((first >= 0) & (second >= 0), first * self.n_nodes + second, -1)
        place = np.minimum(np.searchsorted(self.pairs, keys), max(0, len(self.pairs) - 1))
        if not len(self.pairs):
            return np.full(keys.shape, self.hops + 1, dtype=np.int8)
        return np.where(self.pairs[place] == keys, self.gaps[place], self.hops + 1).astype(np.int8)

    def successors(self, hop: int) -> csr_matrix:
        """Return A_hop: float32 [n_nodes, n_nodes], ones where the column comes within `hop` positions of the row."""
        first, second = np.divmod(self.pairs[self.gaps <= hop], self.n_nodes)
        ones = np.ones(len(first), dtype=np.float32)
        return csr_matrix((ones, (first, second)), shape=(self.n_nodes, self.n_nodes))


def share_a_neighbour(left: csr_matrix, u: np.ndarray, right: csr_matrix, v: np.ndarray) -> np.ndarray:
    """Return, for each pair of nodes, whether row u of `left` and row v of `right` have a column in common.

    Args:
        left, right: [n_nodes, n_nodes].
        u, v: int64 [n].

    Returns:
        bool [n].
    """
    result = np.zeros(len(u), dtype=bool)
    sizes = np.diff(left.indptr)[u] + np.diff(right.indptr)[v]
    chunk = np.cumsum(sizes, dtype=np.int64) // _ENTRIES
    bounds = np.append(np.flatnonzero(np.diff(chunk, prepend=-1)), len(u))
    for start, end in pairwise(bounds):
        common = left[u[start:end]].multiply(right[v[start:end]]).tocsr()
        result[start:end] = np.diff(common.indptr) > 0
    return result


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return which of `values` are in the `ordered` array."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values
