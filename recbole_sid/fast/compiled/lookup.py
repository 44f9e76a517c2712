"""A memory of transitions looked up by compiled loops, in threads."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import Looked, Others, Transitions
from recbole_sid.fast.compiled.recall import join, n_successors, narrow, recall
from recbole_sid.fast.compiled.threads import share


def look_up(table: Transitions, recent: np.ndarray, free_sums: list[np.ndarray], n_threads: int) -> Looked:
    """Return what is remembered after each history.

    Args:
        table: with decays for at least W items.
        recent: int64 [B, W], contiguous, the last items, the most recent first; 0 where there is none.
        free_sums: arrays float32 [n_items] of zeros, as many as threads ever worked at once, to take and to give back:
            a large new one is slow to touch.
        n_threads: users are shared among this many threads.
    """
    n_users = len(recent)
    room, found = np.zeros(n_users + 1, np.int64), np.empty(n_users, np.int64)
    n_successors(table, recent, room[1:])
    np.cumsum(room, out=room)
    items, masses = np.empty(room[-1], np.int32), np.empty(room[-1], np.float32)
    looked = Looked(room, items, masses, found, np.empty(n_users, np.float32), Others.none(n_users))

    def work(users: slice) -> None:
        ends = room[users.start : users.stop + 1]
        try:
            sums = free_sums.pop()
        except IndexError:
            sums = np.zeros(len(table.row_sums), np.float32)
        recall(table, recent[users], ends, sums, looked.items, looked.masses, found[users], looked.remaining[users])
        free_sums.append(sums)

    share(work, n_users, n_threads)
    return looked


def heaviest(looked: Looked, k: int) -> Looked:
    """Return what was looked up, written over, with the k items of the largest masses as `found`: `Recall.heaviest`."""
    narrow(looked, k)
    return looked


def with_items(looked: Looked, extra: np.ndarray) -> Looked:
    """Return what was looked up with `extra` items int64 [B, K], 0 for none, whose mass is 0 if they have none."""
    others = looked.others
    room = np.concatenate([[0], np.cumsum(looked.found + others.end - others.start + extra.shape[1])])
    joined = Looked(room, np.empty(room[-1], np.int32), np.empty(room[-1], np.float32), *looked[3:])
    join(looked, np.ascontiguousarray(extra), room, joined.items, joined.masses)
    return joined


def nothing(n_users: int) -> Looked:
    """Return what a memory says that knows nothing."""
    room, found = np.zeros(n_users + 1, np.int64), np.zeros(n_users, np.int64)
    items, masses, remaining = np.empty(0, np.int32), np.empty(0, np.float32), np.ones(n_users, np.float32)
    return Looked(room, items, masses, found, remaining, Others.none(n_users))
