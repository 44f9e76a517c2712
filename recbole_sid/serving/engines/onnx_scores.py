"""RecBole's sequential models of bundles: a graph that scores all items, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recbole_sid.errors import InputError, first_line
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.reading import Reader, check_items

GRAPH = "scores.onnx"  # of the bundle's files
# Users that are scored together, and scores.
_USERS, _SCORES = 64, 1 << 23


class ScoreEngine:
    """Ranks by a graph's scores of all items, all of which are exact (see `recbole_sid.serving.engine.Engine`).

    Args:
        arrays: of the bundle, and the bytes of the graph.
        settings: of the bundle.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        reader = Reader(arrays, settings)
        self.n_items = reader.whole("n_items", 2)
        self.max_history, self.beam_size = reader.whole("max_history", 1), reader.whole("beam_size", 1)
        self.session = _session(reader.array(GRAPH, np.uint8, None).tobytes())
        self.n_users = max(1, min(_USERS, _SCORES // self.n_items))

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> ScoreEngine:
        """As `Engine.of`."""
        return cls(arrays, settings)

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.rank`."""
        k = min(width, self.n_items - 1)
        shape = len(histories.items), k
        items, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
        for rows, found in self._scored(histories):
            best = np.argpartition(-found, k, axis=1)[:, :k] if k < self.n_items else np.argsort(-found, axis=1)
            best.sort(axis=1)  # equal ones by number
            order = np.argsort(-np.take_along_axis(found, best, axis=1), axis=1, kind="stable")
            items[rows] = np.take_along_axis(best, order, axis=1)
            scores[rows] = np.take_along_axis(found, items[rows], axis=1)
        return np.where(np.isneginf(scores), 0, items), scores

    def all_scores(self, histories: Histories) -> np.ndarray:
        """As `Engine.all_scores`."""
        scores = np.empty((len(histories.items), self.n_items), np.float32)
        for rows, found in self._scored(histories):
            scores[rows] = found
        return scores

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """As `Engine.scores`."""
        check_items(items, self.n_items)
        scores = np.empty((len(histories.items), len(items)), np.float32)
        for rows, found in self._scored(histories):
            scores[rows] = found[:, items]
        return scores

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        """As `Engine.explain`: the softmax of the scores, which is a probability of models trained by it."""
        check_items(items, self.n_items)
        explanations = []
        for rows, found in self._scored(histories):
            wanted = items[rows]
            scores = found[np.arange(len(wanted)), wanted]
            peak = found.max(axis=1, keepdims=True)
            probabilities = np.exp(scores - peak[:, 0]) / np.exp(found - peak).sum(axis=1)
            for score, probability in zip(scores.tolist(), probabilities.tolist(), strict=True):
                parts = {"items": probability}
                explanations.append(
                    {"probability": probability, "score": score, "levels": [], "parts": parts, "remembered": []}
                )
        return explanations

    def _scored(self, histories: Histories) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows and their scores float32 [n, n_items], -inf for padding."""
        check_items(histories.items, self.n_items)
        items, _ = histories
        full = np.zeros((len(items), self.max_history), np.int64)
        full[:, : items.shape[1]] = items[:, : self.max_history]
        for first in range(0, len(full), self.n_users):
            rows = slice(first, first + self.n_users)
            yield rows, self.run(full[rows])

    def run(self, histories: np.ndarray) -> np.ndarray:
        """Return the scores float32 [B, n_items] after histories int64 [B, max_history], -inf for padding.

        Raises:
            InputError: if the graph does not give each item one.
        """
        (found,) = self.session.run(None, {"histories": histories})
        if found.shape != (len(histories), self.n_items) or np.isnan(found).any():
            raise InputError("The bundle's graph does not give each item a score: export it again.")
        found[:, 0] = -np.inf
        return found


def _session(graph: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("This bundle runs by onnxruntime, which is not installed: pip install onnxruntime.") from None
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, of no common class
        raise InputError(f"The bundle's graph is damaged ({first_line(error)}): export it again.") from error
    if [given.name for given in session.get_inputs()] != ["histories"] or len(session.get_outputs()) != 1:
        raise InputError("The bundle's graph is not one of scores: export it again.")
    return session
