"""What to do with items of equal codes. Each rule is a function codes -> (codes, codebook sizes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_sid.errors import InputError


def append_rank(
    codes: np.ndarray, codebook_sizes: Sequence[int], rank_size: int | None = None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Append a level with each item's rank among the items of equal codes, counted from 0 in row order.

    Args:
        codes: int64 [n_items, L].
        codebook_sizes: length L.
        rank_size: size of the new level; by default the largest group's size.

    Returns:
        unique codes int64 [n_items, L + 1] and L + 1 sizes.

    Raises:
        InputError: if more items share their codes than `rank_size` can tell apart.
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    position = np.arange(len(group))
    opens = np.concatenate([[True], group[order][1:] != group[order][:-1]])
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = position - np.maximum.accumulate(np.where(opens, position, 0))
    needed = int(rank.max()) + 1
    if rank_size is not None and needed > rank_size:
        raise InputError(
            f"{needed} items share one semantic ID but rank_size={rank_size}: raise rank_size, or use larger or more "
            "codebooks."
        )
    return np.column_stack([codes, rank]), (*codebook_sizes, rank_size or needed)
