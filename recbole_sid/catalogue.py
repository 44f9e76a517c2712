"""Matching item tokens between a dataset and what was made for its items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def match_rows(known: Sequence[str] | np.ndarray, wanted: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return for each of `wanted` its row in `known`, or -1: int64 [len(wanted)]."""
    known, wanted = np.asarray(known, dtype=str), np.asarray(wanted, dtype=str)
    if len(known) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(known, kind="stable")
    row = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[row] == wanted, row, -1)


def hash_tokens(item_tokens: Sequence[str] | np.ndarray) -> str:
    """Return eight hex digits over item tokens and their order."""
    return hashlib.sha256("\n".join(np.asarray(item_tokens, dtype=str).tolist()).encode()).hexdigest()[:8]
