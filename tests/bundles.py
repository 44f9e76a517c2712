"""A tiny engine, and bundles of it: what the tests of bundles work on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.exporting.card import model_card
from recbole_sid.exporting.forms import Form
from recbole_sid.serving.bundle import HISTORIES, ITEMS, WEIGHTS
from recbole_sid.serving.bundle_files import write_bundle
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.histories import KnownUsers


class Follower:
    """Scores the items behind the last one of a history: row `last` of a table."""

    max_history, beam_size = 5, 3

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.n_items = table, len(table)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Follower:
        return cls(arrays["table"] * np.float32(settings["scale"]))

    def all_scores(self, histories: Histories) -> np.ndarray:
        last = histories.items[np.arange(len(histories.items)), histories.lengths - 1]
        return self.table[last]

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        return self.all_scores(histories)[:, items]

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self.all_scores(histories)
        items = np.argsort(-scores, axis=1, kind="stable")[:, : min(width, self.n_items - 1)]
        return items, np.take_along_axis(scores, items, axis=1)

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        raise NotImplementedError


def follower_table(n_items: int) -> np.ndarray:
    table = -np.abs(np.arange(n_items)[:, None] + 1 - np.arange(n_items)).astype(np.float32)
    table[:, 0] = -np.inf
    return table


def follower_form(model: Any, config: Any, dataset: Any) -> Form:
    """As of `FORMS`, for any model."""
    return Form("follower", {"table": follower_table(len(dataset.item_tokens()) + 1)}, {"scale": 1})


TOKENS = ["red", "blau", "зелёный", "黄", "a b", "red2", "r"]
MANIFEST: dict[str, Any] = {
    "model": "Follower",
    "engine": "follower",
    "settings": {"scale": 2},
    "n_items": len(TOKENS) + 1,
    "fields": ["title"],
    "sizes": {"items": len(TOKENS), "parameters": 64},
    "fingerprints": {"item tokens": "0123456789abcdef"},
    "metrics": {"validation": {"ndcg@10": 0.5}, "test": {}},
    "protocol": {"dataset": "tiny", "eval_args": {"split": {"LS": "valid_and_test"}}},
}


def make_bundle(path: Path, **changes: Any) -> Path:
    """Write a bundle of `Follower` with seven items and two users."""
    catalogue = Catalogue.of(TOKENS, np.array([3, 9, 1, 9, 0, 2, 2]), {"title": [f"The {name}" for name in TOKENS]})
    users = KnownUsers.of(["u1", "u2"], np.array([0, 3, 4]), np.array([1, 2, 3, 7]))
    arrays = {WEIGHTS: {"table": follower_table(len(TOKENS) + 1)}, ITEMS: catalogue.arrays(), HISTORIES: users.arrays()}
    write_bundle(path, {**MANIFEST, **changes}, arrays, {"further.bin": b"abc"}, model_card)
    return path
