"""An analysis as Markdown, CSV, JSON and a page, with its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_sid.evaluation.tables import column_title, markdown_table
from recbole_sid.generalization.analysis import Analysis, Labelled
from recbole_sid.generalization.analysis_figure import figure
from recbole_sid.generalization.analysis_page import write_analysis_page
from recbole_sid.generalization.labels import CLASSES
from recbole_sid.generalization.per_instance import METRICS
from recbole_sid.util.files import replacing, write_json, write_text

TABLES = ("shares", "categories", "predicted", "tokens", "support", "dilution", "indicator")


def write_analysis(
    analysis: Analysis, labelled: Labelled, folder: str | Path, details: Mapping[str, Any]
) -> list[Path]:
    """Write ``analysis.md``, ``.json`` and ``.html`` (one page that needs no network), each table as CSV,
    ``labels.parquet`` (one row an instance) and, if there are runs, the picture ``analysis`` as PNG, PDF and SVG into
    `folder`; return the paths.
    """
    folder = Path(folder)
    written = [folder / "analysis.md", folder / "analysis.json", folder / "labels.parquet"]
    write_text(written[0], markdown(analysis))
    write_json(written[1], {**details, **analysis._asdict()})
    with replacing(written[2]) as temporary:
        labelled.frame.to_parquet(temporary, index=False)
    for name in TABLES:
        rows = getattr(analysis, name)
        if rows:
            written.append(folder / f"{name}.csv")
            with replacing(written[-1]) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
    written.append(write_analysis_page(analysis, folder / "analysis.html", details))
    if analysis.categories:
        written += figure(analysis, folder / "analysis.png")
    return written


def markdown(analysis: Analysis) -> str:
    """Return all tables that are not empty as Markdown, each under a line that says what it shows."""
    parts = [
        "Instances by category. Memorization, generalization and uncategorized partition them; types overlap.",
        markdown_table(_in_percent(analysis.shares, ["share"])),
    ]
    if analysis.categories:
        for metric in METRICS:
            parts += [
                f"{column_title(metric)} by category: mean and half of its 95% interval (normal approximation).",
                markdown_table(_wide(analysis.categories, metric)),
            ]
    if analysis.predicted:
        parts += [
            "Share (%) of each category among the ten items predicted, each labelled in the target's place.",
            markdown_table(_predicted(analysis)),
        ]
    if analysis.tokens:
        columns = [key for key in analysis.tokens[0] if key not in ("category", "count")]
        parts += [
            "Longest prefix of the target's semantic ID that is memorized, % of each category's instances.",
            markdown_table(_in_percent(analysis.tokens, columns)),
        ]
    if analysis.support:
        parts += [
            f"Support: {METRICS[0].upper()} on memorized instances by how often the target directly followed the last "
            "item in training.",
            markdown_table(analysis.support),
        ]
    if analysis.dilution:
        parts += [
            f"Dilution: {METRICS[0].upper()} on memorized instances by how many different item steps of training have "
            "the same first n codes on both sides.",
            markdown_table(analysis.dilution),
        ]
    if analysis.indicator:
        parts += _indicator(analysis)
    return "\n\n".join(parts) + "\n"


def summary(analysis: Analysis) -> str:
    """Return the three tables that matter, as Markdown: how models do on the categories, what they predict, and the
    indicator; without models the shares of the categories.
    """
    if not analysis.categories:
        return markdown(analysis)
    main = [row for row in analysis.categories if row["category"] in CLASSES]
    parts = [
        f"{column_title(METRICS[0])} by category: mean and half of its 95% interval.",
        markdown_table(_wide(main, METRICS[0])),
        "% of each category among the targets and the ten items predicted.",
        markdown_table([row for row in _predicted(analysis) if row["category"] in CLASSES]),
    ]
    if analysis.indicator:
        parts += _indicator(analysis)
    return "\n\n".join(parts) + "\n"


def _indicator(analysis: Analysis) -> list[str]:
    return [
        f"Five equal parts of the instances by the indicator of {analysis.indicator_of}: share of memorization, "
        f"{METRICS[0].upper()}.",
        markdown_table(_in_percent(analysis.indicator, ["memorization"])),
    ]


def _wide(rows: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Return a row a category with a column a model, ``mean ± half width``."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        wide = found.setdefault(row["category"], {"category": row["category"], "count": row["count"]})
        wide[row["model"]] = "" if row[metric] is None else f"{row[metric]:.4f}{_half_width(row, metric)}"
    return list(found.values())


def _half_width(row: Mapping[str, Any], metric: str) -> str:
    return "" if row[f"{metric}_high"] is None else f" ± {row[f'{metric}_high'] - row[metric]:.4f}"


def _predicted(analysis: Analysis) -> list[dict[str, Any]]:
    found = {
        row["category"]: {"category": row["category"], "targets": f"{100 * row['share']:.1f}"}
        for row in analysis.shares
    }
    for row in analysis.predicted:
        found[row["category"]][row["model"]] = f"{100 * row['share']:.1f}"
    return list(found.values())


def _in_percent(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    return [{**row, **{column: f"{100 * row[column]:.1f}%" for column in columns}} for row in rows]
