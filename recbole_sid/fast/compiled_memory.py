"""A memory of transitions looked up by compiled loops (`recbole_sid.fast.compiled`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch

from recbole_sid.fast.compiled.arrays import Looked, Transitions
from recbole_sid.memory import Memory


def look_up(memory: Memory, recent: torch.Tensor) -> Looked:
    """Look up histories int64 [B, W] as `Memory.recall` does; numba has to be there."""
    from recbole_sid.fast.compiled.recall import n_successors, recall
    from recbole_sid.fast.compiled.threads import share

    items = np.ascontiguousarray(recent[:, : memory.numbers.window].cpu().numpy())
    table, n_users = transitions(memory, items.shape[1]), len(items)
    room, found = np.zeros(n_users + 1, np.int64), np.empty(n_users, np.int64)
    n_successors(table, items, room[1:])
    np.cumsum(room, out=room)
    looked = Looked(
        room, np.empty(room[-1], np.int32), np.empty(room[-1], np.float32), found, np.empty(n_users, np.float32)
    )

    def work(users: slice) -> None:
        ends = room[users.start : users.stop + 1]
        with _sums(memory) as sums:
            recall(table, items[users], ends, sums, looked.items, looked.masses, found[users], looked.remaining[users])

    share(work, n_users, torch.get_num_threads())
    return looked


def nothing(n_users: int) -> Looked:
    """Return what a memory says that knows nothing."""
    room, found = np.zeros(n_users + 1, np.int64), np.zeros(n_users, np.int64)
    return Looked(room, np.empty(0, np.int32), np.empty(0, np.float32), found, np.ones(n_users, np.float32))


def with_items(looked: Looked, extra: torch.Tensor) -> Looked:
    """Return what was looked up with `extra` items int64 [B, K], 0 for none, whose mass is 0 if they have none."""
    from recbole_sid.fast.compiled.recall import join

    room = np.concatenate([[0], np.cumsum(looked.found + extra.shape[1])])
    joined = Looked(room, np.empty(room[-1], np.int32), np.empty(room[-1], np.float32), *looked[3:])
    join(looked, np.ascontiguousarray(extra.numpy()), room, joined.items, joined.masses)
    return joined


# Of each memory the arrays [n_items] that its users' masses are added up in: as many as threads ever worked at once.
_free_sums: WeakKeyDictionary[Memory, list[np.ndarray]] = WeakKeyDictionary()


@contextmanager
def _sums(memory: Memory) -> Iterator[np.ndarray]:
    """Lend an array float32 [n_items] of zeros, to be given back so: a large new one is slow to touch."""
    free = _free_sums.setdefault(memory, [])
    try:
        sums = free.pop()
    except IndexError:
        sums = np.zeros(memory.n_items, np.float32)
    yield sums
    free.append(sums)


def transitions(memory: Memory, window: int) -> Transitions:
    """Return the memory's arrays, for histories of at most `window` items."""
    counts, row_sums = memory.table
    return Transitions(
        memory.starts.cpu().numpy(),
        counts.indices,
        counts.data,
        row_sums,
        memory.left_out,
        memory.numbers.window_decay ** np.arange(window, dtype=np.float64),
        memory.numbers.pseudo_counts,
    )
