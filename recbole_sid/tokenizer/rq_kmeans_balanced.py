"""Residual k-means whose clusters are about equally large: every code of a level is used about equally often.

Clusters are cells of a power diagram: the nearest centroid by squared distance plus a price per centroid, and the
prices come from optimal transport with uniform marginals. So new items are encoded like the old ones.
F. Aurenhammer, F. Hoffmann, B. Aronov, "Minkowski-Type Theorems and Least-Squares Clustering", Algorithmica 1998.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_sid.tokenizer import residual as rq
from recbole_sid.tokenizer.rq_kmeans import ResidualKMeans
from recbole_sid.tokenizer.transport import balancing_prices

_POINTS_PER_CENTROID = 128  # that the prices of a level are learnt from
_REFINEMENT = (0.05, 0.02, 0.01, 0.005, 0.002)  # temperatures of the prices once the centroids stand


class BalancedResidualKMeans(ResidualKMeans):
    """Residual k-means with balanced clusters.

    Attributes:
        codebooks_: as `ResidualKMeans`.
        prices_: per level float32 [size], added to the squared distances.
    """

    def __init__(
        self, codebook_sizes: Sequence[int], seed: int = 0, iterations: int = 10, show_progress: bool = False
    ) -> None:
        super().__init__(codebook_sizes, seed, iterations, show_progress)
        self.prices_: list[np.ndarray] = []

    def state(self) -> dict[str, np.ndarray]:
        """Return the codebooks and prices."""
        return super().state() | rq.name_levels("price", self.prices_)

    def load_state(self, state: Mapping[str, np.ndarray]) -> BalancedResidualKMeans:
        """Take over the codebooks and prices."""
        super().load_state(state)
        self.prices_ = rq.read_levels("price", state, len(self.codebook_sizes))
        return self

    def _forget(self) -> None:
        self.codebooks_, self.prices_ = [], []

    def _learn(self, level: int, residual: np.ndarray) -> None:
        """Append the codebook and prices of `level`: k-means, then assignment by price and new means in turn."""
        super()._learn(level, residual)
        centroids = self.codebooks_[level]
        wanted = _POINTS_PER_CENTROID * len(centroids)
        rng = np.random.default_rng([self.seed, level])
        points = residual if len(residual) <= wanted else residual[rng.choice(len(residual), wanted, replace=False)]
        prices = np.zeros(len(centroids), dtype=np.float32)
        for _ in range(self.iterations):
            costs = rq.squared_distances(points, centroids)
            prices = balancing_prices(costs, prices, iterations=5)
            centroids = rq.means(points, (costs + prices).argmin(axis=1), centroids)
        costs = rq.squared_distances(points, centroids)
        for temperature in _REFINEMENT:
            prices = balancing_prices(costs, prices, temperature, iterations=20)
        self.codebooks_[level] = centroids
        self.prices_.append(prices)

    def _assign(self, level: int, residual: np.ndarray) -> np.ndarray:
        return _cheapest(residual, self.codebooks_[level], self.prices_[level])


def _cheapest(points: np.ndarray, centroids: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Return the centroid of least squared distance plus price: int64 [n]."""
    # A price is the squared distance in one more coordinate, which is zero for points.
    lifted = np.column_stack([centroids, np.sqrt(prices - prices.min())])
    return rq.nearest(np.column_stack([points, np.zeros(len(points), dtype=np.float32)]), lifted)
