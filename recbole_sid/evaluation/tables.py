"""Tables of flat rows in Markdown and LaTeX: titles and decimals by column; tabulate and pandas lay them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

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


def markdown_table(rows: Sequence[Row], left: Collection[str] = _TEXTS) -> str:
    """Return `rows` as a Markdown table; columns in the order of the first row's keys, empty where None.

    Args:
        rows: at least one; values that are texts stand as they are.
        left: columns that are aligned to the left, others are to the right.
    """
    columns = list(rows[0])
    return tabulate(
        [[_in_one_cell(format_value(column, row.get(column))) for column in columns] for row in rows],
        headers=[_in_one_cell(column_title(column)) for column in columns],
        tablefmt="pipe",
        colalign=["left" if column in left else "right" for column in columns],
        disable_numparse=True,
    )


def latex_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return `rows` as a LaTeX tabular (package booktabs), columns in the order of the first row's keys.

    Args:
        rows: at least one; cells in LaTeX, but those of the first column, which are any text.
    """
    frame = pd.DataFrame([list(row.values()) for row in rows], columns=[column_title(column) for column in rows[0]])
    style = frame.style.hide(axis="index").format_index(escape="latex", axis="columns")
    style = style.format(escape="latex", subset=list(frame.columns[:1]))
    return style.to_latex(hrules=True, column_format="l" + "r" * (frame.shape[1] - 1))


def latex_text(text: str) -> str:
    """Return any text as LaTeX that shows it, on one line."""
    cell = pd.DataFrame([[" ".join(text.split())]]).style.hide(axis="index").hide(axis="columns")
    return str(cell.format(escape="latex").to_latex().splitlines()[1].removesuffix(r" \\"))


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


def _in_one_cell(text: str) -> str:
    """Return `text` as Markdown shows it within a table."""
    return " ".join(text.split()).replace("|", r"\|")
