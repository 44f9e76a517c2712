"""A stage of a training: one run over the data with a schedule of its own."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """One training run over the data.

    Attributes:
        key: what it trains, ``train`` where there is one stage.
        name: shown in progress and logs.
        epochs: at most this many.
        learning_rate: peak of the schedule.
        schedule_epochs: those that the schedule is laid out for; None: `epochs`.
        ranks: whether the model ranks after it; if not, it is validated by something else.
    """

    key: str
    name: str
    epochs: int
    learning_rate: float
    schedule_epochs: int | None = None
    ranks: bool = True
