"""Histories of a file answered batch by batch, each by a function of one batch, so that others may spread the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_sid.serving.history_files import HistoryBatch
from recbole_sid.serving.recommendations import Recommendations
from recbole_sid.serving.recommender import Recommender


@dataclass(frozen=True)
class Wish:
    """What is asked for after every history.

    Attributes:
        k, exclude, items, on_unknown: as of `Recommender.recommend`.
    """

    k: int = 20
    exclude: Any = "seen"
    items: Sequence[str] | None = None
    on_unknown: str = "popularity"


def answer(recommender: Recommender, batch: HistoryBatch, wish: Wish) -> Recommendations:
    """Return the lists of a batch of users."""
    return recommender.recommend(batch.histories, wish.k, wish.exclude, wish.items, wish.on_unknown, batch.users)
