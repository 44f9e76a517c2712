"""Where a comparison stands: what its panel says while it runs (`recbole_sid.util.panel`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from recbole_sid.comparison.job import Job
from recbole_sid.comparison.statistics import TEST_METRIC
from recbole_sid.evaluation.runs import RunResult
from recbole_sid.evaluation.tables import column_title
from recbole_sid.trainer.forecast import duration
from recbole_sid.util.panel import panel


class ComparisonStanding:
    """Where a comparison stands.

    Args:
        jobs: all of it.
        clock: seconds that only differences are taken of.

    Attributes:
        shown: it is drawn in a terminal, where jobs are to draw nothing themselves.
    """

    shown = False

    def __init__(self, jobs: Sequence[Job], clock: Callable[[], float] = perf_counter) -> None:
        self.jobs, self.clock = {job.name: job for job in jobs}, clock
        self.began_at: dict[str, float] = {}
        self.seconds: dict[str, float] = {}  # of those that were run and ended well
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self.best: tuple[float, str] | None = None

    def began(self, job: Job) -> None:
        """Take note that `job` runs."""
        self.began_at[job.name] = self.clock()

    def ended(self, job: Job, result: RunResult | None) -> None:
        """Take note that `job` has ended: with a result, also one of before, or without."""
        began = self.began_at.pop(job.name, None)
        if result is None:
            self.failed.add(job.name)
            return
        self.done.add(job.name)
        if began is not None:
            self.seconds[job.name] = self.clock() - began
        for suffix, evaluation in result["evaluations"].items():
            score = evaluation["metrics"].get(TEST_METRIC)
            if score is not None and (self.best is None or score > self.best[0]):
                self.best = (score, job.entry.row(suffix))

    def left_s(self) -> float | None:
        """Return about how many seconds the rest takes: of each model what it took with another seed, or else the mean
        of all; None before one has ended.
        """
        if not self.seconds:
            return None
        of_entry: dict[str, list[float]] = {}
        for name, seconds in self.seconds.items():
            of_entry.setdefault(self.jobs[name].entry.name, []).append(seconds)
        mean = sum(self.seconds.values()) / len(self.seconds)
        left = 0.0
        for name, job in self.jobs.items():
            if name not in self.done and name not in self.failed:
                known = of_entry.get(job.entry.name)
                expected = sum(known) / len(known) if known else mean
                passed = self.clock() - self.began_at[name] if name in self.began_at else 0.0
                left += max(0.0, expected - passed)
        return left

    def lines(self) -> list[tuple[str, str]]:
        """Return what the panel says, as pairs."""
        now, left = self.clock(), self.left_s()
        running = [f"{name} ({duration(now - began)})" for name, began in self.began_at.items()]
        ended = f"{len(self.done)} of {len(self.jobs)}" + (f", {len(self.failed)} failed" if self.failed else "")
        pairs = [("done", ended), ("running", "; ".join(running) or "nothing")]
        pairs.append(("left", "known once a model has ended" if left is None else f"about {duration(left)}"))
        if self.best is not None:
            pairs.append(("best so far", f"{self.best[1]}, {column_title(TEST_METRIC)} {self.best[0]:.4f}"))
        return pairs


@contextmanager
def standing_of(jobs: Sequence[Job], lines: Callable[[str], None], show: bool = True) -> Iterator[ComparisonStanding]:
    """Yield what is to be told where the jobs stand; in a terminal it is shown below what is printed meanwhile.

    Args:
        jobs: of the comparison.
        lines: what it is told in lines by; the panel is shown beside `print` alone.
        show: whether to show it at all.
    """
    standing = ComparisonStanding(jobs)
    with panel(standing, show and lines is print) as standing.shown:
        yield standing
