"""Which process of a group this one is, as its launcher said in the environment, and which are to be started."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from recbole_sid.errors import InputError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """A process's place among those that were launched together.

    Attributes:
        rank, size: its number, from 0, among all, and how many there are.
        local_rank, local_size: the same on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


class Processes(NamedTuple):
    """Which processes to start here.

    Attributes:
        n_here: on this machine.
        n_all: on all machines.
        host, port: of the first machine, where they meet; a port of None is any that is free, on this machine alone.
        offset: rank of the first process here.
    """

    n_here: int = 1
    n_all: int = 1
    host: str = "127.0.0.1"
    port: int | None = None
    offset: int = 0

    @property
    def are_all_here(self) -> bool:
        return self.n_here == self.n_all


def was_launched() -> bool:
    """Say whether torchrun, `launch` or Ray Train started this process, perhaps alone."""
    return all(os.environ.get(name) for name in _NEEDED)


def launched_place() -> Place:
    """Return this process's place as torchrun, `launch` or Ray Train said it; one alone if none of them did.

    Raises:
        InputError: if what the environment says makes no sense.
    """
    if not was_launched():
        return Place()
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    place = Place(rank, size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size))
    if not 0 <= place.local_rank < max(1, place.local_size) or not 0 <= rank < size:
        raise InputError(f"RANK={rank} of WORLD_SIZE={size} in the environment is no process of a group.")
    return place


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name}={text!r} in the environment must be a whole number: torchrun sets it.") from error


def visible_gpus(place: Place) -> str:
    """Return the GPUs that the processes of this machine share out, as ``gpu_id``: those they see, else one each."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")  # empty: the user hides all
    return ",".join(map(str, range(place.local_size))) if seen is None else seen


def device_of(place: Place) -> Any:
    """Return the GPU of this process among those that it sees.

    Raises:
        InputError: if there are fewer than processes on this machine.
    """
    import torch

    n_seen = torch.cuda.device_count()
    if n_seen < place.local_size and n_seen != 1:  # one: a launcher may show each process its own
        raise InputError(
            f"{place.local_size} processes on this machine see {n_seen} GPUs: start as many as there are GPUs, name "
            "enough in gpu_id, or train on the CPU by use_gpu=False."
        )
    return torch.device("cuda", place.local_rank if n_seen > place.local_rank else 0)


def silence_others() -> None:
    """Let this process neither log nor warn if it is not the main one of its group: all would say the same."""
    place = launched_place()
    if place.size > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # read when torch is imported, as by `recbole-sid`
    if place.rank > 0:
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")


@contextmanager
def environment_set(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the block, for what is started in it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
