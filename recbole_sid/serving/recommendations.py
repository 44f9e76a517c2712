"""What a recommender answers: lists of item ids with their scores, and how they were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from recbole_sid.errors import InputError


@dataclass(frozen=True)
class Recommendations:
    """The best items of B histories, in lists of at most K.

    Attributes:
        items: item ids, str in an object array [B, K], the best first; "" behind the last.
        scores: float32 [B, K], the model's own, falling: log-probabilities of our models; in a list by popularity the
            log of an item's share. -inf behind the last, and for items that the model cannot rank: these come last, by
            popularity, where there are too few others.
        counts: int64 [B], how many there are: as many as were asked for if so many are allowed.
        how: [B], "model", or "popularity" for a history without a known item.
        unknown: int64 [B], how many items of the history are not in the catalogue; they were skipped.
        search: [B], "beam" for what the model's own search found, "exact" for the best of all items allowed.
        users: [B], the users asked for; None where histories were given.
    """

    items: np.ndarray
    scores: np.ndarray
    counts: np.ndarray
    how: np.ndarray
    unknown: np.ndarray
    search: np.ndarray
    users: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def lists(self) -> list[list[str]]:
        """Return the item ids of each history."""
        return [row[:count] for row, count in zip(self.items.tolist(), self.counts.tolist(), strict=True)]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary for each history: user (where users were asked for), items, scores, how, unknown, search.

        A score is None for an item that the model cannot rank, so that JSON can hold it.
        """
        finite = [[score if isfinite(score) else None for score in row] for row in self.scores.tolist()]
        columns = (self.how.tolist(), self.unknown.tolist(), self.search.tolist())
        found = [
            {"items": items, "scores": scores[: len(items)], "how": how, "unknown": unknown, "search": search}
            for items, scores, how, unknown, search in zip(self.lists(), finite, *columns, strict=True)
        ]
        if self.users is None:
            return found
        return [{"user": user, **row} for user, row in zip(self.users, found, strict=True)]

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row for each item: user (or the number of its history), item, score, rank from 1.

        Raises:
            InputError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise InputError("to_pandas needs pandas, which is not installed: pip install pandas.") from error
        return pd.DataFrame(self.to_columns())

    def to_columns(self) -> dict[str, np.ndarray]:
        """Return the columns of `to_pandas`: by name, each of all items of all users."""
        places, columns = np.nonzero(np.arange(self.items.shape[1]) < self.counts[:, None])
        users = places if self.users is None else np.asarray(self.users, dtype=object)[places]
        found = {"item": self.items[places, columns], "score": self.scores[places, columns], "rank": columns + 1}
        return {"user": users, **found}
