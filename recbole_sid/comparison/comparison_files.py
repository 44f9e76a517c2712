"""A comparison as Markdown, LaTeX, CSV, JSON and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_sid.comparison.latex import METRICS, latex, metrics_of, with_deviation
from recbole_sid.comparison.page import write_comparison_page
from recbole_sid.comparison.statistics import TEST_METRIC
from recbole_sid.comparison.summary import Summary
from recbole_sid.evaluation.figures import accuracy_speed_figure
from recbole_sid.evaluation.runs import RunResult
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.util.files import replacing, write_json, write_text

_TEST_COLUMNS = ("model", "difference", "ci_low", "ci_high", "t_test", "t_test_holm", "wilcoxon", "wilcoxon_holm")


def write_comparison(
    summary: Summary,
    folder: str | Path,
    details: dict[str, Any],
    columns: Sequence[str] = (METRICS,),
    results: Sequence[RunResult] = (),
) -> list[Path]:
    """Write ``comparison.md``, ``.html`` (one page that needs no network), ``.tex``, ``.csv``, ``.json`` and the
    picture as ``.png``, ``.pdf`` and ``.svg``.

    Args:
        summary: what was found.
        folder: made if need be.
        details: beside the rows in the JSON file; the dataset's name and the seeds among them.
        results: of the runs, for the page.
        columns: of the LaTeX table, as `latex` has them.
    """
    paths = {ending: Path(folder) / f"comparison.{ending}" for ending in ("md", "tex", "csv", "json")}
    write_text(paths["md"], markdown(summary))
    write_text(paths["tex"], latex(summary, details.get("dataset", ""), columns))
    with replacing(paths["csv"]) as temporary:
        pd.DataFrame(summary.rows).to_csv(temporary, index=False)
    write_json(paths["json"], {**details, **summary._asdict()})
    metrics = metrics_of(summary.rows)
    shown = TEST_METRIC if TEST_METRIC in metrics else metrics[0]
    page = write_comparison_page(summary, results, Path(folder) / "comparison.html", details)
    return [*paths.values(), page, *accuracy_speed_figure(summary.rows, Path(folder) / "comparison.png", shown)]


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
            "NDCG@10 in bins: history is its length, popularity how often the target occurs in the training part, "
            "support how often it directly followed the last item there (never: nothing to memorize)."
        ]
        parts += [markdown_table(summary.breakdown)]
    if summary.failures:
        parts += ["Failed:", "\n".join(f"- {failure}" for failure in summary.failures)]
    return "\n\n".join(parts) + "\n"


def _with_deviations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `rows` with each metric and its deviation as one text."""
    shown = []
    for row in rows:
        texts = {key: with_deviation(row, key) for key in row if "@" in key and not key.endswith("_sd")}
        shown.append({**{key: value for key, value in row.items() if not key.endswith("_sd")}, **texts})
    return shown


def _as_p(row: dict[str, Any]) -> dict[str, str]:
    return {key: f"{row[key]:.2g}" for key in _TEST_COLUMNS if key.startswith(("t_test", "wilcoxon"))}
