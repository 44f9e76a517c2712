"""Accuracy against speed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from recbole_sid.evaluation.names import display_names
from recbole_sid.evaluation.style import COLUMN, legend_below, log_axis, new_figure, point, styled, write_figure
from recbole_sid.evaluation.tables import Row, column_title


@styled
def accuracy_speed_figure(rows: Sequence[Row], path: str | os.PathLike[str], metric: str = "ndcg@10") -> list[Path]:
    """Draw `metric` against users per second (log scale), one point a row; return the files, with the path's stem."""
    names = display_names(row["model"] for row in rows)
    columns = 2
    figure = new_figure(COLUMN, 2.3 + 0.14 * -(-len(rows) // columns))
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        axes.scatter(row["users_per_s"], row[metric], s=28, label=names[row["model"]], alpha=0.9, **point(number))
    speeds = [row["users_per_s"] for row in rows]
    log_axis(axes.xaxis, min(speeds), max(speeds))
    axes.margins(x=0.1, y=0.12)
    axes.set_xlabel("users per second of full evaluation (log scale)")
    axes.set_ylabel(column_title(metric))
    axes.grid()
    legend_below(figure, axes, columns)
    return write_figure(figure, path)
