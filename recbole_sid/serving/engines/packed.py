"""Histories of tokens without padding, one after the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.level_heads import Codes


class PackedTokens(NamedTuple):
    """Serialised histories, as `recbole_sid.nn.vocabulary` has them: user, codes of all items, end of sequence.

    Attributes:
        tokens: int64 [N], history after history.
        user: int64 [N], which history each is of.
        column: int64 [N], the place of each in its history.
        starts: int64 [B + 1], where each history begins.
    """

    tokens: np.ndarray
    user: np.ndarray
    column: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, histories: Histories, codes: Codes) -> PackedTokens:
        """Return the serialised histories; all of one user token, the first."""
        items, lengths = histories
        n_tokens = 2 + lengths * codes.n_levels
        starts = np.concatenate([[0], np.cumsum(n_tokens)])
        user = np.repeat(np.arange(len(items)), n_tokens)
        column = np.arange(len(user)) - starts[user]
        first_user = 1 + sum(codes.sizes)
        table = np.full((len(items), 2 + items.shape[1] * codes.n_levels), first_user)
        table[:, 1:-1] = 1 + codes.rows(items).reshape(len(items), -1)
        table[np.arange(len(items)), n_tokens - 1] = first_user + 1
        return cls(table[user, column], user, column, starts)
