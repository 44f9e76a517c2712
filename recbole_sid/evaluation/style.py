"""One look for all figures: legible at the width of a paper's column, told apart without colour, written three ways."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from recbole_sid.util.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

# Inches: the column and the page of two-column papers, at which the fonts below are 7 and 8 points.
COLUMN, PAGE = 3.4, 7.0
# Okabe and Ito's colours, told apart by the colour-blind too, without yellow, which is pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = "osD^vP*X"  # as many as leave no pair of colour and marker twice among 56
GREY = "#999999"
ENDINGS = ("png", "pdf", "svg")
_DOTS_PER_INCH = 200
_PARAMETERS: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.5,
    "errorbar.capsize": 1.5,
    "pdf.fonttype": 42,  # outlines that journals accept
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "recbole_sid",  # the same figure gives the same file
}


def styled(draw: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Let what a function draws and writes look as all figures here."""
    from functools import wraps

    @wraps(draw)
    def in_style(*arguments: Arguments.args, **named: Arguments.kwargs) -> Returned:
        with _style():
            return draw(*arguments, **named)

    return in_style


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    with rc_context(_PARAMETERS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained")


def colour(number: int) -> str:
    """Return the colour of a series."""
    return COLOURS[number % len(COLOURS)]


def marker(number: int) -> str:
    """Return the marker of a series."""
    return MARKERS[number % len(MARKERS)]


def point(number: int) -> dict[str, Any]:
    """Return how the points of a series look: no two of 56 alike, in black and white no two of eight."""
    return {"color": colour(number), "marker": marker(number)}


def log_axis(axis: Any, low: float, high: float) -> None:
    """Make an axis logarithmic over positive values, with as many plain numbers as it has room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes = axis.axes
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    factor = high / low
    steps = (1, 2, 5) if factor < 30 else (1, 3) if factor < 300 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend of `axes` under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def write_figure(figure: Figure, path: str | os.PathLike[str], endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Write `figure` without a display, once for each of `endings` in place of the path's; return the paths.

    The same figure gives the same files.
    """
    stem = Path(path).with_suffix("")
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in endings]
    for file, ending in zip(paths, endings, strict=True):
        with replacing(file) as temporary:
            _write(figure, str(temporary), ending)
    return paths


def _write(figure: Figure, file: str, ending: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    when = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[ending]
    with _style():
        figure.savefig(file, format=ending, dpi=_DOTS_PER_INCH, metadata=when)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
