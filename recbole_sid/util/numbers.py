"""Bins of counts for tables: ranges of about equally many instances."""

from __future__ import annotations

import numpy as np


def bins_of(values: np.ndarray, bins: int, among: np.ndarray | None = None) -> list[tuple[str, np.ndarray]]:
    """Return labels and masks of at most `bins` ranges of about equally many of the integers `values` [n].

    Args:
        values: to put into bins.
        bins: at most this many.
        among: bool [n], the values that decide the ranges; None: all.
    """
    deciding = values if among is None else values[among]
    if not len(deciding):
        return []
    edges = np.unique(np.quantile(deciding, np.linspace(0, 1, bins + 1), method="lower"))
    lows = edges[:-1] if len(edges) > 1 else edges
    highs = np.append(lows[1:] - 1, edges[-1])
    return [
        (f"{low}-{high}" if low < high else str(low), (values >= low) & (values <= high))
        for low, high in zip(lows, highs, strict=True)
    ]
