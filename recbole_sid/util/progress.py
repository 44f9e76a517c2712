"""Progress bars: one look everywhere, and few lines where the output is a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], label: str, show: bool, unit: str = "batch", line: str | None = None
) -> Iterable[Item]:
    """Return `items` under a bar with rate and remaining time, or under a `line` in tqdm's bar_format."""
    seconds = 0.2 if sys.stderr.isatty() else 10
    return tqdm(
        items, desc=label, ncols=100, unit=unit, leave=False, disable=not show, mininterval=seconds, bar_format=line
    )


def beside_bars() -> AbstractContextManager[None]:
    """Return a block in which lines may be written while bars are shown: these are drawn again below them."""
    return tqdm.external_write_mode()
