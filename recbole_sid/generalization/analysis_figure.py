"""The picture of an analysis: what targets and predictions are, how models do on each, and the indicator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_sid.evaluation.names import display_name, display_names
from recbole_sid.evaluation.style import GREY, PAGE, legend_below, new_figure, point, styled, write_figure
from recbole_sid.evaluation.tables import column_title
from recbole_sid.generalization.analysis import Analysis
from recbole_sid.generalization.labels import CLASSES
from recbole_sid.generalization.per_instance import METRICS

# Of the categories; dark to light, so that they differ in print too.
_FILLS = ("#0072b2", "#e69f00", "#dddddd")
_ROW = 0.17  # inches


@styled
def figure(analysis: Analysis, path: str | Path) -> list[Path]:
    """Draw the shares of the categories among targets and predictions, the metric of each category and the indicator's
    parts, and write the files with the stem of `path`; return them.

    Models stand one below the other, as many as there are, and categories on which none scored have no panel.
    """
    models = list(dict.fromkeys(row["model"] for row in analysis.categories))
    names = display_names(models)
    scored = [
        name for name in CLASSES if any(row[METRICS[0]] for row in analysis.categories if row["category"] == name)
    ]
    above = 1.0 + _ROW * (len(models) + 1)
    below = (2.4 + 0.14 * -(-len(models) // 4)) if analysis.indicator else 0.0
    drawing = new_figure(PAGE, above + below)
    grid = drawing.add_gridspec(1 + bool(below), 1, height_ratios=[above, below] if below else [above])
    top = grid[0].subgridspec(1, 1 + len(scored), width_ratios=[1.5, *[1.0] * len(scored)])
    shares = drawing.add_subplot(top[0])
    _draw_shares(shares, analysis, ["targets", *models])
    shares.set_yticks(range(len(models) + 1), ["targets", *(names[model] for model in models)])
    shares.invert_yaxis()
    drawing.legend(
        *shares.get_legend_handles_labels(), loc="outside upper left", ncols=3, columnspacing=1, handlelength=1
    )
    for number, name in enumerate(scored, start=1):
        axes = drawing.add_subplot(top[number], sharey=shares)
        axes.tick_params(labelleft=False, left=False)
        _draw_category(axes, analysis, name, models)
        if number == (len(scored) + 1) // 2:  # once: beside each other there is no room for each
            axes.set_xlabel(f"{column_title(METRICS[0])}, 95% intervals")
    if analysis.indicator:
        _draw_indicator(drawing, grid[1], analysis, models, names)
    return write_figure(drawing, path)


def _draw_shares(axes: Any, analysis: Analysis, rows: Sequence[str]) -> None:
    shares = {"targets": {row["category"]: row["share"] for row in analysis.shares}}
    for row in analysis.predicted:
        shares.setdefault(row["model"], {})[row["category"]] = row["share"]
    there = [place for place, row in enumerate(rows) if row in shares]
    left = [0.0] * len(there)
    for name, fill in zip(CLASSES, _FILLS, strict=True):
        widths = [100 * shares[rows[place]].get(name, 0.0) for place in there]
        axes.barh(there, widths, 0.75, left=left, label=name if any(widths) else None, color=fill)
        left = [low + width for low, width in zip(left, widths, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of targets, of ten items predicted")


def _draw_category(axes: Any, analysis: Analysis, name: str, models: Sequence[str]) -> None:
    """Draw the mean of each model on one category with its 95% interval, from zero."""
    metric = METRICS[0]
    found = {row["model"]: row for row in analysis.categories if row["category"] == name}
    for number, model in enumerate(models):
        row = found.get(model)
        if row is None or row[metric] is None:
            continue
        half = 0.0 if row[f"{metric}_low"] is None else row[metric] - row[f"{metric}_low"]
        axes.errorbar(row[metric], number + 1, xerr=half, elinewidth=0.8, **point(number))
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=3)
    axes.grid(axis="x")
    axes.set_title(name)


def _draw_indicator(drawing: Any, place: Any, analysis: Analysis, models: Sequence[str], names: dict[str, str]) -> None:
    """Draw each model's metric and the share of memorization over the parts of the indicator, one beside the other."""
    left, right = place.subgridspec(1, 2, width_ratios=[2, 1])
    lines, bars = drawing.add_subplot(left), drawing.add_subplot(right)
    places = range(len(analysis.indicator))
    for number, model in enumerate(models):
        if model in analysis.indicator[0]:
            values = [row[model] for row in analysis.indicator]
            lines.plot(places, values, label=names[model], alpha=0.9, **point(number))
    lines.set_ylim(bottom=0)
    lines.set_ylabel(column_title(METRICS[0]))
    bars.bar(places, [100 * row["memorization"] for row in analysis.indicator], 0.7, color=GREY)
    bars.set_ylabel("memorization, % of the part")
    model, _, seed = (analysis.indicator_of or "").partition(" (")
    for axes in (lines, bars):
        axes.grid(axis="y")
    lines.set_xlabel(f"indicator of {display_name(model)}{f' ({seed}' if seed else ''}, five equal parts")
    lines.set_xticks(places, [row["bin"].replace("-", "\nto ", 1) for row in analysis.indicator])
    bars.set_xticks(places, [f"{place + 1}" for place in places])
    bars.set_xlabel("part, lowest first")
    legend_below(drawing, lines, 4)
