"""An analysis as Markdown, CSV, JSON and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_sid.evaluation.figures import write_png
from recbole_sid.evaluation.tables import column_title, markdown_table
from recbole_sid.generalization.analysis import Analysis, Labelled
from recbole_sid.generalization.labels import CLASSES
from recbole_sid.generalization.per_instance import METRICS
from recbole_sid.util.files import replacing, write_json, write_text

_COLOURS = ("#4c72b0", "#dd8452", "#9a9a9a")
TABLES = ("shares", "categories", "predicted", "tokens", "support", "dilution", "indicator")


def write_analysis(
    analysis: Analysis, labelled: Labelled, folder: str | Path, details: Mapping[str, Any]
) -> list[Path]:
    """Write ``analysis.md`` and ``.json``, each table as CSV, ``labels.parquet`` (one row an instance) and, if there
    are runs, ``analysis.png`` into `folder`; return the paths.
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
    if analysis.categories:
        written.append(folder / "analysis.png")
        figure(analysis, written[-1])
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
        parts += [
            f"Five equal parts of the instances by the indicator of {analysis.indicator_of}: share of memorization, "
            f"{METRICS[0].upper()}.",
            markdown_table(_in_percent(analysis.indicator, ["memorization"])),
        ]
    return "\n\n".join(parts) + "\n"


def figure(analysis: Analysis, path: str | Path) -> None:
    """Draw the shares of the categories among targets and predictions, the metric by category, and the indicator's
    bins, and write a PNG to `path`.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = 3 if analysis.indicator else 2
    drawing = Figure(figsize=(4.6 * panels, 4.6), layout="constrained")
    axes = drawing.subplots(1, panels)
    _draw_shares(axes[0], analysis)
    _draw_categories(axes[1], analysis)
    if analysis.indicator:
        _draw_indicator(axes[2], analysis)
    models = dict.fromkeys(row["model"] for row in analysis.categories)
    handles = [Patch(color=_colour(number), label=model) for number, model in enumerate(models)]
    drawing.legend(handles=handles, loc="outside lower right", ncols=5, fontsize=8)
    write_png(drawing, path)


def _draw_shares(axes: Any, analysis: Analysis) -> None:
    columns = {"targets": {row["category"]: row["share"] for row in analysis.shares}}
    for row in analysis.predicted:
        columns.setdefault(row["model"], {})[row["category"]] = row["share"]
    below = [0.0] * len(columns)
    for name, colour in zip(CLASSES, _COLOURS, strict=True):
        heights = [100 * column[name] for column in columns.values()]
        axes.bar(range(len(columns)), heights, bottom=below, label=name, color=colour)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.set_ylabel("% of targets, and of the ten items predicted")
    axes.set_xticks(range(len(columns)), list(columns), rotation=90)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1)


def _draw_categories(axes: Any, analysis: Analysis) -> None:
    models = list(dict.fromkeys(row["model"] for row in analysis.categories))
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        rows = [row for row in analysis.categories if row["model"] == model and row["category"] in CLASSES]
        there = [(place, row) for place, row in enumerate(rows) if row[METRICS[0]] is not None]
        places = [place + (number - (len(models) - 1) / 2) * width for place, _ in there]
        heights = [row[METRICS[0]] for _, row in there]
        errors = [row[METRICS[0]] - row[f"{METRICS[0]}_low"] if row["count"] > 1 else 0.0 for _, row in there]
        axes.bar(places, heights, width, yerr=errors, color=_colour(number), error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_xlim(-0.5, len(CLASSES) - 0.5)
    axes.set_yscale("log")  # memorized instances are ten times easier and more
    axes.set_ylim(bottom=1e-3)
    axes.set_ylabel(f"{METRICS[0].upper()}, 95% interval")


def _draw_indicator(axes: Any, analysis: Analysis) -> None:
    places = range(len(analysis.indicator))
    shares = axes.twinx()
    shares.bar(places, [100 * row["memorization"] for row in analysis.indicator], color="#dddddd", zorder=0)
    shares.set_ylabel("memorization, % of the bin (bars)")
    axes.set_zorder(1)
    axes.patch.set_visible(False)
    models = [key for key in analysis.indicator[0] if key not in ("bin", "count", "memorization")]
    for number, model in enumerate(models):
        axes.plot(places, [row[model] for row in analysis.indicator], marker="o", color=_colour(number))
    axes.set_xticks(places, [row["bin"] for row in analysis.indicator], fontsize=7)
    axes.set_xlabel(f"indicator of {analysis.indicator_of}")
    axes.set_ylabel(METRICS[0].upper())
    axes.set_ylim(bottom=0)


def _colour(number: int) -> Any:
    """Return the colour of a model, the same in all panels."""
    from matplotlib import colormaps

    return colormaps["tab20"](number % 20)


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
