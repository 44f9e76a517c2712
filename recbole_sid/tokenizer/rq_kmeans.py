"""Residual k-means: k-means on the features, then on what each level left unexplained (faiss).

Y. Chen, T. Guan, C. Wang, "Approximate Nearest Neighbor Search by Residual Vector Quantization", Sensors 2010.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_sid.tokenizer import residual as rq
from recbole_sid.tokenizer.base import Tokenizer
from recbole_sid.util.progress import progress


class ResidualKMeans(Tokenizer):
    """Greedy residual quantisation.

    Attributes:
        codebooks_: per level float32 [size, d]; a level with fewer training items than codes uses only as many.
    """

    def __init__(
        self, codebook_sizes: Sequence[int], seed: int = 0, iterations: int = 25, show_progress: bool = False
    ) -> None:
        super().__init__(codebook_sizes, seed)
        self.iterations = iterations
        self.show_progress = show_progress
        self.codebooks_: list[np.ndarray] = []

    @classmethod
    def from_config(cls, config: Any) -> ResidualKMeans:
        """Read ``codebook_sizes``, ``seed`` and ``show_progress``."""
        return cls(config["codebook_sizes"], config["seed"], show_progress=bool(config["show_progress"]))

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> ResidualKMeans:
        """Learn one codebook per level."""
        residual = np.ascontiguousarray(features[train_items], dtype=np.float32)
        self._forget()
        levels = range(len(self.codebook_sizes))
        for level in progress(levels, "Residual k-means", self.show_progress, unit="level"):
            self._learn(level, residual)
            residual = residual - self.codebooks_[level][self._assign(level, residual)]
        return self

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Assign each level's centroid to what the levels before left."""
        residual = np.ascontiguousarray(features, dtype=np.float32)
        codes = []
        for level, codebook in enumerate(self.codebooks_):
            codes.append(self._assign(level, residual))
            residual = residual - codebook[codes[-1]]
        return np.stack(codes, axis=1)

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Return the sum of the centroids."""
        return rq.total(rq.filled(self.codebooks_, self.codebook_sizes), codes)

    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return squared errors of the features."""
        return rq.last_level_distortions(features, rq.filled(self.codebooks_, self.codebook_sizes), codes)

    def state(self) -> dict[str, np.ndarray]:
        """Return the codebooks."""
        return rq.name_levels("codebook", self.codebooks_)

    def load_state(self, state: Mapping[str, np.ndarray]) -> ResidualKMeans:
        """Take over the codebooks."""
        self.codebooks_ = rq.read_levels("codebook", state, len(self.codebook_sizes))
        return self

    def _forget(self) -> None:
        self.codebooks_ = []

    def _learn(self, level: int, residual: np.ndarray) -> None:
        """Append the codebook of `level`."""
        size = self.codebook_sizes[level]
        self.codebooks_.append(rq.k_means(residual, size, self.seed + level + 1, self.iterations))

    def _assign(self, level: int, residual: np.ndarray) -> np.ndarray:
        return rq.nearest(residual, self.codebooks_[level])
