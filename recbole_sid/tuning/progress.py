"""What a search shows and notes while it runs: a line for each trial that ends, a panel, small files beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from time import perf_counter
from typing import Any

from ray.tune import Callback

from recbole_sid.evaluation.tables import column_title
from recbole_sid.trainer.forecast import duration
from recbole_sid.tuning.trial import FINISHED, SCORE, drop_caches
from recbole_sid.util.panel import panel

STOPPED = "stopped"  # in a trial's folder: the scheduler stopped it
RESTARTED = "restarted"  # in a trial's folder: a line for each restart after a crash


class SearchStanding:
    """Where a search stands.

    Args:
        total: its trials.
        metric: the validation score.
        bigger: whether the larger score is the better one.
        tell: told what became of each trial, in a line.
        clock: seconds that only differences are taken of.
    """

    def __init__(
        self,
        total: int,
        metric: str,
        bigger: bool,
        tell: Callable[[str], None],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.total, self.metric, self.bigger, self.tell, self.clock = total, metric, bigger, tell, clock
        self.began_at: dict[str, float] = {}
        self.epochs: dict[str, int] = {}
        self.seconds: list[float] = []  # of trials that ran now and ended
        self.ended: dict[str, str] = {}  # name -> how
        self.best: tuple[float, str] | None = None

    def scored(self, trial: str, epoch: int, best: float) -> None:
        """Take note of the last epoch of a trial and its best score, also of before the search was resumed."""
        self.epochs[trial] = epoch
        if self.best is None or (best > self.best[0] if self.bigger else best < self.best[0]):
            self.best = (best, trial)

    def now(self, running: set[str], ended: dict[str, str]) -> None:
        """Take note of which trials run, and of how others have ended, and tell of these that are new.

        Args:
            running: names.
            ended: name -> done, stopped or failed, of all so far.
        """
        now, first = self.clock(), not self.began_at and not self.ended
        for trial in running:
            self.began_at.setdefault(trial, now)
        for trial, how in ended.items():
            if trial in self.ended:
                continue
            self.ended[trial] = how
            began = self.began_at.pop(trial, None)
            if began is not None:
                self.seconds.append(now - began)
            if began is not None or not first:  # not of trials that had ended before the search was resumed
                after = f" after epoch {self.epochs[trial]}" if trial in self.epochs else ""
                best = "" if self.best is None else f"; best so far {self._best()}"
                self.tell(f"[{len(self.ended)}/{self.total}] {trial}: {how}{after}{best}")
        for trial in set(self.began_at) - running:  # waits, or is started again
            del self.began_at[trial]

    def left_s(self) -> float | None:
        """Return about how many seconds the rest takes, at the pace so far; None before a trial has ended."""
        if not self.seconds:
            return None
        now, mean = self.clock(), sum(self.seconds) / len(self.seconds)
        waiting = self.total - len(self.ended) - len(self.began_at)
        running = sum(max(0.0, mean - (now - began)) for began in self.began_at.values())
        return (waiting * mean + running) / max(1, len(self.began_at))

    def lines(self) -> list[tuple[str, str]]:
        """Return what the panel says, as pairs."""
        hows, left, now = list(self.ended.values()), self.left_s(), self.clock()
        ends = "".join(f", {hows.count(how)} {how}" for how in ("stopped", "failed") if how in hows)
        running = [
            f"{trial} (epoch {self.epochs.get(trial, 0) + 1}, {duration(now - began)})"
            for trial, began in sorted(self.began_at.items())
        ]
        pairs = [("done", f"{len(hows)} of {self.total} trials{ends}"), ("running", "; ".join(running) or "nothing")]
        pairs.append(("left", "known once a trial has ended" if left is None else f"about {duration(left)}"))
        return pairs if self.best is None else [*pairs, ("best so far", self._best())]

    def _best(self) -> str:
        assert self.best is not None
        return f"{self.best[1]}, {column_title(self.metric)} {self.best[0]:.4f} of validation"


_standing: ContextVar[SearchStanding | None] = ContextVar("standing", default=None)


@contextmanager
def followed_by(standing: SearchStanding, show: bool) -> Iterator[None]:
    """Let the search of this block tell `standing` how it stands, and show that below its lines in a terminal."""
    token = _standing.set(standing)
    try:
        with panel(standing, show):
            yield
    finally:
        _standing.reset(token)


class Progress(Callback):
    """Tells what follows the search (`followed_by`), and notes stops and restarts.

    Ray keeps it in its files, and a search that is resumed has that of the file.

    Args:
        folder: of the trials.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not (self.folder / trial.trial_id / FINISHED).is_file():
            self._note(trial, STOPPED)
            drop_caches(self.folder / trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drop_caches(self.folder / trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial, RESTARTED)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        standing = _standing.get()
        if standing is None:
            return
        ended = {trial.trial_id: "failed" for trial in trials if trial.status == "ERROR"}
        for trial in trials:
            if SCORE in trial.metric_analysis:
                best = trial.metric_analysis[SCORE]["max" if standing.bigger else "min"]
                standing.scored(trial.trial_id, int(trial.last_result["epoch"]), float(best))
            if trial.status == "TERMINATED":
                stopped = (self.folder / trial.trial_id / STOPPED).is_file()
                ended[trial.trial_id] = STOPPED if stopped else "done"
        standing.now({trial.trial_id for trial in trials if trial.status == "RUNNING"}, ended)

    def _note(self, trial: Any, name: str) -> None:
        file = self.folder / trial.trial_id / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write("1\n")
