"""What a search found: one row a trial, the curves, the winner as a property file, its test result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from recbole_sid.config import VOLATILE_KEYS
from recbole_sid.tune.progress import RESTARTED, STOPPED
from recbole_sid.tune.trial import FINISHED, SAMPLE, SCORE, Plan, prepare
from recbole_sid.util.files import replacing, write_text

_SHOWN = 10  # trials in the printed table


class Findings(NamedTuple):
    """The trials of a search.

    Attributes:
        trials: a row a trial, best first: trial, status (done, stopped, failed, unfinished), restarts, epochs, score
            (the best of its epochs), best_epoch, seconds, the searched keys, model_file, error.
        curves: a row an epoch of a trial: trial, epoch, score.
        samples: trial -> its sample.
    """

    trials: pd.DataFrame
    curves: pd.DataFrame
    samples: dict[str, dict[str, Any]]

    @property
    def best(self) -> Any:
        """The row of the best trial."""
        return self.trials.iloc[0]

    def n_scored(self) -> int:
        """Return how many trials have a score."""
        return 0 if self.trials.empty else int(self.trials["score"].notna().sum())

    def n_ended(self) -> int:
        """Return how many trials came to an end: done, stopped or failed."""
        return 0 if self.trials.empty else int((self.trials["status"] != "unfinished").sum())

    def first_error(self) -> str:
        """Return what the first failed trial said, in brackets; empty if none failed."""
        errors = [] if self.trials.empty else [error for error in self.trials["error"] if error]
        return f" ({errors[0]})" if errors else ""


def gather(plan: Plan, results: Any, bigger: bool) -> Findings:
    """Collect the trials of Ray's ResultGrid."""
    rows, curves, samples = [], [], {}
    for result in results:
        name = Path(result.path).name
        sample = dict((result.config or {}).get(SAMPLE, {}))
        if not sample:  # it was waiting when the search was interrupted
            continue
        samples[name] = sample
        curve = _curve(result, name)
        curves.append(curve)
        rows.append(_row(plan, name, result, sample, curve, bigger))
    if not rows:
        return Findings(pd.DataFrame(), pd.DataFrame(), samples)
    frame = pd.DataFrame(rows)
    for parameter in plan.space.parameters:
        if parameter.is_whole():
            frame[parameter.key] = frame[parameter.key].astype("Int64")  # may miss where its condition does not hold
    frame = frame.sort_values("score", ascending=not bigger, na_position="last", kind="stable").reset_index(drop=True)
    return Findings(frame, pd.concat(curves, ignore_index=True), samples)


def _curve(result: Any, name: str) -> pd.DataFrame:
    """Return the scores of a trial by epoch; of an epoch that was trained again after a crash, the later one."""
    frame = result.metrics_dataframe
    if frame is None or SCORE not in frame:
        return pd.DataFrame({"trial": [], "epoch": [], SCORE: []}).astype({"trial": str})
    frame = frame.drop_duplicates("epoch", keep="last").sort_values("epoch")
    return pd.DataFrame({"trial": name, "epoch": frame["epoch"].astype(int), SCORE: frame[SCORE]})


def _row(
    plan: Plan, name: str, result: Any, sample: Mapping[str, Any], curve: pd.DataFrame, bigger: bool
) -> dict[str, Any]:
    folder = plan.trial_folder(name)
    status = "failed" if result.error else "stopped" if (folder / STOPPED).is_file() else "unfinished"
    finished = folder / FINISHED
    metrics = result.metrics or {}
    scores = curve.set_index("epoch")[SCORE].dropna()
    best_epoch = None if scores.empty else int(scores.idxmax() if bigger else scores.idxmin())
    restarts = folder / RESTARTED
    seconds = metrics.get("time_total_s")
    chosen = plan.space.active(sample, plan.given)
    return {
        "trial": name,
        "status": "done" if finished.is_file() else status,
        "restarts": len(restarts.read_text(encoding="utf-8").split()) if restarts.is_file() else 0,
        "epochs": len(curve),
        "score": None if best_epoch is None else float(scores[best_epoch]),
        "best_epoch": best_epoch,
        "seconds": None if seconds is None else float(seconds),
        **{parameter.key: chosen.get(parameter.key) for parameter in plan.space.parameters},
        "model_file": metrics.get("model_file"),
        "error": _last_line(result.error),
    }


def _last_line(error: Any) -> str | None:
    """Return what an exception says, without the traceback that Ray puts above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] if error else []
    return lines[-1] if lines else None


def best_settings(plan: Plan, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial as a property file holds them: what is computed, not where and how."""
    settings = {key: value for key, value in plan.settings_of(sample).items() if key not in VOLATILE_KEYS}
    cache = plan.settings.get("distill_cache")  # in half precision, so it changes the last digits
    return {
        "model": plan.model, "dataset": plan.dataset, **settings, **({"distill_cache": cache} if cache else {})
    }  # fmt: skip


def write_report(plan: Plan, findings: Findings, metric: str) -> list[Path]:
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


def table(plan: Plan, findings: Findings, metric: str, shown: int = _SHOWN) -> str:
    """Return the best trials as a Markdown table."""
    from recbole_sid.evaluation.tables import markdown_table

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


def figure(plan: Plan, findings: Findings, metric: str, path: Path) -> None:
    """Draw the score over the epochs of every trial, and against every searched key, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    with replacing(path) as temporary:
        FigureCanvasAgg(drawing).print_png(str(temporary))


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


def evaluate_winner(plan: Plan, findings: Findings) -> dict[str, float]:
    """Evaluate the best trial's best weights on the test split: the only time that a search reads it."""
    name = str(findings.best["trial"])
    prepared = prepare(plan, findings.samples[name], name)
    prepared.trainer.eval_collector.data_collect(prepared.train_data)
    result = prepared.trainer.evaluate(
        prepared.test_data, load_best_model=True, model_file=findings.best["model_file"], show_progress=False
    )
    return {metric: float(value) for metric, value in result.items()}


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
