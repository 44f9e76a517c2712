"""What the compiled search reads: heads, trie and memory as flat arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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


class Transitions(NamedTuple):
    """A memory's table and numbers, of the same arrays.

    Attributes:
        starts: int64 [n_items + 1], where each row begins.
        successors: int32, ``counts``: float32, the entries.
        row_sums: float64 [n_items], of all counts of a row.
        left_out: float64 [n_items], of those that the row no longer has.
        decays: float64 [window], what the items of a history weigh, the most recent first.
        pseudo_counts: of the base measure in each row.
    """

    starts: np.ndarray
    successors: np.ndarray
    counts: np.ndarray
    row_sums: np.ndarray
    left_out: np.ndarray
    decays: np.ndarray
    pseudo_counts: float
