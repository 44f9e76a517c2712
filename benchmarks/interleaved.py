"""Steps of several rows of a table in turn, so that what else the machine does meets all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Row(Protocol):
    """A row that counts what its steps did."""

    def step(self) -> Any:
        """Take the next step."""

    def forget(self) -> Any:
        """Do not count what was done so far."""


def take_in_turn(rows: Sequence[Row], steps: int) -> None:
    """Take one uncounted and `steps` counted steps of each row."""
    for number in range(steps + 1):
        for row in rows:
            row.step()
            if number == 0:
                row.forget()
