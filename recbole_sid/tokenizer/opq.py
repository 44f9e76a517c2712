"""Optimised product quantisation: a rotation, then k-means on each part of the coordinates (faiss).

T. Ge, K. He, Q. Ke, J. Sun, "Optimized Product Quantization for Approximate Nearest Neighbor Search", CVPR 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_sid.tokenizer import residual as rq
from recbole_sid.tokenizer.base import Tokenizer

_ITERATIONS = 25
_MAX_BITS = 8  # of the quantiser that the rotation is learnt with


class OPQ(Tokenizer):
    """One level per part of the rotated features; levels are parallel, not from coarse to fine.

    Attributes:
        rotation_: float32 [m, d], orthonormal; m is d or the next multiple of L.
        codebooks_: per level float32 [size, m / L].
    """

    @classmethod
    def from_config(cls, config: Any) -> OPQ:
        """Read ``codebook_sizes`` and ``seed``."""
        return cls(config["codebook_sizes"], config["seed"])

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> OPQ:
        """Learn the rotation, then one codebook per part."""
        rows = np.ascontiguousarray(features[train_items], dtype=np.float32)
        self.rotation_ = self._learn_rotation(rows)
        self.codebooks_ = [
            rq.k_means(part, size, self.seed + level + 1, _ITERATIONS)
            for level, (part, size) in enumerate(zip(self._parts(rows), self.codebook_sizes, strict=True))
        ]
        return self

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Return each part's nearest centroid."""
        parts = self._parts(np.asarray(features, dtype=np.float32))
        return np.stack([rq.nearest(part, book) for part, book in zip(parts, self.codebooks_, strict=True)], axis=1)

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Return the centroids of the parts, rotated back."""
        books = rq.filled(self.codebooks_, self.codebook_sizes)
        return np.column_stack([book[codes[:, level]] for level, book in enumerate(books)]) @ self.rotation_

    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return squared errors of the last part."""
        book = rq.filled(self.codebooks_, self.codebook_sizes)[-1]
        return rq.squared_distances(self._parts(np.asarray(features, dtype=np.float32))[-1], book)

    def state(self) -> dict[str, np.ndarray]:
        """Return the rotation and the codebooks."""
        return {"rotation": self.rotation_, **rq.name_levels("codebook", self.codebooks_)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> OPQ:
        """Take over the rotation and the codebooks."""
        self.rotation_ = state["rotation"]
        self.codebooks_ = rq.read_levels("codebook", state, len(self.codebook_sizes))
        return self

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.split(rows @ self.rotation_.T, len(self.codebook_sizes), axis=1)

    def _learn_rotation(self, rows: np.ndarray) -> np.ndarray:
        import faiss

        n_parts, dim = len(self.codebook_sizes), rows.shape[1]
        width = -(-dim // n_parts) * n_parts
        bits = min(max(self.codebook_sizes), len(rows)).bit_length() - 1
        quantizer = faiss.ProductQuantizer(width, n_parts, min(max(bits, 1), _MAX_BITS))
        quantizer.cp.seed = self.seed + 1
        quantizer.cp.min_points_per_centroid = 1
        rotation = faiss.OPQMatrix(dim, n_parts, width)
        rotation.pq = quantizer
        # faiss 1.15 writes past its buffers if there are fewer rows than dimensions; repeated rows change no optimum.
        rotation.train(np.tile(rows, (-(-width // len(rows)), 1)))
        return faiss.vector_to_array(rotation.A).reshape(width, dim).copy()
