"""What a search shows and notes while it runs: one line, and small files beside the trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback

from recbole_sid.tuning.trial import FINISHED, SCORE, drop_caches
from recbole_sid.util.progress import progress

STOPPED = "stopped"  # in a trial's folder: the scheduler stopped it
RESTARTED = "restarted"  # in a trial's folder: a line for each restart after a crash

_LINE = "{desc}: {n_fmt}/{total_fmt} trials in {elapsed}, {remaining} left{postfix}"


class Progress(Callback):
    """Shows trials done, running, stopped and failed, and the best score so far; notes stops and restarts.

    Args:
        folder: of the trials.
        bigger: whether the larger score is the better one.
        show: whether to show the line; the notes are taken in any case.
    """

    def __init__(self, folder: Path, bigger: bool, show: bool) -> None:
        self.folder, self.bigger, self.show = folder, bigger, show
        self.total = 0
        self.best: float | None = None
        self.bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "bar": None}  # Ray keeps callbacks in its files

    def setup(self, *args: Any, **info: Any) -> None:
        self.total = info.get("total_num_samples") or self.total

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict, **info: Any) -> None:
        score = result[SCORE]
        if self.best is None or (score > self.best if self.bigger else score < self.best):
            self.best = score

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not (self.folder / trial.trial_id / FINISHED).is_file():
            self._note(trial, STOPPED)
            drop_caches(self.folder / trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drop_caches(self.folder / trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial, RESTARTED)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.bar is None:
            self.bar = progress(range(self.total or len(trials)), "Search", self.show, unit="trial", line=_LINE)
            self.bar.miniters, self.bar.dynamic_miniters = 0, False  # show changes other than of the count
        states = [trial.status for trial in trials]
        stopped = sum((self.folder / trial.trial_id / STOPPED).is_file() for trial in trials)
        ended = states.count("TERMINATED")
        best = "" if self.best is None else f", best {self.best:.4f}"
        self.bar.set_postfix_str(
            f"{ended - stopped} done, {states.count('RUNNING')} running, {stopped} stopped, "
            f"{states.count('ERROR')} failed{best}",
            refresh=False,
        )
        self.bar.update(ended + states.count("ERROR") - self.bar.n)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def _note(self, trial: Any, name: str) -> None:
        file = self.folder / trial.trial_id / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write("1\n")
