"""Compiled: the T5 encoder (`recbole_sid.fast.t5`), from tokens to states, without padding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.layers import add_rows, attend, copy, relu_rows, unit_rows
from recbole_sid.fast.compiled.products import affine

# Rows that are worked on together: what is computed of them stays in the second-level cache.
_ROWS = 96


class T5Layers(NamedTuple):
    """Weights of N blocks over states of width d, norms' gains folded in; those W are packed by `in_panels`.

    Attributes:
        embedding: [vocabulary, d]; ``first_qkv``: [vocabulary, 3 * inner], queries, keys and values of the first block.
        qkv: N - 1 times W [3 * inner, d], of the others.
        output: N x W [d, inner], ``wide``: N x W [f, d], ``narrow``: N x W [d, f].
        bias: [heads, 2 * S - 1], by how many places the key is behind the query, the middle for the same.
        gain: [d], of the last norm; ``eps``: [1], of all.
        nothing: zeros, as a bias of any of them.
    """

    embedding: np.ndarray
    first_qkv: np.ndarray
    qkv: np.ndarray
    output: np.ndarray
    wide: np.ndarray
    narrow: np.ndarray
    bias: np.ndarray
    gain: np.ndarray
    eps: np.ndarray
    nothing: np.ndarray


@jit
def encode_t5(layers: T5Layers, tokens: np.ndarray, starts: np.ndarray, states: np.ndarray) -> None:
    """Write states [N, d] of tokens int64 [N], history after history; starts int64 [B + 1] is where each begins."""
    n_users = len(starts) - 1
    first = 0
    while first < n_users:
        last = first + 1
        while last < n_users and starts[last + 1] - starts[first] <= _ROWS:
            last += 1
        rows = slice(starts[first], starts[last])
        _encode(layers, tokens[rows], starts[first : last + 1] - starts[first], states[rows])
        first = last


@jit
def _encode(layers: T5Layers, tokens: np.ndarray, starts: np.ndarray, x: np.ndarray) -> None:
    n, width = x.shape
    eps, nothing = layers.eps[0], layers.nothing
    inner = layers.first_qkv.shape[1] // 3
    normed, qkv = np.empty((n, width), np.float32), np.empty((n, 3 * inner), np.float32)
    context, wide = np.empty((n, inner), np.float32), np.empty((n, layers.narrow.shape[2]), np.float32)
    weights = np.empty(n, np.float32)
    for row in range(n):
        copy(layers.embedding[tokens[row]], x[row])
        copy(layers.first_qkv[tokens[row]], qkv[row])
    for number in range(len(layers.output)):
        if number:
            unit_rows(x, eps, normed)
            affine(normed, layers.qkv[number - 1], nothing, qkv)
        for user in range(len(starts) - 1):
            attend(qkv, starts[user], starts[user + 1], layers.bias, weights, context)
        affine(context, layers.output[number], nothing, normed)
        add_rows(normed, x)
        unit_rows(x, eps, normed)
        affine(normed, layers.wide[number], nothing, wide)
        relu_rows(wide)
        affine(wide, layers.narrow[number], nothing, normed)
        add_rows(normed, x)
    unit_rows(x, eps, x)
    for row in range(n):
        own = x[row]
        for k in range(width):
            own[k] *= layers.gain[k]
