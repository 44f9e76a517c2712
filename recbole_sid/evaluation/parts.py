"""What each process of a group ranks of a split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recbole_sid.distributed.group import Group


@contextmanager
def part_of(loader: Any, group: Group) -> Iterator[None]:
    """Let `loader`, of a split in its order, yield this process's part for the block: rows that follow each other.

    The parts of all processes, in the order of their ranks, are the split. One may be empty.
    """
    if group.size == 1:
        yield
        return
    whole, n = loader.batch_sampler.sampler, loader.sample_size
    begin, end = (n * number // group.size for number in (group.rank, group.rank + 1))
    loader.batch_sampler.sampler = range(begin, end)
    try:
        yield
    finally:
        loader.batch_sampler.sampler = whole
