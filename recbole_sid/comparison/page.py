"""A comparison as one HTML page that one can send."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_sid.comparison.latex import is_significant, metrics_of, with_deviation
from recbole_sid.comparison.machines import machines_of
from recbole_sid.comparison.page_charts import breakdown_charts, curve_charts, difference_charts, speed_charts
from recbole_sid.comparison.statistics import TEST_METRIC
from recbole_sid.comparison.summary import Summary
from recbole_sid.evaluation.names import display_names
from recbole_sid.evaluation.runs import RunResult
from recbole_sid.evaluation.tables import column_title, format_value
from recbole_sid.pages.page import CHARTS, write_page
from recbole_sid.pages.page_table import Cell, PageTable, cell, facts_of, table_of
from recbole_sid.settings.known import flagged

_OTHERS = ("share_of_teacher", "users_per_s", "parameters", "train_s", "peak_memory_mb", "seeds")


def write_comparison_page(
    summary: Summary, results: Sequence[RunResult], path: str | Path, details: Mapping[str, Any]
) -> Path:
    """Write the page; return its path.

    Args:
        summary: of the comparison.
        results: of its runs.
        path: of the file.
        details: the dataset's name, seeds and, where there is one, the command.
    """
    metrics = metrics_of(summary.rows)
    names = display_names(row["model"] for row in summary.rows)
    groups = {
        "speed": speed_charts(summary, names, _drawn(metrics)),
        "difference": difference_charts(summary, names),
        "breakdown": breakdown_charts(summary, names),
        "curve": curve_charts(results),
    }
    return write_page(
        path,
        "comparison",
        {"charts": {name: drawn for group in groups.values() for name, drawn in group.items()}},
        CHARTS,
        title=f"Comparison on {details['dataset']}",
        command=details.get("command", ""),
        summary_text=_headline(summary, details),
        results=_results(summary, names, metrics),
        tests=_tests(summary, names),
        baseline=names.get(summary.tests[0]["baseline"], "") if summary.tests else "",
        metric=column_title(TEST_METRIC),
        groups={group: list(charts) for group, charts in groups.items()},
        breakdown=table_of(summary.breakdown, names),
        qualities=_qualities(results),
        failures=summary.failures,
        sizes=facts_of(summary.data),
        machines=_machines(results),
        settings=_settings(results),
        runs=_runs(results),
    )


def _drawn(metrics: Sequence[str]) -> list[str]:
    """Return those that are drawn: the one that is tested first, then others of its cut-off; else the first two."""
    cut_off = TEST_METRIC.partition("@")[2]
    found = sorted((name for name in metrics if name.endswith(f"@{cut_off}")), key=lambda name: name != TEST_METRIC)
    return found or list(metrics[:2])


def _headline(summary: Summary, details: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, details["seeds"]))
    users = summary.data.get("test_users")
    over = f"; {users:,} users of the test part" if users else ""
    of = "seeds" if len(details["seeds"]) > 1 else "seed"
    return f"{len(summary.rows)} rows; {of} {seeds}{over}; the whole catalogue is ranked."


def _results(summary: Summary, names: Mapping[str, str], metrics: Sequence[str]) -> PageTable:
    tests = {row["model"]: row for row in summary.tests}
    best = {metric: sorted({round(row[metric], 4) for row in summary.rows}, reverse=True)[:2] for metric in metrics}
    shown = [key for key in _OTHERS if any(row.get(key) is not None for row in summary.rows)]
    heads = ["Model", *map(column_title, metrics), *([f"{column_title(TEST_METRIC)} vs baseline"] if tests else [])]
    rows = []
    for row in summary.rows:
        cells = [Cell(names[row["model"]], names[row["model"]], note=row["model"])]
        for metric in metrics:
            place = best[metric].index(round(row[metric], 4)) if round(row[metric], 4) in best[metric] else 2
            cells.append(Cell(with_deviation(row, metric), row[metric], ("best", "second", "")[place]))
        if tests:
            cells.append(_difference(tests.get(row["model"])))
        rows.append([*cells, *(cell(key, row.get(key)) for key in shown)])
    return PageTable([*heads, *map(column_title, shown)], rows)


def _difference(test: Mapping[str, Any] | None) -> Cell:
    """Return the difference to the baseline with its interval, marked if it is one that the test tells from none."""
    if test is None:
        return Cell("")
    text = f"{test['difference']:+.4f} [{test['ci_low']:+.4f}, {test['ci_high']:+.4f}]"
    mark = ("better" if test["difference"] > 0 else "worse") if is_significant(test) else ""
    return Cell(text, test["difference"], mark, f"p = {test['t_test_holm']:.2g} (paired t-test, Holm)")


def _tests(summary: Summary, names: Mapping[str, str]) -> PageTable:
    keys = ("t_test", "t_test_holm", "wilcoxon", "wilcoxon_holm")
    rows = []
    for row, users in zip(summary.tests, summary.differences, strict=False):
        name = names[row["model"]]
        p_values = [Cell(f"{row[key]:.2g}", row[key]) for key in keys]
        shares = [Cell(f"{100 * users[side]:.1f}%", users[side]) for side in ("better", "worse")]
        rows.append([Cell(name, name), _difference(row), *p_values, *shares])
    heads = ["Model", "Difference, 95% interval", *map(column_title, keys), "Users better off", "worse off"]
    return PageTable(heads, rows)


def _qualities(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return the quality of each of the semantic IDs that models were trained with."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        quality = result.get("semantic_ids")
        if quality:
            known = found.setdefault(quality["fingerprint"], {"quality": quality, "models": []})
            known["models"].append(f"{result['name']} (seed {result['seed']})")
    return [
        {
            "fingerprint": fingerprint,
            "models": ", ".join(known["models"]),
            "table": table_of(known["quality"]["rows"]),
            "facts": facts_of({key: value for key, value in known["quality"].items() if not isinstance(value, list)}),
            "warnings": known["quality"]["warnings"],
        }
        for fingerprint, known in found.items()
    ]


def _machines(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return the facts of each machine, with the runs that were made there."""
    return [
        {
            "facts": facts_of({key: value for key, value in machine.items() if key != "runs"}),
            "runs": ", ".join(machine["runs"]),
        }
        for machine in machines_of(results)
    ]


def _settings(results: Sequence[RunResult]) -> list[tuple[str, str]]:
    """Return for each entry the settings of its first run, as YAML-like lines, without where it ran."""
    places, files = set(flagged("volatile")), set(flagged("file"))

    def shown(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):  # as teacher_config
            return {inner: shown(inner, each) for inner, each in value.items() if inner not in places}
        return Path(value).name if key in files and isinstance(value, str) else value

    found: dict[str, str] = {}
    for result in results:
        settings = shown("", result["settings"])
        lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(settings.items())]
        found.setdefault(result["name"], "\n".join(lines))
    return list(found.items())


def _runs(results: Sequence[RunResult]) -> PageTable:
    """Return a row for each training."""
    rows = []
    for result in results:
        ndcg = next(iter(result["evaluations"].values()))["metrics"].get(TEST_METRIC)
        cells = [Cell(result["name"], result["name"]), cell("seed", result["seed"]), cell(TEST_METRIC, ndcg)]
        cells += [
            cell("train_s", result["train_s"]),
            Cell(format_value("epochs", len(result.get("curve") or [])) or ""),
        ]
        rows.append([*cells, Cell(result["fingerprint"], result["fingerprint"]), Cell(result["data"], result["data"])])
    return PageTable(["Model", "Seed", column_title(TEST_METRIC), "Training s", "Epochs", "Run", "Data"], rows)
