"""A memory of transitions in a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from recbole_sid.fast.compiled.arrays import Looked, Transitions
from recbole_sid.fast.compiled.lookup import look_up
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.reading import Reader


class Remembered:
    """What followed which, looked up.

    Args:
        reader: of the arrays and settings.
        n_items: size of the catalogue.

    Attributes:
        sharpness: of the mixture with it.
    """

    def __init__(self, reader: Reader, n_items: int) -> None:
        starts = reader.array("memory.starts", np.int64, n_items + 1)
        successors = reader.array("memory.successors", np.int32, None)
        counts = reader.array("memory.counts", np.float32, len(successors))
        reader.starts("memory.starts", starts, len(successors))
        reader.within("memory.successors", successors, 0, n_items)
        window = min(reader.whole("memory_window", 1), reader.whole("max_history", 1))
        decay = reader.number("memory_window_decay", most=1)
        self.table = Transitions(
            starts,
            successors,
            counts,
            reader.array("memory.row_sums", np.float64, n_items),
            reader.array("memory.left_out", np.float64, n_items),
            decay ** np.arange(window, dtype=np.float64),
            reader.number("memory_pseudo_counts", least=1e-9),
        )
        self.sharpness = reader.number("memory_sharpness")
        self._free_sums: list[np.ndarray] = []

    def look_up(self, histories: Histories, n_threads: int) -> Looked:
        """Return what is remembered after each history."""
        return look_up(self.table, self.recent(histories), self._free_sums, n_threads)

    def recent(self, histories: Histories) -> np.ndarray:
        """Return the last items of histories, the most recent first: int64 [B, <= window], 0 beyond."""
        items, lengths = histories
        place = lengths[:, None] - 1 - np.arange(min(len(self.table.decays), items.shape[1]))
        return np.where(place >= 0, np.take_along_axis(items, np.maximum(place, 0), axis=1), 0)

    @contextmanager
    def sums(self) -> Iterator[np.ndarray]:
        """Lend an array float32 [n_items] of zeros, to be given back so: a large new one is slow to touch."""
        try:
            sums = self._free_sums.pop()
        except IndexError:
            sums = np.zeros(len(self.table.row_sums), np.float32)
        yield sums
        self._free_sums.append(sums)

    def mass_of(self, looked: Looked, item: int) -> float:
        """Return what is remembered of an item after the one history that was looked up."""
        place = slice(int(looked.room[0]), int(looked.room[0] + looked.found[0]))
        return float(looked.masses[place][looked.items[place] == item].sum())

    def precursors(self, history: np.ndarray, item: int) -> list[int]:
        """Return those of a history's last items that `item` was seen to follow, the most recent first."""
        found = []
        for before in history[::-1][: len(self.table.decays)].tolist():
            row = self.table.successors[self.table.starts[before] : self.table.starts[before + 1]]
            if before not in found and (row == item).any():
                found.append(before)
        return found
