"""A comparison as Markdown, LaTeX, CSV, JSON and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_sid.comparison.summary import TEST_METRIC, Summary
from recbole_sid.evaluation.figures import accuracy_speed_figure
from recbole_sid.evaluation.tables import format_value, latex_table, markdown_table
from recbole_sid.util.files import replacing, write_json, write_text

_SIGNIFICANT = 0.05
_TEST_COLUMNS = ("model", "difference", "ci_low", "ci_high", "t_test", "t_test_holm", "wilcoxon", "wilcoxon_holm")


def write_comparison(summary: Summary, folder: str | Path, details: dict[str, Any]) -> list[Path]:
    """Write ``comparison.md``, ``.tex``, ``.csv``, ``.json`` and ``.png`` into `folder`; return the paths.

    Args:
        summary: what was found.
        folder: made if need be.
        details: beside the rows in the JSON file.
    """
    paths = {ending: Path(folder) / f"comparison.{ending}" for ending in ("md", "tex", "csv", "json", "png")}
    write_text(paths["md"], markdown(summary))
    write_text(paths["tex"], latex(summary))
    with replacing(paths["csv"]) as temporary:
        pd.DataFrame(summary.rows).to_csv(temporary, index=False)
    write_json(paths["json"], {**details, **summary._asdict()})
    metrics = _metrics(summary)
    accuracy_speed_figure(summary.rows, paths["png"], TEST_METRIC if TEST_METRIC in metrics else metrics[0])
    return list(paths.values())


def markdown(summary: Summary) -> str:
    """Return the tables of a comparison as Markdown."""
    parts = [markdown_table(_with_deviations(summary.rows))]
    if summary.tests:
        parts += [
            f"NDCG@10 against {summary.tests[0]['baseline']}: paired over users (each user's mean over seeds), "
            "two-sided; "
            "`holm` is adjusted over the models; the interval is the bootstrap's 95%.",
            markdown_table([{**{key: row[key] for key in _TEST_COLUMNS}, **_as_p(row)} for row in summary.tests]),
        ]
    if summary.breakdown:
        parts += [
            "NDCG@10 in bins: history is its length, popularity how often the target occurs in the training part."
        ]
        parts += [markdown_table(summary.breakdown)]
    if summary.failures:
        parts += ["Failed:", "\n".join(f"- {failure}" for failure in summary.failures)]
    return "\n\n".join(parts) + "\n"


def latex(summary: Summary) -> str:
    """Return the accuracy table in LaTeX (packages booktabs): best bold, second underlined, an asterisk where NDCG@10
    differs from the baseline's (t-test, Holm, p < .05).
    """
    metrics = _metrics(summary)
    marked = {row["model"] for row in summary.tests if row["t_test_holm"] < _SIGNIFICANT}
    ranks = {metric: _first_and_second(summary.rows, metric) for metric in metrics}
    rows = []
    for row in summary.rows:
        cells = {metric: _emphasised(row, metric, ranks[metric]) for metric in metrics}
        if row["model"] in marked and TEST_METRIC in cells:  # which need not be among the metrics
            cells[TEST_METRIC] += "$^{*}$"
        rows.append({"model": row["model"], **cells})
    return latex_table(rows)


def _metrics(summary: Summary) -> list[str]:
    return [key for key in summary.rows[0] if "@" in key and not key.endswith("_sd")]


def _with_deviations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `rows` with each metric and its deviation as one text."""
    shown = []
    for row in rows:
        texts = {key: _with_deviation(row, key) for key in row if "@" in key and not key.endswith("_sd")}
        shown.append({**{key: value for key, value in row.items() if not key.endswith("_sd")}, **texts})
    return shown


def _with_deviation(row: dict[str, Any], metric: str) -> str:
    deviation = row[f"{metric}_sd"]
    return format_value(metric, row[metric]) + (f" ± {deviation:.4f}" if deviation is not None else "")


def _as_p(row: dict[str, Any]) -> dict[str, str]:
    return {key: f"{row[key]:.2g}" for key in _TEST_COLUMNS if key.startswith(("t_test", "wilcoxon"))}


def _first_and_second(rows: Sequence[dict[str, Any]], metric: str) -> list[float]:
    return sorted({round(row[metric], 4) for row in rows}, reverse=True)[:2]


def _emphasised(row: dict[str, Any], metric: str, best: Sequence[float]) -> str:
    value, text = round(row[metric], 4), _with_deviation(row, metric).replace("±", r"$\pm$")
    if value == best[0]:
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if value == best[-1] and len(best) > 1 else text
