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


if __name__ == "__main__":  # the second of two machines
    sys.exit(launch(add_ranks, ["there"], Processes(1, 2, "127.0.0.1", int(sys.argv[1]), 1))["sum"] != [1, 2])
