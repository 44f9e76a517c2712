"""The processes that train one model together, by `torch.distributed`; a process alone is a group of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """What a process knows of its group. All processes call the same methods in the same order.

    Attributes:
        rank: number of this process, from 0; 0 is the main one, which writes.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others, which find what the first wrote."""
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of the processes' `tensor`, which is changed to it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_main(self, value: T) -> T:
        """Return what the main process has for `value`."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def to_main(self, value: T) -> list[T]:
        """Return, in the main process, the `value` of every process, in the order of their ranks; elsewhere none."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def gather(self, value: T) -> list[T]:
        """Return the `value` of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def current_group() -> Group:
    """Return the group that this process is in: that of `torch.distributed`, if it has been started."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return Group()
