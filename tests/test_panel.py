"""What stands below the lines of a terminal while something long goes on, and that nothing of it gets into files."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from recbole_sid.comparison.job import Job
from recbole_sid.comparison.panel import ComparisonStanding, standing_of
from recbole_sid.comparison.plan import make_plan
from recbole_sid.trainer.forecast import Forecast
from recbole_sid.trainer.stage import Stage
from recbole_sid.trainer.training_panel import TrainingStanding
from recbole_sid.tuning.progress import Progress, SearchStanding, followed_by
from recbole_sid.tuning.trial import SCORE
from recbole_sid.util.progress import progress

ROWS = re.compile(r"^ *(done|left|running|training|best so far|now)  ", re.M)


def jobs_of(*names: str, seeds: tuple[int, ...] = (1, 2)) -> list[Job]:
    plan = make_plan("ml-100k", {name: {"model": "Pop"} for name in names}, seeds)
    return [Job(entry, seed, "ml-100k", {}, "", "") for seed in seeds for entry in plan.entries]


def result(score: float) -> Any:
    return {"evaluations": {"": {"metrics": {"ndcg@10": score}}}}


def test_time_left_and_best_so_far() -> None:
    now = 0.0
    jobs = jobs_of("a", "b[bold]")
    standing = ComparisonStanding(jobs, lambda: now)
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


def test_where_a_search_stands(tmp_path: Path) -> None:
    now, told = 0.0, StringIO()
    standing = SearchStanding(6, "NDCG@10", True, lambda line: print(line, file=told), lambda: now)
    follow, trials = Progress(tmp_path), []

    def trial(name: str, status: str, *scores: float) -> Any:
        best = {"max": max(scores), "min": min(scores)} if scores else None
        last = {"epoch": len(scores)} if scores else {}
        found = SimpleNamespace(trial_id=name, status=status, last_result=last)
        found.metric_analysis = {SCORE: best} if best else {}
        return found

    with followed_by(standing, show=False):
        trials = [trial("old", "TERMINATED", 0.3)]  # of before the search was resumed
        follow.on_step_end(1, trials)
        trials += [trial("a", "RUNNING"), trial("b", "RUNNING")]
        follow.on_step_end(2, trials)
        assert standing.left_s() is None
        now = 40.0
        trials[1:] = [trial("a", "TERMINATED", 0.1, 0.4, 0.2), trial("b", "RUNNING", 0.2), trial("c", "PENDING")]
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "finished.json").touch()
        follow.on_trial_complete(3, trials, trials[1])
        follow.on_step_end(3, trials)
        assert standing.left_s() == 3 * 40.0  # three that wait take as long as a did, b is at its end
        assert dict(standing.lines()) == {
            "done": "2 of 6 trials",
            "running": "b (epoch 2, 40 s)",
            "left": "about 2 min",
            "best so far": "a, NDCG@10 0.4000 of validation",
        }
        trials[2:] = [trial("b", "TERMINATED", 0.2), trial("c", "ERROR")]
        follow.on_trial_complete(4, trials, trials[2])
        follow.on_step_end(4, trials)
    follow.on_step_end(5, trials)  # nobody asks
    assert dict(standing.lines())["done"] == "4 of 6 trials, 1 stopped, 1 failed"
    assert told.getvalue().splitlines() == [
        "[2/6] a: done after epoch 3; best so far a, NDCG@10 0.4000 of validation",
        "[3/6] c: failed; best so far a, NDCG@10 0.4000 of validation",
        "[4/6] b: stopped after epoch 1; best so far a, NDCG@10 0.4000 of validation",
    ]


def test_where_a_training_stands() -> None:
    now = 0.0
    forecast = Forecast("M", 5, 4, clock=lambda: now)
    stage = Stage("decoder", "M decoder", 5, 0.1)
    trainer = SimpleNamespace(
        stage=stage, config={"model": "M"}, best_valid_score=-float("inf"), valid_metric="NDCG@10", cur_step=0
    )
    standing = TrainingStanding(trainer, lambda: now)
    assert standing.lines() == [("training", "M decoder, 0 s so far")]
    trainer.forecast, trainer.stopping_step = forecast, 3
    assert dict(standing.lines())["left"] == "known once more is done"
    for epoch in range(2):
        forecast.start_epoch(epoch)
        for _ in range(4):
            now += 10.0
            forecast.batch_done()
    trainer.best_valid_score, trainer.cur_step = 0.25, 1
    assert standing.lines() == [
        ("training", "M decoder, 80 s so far"),
        ("done", "1 of 5 epochs; 1 of 3 validations without a better one"),
        ("left", "at most 2 min"),  # three epochs of 40 s
        ("best so far", "NDCG@10 0.2500 of validation"),
    ]
    trainer.stage, trainer.best_valid_result = stage._replace(ranks=False), {"state error": 0.125}
    assert standing.lines()[-1] == ("best so far", "state error 0.125 of validation")
    theirs = SimpleNamespace(
        config={"model": "GRU4Rec"},
        train_loss_dict={},
        epochs=4,
        best_valid_score=0.1,
        valid_metric="MRR@10",
        cur_step=0,
    )
    theirs.stopping_step, standing = 3, TrainingStanding(theirs, lambda: now)
    now += 30.0
    theirs.train_loss_dict = {0: 0.5}
    assert dict(standing.lines())["left"] == "at most 90 s"[:0] + "at most 2 min"


def test_into_a_file_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with standing_of(jobs_of("a"), print) as standing:
        assert not standing.shown
    assert capsys.readouterr() == ("", "")


def in_terminal(script: str) -> str:
    """Run a script in a terminal, as `pty` makes one, and return all that it was sent."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}
    process = subprocess.Popen([sys.executable, script], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said: list[bytes] = []
    reader = Thread(target=_read, args=(ours, said.append))
    reader.start()
    assert process.wait(300) == 0, b"".join(said).decode()
    reader.join(10)
    os.close(ours)
    return b"".join(said).decode()


def _read(terminal: int, keep: Callable[[bytes], None]) -> None:
    try:
        while chunk := os.read(terminal, 65536):
            keep(chunk)
    except OSError:  # its other end is closed
        return


def lines_of(said: str) -> list[str]:
    """Return what stands in a line of its own, however it came there."""
    return [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said))]


SCRIPT = """
from recbole_sid.cli import main

given = ["--dataset=tiny", "--use_gpu=False", "--data_path={data_path}"]
training = [*given, "--epochs=3", "--train_batch_size=8", "--state=INFO"]
if __name__ == "__main__":
    small = ["--d_model=16", "--d_ff=16", "--encoder_layers=1", "--decoder_layers=1", "--codebook_sizes=[5,3]"]
    assert main(["run", "--model=TIGER", *small, "--beam_size=10", *training]) == 0
    assert main(["run", "--model=GRU4Rec", *training]) == 0
    print("END OF RUNS")
    assert main(["compare", "--models=Pop", *given, "--output=out"]) == 0
    print("WITHOUT PROGRESS")
    assert main(["compare", "--models=Pop", *given, "--output=out", "--show_progress=False"]) == 0
    assert main(["run", "--model=GRU4Rec", *training, "--show_progress=False"]) == 0
"""


def test_in_a_terminal(data_path: Path) -> None:
    Path("script.py").write_text(SCRIPT.format(data_path=data_path), encoding="utf-8")
    said = in_terminal("script.py")
    runs, rest = said.split("END OF RUNS")
    comparison, without = rest.split("WITHOUT PROGRESS")
    lines = lines_of(runs)
    for name in ("TIGER", "GRU4Rec"):
        assert any(re.match(rf"training +{name}, \d+ s so far$", line) for line in lines)
    assert any(re.match(r"best so far +NDCG@10 0\.\d{4} of validation$", line) for line in lines)
    epochs = [line for line in lines if "epoch" in line and "loss" in line]
    assert len(epochs) == 2 * 3
    assert all(re.match(r"\d\d \w+ \d\d:\d\d +INFO", line) for line in epochs)  # in lines of their own
    assert not ROWS.search(runs[runs.rindex("\x1b[?25h") :])  # it is gone, and the cursor is there again

    lines = lines_of(comparison)
    assert any(re.match(r"running +Pop, seed 2020 \(", line) for line in lines)
    assert any(re.match(r"best so far +Pop, NDCG@10 0\.\d{4}$", line) for line in lines)

    assert not any(ROWS.match(f"{line}  ") for line in lines_of(without))
    for model, kept in (("TIGER", "saved"), ("GRU4Rec", "saved"), ("Pop", "out/runs")):  # by the run's own hash
        (run,) = Path(kept).glob(f"{model}-tiny-*")
        assert list(Path("log", model).glob(f"{model}-tiny-*-{run.stem.rpartition('-')[2]}.log"))
    assert any("GRU4Rec: " in line and "s an epoch, so at most" in line for line in lines_of(runs))
    logs = [file.read_text(encoding="utf-8") for file in Path().rglob("*.log")]
    assert logs
    for text in logs:
        assert not ROWS.search(text)
        assert "\r" not in text


def test_bars_are_drawn_in_terminals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "counting", True)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
