"""How a launched process joins its group, and how the group tells once what ended it."""

from __future__ import annotations

import atexit
import os
import socket
import sys
from datetime import timedelta
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist

from recbole_sid.distributed.group import Group, current_group
from recbole_sid.distributed.place import Place, launched_place
from recbole_sid.errors import InputError, first_line

# What the main process does while the others wait, such as embedding texts, may take hours. That one of them is gone
# is told by the launcher, which ends the others, and by gloo, whose connections break.
LONGEST_WAIT = timedelta(days=2)
_PATIENCE = 600.0  # seconds for the other processes to be started, perhaps by hand on another machine
_LAST_WORD = 3.0  # seconds for the process that knows what happened to say it

_SAYING, _SAID = "recbole_sid/saying", "recbole_sid/said"
_store: Any = None  # where the processes meet; one a process


class ProcessLost(InputError):
    """Another process of the group is gone; what it said, if anything, tells more."""


def join(device: torch.device) -> Group:
    """Make this process part of the group that it was launched for, once; one that was launched alone stays alone.

    Args:
        device: that this process trains on. On GPUs tensors go by nccl; what lies in the host's memory, and so
            barriers and objects, by gloo in any case.

    Raises:
        InputError: if the others cannot be reached, or two processes share a GPU.
    """
    place = launched_place()
    if place.size > 1 and device.type == "cuda":
        torch.cuda.set_device(device)
    if place.size == 1 or dist.is_initialized():  # by Ray Train
        return current_group()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = _meet(place, _PATIENCE)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=LONGEST_WAIT)
    atexit.register(_leave)
    group = current_group()
    if device.type == "cuda":
        _check_own_gpus(group, device)
    return group


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _check_own_gpus(group: Group, device: torch.device) -> None:
    """Raise InputError, in every process, if two of them compute on one GPU."""
    gpus = group.gather((socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid)))
    if len(set(gpus)) < len(gpus):
        raise InputError(
            f"{group.size} processes share {len(set(gpus))} GPUs: start one a GPU, and let gpu_id name them all."
        )


def _meet(place: Place, patience: float) -> Any:
    """Return the store where the processes meet; the launcher or process 0 holds it.

    Raises:
        InputError: if it cannot be reached, or not be made.
    """
    global _store
    if _store is not None:
        return _store
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    held_elsewhere = place.rank > 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        if held_elsewhere:
            wait_until_open(host, int(port), patience)
        _store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=patience)))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The processes cannot meet at {host}:{port} ({first_line(error)}): check that the first one runs there, "
            "or choose another port if it is in use."
        ) from error
    return _store


def wait_until_open(host: str, port: int, patience: float) -> None:
    """Wait until something listens at ``host:port``: torch itself tries too, but prints pages while it does.

    Raises:
        OSError: if it does not within `patience` seconds.
    """
    given_up = monotonic() + patience
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError:
            if monotonic() > given_up:
                raise
        sleep(0.2)


def is_loss(error: BaseException) -> bool:
    """Say whether an exception means that another process of the group is gone, or its machine."""
    if not dist.is_available() or launched_place().size == 1:
        return False
    broken = isinstance(error, RuntimeError) and ("gloo/" in str(error) or "gloo::" in str(error))
    return broken or isinstance(error, (ProcessLost, dist.DistError))


def fault(of_process: str) -> RuntimeError:
    """Return the error of a group one of whose processes failed, by its traceback; its first line says of what."""
    return RuntimeError(f"A process of the group failed: {of_process.strip().splitlines()[-1]}\n\n{of_process}")


def say_once(sentence: str, lost: bool = False) -> None:
    """Print `sentence` unless another process of the group was quicker, whose word is then waited for.

    Args:
        sentence: to stderr.
        lost: it only says that another process is gone, which may be able to say why.
    """
    place = launched_place()
    if place.size > 1 and not _is_first(place, lost):
        return
    print(sentence, file=sys.stderr, flush=True)
    if _store is not None:
        _told(_store)


def _is_first(place: Place, lost: bool) -> bool:
    try:
        store = _meet(place, _LAST_WORD)
        if lost and _waited_for_word(store):
            return False
        if store.add(_SAYING, 1) == 1:
            return True
        _waited_for_word(store)  # the launcher ends all as soon as one has ended
        return False
    except (InputError, RuntimeError):  # nobody is there any more to be asked
        return not lost


def _waited_for_word(store: Any) -> bool:
    given_up = monotonic() + _LAST_WORD
    while monotonic() < given_up:
        if store.check([_SAID]):
            return True
        sleep(0.05)
    return False


def _told(store: Any) -> None:
    try:
        store.set(_SAID, "1")
    except RuntimeError:  # the process that held it is gone
        return
