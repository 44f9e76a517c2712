"""Progress bars: one look everywhere, and none where the output is a file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TypeVar

from tqdm import tqdm

from recbole_sid.util.panel import Bar

Item = TypeVar("Item")


def progress(items: Iterable[Item], label: str, show: bool, unit: str = "batch") -> Iterable[Item]:
    """Return `items` under a bar with rate and remaining time."""
    return Bar(items, desc=label, ncols=100, unit=unit, leave=False, disable=not show, mininterval=0.2)


def beside_bars() -> AbstractContextManager[None]:
    """Return a block in which lines may be written while bars are shown: these are drawn again below them."""
    return tqdm.external_write_mode()
