"""Processes that Ray Train starts: they are one group, and when one is lost all go on from the last state."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import group_work
import pytest

from recbole_sid import cli
from recbole_sid.cluster import local_ray
from recbole_sid.config import Config
from recbole_sid.distributed.attempts import LAUNCH_FOLDER, goes_on
from recbole_sid.distributed.ray_launch import Workers, launch_on_ray
from recbole_sid.errors import InputError
from recbole_sid.quick_start import run_recbole_sid
from recbole_sid.trainer.sid_trainer import SIDTrainer

pytestmark = pytest.mark.ray
TWO = Workers(2, 1)
TESTS = Path(__file__).parent


trains_together = pytest.mark.skipif(
    find_spec("recbole_sid.trainer.parallel") is None, reason="each process trains alone, and over the others' files"
)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray on this machine, of two CPUs however many there are, whose processes find the tests' modules."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]))
    with local_ray(2):
        yield


@trains_together
def test_one_killed_all_go_on_and_wrong_input_is_told_once(
    ray: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    given = settings("TIGER", epochs=4, checkpoint_dir=str(tmp_path / "saved"))
    _leave_unfinished({**given, "checkpoint_dir": str(tmp_path / "saved")}, monkeypatch)
    expected = run_recbole_sid("TIGER", "tiny", config_dict={**given, "checkpoint_dir": str(tmp_path / "alone")})
    noted = str(tmp_path / "epochs")
    found = launch_on_ray(group_work.train_and_lose, ["TIGER", given, noted, 1], TWO, tmp_path / "saved")
    epochs = [int(line.split()[1]) for line in Path(f"{noted}-0").read_text().splitlines()]
    assert Path(f"{noted}-lost").exists()
    assert epochs[:2] == [0, 1], "an unfinished training that lay there before was gone on with"
    assert epochs in ([0, 1, 2, 3], [0, 1, 2, 2, 3]), epochs
    assert found == pytest.approx({name: float(value) for name, value in expected["test_result"].items()}, abs=0.05)
    assert not list((tmp_path / "saved").glob("launch-*"))
    assert not list((tmp_path / "saved").glob("*.last.pth"))

    (tmp_path / "ranks").mkdir()
    assert launch_on_ray(group_work.note_ranks, [str(tmp_path / "ranks")], TWO, tmp_path / "saved") == [0, 1]
    assert (tmp_path / "ranks" / "rank-1").read_text() == str(tmp_path)
    shown = capfd.readouterr().err
    assert "process 0 was here" in shown
    assert "process 1 was here" not in shown

    with pytest.raises(InputError, match=r"^The second process will not\.$"):
        launch_on_ray(group_work.refuse_second, [False, str(tmp_path / "seen")], TWO, tmp_path / "saved")
    with pytest.raises(InputError, match=r"A training by 3 workers wants 3 CPU but Ray has 2"):
        launch_on_ray(group_work.note_ranks, [str(tmp_path)], Workers(3, 1), tmp_path / "saved")


def _leave_unfinished(settings: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Leave what an interrupted training of the same configuration leaves, after three of four epochs."""
    run_epoch = SIDTrainer._run_epoch

    def interrupted(trainer: Any, epoch: int, *rest: Any) -> bool:
        if epoch == 3:
            raise KeyboardInterrupt
        return run_epoch(trainer, epoch, *rest)

    with patch.context() as until_here:
        until_here.setattr(SIDTrainer, "_run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_recbole_sid("TIGER", "tiny", config_dict=settings)
    assert list(Path(settings["checkpoint_dir"]).glob("*.last.pth"))


def test_only_what_this_launch_began_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, best = tmp_path / "a.last.pth", tmp_path / "a.pth"
    last.write_text("of another training")
    best.write_text("of another training")
    assert not goes_on(last, best)
    (tmp_path / "launch").mkdir()
    monkeypatch.setenv(LAUNCH_FOLDER, str(tmp_path / "launch"))
    assert not goes_on(last, best)
    assert not goes_on(last, best)  # killed before it began
    last.unlink()
    assert not goes_on(last, best)  # killed before it wrote anything
    _write_anew(best, "better")
    _write_anew(last, "begun")
    assert goes_on(last, best)
    last.unlink()
    assert goes_on(last, best)  # finished, and something after it was killed


def _write_anew(file: Path, text: str) -> None:
    file.with_name("new").write_text(text)
    shutil.move(file.with_name("new"), file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=TIGER", "--cpus=2"], "--cpus is of the processes that Ray starts: name how many, by --workers=N"),
        (["--model=TIGER", "--workers=0"], "--workers=0 must be a whole number of at least 1"),
        (["--model=TIGER", "--workers=2", "--gpus=2"], "--gpus=2 must be 0 or 1"),
        (["--model=TIGER", "--workers=2", "--gpu_id=0"], "Ray chooses the GPUs of --workers: leave out gpu_id"),
        (["--model=TIGER", "--workers=2", "--nproc=2"], "in one process: leave out nproc=2"),
        (["--model=SASRec", "--workers=2"], "SASRec is RecBole's and trains in one process: leave out --workers"),
    ],
)
def test_workers_that_cannot_be_are_refused(words: list[str], message: str, data_path: Path, capsys: Any) -> None:
    assert cli.main(["run", *words, "--dataset=tiny", f"--data_path={data_path}"]) == 2
    assert message in capsys.readouterr().err


@trains_together
def test_run_by_workers_is_a_plain_run(ray: Any, settings: Any, tmp_path: Path, capfd: Any) -> None:
    given = settings("TIGER", checkpoint_dir=str(tmp_path / "saved"), state="INFO", epochs=1)
    words = [f"--{key}={value}" for key, value in given.items()]
    file = tmp_path / "result.json"
    assert cli.main(["run", "--model=TIGER", "--dataset=tiny", *words, "--workers=2", f"--json={file}"]) == 0
    result = json.loads(file.read_text())
    assert result["device"] == "cpu"
    assert result["rows"][0]["model"] == "TIGER-constrained"
    config = Config("TIGER", "tiny", config_dict=given)
    shown = capfd.readouterr()
    assert f"Written: {tmp_path / 'saved' / config.run_name()}.pth" in shown.out
    assert shown.err.count("TIGER epoch 1: loss") == 1
