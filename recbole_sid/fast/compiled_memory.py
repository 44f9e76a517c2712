"""A memory of transitions looked up by compiled loops (`recbole_sid.fast.compiled`)."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch

from recbole_sid.fast.compiled.arrays import Looked, Transitions
from recbole_sid.memory import Memory

# Of each memory the arrays [n_items] that its users' masses are added up in.
_free_sums: WeakKeyDictionary[Memory, list[np.ndarray]] = WeakKeyDictionary()


def look_up(memory: Memory, recent: torch.Tensor, k: int | None = None) -> Looked:
    """Look up histories int64 [B, W] as `Memory.recall` does; numba has to be there.

    Args:
        k: `found` are the k of the largest masses alone, as of `Recall.heaviest`; None: all.
    """
    from recbole_sid.fast.compiled import lookup

    items = np.ascontiguousarray(recent[:, : memory.numbers.window].cpu().numpy())
    free = _free_sums.setdefault(memory, [])
    looked = lookup.look_up(transitions(memory, items.shape[1]), items, free, torch.get_num_threads())
    return looked if k is None else lookup.heaviest(looked, k)


def nothing(n_users: int) -> Looked:
    """Return what a memory says that knows nothing."""
    from recbole_sid.fast.compiled import lookup

    return lookup.nothing(n_users)


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
