"""Compiled: the readout of SID-MLP (`recbole_sid.nn.readout`) and what its contexts ask of the heads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.layers import add_rows, affine, dots_with, norm_rows, relu_rows, softmax, weighted_sum


class ReadoutWeights(NamedTuple):
    """Weights of the readout of Q contexts of width d by h heads, and of what reads these.

    Attributes:
        query: [Q * d, d], or of 2 * d inputs if the last state is read too; ``query_bias``: [Q * d].
        keys: [h * d, d], W_k^T W_q with the attention's scale; ``values``: [d, h * d], W_o W_v.
        norm1, norm2: [3, d], gain and shift, and the eps in [2, 0].
        wide: [f, d], ``wide_bias``: [f]; ``narrow``: [d, f], ``narrow_bias``: [d].
        user: [L * H, d], the users' part of the level heads; ``user_bias``: [L * H]. [0] without these.
        of_last: [d, d], what the last state gets of the context; ``item_norm``: [3, d]; [0] without a head of items.
        nothing: [max(h * d, d)], zeros.
    """

    query: np.ndarray
    query_bias: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    norm1: np.ndarray
    norm2: np.ndarray
    wide: np.ndarray
    wide_bias: np.ndarray
    narrow: np.ndarray
    narrow_bias: np.ndarray
    user: np.ndarray
    user_bias: np.ndarray
    of_last: np.ndarray
    item_norm: np.ndarray
    nothing: np.ndarray


@jit
def read_out(
    weights: ReadoutWeights, states: np.ndarray, starts: np.ndarray, ends: np.ndarray, context: np.ndarray
) -> None:
    """Write contexts z [B * Q, d] of states [N, d]; history b has those from ``starts[b]``, the last at ``ends[b]``."""
    n_users, width = len(starts) - 1, states.shape[1]
    source = np.empty((n_users, weights.query.shape[1]), np.float32)
    longest = 0
    for user in range(n_users):
        longest = max(longest, starts[user + 1] - starts[user])
    shares = np.empty(longest, np.float32)
    for user in range(n_users):
        n = starts[user + 1] - starts[user]
        shares[:n] = np.float32(1) / np.float32(n)
        weighted_sum(states, starts[user], starts[user + 1], 0, shares[:n], source[user, :width])
        if weights.query.shape[1] > width:
            source[user, width:] = states[ends[user]]
    query = np.empty((n_users, len(weights.query)), np.float32)
    affine(source, weights.query, weights.query_bias, query)
    context[:] = query.reshape(context.shape)
    n_heads, n_queries = len(weights.keys) // width, len(context) // n_users
    keys = np.empty((len(context), n_heads * width), np.float32)
    attended = np.empty((len(context), n_heads * width), np.float32)
    affine(context, weights.keys, weights.nothing, keys)
    for row in range(len(context)):
        user = row // n_queries
        first, last = starts[user], starts[user + 1]
        for head in range(n_heads):
            at = head * width
            own = shares[: last - first]
            dots_with(states, first, last, 0, keys[row, at : at + width], own)
            softmax(own)
            weighted_sum(states, first, last, 0, own, attended[row, at : at + width])
    mapped = np.empty(context.shape, np.float32)
    affine(attended, weights.values, weights.nothing, mapped)
    add_rows(mapped, context)
    norm_rows(context, weights.norm1[0], weights.norm1[1], weights.norm1[2, 0], context)
    wide = np.empty((len(context), len(weights.wide)), np.float32)
    affine(context, weights.wide, weights.wide_bias, wide)
    relu_rows(wide)
    affine(wide, weights.narrow, weights.narrow_bias, mapped)
    add_rows(mapped, context)
    norm_rows(context, weights.norm2[0], weights.norm2[1], weights.norm2[2, 0], context)


@jit
def ask(
    weights: ReadoutWeights,
    states: np.ndarray,
    ends: np.ndarray,
    context: np.ndarray,
    parts: np.ndarray,
    query: np.ndarray,
) -> None:
    """Write what contexts z [B * Q, d] ask of the heads that there are.

    Args:
        states, ends: as of `read_out`.
        parts: [B, L, H], the users' part of the level heads; [B, 0, 0] without.
        query: [B, d], what a head over items is asked; [B, 0] without.
    """
    n_users, n_levels, hidden = parts.shape
    if n_levels and len(context) == n_users:
        affine(context, weights.user, weights.user_bias, parts.reshape(n_users, n_levels * hidden))
    elif n_levels:
        own, found = np.empty((n_users, context.shape[1]), np.float32), np.empty((n_users, hidden), np.float32)
        for level in range(n_levels):
            for user in range(n_users):
                own[user] = context[user * n_levels + level]
            rows = slice(level * hidden, (level + 1) * hidden)
            affine(own, weights.user[rows], weights.user_bias[rows], found)
            parts[:, level] = found
    if query.shape[1]:
        affine(context, weights.of_last, weights.nothing, query)
        for user in range(n_users):
            own, last = query[user], states[ends[user]]
            for k in range(len(own)):
                own[k] += last[k]
        norm_rows(query, weights.item_norm[0], weights.item_norm[1], weights.item_norm[2, 0], query)
