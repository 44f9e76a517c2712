"""Histories of tokens without padding: those of one length lie together, so that attention needs no mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.level_heads import Codes


class PackedTokens(NamedTuple):
    """Serialised histories, as `recbole_sid.nn.vocabulary` has them: user, codes of all items, end of sequence.

    Attributes:
        tokens: int64 [N], history after history, the shorter first.
        column: int64 [N], the place of each in its history.
        length: int64 [N], tokens of its history.
        user: int64 [N], the place of its history among these.
        order: int64 [B], of each place, which history of the batch it is.
        groups: tokens of a history and how many such histories there are, in order.
    """

    tokens: np.ndarray
    column: np.ndarray
    length: np.ndarray
    user: np.ndarray
    order: np.ndarray
    groups: list[tuple[int, int]]

    @classmethod
    def of(cls, histories: Histories, codes: Codes) -> PackedTokens:
        """Return the serialised histories; all of one user token, the first."""
        items, lengths = histories
        order = np.argsort(lengths, kind="stable")
        n_levels, first_user = codes.n_levels, 1 + sum(codes.sizes)
        width = 2 + items.shape[1] * n_levels
        tokens = np.zeros((len(items), width), np.int64)
        tokens[:, 0] = first_user
        tokens[:, 1:-1] = 1 + codes.rows(items).reshape(len(items), -1)
        n_tokens = 2 + lengths * n_levels
        tokens[np.arange(len(items)), n_tokens - 1] = first_user + 1
        of_place = n_tokens[order]
        user = np.repeat(np.arange(len(items)), of_place)
        column = np.arange(len(user)) - np.repeat(np.cumsum(of_place) - of_place, of_place)
        length, counts = np.unique(of_place, return_counts=True)
        groups = list(zip(length.tolist(), counts.tolist(), strict=True))
        return cls(tokens[order[user], column], column, of_place[user], user, order, groups)

    def padded(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return states [B, S, d] of states [N, d], 0 where none is, and which are there, bool [B, S]."""
        n_users, width = len(self.order), self.groups[-1][0]
        rows = self.order[self.user]
        table, there = np.zeros((n_users, width, states.shape[1]), np.float32), np.zeros((n_users, width), np.bool_)
        table[rows, self.column], there[rows, self.column] = states, True
        return table, there
