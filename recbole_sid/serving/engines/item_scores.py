"""A head over items themselves (`recbole_sid.nn.item_head`)."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import ItemRows
from recbole_sid.fast.compiled.items import best_of_all
from recbole_sid.serving.engines.reading import Reader


class NumpyItemHead:
    """Scores items by ``E u``; those without a row in E have no probability.

    Args:
        reader: of the arrays and settings.
        n_items: size of the catalogue.
    """

    def __init__(self, reader: Reader, n_items: int) -> None:
        self.n_items = n_items
        self.table = reader.array("item_head.table", np.float32, None, reader.whole("d_model", 1))
        self.items = reader.array("item_head.items", np.int64, len(self.table))
        reader.within("item_head.items", self.items, 0, n_items)
        self.row = np.full(n_items, -1, np.int64)
        self.row[self.items] = np.arange(len(self.items))
        self.row[0] = -1

    def log_probs(self, query: np.ndarray, totals: np.ndarray | None = None) -> np.ndarray:
        """Return the log-probabilities [B, n_items] of all items for u [B, d], -inf for those that have no row.

        Args:
            totals: [B], what logits are shared by; None: all of them.
        """
        logits = query @ self.table.T
        if totals is None:
            peak = logits.max(axis=1)
            totals = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
        logits -= totals[:, None]
        found = np.full((len(query), self.n_items), -np.inf, np.float32)
        found[:, self.items] = logits
        found[:, 0] = -np.inf
        return found

    def rows(self, query: np.ndarray) -> ItemRows:
        """Return what compiled loops ask it by, for u [B, d]; totals are still to be written."""
        return ItemRows(query, self.table, self.row, np.empty(len(query), np.float32))

    def best(self, rows: ItemRows, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best items int64 [B, k] and their logits, 0 and -inf for none; write the totals."""
        n_users = len(rows.query)
        items, logits = np.empty((n_users, k), np.int64), np.empty((n_users, k), np.float32)
        best_of_all(rows.query @ self.table.T, self.items, logits, items, rows.totals)
        return items, logits
