"""What processes of a group do in tests: functions of a module that processes can import quickly."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from recbole_sid.distributed.joining import join
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Processes
from recbole_sid.errors import InputError


def add_ranks(label: str) -> dict[str, Any]:
    """Return the sum of the ranks, each one's threads, and what the main process says of itself."""
    group = join(torch.device("cpu"))
    return {
        "label": group.from_main(f"{label} of {group.rank}"),
        "sum": group.sum(torch.tensor([group.rank, 1])).tolist(),
        "threads": group.gather(torch.get_num_threads()),
        "pids": group.gather(os.getpid()),
    }


def refuse_second(before_joining: bool, seen: str) -> None:
    """Raise InputError in the second process, while the first waits for it."""
    if before_joining and os.environ["RANK"] == "1":
        raise InputError("The second process will not.")
    group = join(torch.device("cpu"))
    if group.rank == 1:
        raise InputError("The second process will not.")
    Path(seen).write_text(str(os.getpid()))
    group.barrier()


def kill_second(seen: str) -> None:
    group = join(torch.device("cpu"))
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    Path(seen).write_text(str(os.getpid()))
    group.barrier()


def interrupt_launcher(seen: str) -> None:
    group = join(torch.device("cpu"))
    Path(f"{seen}{group.rank}").write_text(str(os.getpid()))
    group.barrier()
    if group.is_main:
        os.kill(os.getppid(), signal.SIGINT)
    signal.pause()


def fail_second() -> None:
    if join(torch.device("cpu")).rank == 1:
        raise KeyError("a fault of the program")


def note_ranks(folder: str) -> list[int]:
    """Note which process this is, and return all ranks; nothing of it is pickled."""
    group = join(torch.device("cpu"))
    Path(folder, f"rank-{group.rank}").write_text(os.getcwd())
    print(f"process {group.rank} was here", file=sys.stderr)
    return group.gather(group.rank)


def train_and_lose(model: str, settings: dict[str, Any], noted: str, lost_after: int) -> dict[str, Any]:
    """Train; the second process is killed after epoch `lost_after`, the first time. Return the test result."""
    from recbole_sid.quick_start import run_recbole_sid
    from recbole_sid.trainer.sid_trainer import SIDTrainer

    run_epoch = SIDTrainer._run_epoch
    rank = os.environ["RANK"]

    def noted_epoch(trainer: Any, epoch: int, *rest: Any) -> bool:
        with open(f"{noted}-{rank}", "a") as stream:
            stream.write(f"{trainer.config['model']} {epoch}\n")
        lost = Path(f"{noted}-lost")
        if rank == "1" and epoch > lost_after and not lost.exists():
            lost.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return run_epoch(trainer, epoch, *rest)

    SIDTrainer._run_epoch = noted_epoch  # type: ignore[method-assign]
    found = run_recbole_sid(model, "tiny", config_dict=settings)
    return {name: float(value) for name, value in found["test_result"].items()}


if __name__ == "__main__":  # the second of two machines
    sys.exit(launch(add_ranks, ["there"], Processes(1, 2, "127.0.0.1", int(sys.argv[1]), 1))["sum"] != [1, 2])
