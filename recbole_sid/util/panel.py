"""What stands below the lines of a terminal while something long goes on: one panel, with the bars in it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import TextIOBase
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

if TYPE_CHECKING:
    from rich.table import Table

_BAR_COLUMNS = 70


class Standing(Protocol):
    """What a panel shows."""

    def lines(self) -> Sequence[tuple[str, str]]:
        """Return what there is to say now, as pairs of a word and what it is of; called from another thread."""


class Nowhere(TextIOBase):
    """A stream that keeps nothing."""

    encoding = "utf-8"  # tqdm draws blocks

    def write(self, text: str) -> int:
        return len(text)


class _Panel:
    """A standing, and below it the bars that go on meanwhile, as rich draws them."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.bars: list[Bar] = []

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, text in self.standing.lines():
            table.add_row(Text(name, style="dim"), Text(text))
        for bar in list(self.bars):
            table.add_row(Text("now", style="dim"), Text.from_ansi(str(bar)))
        return table


_shown: list[_Panel] = []  # one at most


@contextmanager
def panel(standing: Standing, show: bool = True) -> Iterator[bool]:
    """Show `standing` below the lines of the terminal until the block ends; say whether it is shown.

    It is not if `show` is False, in a file, a notebook or a pipe, or within another panel. Lines that are printed or
    logged meanwhile stand above it, and bars are its last rows.
    """
    if not show or _shown or not in_terminal():
        yield False
        return
    from rich.live import Live

    own = _Panel(standing)
    with Live(own, refresh_per_second=2, transient=True), _logs_above():
        _shown.append(own)
        try:
            yield True
        finally:
            _shown.remove(own)


def in_terminal() -> bool:
    """Say whether both output streams are a terminal that can draw."""
    capable = os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb"
    return capable and _is_terminal(sys.stdout) and _is_terminal(sys.stderr)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


@contextmanager
def _logs_above() -> Iterator[None]:
    """Let what is logged to the terminal go through the streams that the panel has put in its place."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    with ExitStack() as back:
        for handler in {each for logger in loggers for each in getattr(logger, "handlers", ())}:
            if isinstance(handler, logging.StreamHandler) and _is_terminal(handler.stream):
                back.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)
        yield


class Bar(tqdm):
    """tqdm's bar: in the panel where one is shown, and none in a file or notebook."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.panel = _shown[0] if _shown else None
        if self.panel is not None:
            options |= {"file": Nowhere(), "ncols": _BAR_COLUMNS}
        elif not _is_terminal(sys.stderr):
            options["disable"] = True
        super().__init__(*arguments, **options)
        if self.panel is not None and not self.disable:
            self.panel.bars.append(self)

    def close(self) -> None:
        super().close()
        if self.panel is not None and self in self.panel.bars:
            self.panel.bars.remove(self)
