"""What a search leaves in its folder: tables, curves, the winner as a property file, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recbole_sid.evaluation.style import COLOURS, PAGE, new_figure, styled, write_figure
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.settings.known import flagged
from recbole_sid.tuning.findings import Findings
from recbole_sid.tuning.trial import SCORE, SearchPlan
from recbole_sid.util.files import replacing, write_text

_SHOWN = 10  # trials in the printed table
_BEST, _OTHER = COLOURS[1], COLOURS[0]


def best_settings(plan: SearchPlan, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial as a property file holds them: what is computed, not where and how."""
    settings = {key: value for key, value in plan.settings_of(sample).items() if key not in flagged("volatile")}
    cache = plan.settings.get("distill_cache")  # in half precision, so it changes the last digits
    return {
        "model": plan.model, "dataset": plan.dataset, **settings, **({"distill_cache": cache} if cache else {})
    }  # fmt: skip


def write_search(plan: SearchPlan, findings: Findings, metric: str) -> list[Path]:
    """Write trials.csv, trials.parquet, curves.csv, best.yaml, table.md and the picture tune; return their paths."""
    folder = Path(plan.folder)
    best = findings.best
    flat = findings.trials.apply(lambda column: column.map(_flat))
    with replacing(folder / "trials.csv") as temporary:
        flat.to_csv(temporary, index=False)
    with replacing(folder / "trials.parquet") as temporary:
        _columns_of_one_type(flat).to_parquet(temporary, index=False)
    with replacing(folder / "curves.csv") as temporary:
        findings.curves.to_csv(temporary, index=False)
    head = (
        f"# The best of {len(findings.trials)} trials: {metric} {best['score']:.6f} on validation ({best['trial']}).\n"
    )
    settings = best_settings(plan, findings.samples[best["trial"]])
    write_text(folder / "best.yaml", head + yaml.safe_dump(settings, sort_keys=False))
    write_text(folder / "table.md", table(plan, findings, metric, len(findings.trials)) + "\n")
    drawn = figure(plan, findings, metric, folder / "tune.png")
    names = ("best.yaml", "table.md", "trials.csv", "trials.parquet", "curves.csv")
    return [*(folder / name for name in names), *drawn]


def table(plan: SearchPlan, findings: Findings, metric: str, shown: int = _SHOWN) -> str:
    """Return the best trials as a Markdown table."""
    keys = [parameter.key for parameter in plan.space.parameters]
    rows = []
    for row in findings.trials.head(shown).to_dict("records"):
        status = f"{row['status']}, restarted" if row["restarts"] else row["status"]
        rows.append(
            {
                "trial": row["trial"],
                "status": status,
                "epochs": row["epochs"],
                f"validation {metric}": _none_if_missing(row["score"]),
                **{key: _shown(row[key]) for key in keys},
            }
        )
    return markdown_table(rows)


@styled
def figure(plan: SearchPlan, findings: Findings, metric: str, path: Path) -> list[Path]:
    """Draw the score over the epochs of every trial, and against every searched key; return the files."""
    from matplotlib.ticker import MaxNLocator

    parameters = plan.space.parameters
    places = _rows_of_panels(1 + len(parameters))
    drawing = new_figure(PAGE, 1.9 * len(places))
    grid = drawing.add_gridspec(len(places), 12)
    panels = []
    for number, in_row in enumerate(places):  # each row fills the page, so that no place stays empty
        width = 12 // in_row
        panels += [drawing.add_subplot(grid[number, width * n : width * (n + 1)]) for n in range(in_row)]
        panels[-in_row].set_ylabel(f"validation {metric}")
    best = findings.best["trial"]
    for name, curve in findings.curves.groupby("trial"):
        style: dict[str, Any] = {"color": _BEST, "zorder": 3} if name == best else {"color": _OTHER, "alpha": 0.4}
        panels[0].plot(curve["epoch"], curve[SCORE], marker=".", **style)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    panels[0].set_xlabel("epoch (best trial in red)")
    for panel, parameter in zip(panels[1:], parameters, strict=True):
        _against(panel, findings.trials, parameter)
        panel.set_xlabel(parameter.key)
    for panel in panels:
        panel.grid()
    return write_figure(drawing, path)


def _rows_of_panels(panels: int) -> list[int]:
    """Return how many of `panels` stand in each row: up to four, and as many as in the others or one less."""
    rows = -(-panels // 4)
    return [panels // rows + (number < panels % rows) for number in range(rows)]


def _against(panel: Any, trials: pd.DataFrame, parameter: Any) -> None:
    """Draw the score of every trial against one key, over all that the key could have been."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    scored = trials[trials["score"].notna() & trials[parameter.key].notna()]
    values = list(scored[parameter.key])
    if parameter.kind == "choice":
        labels = [_shown(value) for value in parameter.values]
        panel.set_xticks(range(len(labels)), labels, rotation=30 if max(map(len, labels)) > 6 else 0)
        panel.set_xlim(-0.5, len(labels) - 0.5)
        values = [labels.index(_shown(_like(value, parameter.values))) for value in values]
    elif parameter.kind == "loguniform":
        low, high = parameter.values
        panel.set_xscale("log")
        panel.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        low, high = parameter.values[:2]
        panel.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if parameter.kind == "int":
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    colours = [_BEST if number == 0 else _OTHER for number in scored.index]
    panel.scatter(values, scored["score"].astype(float), c=colours, s=14, alpha=0.8)


def _like(value: Any, choices: Sequence[Any]) -> Any:
    """Return the choice that equals `value`, which pandas may have turned into a float."""
    return next((choice for choice in choices if choice == value), value)


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _columns_of_one_type(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with columns of mixed types as text, which Parquet demands."""
    mixed = [key for key in frame if frame[key].dropna().map(type).nunique() > 1]
    return frame.assign(**{key: frame[key].map(lambda value: None if pd.isna(value) else str(value)) for key in mixed})


def _none_if_missing(value: Any) -> Any:
    return None if pd.isna(value) else value


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if pd.isna(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
