"""Where a comparison stands, as its panel says it."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest

from recbole_sid.comparison.job import Job
from recbole_sid.comparison.panel import Standing, standing_of
from recbole_sid.comparison.plan import make_plan


def jobs_of(*names: str, seeds: tuple[int, ...] = (1, 2)) -> list[Job]:
    plan = make_plan("ml-100k", {name: {"model": "Pop"} for name in names}, seeds)
    return [Job(entry, seed, "ml-100k", {}, "", "") for seed in seeds for entry in plan.entries]


def result(score: float) -> Any:
    return {"evaluations": {"": {"metrics": {"ndcg@10": score}}}}


def test_time_left_and_best_so_far() -> None:
    now = 0.0
    jobs = jobs_of("a", "b[bold]")
    standing = Standing(jobs, lambda: now)
    assert standing.left_s() is None
    standing.ended(jobs[0], result(0.1))  # of before: nothing is known of its time
    assert standing.left_s() is None
    standing.began(jobs[1])
    now = 30.0
    standing.ended(jobs[1], result(0.2))
    assert standing.left_s() == 60.0  # a took an unknown time, so the mean; b what it took with the other seed
    standing.began(jobs[2])
    now = 40.0
    assert standing.left_s() == 50.0
    standing.ended(jobs[2], None)
    standing.began(jobs[3])
    now = 100.0
    assert standing.left_s() == 0.0
    assert dict(standing.lines()) == {
        "done": "2 of 4, 1 failed",
        "running": "b[bold], seed 2 (60 s)",
        "left": "about 0 s",
        "best so far": "b[bold], NDCG@10 0.2000",
    }
    rich = pytest.importorskip("rich.console")
    text = StringIO()
    rich.Console(file=text, width=100).print(standing)
    assert "b[bold], seed 2 (60 s)" in text.getvalue()


def test_into_a_file_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with standing_of(jobs_of("a"), print) as standing:
        assert not standing.shown
    assert capsys.readouterr() == ("", "")
