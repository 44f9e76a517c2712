"""Pictures: how they are written, and accuracy against speed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recbole_sid.evaluation.tables import Row, column_title
from recbole_sid.util.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` to `path`, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def write_svg(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` to `path` as SVG, without a display; the same figure gives the same file."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with replacing(path) as temporary, rc_context({"svg.hashsalt": "recbole_sid"}):
        FigureCanvasSVG(figure).print_svg(str(temporary), metadata={"Date": None})


def accuracy_speed_figure(rows: Sequence[Row], path: str | os.PathLike[str], metric: str = "ndcg@10") -> None:
    """Draw `metric` against users per second (log scale), one point a row, and write a PNG to `path`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        marker = "osD^vP*X"[number % 8]
        axes.scatter(row["users_per_s"], row[metric], s=70, marker=marker, label=row["model"], alpha=0.85)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1, y=0.15)
    axes.set_xlabel("users per second of full evaluation (log scale)")
    axes.set_ylabel(column_title(metric))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    write_png(figure, path)
