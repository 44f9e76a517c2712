"""Comparison tables: flat rows, as Markdown and as a picture of accuracy against speed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_sid.util.files import replacing

Row = Mapping[str, Any]

_DECIMALS = {
    "users_per_s": 0,
    "wall_s": 0,
    "train_s": 0,
    "peak_memory_mb": 0,
    "share_of_teacher": 3,
    "parameters": 0,
}
_TEXTS = ("model", "category", "by", "bin")
_TITLES = {
    "model": "Model",
    "users_per_s": "Users/s",
    "parameters": "Parameters",
    "share_of_teacher": "Share of teacher's NDCG@10",
    "wall_s": "Training s",
    "train_s": "Training s",
    "peak_memory_mb": "Peak memory MB",
    "seeds": "Seeds",
    "ci_low": "95% from",
    "ci_high": "to",
    "difference": "Difference",
    "t_test": "t-test p",
    "t_test_holm": "Holm",
    "wilcoxon": "Wilcoxon p",
    "wilcoxon_holm": "Holm",
    "by": "By",
    "bin": "Bin",
    "instances": "Instances",
}


def markdown_table(rows: Sequence[Row]) -> str:
    """Return `rows` as a Markdown table; columns in the order of the first row's keys, empty where None."""
    columns = list(rows[0])
    lines = [
        "| " + " | ".join(column_title(column) for column in columns) + " |",
        "|" + "|".join(" --- " if column in _TEXTS else " ---: " for column in columns) + "|",
    ]
    lines += ["| " + " | ".join(format_value(column, row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def accuracy_speed_figure(rows: Sequence[Row], path: str | os.PathLike[str], metric: str = "ndcg@10") -> None:
    """Draw `metric` against users per second (log scale), one point a row, and write a PNG to `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def column_title(column: str) -> str:
    """Return the heading of a column."""
    return _TITLES.get(column) or column.replace("ndcg", "NDCG").replace("recall", "Recall")


def format_value(column: str, value: Any) -> str:
    """Return a table cell: figures with the decimals of their column, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{_DECIMALS.get(column, 4)}f}" if isinstance(value, float) else str(value)
