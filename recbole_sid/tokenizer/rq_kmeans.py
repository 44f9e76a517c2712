"""Residual k-means: k-means on the features, then on what each level left unexplained (faiss).

Y. Chen, T. Guan, C. Wang, "Approximate Nearest Neighbor Search by Residual Vector Quantization", Sensors 2010.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sid.tokenizer.base import Tokenizer

logging.getLogger("faiss").setLevel(logging.WARNING)  # its loader logs which instruction sets it tried


class ResidualKMeans(Tokenizer):
    """Greedy residual quantisation.

    Attributes:
        codebooks_: per level float32 [size, d]; a level with fewer training items than codes uses only as many.
    """

    def __init__(self, codebook_sizes: Sequence[int], seed: int = 0, iterations: int = 25) -> None:
        super().__init__(codebook_sizes, seed)
        self.iterations = iterations

    @classmethod
    def from_config(cls, config: Any) -> ResidualKMeans:
        """Read ``codebook_sizes`` and ``seed``."""
        return cls(config["codebook_sizes"], config["seed"])

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> ResidualKMeans:
        """Learn one codebook per level."""
        import faiss

        residual = np.ascontiguousarray(features[train_items], dtype=np.float32)
        self.codebooks_: list[np.ndarray] = []
        for level, size in enumerate(self.codebook_sizes):
            size = min(size, len(residual))
            kmeans = faiss.Kmeans(
                residual.shape[1],
                size,
                niter=self.iterations,
                seed=self.seed + level + 1,
                min_points_per_centroid=1,
                max_points_per_centroid=256,
            )
            kmeans.train(residual)
            self.codebooks_.append(np.array(kmeans.centroids, dtype=np.float32))
            residual = residual - self.codebooks_[-1][_nearest(residual, self.codebooks_[-1])]
        return self

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Assign each level's nearest centroid to what the levels before left."""
        residual = np.ascontiguousarray(features, dtype=np.float32)
        codes = []
        for codebook in self.codebooks_:
            codes.append(_nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return np.stack(codes, axis=1)


def _nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    import faiss

    _, index = faiss.knn(np.ascontiguousarray(points), np.ascontiguousarray(centroids), 1)
    return index[:, 0].astype(np.int64)
