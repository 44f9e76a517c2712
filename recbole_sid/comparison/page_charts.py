"""The charts of a comparison's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_sid.comparison.statistics import TEST_METRIC
from recbole_sid.comparison.summary import Summary
from recbole_sid.evaluation.runs import RunResult
from recbole_sid.evaluation.tables import column_title
from recbole_sid.pages.charts import Chart, bars, chart, curve, line, points

_BINS = {
    "history": "interactions before the target",
    "popularity": "how often the target occurs in the training part",
    "support": "how often the target directly followed the last item in the training part",
}


def speed_charts(summary: Summary, names: Mapping[str, str], metrics: Sequence[str]) -> dict[str, Chart]:
    """Return each metric against users per second (log scale), with the deviation over seeds."""
    found = {}
    for metric in metrics:
        series = [
            points(number, names[row["model"]], [row["users_per_s"]], [row[metric]], [row[f"{metric}_sd"]])
            for number, row in enumerate(summary.rows)
        ]
        found[f"speed-{metric}"] = chart(
            series,
            "users per second of full evaluation (log scale)",
            column_title(metric),
            xaxis={"type": "log", "dtick": "D2"},
        )
    return found


def difference_charts(summary: Summary, names: Mapping[str, str]) -> dict[str, Chart]:
    """Return the users' sorted differences to the baseline, and how many are better and worse off."""
    if not summary.differences:
        return {}
    baseline = names[summary.differences[0]["baseline"]]
    place = {row["model"]: number for number, row in enumerate(summary.rows)}
    share = np.linspace(0, 100, len(summary.differences[0]["quantiles"])).tolist()
    sorted_ = [curve(place[row["model"]], names[row["model"]], share, row["quantiles"]) for row in summary.differences]
    models = [names[row["model"]] for row in summary.differences]
    sides = [
        bars(number, f"{side} than {baseline}", models, [100 * row[side] for row in summary.differences])
        for number, side in enumerate(("better", "worse"))
    ]
    title = f"{column_title(TEST_METRIC)} minus that of {baseline}"
    return {
        "difference-users": chart(sorted_, "% of users, from the worst off to the best off", title),
        "difference-shares": chart(sides, "", "% of users", yaxis={"rangemode": "tozero"}),
    }


def breakdown_charts(summary: Summary, names: Mapping[str, str]) -> dict[str, Chart]:
    """Return NDCG@10 in the bins of each breakdown."""
    found = {}
    for by in dict.fromkeys(row["by"] for row in summary.breakdown):
        rows = [row for row in summary.breakdown if row["by"] == by]
        labels = [f"{row['bin']} (n={row['instances']:,})" for row in rows]
        series = [
            line(number, names[each["model"]], labels, [row[each["model"]] for row in rows])
            for number, each in enumerate(summary.rows)
        ]
        found[f"breakdown-{by}"] = chart(
            series,
            _BINS.get(by, by),
            column_title(TEST_METRIC),
            yaxis={"rangemode": "tozero"},
        )
    return found


def curve_charts(results: Sequence[RunResult]) -> dict[str, Chart]:
    """Return loss and validation over the epochs of each model's first run; stages follow each other."""
    losses, scores, metric = [], [], ""
    for number, (name, rows) in enumerate(first_curves(results).items()):
        epochs = list(range(1, len(rows) + 1))
        losses.append(line(number, name, epochs, [row["loss"] for row in rows]))
        wanted = TEST_METRIC if any(TEST_METRIC in row for row in rows) else _a_metric(rows)
        measured = [(epoch, row[wanted]) for epoch, row in zip(epochs, rows, strict=True) if wanted in row]
        if measured:
            metric = wanted
            scores.append(line(number, name, *map(list, zip(*measured, strict=True))))
    charts = {}
    if losses:
        charts["curve-loss"] = chart(losses, "epoch, over all stages", "loss of training", yaxis={"type": "log"})
    if scores:
        charts["curve-validation"] = chart(scores, "epoch, over all stages", f"{column_title(metric)} of validation")
    return charts


def first_curves(results: Sequence[RunResult]) -> dict[str, list[dict[str, Any]]]:
    """Return entry -> the curve of its first seed, of those that have one."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result.get("curve"):
            found.setdefault(result["name"], result["curve"])
    return found


def _a_metric(rows: Sequence[Mapping[str, Any]]) -> str:
    return next((key for row in rows for key in row if key not in ("stage", "epoch", "loss")), "")
