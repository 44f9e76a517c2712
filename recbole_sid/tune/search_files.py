"""What a search leaves in its folder: tables, curves, the winner as a property file, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recbole_sid.evaluation.figures import write_png
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.settings.known import flagged
from recbole_sid.tune.findings import Findings
from recbole_sid.tune.trial import SCORE, SearchPlan
from recbole_sid.util.files import replacing, write_text

_SHOWN = 10  # trials in the printed table


def best_settings(plan: SearchPlan, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial as a property file holds them: what is computed, not where and how."""
    settings = {key: value for key, value in plan.settings_of(sample).items() if key not in flagged("volatile")}
    cache = plan.settings.get("distill_cache")  # in half precision, so it changes the last digits
    return {
        "model": plan.model, "dataset": plan.dataset, **settings, **({"distill_cache": cache} if cache else {})
    }  # fmt: skip


def write_search(plan: SearchPlan, findings: Findings, metric: str) -> list[Path]:
    """Write trials.csv, trials.parquet, curves.csv, best.yaml, table.md and tune.png; return their paths."""
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
    figure(plan, findings, metric, folder / "tune.png")
    return [
        folder / name for name in ("best.yaml", "table.md", "trials.csv", "trials.parquet", "curves.csv", "tune.png")
    ]


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


def figure(plan: SearchPlan, findings: Findings, metric: str, path: Path) -> None:
    """Draw the score over the epochs of every trial, and against every searched key, into a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    parameters = plan.space.parameters
    n_columns = min(3, 1 + len(parameters))
    n_rows = -(-(1 + len(parameters)) // n_columns)
    drawing = Figure(figsize=(4.2 * n_columns, 3.2 * n_rows), layout="constrained")
    panels = list(drawing.subplots(n_rows, n_columns, squeeze=False).flat)
    best = findings.best["trial"]
    for name, curve in findings.curves.groupby("trial"):
        style = {"color": "C3", "zorder": 3} if name == best else {"color": "C0", "alpha": 0.4}
        panels[0].plot(curve["epoch"], curve[SCORE], marker=".", **style)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set(xlabel="epoch (best trial in red)", ylabel=f"validation {metric}")
    for panel, parameter in zip(panels[1:], parameters, strict=False):
        _against(panel, findings.trials, parameter)
        panel.set(xlabel=parameter.key, ylabel=f"validation {metric}")
    for panel in panels[: 1 + len(parameters)]:
        panel.grid(alpha=0.3)
    for panel in panels[1 + len(parameters) :]:
        panel.axis("off")
    write_png(drawing, path)


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
    colours = ["C3" if number == 0 else "C0" for number in scored.index]
    panel.scatter(values, scored["score"].astype(float), c=colours, alpha=0.8)


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
