"""The trials of a search, as it ended or stands: a row a trial, and their curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from recbole_sid.tuning.progress import RESTARTED, STOPPED
from recbole_sid.tuning.trial import FINISHED, SAMPLE, SCORE, SearchPlan


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


def gather(plan: SearchPlan, results: Any, bigger: bool) -> Findings:
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
    plan: SearchPlan, name: str, result: Any, sample: Mapping[str, Any], curve: pd.DataFrame, bigger: bool
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
