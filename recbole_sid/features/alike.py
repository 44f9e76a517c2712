"""Items that are alike by their features: each one's nearest, as a table that a memory can count beside transitions."""

from __future__ import annotations

import faiss
import numpy as np
from scipy.sparse import csr_matrix

# Of each item, and how much less a distant one counts: chosen on validation of scientific and beauty.
NEAREST, POWER = 10, 3
# Up to so many items the nearest are found among all; of more, among the cells of an index that are nearest.
_EXACT, _CELLS = 200_000, 32


def alike(features: np.ndarray, nearest: int = NEAREST) -> csr_matrix:
    """Return for each item the cosine of its features with those of its nearest, to the power of three.

    Args:
        features: float32 [n_items, d] of all items but the padding item.
        nearest: items of a row, at most.

    Returns:
        float32 [1 + n_items, 1 + n_items], columns rising within a row; row and column 0, of the padding item, are
        empty, an item is not its own neighbour, and no entry is 0 or negative.
    """
    n_items = len(features)
    size = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.ascontiguousarray(features / np.maximum(size, np.finfo(np.float32).tiny), dtype=np.float32)
    cosines, found = _nearest(unit, min(nearest + 1, n_items))
    row = np.repeat(np.arange(n_items), found.shape[1])
    columns, values = found.ravel(), cosines.ravel().clip(max=1) ** POWER
    kept = (columns >= 0) & (columns != row) & (values > 0)
    # Copies of an item may push it out of its own list: then one neighbour too many is left.
    place = np.cumsum(kept.reshape(found.shape), axis=1).ravel()
    kept &= place <= nearest
    shape = (1 + n_items, 1 + n_items)
    table = csr_matrix((values[kept], (1 + row[kept], 1 + columns[kept])), shape=shape, dtype=np.float32)
    table.sort_indices()
    return table


def _nearest(unit: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and numbers [n, k] of the nearest of rows of length 1 [n, d], by falling cosine; -1 for none."""
    if len(unit) <= _EXACT:
        return faiss.knn(unit, unit, k, metric=faiss.METRIC_INNER_PRODUCT)
    cells = int(4 * np.sqrt(len(unit)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(unit.shape[1]), unit.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.train(unit[:: max(1, len(unit) // (64 * cells))])
    index.add(unit)
    index.nprobe = _CELLS
    return index.search(unit, k)
