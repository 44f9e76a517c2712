"""Several processes on one machine or more: they find each other, and one's end is the end of all, told once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import group_work
import pytest
import torch
import yaml

from recbole_sid import cli
from recbole_sid.config import Config
from recbole_sid.distributed import launch as launching
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Place, Processes, launched_place
from recbole_sid.errors import InputError
from recbole_sid.quick_start import is_launcher, run_recbole_sid
from recbole_sid.settings.run import LaunchSettings
from recbole_sid.util.visible_gpus import all_gpus_visible

TWO = Processes(2, 2)
ROOT = Path(__file__).parents[1]


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_processes_find_each_other_and_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    before = dict(os.environ)
    found = launch(group_work.add_ranks, ["main"], TWO)
    assert found["label"] == "main of 0"
    assert found["sum"] == [1, 2]
    assert found["threads"] == [3, 3]
    assert dict(os.environ) == before
    assert not any(map(_is_running, found["pids"]))


def test_threads_that_the_user_chose_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launching._threads(2) is None


@pytest.mark.parametrize("before_joining", [True, False])
def test_error_of_one_process_ends_all(before_joining: bool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^The second process will not\.$"):
        launch(group_work.refuse_second, [before_joining, str(tmp_path / "first")], TWO)
    if not before_joining and (tmp_path / "first").is_file():
        assert not _is_running(int((tmp_path / "first").read_text()))


def test_killed_process_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"was killed \(signal 9\), most likely for want of memory: .* resume=True"):
        launch(group_work.kill_second, [str(tmp_path / "first")], TWO)
    if (tmp_path / "first").is_file():
        assert not _is_running(int((tmp_path / "first").read_text()))


def test_fault_of_the_program_comes_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*KeyError: 'a fault of the program'"):
        launch(group_work.fail_second, [], TWO)


def test_interrupted_launcher_ends_its_processes(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(group_work.interrupt_launcher, [str(tmp_path / "seen")], TWO)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not any(_is_running(int((tmp_path / f"seen{rank}").read_text())) for rank in range(2))


def test_processes_of_two_machines_find_each_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    command = [sys.executable, str(ROOT / "tests" / "group_work.py"), str(port)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as other:
        assert launch(group_work.add_ranks, ["here"], Processes(1, 2, "127.0.0.1", port))["sum"] == [1, 2]
        assert other.wait(60) == 0


def test_port_in_use_is_told(data_path: Path, settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot meet at port={port} .*in use.*: choose another port"):
            run_recbole_sid("TIGER", "tiny", config_dict=settings("TIGER", nproc=2, port=str(port)))


def test_first_machine_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_PATIENCE", 0.1)
    with pytest.raises(InputError, match=r"Nothing answers at ip=127\.0\.0\.1 and port=9 .*group_offset=0"):
        launch(group_work.add_ranks, ["there"], Processes(1, 2, "127.0.0.1", 9, 1))


@pytest.mark.parametrize(
    ("given", "processes"),
    [
        ({}, Processes(1, 1)),
        ({"world_size": 1}, Processes(1, 1)),
        ({"nproc": 4}, Processes(4, 4)),
        ({"nproc": 4, "world_size": 4, "port": "5678"}, Processes(4, 4, port=5678)),
        ({"nproc": 2, "world_size": 4, "ip": "10.0.0.1"}, Processes(2, 4, "10.0.0.1", 5678, 0)),
        ({"nproc": 2, "world_size": 4, "ip": "h", "port": 99, "group_offset": 2}, Processes(2, 4, "h", 99, 2)),
    ],
)
def test_keys_mean_what_they_do_in_recbole(given: dict[str, Any], processes: Processes, settings: Any) -> None:
    config = Config("TIGER", "tiny", config_dict=settings("TIGER", **given))
    assert LaunchSettings.of(config).processes() == processes
    assert is_launcher(config) == (processes.n_all > 1)
    plain = Config("TIGER", "tiny", config_dict=settings("TIGER"))
    assert config.run_name() == plain.run_name()
    assert config.plain() == plain.plain()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nproc": 0}, "nproc=0 must be a whole number of at least 1"),
        ({"port": "first"}, "port='first' must be a whole number"),
        ({"nproc": 4, "world_size": 2}, "world_size=2 is the number of processes on all machines"),
        ({"nproc": 2, "world_size": 4, "group_offset": 3}, "at least nproc=2 with group_offset=3"),
        ({"group_offset": 1}, "group_offset=1 needs world_size"),
        ({"local_rank": 0}, "Leave out local_rank=0: torchrun and nproc say it"),
        ({"offset": 1}, "its name is group_offset"),
    ],
)
def test_keys_that_make_no_group_are_refused(given: dict[str, Any], message: str, settings: Any) -> None:
    with pytest.raises(InputError, match=message):
        Config("TIGER", "tiny", config_dict=settings("TIGER", **given))


def test_models_of_recboles_train_alone(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"data_path": str(data_path), "use_gpu": False}
    with pytest.raises(InputError, match="SASRec is RecBole's and trains in one process: leave out nproc=2"):
        run_recbole_sid("SASRec", "tiny", config_dict={**alone, "nproc": 2})
    _be_launched(monkeypatch)
    with pytest.raises(InputError, match=r"SASRec .* in one process: start it without torchrun"):
        run_recbole_sid("SASRec", "tiny", config_dict=alone)


def _be_launched(patch: pytest.MonkeyPatch, rank: int = 0) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}
    for name, value in {**told, "MASTER_ADDR": "127.0.0.1"}.items():
        patch.setenv(name, str(value))


def test_place_is_what_the_launcher_said(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_place() == Place()  # nobody to meet
    _be_launched(monkeypatch, 1)
    assert launched_place() == Place(1, 2, 1, 2)
    assert not Config("TIGER", "tiny", config_dict=settings("TIGER", show_progress=True))["show_progress"]
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(InputError, match="RANK=2 of WORLD_SIZE=2"):
        launched_place()


@pytest.mark.parametrize(("given", "visible"), [({}, "0,1"), ({"gpu_id": "4,6"}, "4,6")])
def test_each_process_has_its_own_gpu(
    given: dict[str, Any], visible: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _be_launched(monkeypatch, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = Config("TIGER", "tiny", config_dict=settings("TIGER", use_gpu=True, **given))
    assert config["device"] == torch.device("cuda", 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match="4 processes on this machine see 3 GPUs"):
        Config("TIGER", "tiny", config_dict=settings("TIGER", use_gpu=True))


def test_run_trains_in_two_processes_as_in_one(settings: Any, tmp_path: Path, capsys: Any) -> None:
    """From the command line to the table, through processes of their own and through torchrun's."""
    found = []
    for launcher, nproc in (("", 1), ("nproc", 2), ("torchrun", 1)):
        folder = tmp_path / f"saved {launcher}"
        chosen = settings("TIGER", nproc=nproc, dropout_prob=0.0, epochs=1, use_gpu=False, checkpoint_dir=str(folder))
        file, row = tmp_path / "settings.yaml", tmp_path / "row.json"
        file.write_text(yaml.safe_dump(chosen))
        words = ["run", "--model=TIGER", "--dataset=tiny", f"--config_files={file}", f"--json={row}"]
        if launcher == "torchrun":
            done = _by_torchrun([str(ROOT / "run_recbole_sid.py"), *words])
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("| TIGER") == 1
            assert "find_unused_parameters" not in done.stderr  # torch's advice, of which nobody can make use
        else:
            assert cli.main(words) == 0, capsys.readouterr().err
        found.append(json.loads(row.read_text())["rows"][0])
        row.unlink()
        assert len(list(folder.glob("TIGER*.pth"))) == 1
    metrics = [name for name in found[0] if "@" in name]
    assert metrics
    one, *others = ({name: row[name] for name in metrics} for row in found)
    assert others == [one, one]


def _by_torchrun(words: list[str]) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={_free_port()}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, *words], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("by_the_user", [None, "2,3", ""])
def test_what_is_started_sees_the_gpus_that_the_user_lets_it_see(
    by_the_user: str | None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RecBole's Config hides all GPUs but one from its process, the launcher's or Ray's driver too."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back afterwards
    if by_the_user is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", by_the_user)
    for gpu_id in ("0", "1"):  # one configuration after another
        Config("TIGER", "tiny", config_dict=settings("TIGER", use_gpu=True, nproc=2, gpu_id=gpu_id))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu_id
    with all_gpus_visible():
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == by_the_user
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert launch(os.getenv, ("CUDA_VISIBLE_DEVICES",), Processes(n_here=2, n_all=2)) == by_the_user
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # said since
    with all_gpus_visible():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["compare", "--models=TIGER", "--dataset=tiny"], "world_size"),
        (["tune", "--model=TIGER"], "group_offset"),
        (["analyze", "--runs=runs"], "nproc"),
    ],
)
def test_commands_that_train_in_no_group_say_so(words: list[str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, f"--{key}=2"]) == 2
    assert f"{words[0]} is done by one process: leave out --{key}" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["TIGER", "TIGRE"])
def test_torchrun_tells_once_what_is_wrong(model: str, data_path: Path, tmp_path: Path) -> None:
    """Wrong in all processes, before the group is there, and in one only, when it is."""
    words = [f"--model={model}", "--dataset=tiny", f"--data_path={data_path}", "--use_gpu=False", "--state=WARNING"]
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        "from recbole_sid.cli import main\n"
        "if 'TIGER' in sys.argv[1] and os.environ['RANK'] == '1':\n"
        "    sys.argv.append('--beam_size=7')\n"  # of one process
        "sys.exit(main())\n"
    )
    done = _by_torchrun([str(script), *words])
    message = "Unknown model 'TIGRE'" if model == "TIGRE" else "beam_size=7 is smaller"
    assert done.stderr.count("recbole-sid: ") == 1, done.stderr
    assert message in done.stderr
    assert "exitcode  : 2" in done.stderr


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
