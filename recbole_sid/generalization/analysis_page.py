"""An analysis as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_sid.evaluation.names import display_name, display_names
from recbole_sid.evaluation.tables import column_title
from recbole_sid.generalization.analysis import Analysis
from recbole_sid.generalization.labels import CLASSES
from recbole_sid.generalization.per_instance import METRICS
from recbole_sid.pages.charts import Chart, bars, chart, line, points
from recbole_sid.pages.page import CHARTS, write_page
from recbole_sid.pages.page_table import facts_of, table_of

_METRIC = METRICS[0]
_FROM_ZERO = {"rangemode": "tozero"}
_ABOUT = {
    "shares": "Instances by category. Memorization, generalization and uncategorized partition them; types overlap.",
    "categories": "Metrics of each model by category, with 95% intervals over users (normal approximation).",
    "predicted": "Categories of the ten items that each model predicts, each labelled in the target's place.",
    "tokens": "The longest memorized prefix of the target's semantic ID, as shares of the instances.",
    "support": "On memorized instances, by how often the target directly followed the last item in training.",
    "dilution": "On memorized instances, by how many item steps of training have the same first n codes on both sides.",
    "indicator": "Five equal parts of the instances by the indicator of memorization.",
}


def write_analysis_page(analysis: Analysis, path: str | Path, details: Mapping[str, Any]) -> Path:
    """Write the page; return its path.

    Args:
        analysis: its tables, of which those that are empty are left out.
        path: of the file.
        details: dataset, split, instances, hops.
    """
    models = list(dict.fromkeys(row["model"] for row in analysis.categories))
    names = display_names(models)
    charts = {**_category_charts(analysis, names), **_share_chart(analysis, names), **_bin_charts(analysis, names)}
    facts = {key: value for key, value in details.items() if not isinstance(value, list)}
    return write_page(
        path,
        "analysis",
        {"charts": charts},
        CHARTS,
        title=f"Memorization and generalization on {details['dataset']}",
        facts=facts_of(facts),
        charts=list(charts),
        tables=[
            (name, about, table_of(_with_names(getattr(analysis, name), names), names))
            for name, about in _ABOUT.items()
            if getattr(analysis, name)
        ],
        indicator_of=display_name(analysis.indicator_of) if analysis.indicator_of else "",
    )


def _with_names(rows: list[dict[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{**row, "model": names.get(row["model"], row["model"])} if "model" in row else row for row in rows]


def _category_charts(analysis: Analysis, names: Mapping[str, str]) -> dict[str, Chart]:
    """Return the metric of each model in each of the three categories, with its interval."""
    rows = [row for row in analysis.categories if row["category"] in CLASSES and row[_METRIC] is not None]
    series = []
    for number, (model, name) in enumerate(names.items()):
        own = [row for row in rows if row["model"] == model]
        half = [0.0 if row[f"{_METRIC}_high"] is None else row[f"{_METRIC}_high"] - row[_METRIC] for row in own]
        series.append(points(number, name, [row["category"] for row in own], [row[_METRIC] for row in own], half))
    title = f"{column_title(_METRIC)}, 95% interval"
    return {"categories": chart(series, "category", title, yaxis=_FROM_ZERO)} if series else {}


def _share_chart(analysis: Analysis, names: Mapping[str, str]) -> dict[str, Chart]:
    """Return how often each category is among targets and among predictions."""
    shares = [{"model": "targets", **row} for row in analysis.shares] + analysis.predicted
    of = ["targets", *(model for model in names if any(row["model"] == model for row in analysis.predicted))]
    series = []
    for number, category in enumerate(CLASSES):
        by_model = {row["model"]: 100 * row["share"] for row in shares if row["category"] == category}
        labels = [names.get(model, model) for model in of]
        series.append(bars(number, category, labels, [by_model.get(model, 0.0) for model in of]))
    return {"shares": chart(series, "", "% of targets, and of the ten items predicted")}


def _bin_charts(analysis: Analysis, names: Mapping[str, str]) -> dict[str, Chart]:
    """Return the metric over the bins of support, of the indicator and, for each length of prefix, of dilution."""
    lengths = sorted({row["n"] for row in analysis.dilution})
    parts = {
        "support": (analysis.support, "how often the target directly followed the last item"),
        "indicator": (analysis.indicator, "indicator of memorization, five equal parts"),
        **{
            f"dilution-{n}": (
                [row for row in analysis.dilution if row["n"] == n],
                f"steps alike in the first {n} codes",
            )
            for n in lengths
        },
    }
    found = {}
    for key, (rows, title) in parts.items():
        labels = [str(row["bin"]) for row in rows]
        series = [
            line(number, name, labels, [row[model] for row in rows])
            for number, (model, name) in enumerate(names.items())
            if rows and model in rows[0]
        ]
        if series:
            found[key] = chart(series, title, column_title(_METRIC), yaxis=_FROM_ZERO)
    return found
