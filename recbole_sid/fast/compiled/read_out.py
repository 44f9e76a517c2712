"""Compiled: the readout of SID-MLP (`recbole_sid.nn.readout`) and what its contexts ask of the heads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.layers import add_rows, copy, dots_with, norm_rows, relu_rows, softmax, weighted_sum
from recbole_sid.fast.compiled.products import affine


class ReadoutWeights(NamedTuple):
    """Weights of the readout of Q contexts of width d by h heads, and of what reads these.

    Weights W are packed by `in_panels` and named by their shape before, their biases filled up.

    Attributes:
        query: W [Q * d, d], or of 2 * d inputs if the last state is read too; ``query_bias``: [Q * d].
        keys: W [h * d, d], W_k^T W_q with the attention's scale; ``values``: W [d, h * d], W_o W_v.
        norm1, norm2: [3, d], gain and shift, and the eps in [2, 0].
        wide: W [f, d], ``wide_bias``: [f]; ``narrow``: W [d, f], ``narrow_bias``: [d].
        user: L x W [H, d], the users' part of the level heads; ``user_bias``: [L, H]. [0] without these.
        of_last: W [d, d], what the last state gets of the context; ``item_norm``: [3, d]; [0] without a head of items.
        nothing: zeros, as a bias of any of them.
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
        for place in range(n):
            shares[place] = np.float32(1) / np.float32(n)
        weighted_sum(states, starts[user], starts[user + 1], 0, shares[:n], source[user, :width])
        if weights.query.shape[1] > width:
            copy(states[ends[user]], source[user, width:])
    n_queries, n_heads = len(context) // n_users, weights.values.shape[1] // width
    affine(source, weights.query, weights.query_bias, context.reshape(n_users, n_queries * width))
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
    wide = np.empty((len(context), weights.narrow.shape[1]), np.float32)
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
    n_queries, found = len(context) // n_users, np.empty((n_users, hidden), np.float32)
    own = context if n_queries == 1 else np.empty((n_users, context.shape[1]), np.float32)
    for level in range(n_levels):
        if n_queries > 1:
            for user in range(n_users):
                copy(context[user * n_queries + level], own[user])
        affine(own, weights.user[level], weights.user_bias[level], found)
        for user in range(n_users):
            copy(found[user], parts[user, level])
    if query.shape[1]:
        affine(context, weights.of_last, weights.nothing, query)
        for user in range(n_users):
            own, last = query[user], states[ends[user]]
            for k in range(len(own)):
                own[k] += last[k]
        norm_rows(query, weights.item_norm[0], weights.item_norm[1], weights.item_norm[2, 0], query)
