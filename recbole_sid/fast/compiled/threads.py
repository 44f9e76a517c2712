"""Threads for compiled loops: users are shared among them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def share(work: Callable[[slice], None], n_users: int, n_threads: int) -> None:
    """Call `work` on slices of the users in threads; numba's own threads cannot be entered from several at once."""
    if n_threads <= 1 or n_users <= 1:
        work(slice(0, n_users))
        return
    step = -(-n_users // min(n_threads, n_users))
    with ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(work, [slice(first, first + step) for first in range(0, n_users, step)]))
