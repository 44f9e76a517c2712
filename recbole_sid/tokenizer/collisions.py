"""What to do with items of equal codes. Each rule is a function (codes, codebook sizes, context) -> (codes, sizes).

`append_rank` adds a level; `nearest` and `sinkhorn` (in `recbole_sid.tokenizer.reassign`) move items to free codes;
`keep` lets items share a semantic ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class CollisionContext:
    """What a rule may need besides the codes.

    Attributes:
        rank_size: size of the rank level; by default as large as needed.
        features: float32 [n_items, d] that the codes were made from; None for ready-made semantic IDs.
        tokenizer: the fitted tokenizer that made them; None for ready-made semantic IDs.
        kept: int64 [m, L'] semantic IDs, after this rule, of other items, which keep them: how new items join old ones.
    """

    rank_size: int | None = None
    features: np.ndarray | None = None
    tokenizer: Tokenizer | None = None
    kept: np.ndarray | None = None


def rank(
    codes: np.ndarray, codebook_sizes: Sequence[int], context: CollisionContext
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Append a level with each item's rank among the items of equal codes, as `append_rank`; old ranks go on."""
    if context.kept is None:
        return append_rank(codes, codebook_sizes, context.rank_size)
    n_kept = len(context.kept)
    group = group_numbers(np.concatenate([context.kept[:, :-1], codes]))
    first = np.zeros(int(group.max()) + 1, dtype=np.int64)  # free rank per group
    np.maximum.at(first, group[:n_kept], context.kept[:, -1] + 1)
    ranks = first[group[n_kept:]] + pd.Series(group[n_kept:]).groupby(group[n_kept:]).cumcount().to_numpy()
    needed = int(ranks.max(initial=0)) + 1
    if context.rank_size is not None and needed > context.rank_size:
        raise InputError(
            f"The new items need {needed} ranks but the rank level has {context.rank_size}, which is fixed once a "
            f"model is trained: make semantic IDs with headroom (rank_size={needed} or more) and train on those."
        )
    return np.column_stack([codes, ranks]), (*codebook_sizes, context.rank_size or needed)


def keep(
    codes: np.ndarray, codebook_sizes: Sequence[int], context: CollisionContext
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Change nothing: items of equal codes share their semantic ID."""
    return codes, tuple(codebook_sizes)


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
    ranks = _by_row(codes).cumcount().to_numpy()
    needed = int(ranks.max(initial=0)) + 1
    if rank_size is not None and needed > rank_size:
        raise InputError(
            f"{needed} items share one semantic ID but rank_size={rank_size}: raise rank_size, or use larger or more "
            "codebooks."
        )
    return np.column_stack([codes, ranks]), (*codebook_sizes, rank_size or needed)


def group_numbers(codes: np.ndarray) -> np.ndarray:
    """Return a number per distinct row of codes [n, L], from 0: int64 [n]."""
    if codes.shape[1] == 0:
        return np.zeros(len(codes), dtype=np.int64)
    return _by_row(codes).ngroup().to_numpy()


def summary(codes: np.ndarray) -> dict[str, int]:
    """Return collided_items, groups and largest_group of codes [n_items, L]."""
    sizes = np.bincount(group_numbers(codes))
    shared = sizes[sizes > 1]
    return {"collided_items": int(shared.sum()), "groups": len(shared), "largest_group": int(sizes.max())}


def _by_row(codes: np.ndarray) -> Any:
    return pd.DataFrame(codes).groupby(list(range(codes.shape[1])), sort=False)
