"""An engine for tests whose every score is known: from a table, with ties; its search may miss items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.engine import Histories


class BruteEngine:
    """Scores an item by the last item of the history and by the history's length.

    Args:
        n_items: with padding.
        missed: share of the items that the search never finds.
        unranked: share of the items without a score.
    """

    max_history, beam_size = 5, 4

    def __init__(self, n_items: int, missed: float = 0.0, unranked: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n_items = n_items
        table = rng.integers(1, 8, (n_items, n_items)).astype(np.float32)  # few values: many ties
        self.table = -table / 4
        self.table[:, rng.random(n_items) < unranked] = -np.inf
        self.table[:, 0] = -np.inf
        self.missed = rng.random(n_items) < missed
        self.calls: list[tuple[str, int]] = []

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> BruteEngine:
        return cls(**settings)

    def all_scores(self, histories: Histories) -> np.ndarray:
        self.calls.append(("all", len(histories.lengths)))
        return self._scores(histories)

    def _scores(self, histories: Histories) -> np.ndarray:
        items, lengths = histories
        assert items.dtype == lengths.dtype == np.int64
        assert (lengths >= 1).all()
        assert items.shape[1] == lengths.max() <= self.max_history
        assert ((items > 0) == (np.arange(items.shape[1]) < lengths[:, None])).all()
        last = items[np.arange(len(items)), lengths - 1]
        return self.table[last] + (items.sum(1) % 3).astype(np.float32)[:, None]

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        self.calls.append(("some", len(histories.lengths)))
        return self._scores(histories)[:, items]

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append(("rank", width))
        scores = np.where(self.missed, -np.inf, self._scores(histories)).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : max(self.beam_size, width)]
        found = np.take_along_axis(scores, order, 1)
        mixed = np.lexsort((-order, -found))  # equal scores in another order than the recommender's
        order, found = np.take_along_axis(order, mixed, 1), np.take_along_axis(found, mixed, 1)
        there = found > -np.inf
        return (order * there)[:, :width], found[:, :width]

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        score = self.scores(histories, items).diagonal().tolist()
        return [
            {
                "levels": [{"code": int(item) % 3, "probability": 0.5, "siblings": [(1, 0.5), (0, 0.25)]}],
                "parts": {"semantic IDs": 0.75, "memory": 0.25},
                "probability": float(np.exp(value)),
                "remembered": row[:1].tolist(),
            }
            for row, item, value in zip(histories.items, items, score, strict=True)
        ]


def catalogue_of(n_items: int, seed: int = 0) -> Catalogue:
    """Return a catalogue of items i1, i2, ... of known popularity."""
    rng = np.random.default_rng(seed)
    return Catalogue.of([f"i{number}" for number in range(1, n_items)], rng.integers(0, 9, n_items - 1))
