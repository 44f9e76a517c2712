r"""A comparison's table for a paper: ``\input`` it; it needs the package booktabs alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from recbole_sid.comparison.statistics import TEST_METRIC
from recbole_sid.comparison.summary import Summary
from recbole_sid.errors import require_known
from recbole_sid.evaluation.names import display_names
from recbole_sid.evaluation.tables import column_title, format_value, latex_table, latex_text

SIGNIFICANT = 0.05
# Columns beside metrics: how they are asked for, and what they are called in rows.
_OTHERS = {
    "speed": "users_per_s",
    "size": "parameters",
    "share": "share_of_teacher",
    "training": "train_s",
    "memory": "peak_memory_mb",
    "seeds": "seeds",
}
METRICS = "metrics"  # stands for all of them
_BETTER, _WORSE = r"$^{\uparrow}$", r"$^{\downarrow}$"


def check_columns(columns: Sequence[str], metrics: Collection[str]) -> None:
    """Raise InputError if a column of `latex` is neither a metric nor another that there is."""
    for column in columns:
        require_known("column", column, [METRICS, *metrics, *_OTHERS])


def latex(summary: Summary, dataset: str = "", columns: Sequence[str] = (METRICS,)) -> str:
    """Return a table in LaTeX with caption, label and a note that says what its marks mean.

    The best of each metric is bold and the second underlined; arrows mark where NDCG@10 is better or worse than the
    baseline's (t-test, Holm, p < .05). Rows stand in the plan's order.

    Args:
        summary: of the comparison.
        dataset: its name, for caption and label.
        columns: metrics, and speed, size, share, training, memory, seeds; ``metrics`` stands for all metrics.
    """
    metrics = metrics_of(summary.rows)
    keys = [key for column in columns for key in (metrics if column == METRICS else [_OTHERS.get(column, column)])]
    marks = {row["model"]: _mark(row) for row in summary.tests}
    names = display_names(row["model"] for row in summary.rows)
    ranks = {metric: _first_and_second(summary.rows, metric) for metric in metrics}
    rows = []
    for row in summary.rows:
        cells = {key: _emphasised(row, key, ranks[key]) if key in ranks else _plain(key, row) for key in keys}
        if TEST_METRIC in cells:  # which need not be among the columns
            cells[TEST_METRIC] += marks.get(row["model"], "")
        rows.append({"model": names[row["model"]], **cells})
    label = re.sub(r"[^A-Za-z0-9]+", "-", dataset).strip("-") or "comparison"
    caption = f"Comparison on {latex_text(dataset)}." if dataset else "Comparison."
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        latex_table(rows).rstrip(),
        "",
        rf"\smallskip\parbox{{\linewidth}}{{\footnotesize {_note(summary, keys, names)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the metrics of rows."""
    return [key for key in rows[0] if "@" in key and not key.endswith("_sd")]


def with_deviation(row: Mapping[str, Any], metric: str) -> str:
    """Return a mean and its standard deviation over seeds, if there is one."""
    deviation = row[f"{metric}_sd"]
    return format_value(metric, row[metric]) + (f" ± {deviation:.4f}" if deviation is not None else "")


def is_significant(row: Mapping[str, Any]) -> bool:
    """Say whether a row of tests differs from the baseline."""
    return row["t_test_holm"] < SIGNIFICANT


def _mark(row: Mapping[str, Any]) -> str:
    if not is_significant(row):
        return ""
    return _BETTER if row["difference"] > 0 else _WORSE


def _note(summary: Summary, keys: Sequence[str], names: Mapping[str, str]) -> str:
    shown = [key for key in keys if key in metrics_of(summary.rows)]
    seeds = sorted({row["seeds"] for row in summary.rows})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    parts = [f"Means and standard deviations over {over} seeds." if seeds[-1] > 1 else "One seed."]
    if shown:
        parts.append("Bold: the best; underlined: the second.")
    if TEST_METRIC in keys and summary.tests:
        baseline = str(summary.tests[0]["baseline"])
        parts.append(
            rf"{_BETTER}/{_WORSE}: {column_title(TEST_METRIC)} better/worse than that of "
            rf"{latex_text(names.get(baseline, baseline))} (two-sided paired $t$-test over users, each the mean "
            r"of the seeds; Holm, $p < .05$)."
        )
    if "users_per_s" in keys:
        parts.append("Users/s: whole evaluation, ranking and metrics.")
    return " ".join(parts)


def _plain(key: str, row: Mapping[str, Any]) -> str:
    return format_value(key, row.get(key)) or "--"


def _first_and_second(rows: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return sorted({round(row[metric], 4) for row in rows}, reverse=True)[:2]


def _emphasised(row: Mapping[str, Any], metric: str, best: Sequence[float]) -> str:
    value, text = round(row[metric], 4), with_deviation(row, metric).replace("±", r"$\pm$")
    if value == best[0]:
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if value == best[-1] and len(best) > 1 else text
