"""TransitionMemory: which item followed which, and popularity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.fast.compiled.first_level import order_ties
from recbole_sid.fast.compiled.popular import add_popularity, best_with_popularity
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.reading import Reader, announce, check_items
from recbole_sid.serving.engines.remembered import Remembered

# Users whose scores of all items are computed together.
_SCORES = 1 << 23


class TransitionEngine:
    """Ranks by ``p(i | h)`` of a memory whose base measure is popularity; all that it says is exact.

    Args:
        arrays: of the bundle.
        settings: of the bundle.

    Attributes:
        n_threads: threads that users are shared among.
    """

    n_threads = 1

    def __init__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        reader = Reader(arrays, settings)
        self.n_items = reader.whole("n_items", 2)
        self.max_history, self.beam_size = reader.whole("max_history", 1), reader.whole("beam_size", 1)
        self.memory = Remembered(reader, self.n_items)
        self.popularity = reader.array("base.probabilities", np.float32, self.n_items)
        self.popular = reader.array("base.order", np.int64, self.n_items)
        reader.within("base.order", self.popular, 0, self.n_items)
        announce(best_with_popularity)

    def prepare(self) -> None:
        """Have all loops ready that requests need: they are read from disk, or compiled."""
        history, item = Histories(np.ones((1, 1), np.int64), np.ones(1, np.int64)), np.ones(1, np.int64)
        self.rank(history, 1)
        self.scores(history, item)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> TransitionEngine:
        """As `Engine.of`."""
        return cls(arrays, settings)

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.rank`; exact for any width."""
        check_items(histories.items, self.n_items)
        looked = self.memory.look_up(histories, self.n_threads)
        shape = len(histories.items), min(width, self.n_items - 1)
        items, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
        with self.memory.sums() as sums:
            best_with_popularity(looked, self.popularity, self.popular, sums, items, scores)
        if not np.isfinite(scores[:, 0]).all():
            raise InputError("The memory's numbers are not finite, so nothing can be ranked: its bundle is damaged.")
        order_ties(items, scores)
        return items, scores

    def all_scores(self, histories: Histories) -> np.ndarray:
        """As `Engine.all_scores`."""
        return self.scores(histories, np.arange(self.n_items))

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """As `Engine.scores`."""
        check_items(histories.items, self.n_items)
        check_items(items, self.n_items)
        looked = self.memory.look_up(histories, self.n_threads)
        found = np.empty((len(histories.items), len(items)), np.float32)
        with self.memory.sums() as sums:
            add_popularity(looked, self.popularity, items, sums, found)
        return found

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        """As `Engine.explain`."""
        check_items(items, self.n_items)
        looked = self.memory.look_up(histories, self.n_threads)
        return [
            self._explanation(histories.items[user, : histories.lengths[user]], looked.of(slice(user, user + 1)), item)
            for user, item in enumerate(items.tolist())
        ]

    def _explanation(self, history: np.ndarray, looked: Any, item: int) -> dict[str, Any]:
        mass, remaining = self.memory.mass_of(looked, item), float(looked.remaining[0])
        popularity = float(self.popularity[item])
        probability = mass + remaining * popularity
        return {
            "probability": probability,
            "score": float(np.log(probability)) if probability > 0 else -float("inf"),
            "levels": [],
            "parts": {"memory": mass, "popularity": popularity},
            "remembered": self.memory.precursors(history, item),
        }
