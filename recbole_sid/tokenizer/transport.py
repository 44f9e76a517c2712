"""Optimal transport that makes codes equally used, as one price per code."""

from __future__ import annotations

import numpy as np
import torch


def balancing_prices(
    costs: np.ndarray, prices: np.ndarray | None = None, temperature: float = 0.05, iterations: int = 50
) -> np.ndarray:
    """Return the prices at which items that take the code of least cost plus price use all codes about equally.

    Sinkhorn's iteration for the transport of items to codes with uniform marginals (M. Cuturi, "Sinkhorn Distances",
    NeurIPS 2013).

    Args:
        costs: float [n, K], n >= 1.
        prices: float [K] to start from; by default zeros.
        temperature: of the assignment, relative to the mean spread of an item's costs; lower is harder.
        iterations: of Sinkhorn.

    Returns:
        float32 [K], zero in the mean.
    """
    table = torch.from_numpy(np.ascontiguousarray(costs, dtype=np.float32))
    price = torch.zeros(table.shape[1]) if prices is None else torch.from_numpy(prices)
    scale = temperature * max(float(table.std(dim=1, correction=0).mean()), 1e-12)
    for _ in range(iterations):
        # In logarithms: a code that is far from every item has a share below the smallest float.
        shares = torch.log_softmax(-(table + price) / scale, dim=1).logsumexp(dim=0) - np.log(len(table))
        price = price + scale * (shares + np.log(len(price)))
    return (price - price.mean()).numpy().astype(np.float32)
