"""Compiled: the encoder of items (`recbole_sid.nn.item_encoder`), from item numbers to a state for each item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.arrays import Places, Prefixes
from recbole_sid.fast.compiled.heads import gelu_in_place
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.layers import add_rows, attend, copy, norm_rows, weighted_sum
from recbole_sid.fast.compiled.products import affine


class ItemLayers(NamedTuple):
    """Weights of N layers over states of width d, for histories of at most T items; [0] where they have none.

    Weights W are packed by `in_panels` and named by their shape before, their biases filled up.

    Attributes:
        codes: [sum of sizes, d], each code's share of an item's vector; ``first_code``: int64 [L], of each level.
        position: [T, d], by recency.
        item_norm: [3, d], gain and shift of a norm of items' vectors, and its eps in [2, 0]; or [0, d].
        mixing_norm, mlp_norm: [N, 3, d], as `item_norm`.
        matrix: [N, T, T], over the recencies of both items; ``mean``: N x W [d, d], ``mean_bias``: [N, d].
        qkv: N x W [3 * d, d], queries scaled; ``qkv_bias``: [N, 3 * d]; ``out``: N x W [d, d], ``out_bias``: [N, d].
        no_bias: [heads, 2 * T - 1], zeros.
        wide: N x W [f, d], ``wide_bias``: [N, f]; ``narrow``: N x W [d, f], ``narrow_bias``: [N, d].
        norm: [3, d].
    """

    codes: np.ndarray
    first_code: np.ndarray
    position: np.ndarray
    item_norm: np.ndarray
    mixing_norm: np.ndarray
    matrix: np.ndarray
    mean: np.ndarray
    mean_bias: np.ndarray
    qkv: np.ndarray
    qkv_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray
    no_bias: np.ndarray
    mlp_norm: np.ndarray
    wide: np.ndarray
    wide_bias: np.ndarray
    narrow: np.ndarray
    narrow_bias: np.ndarray
    norm: np.ndarray


@jit
def encode_items(
    layers: ItemLayers,
    prefixes: Prefixes,
    places: Places,
    items: np.ndarray,
    starts: np.ndarray,
    states: np.ndarray,
) -> None:
    """Write states [N, d] of histories' items, the most recent of each history first.

    Args:
        items: int64 [B, T], the oldest first.
        starts: int64 [B + 1], where each history's states begin.
    """
    _embed(layers, prefixes, places, items, starts, states)
    n, width = states.shape
    normed, wide = np.empty((n, width), np.float32), np.empty((n, layers.narrow.shape[2]), np.float32)
    for number in range(len(layers.wide)):
        norm = layers.mixing_norm[number]
        norm_rows(states, norm[0], norm[1], norm[2, 0], normed)
        if len(layers.matrix):
            _mix_by_position(layers, number, normed, starts, states)
        else:
            _mix_by_attention(layers, number, normed, starts, states)
        norm = layers.mlp_norm[number]
        norm_rows(states, norm[0], norm[1], norm[2, 0], normed)
        affine(normed, layers.wide[number], layers.wide_bias[number], wide)
        gelu_in_place(wide.reshape(-1))
        affine(wide, layers.narrow[number], layers.narrow_bias[number], normed)
        add_rows(normed, states)
    norm_rows(states, layers.norm[0], layers.norm[1], layers.norm[2, 0], states)


@jit
def _embed(
    layers: ItemLayers,
    prefixes: Prefixes,
    places: Places,
    items: np.ndarray,
    starts: np.ndarray,
    states: np.ndarray,
) -> None:
    n_levels = places.nodes.shape[1]
    for user in range(len(items)):
        first, n = starts[user], starts[user + 1] - starts[user]
        for recency in range(n):
            nodes, x = places.nodes[items[user, n - 1 - recency]], states[first + recency]
            copy(layers.position[recency], x)
            for level in range(n_levels):
                if nodes[level] >= 0:
                    code = prefixes.code[prefixes.code_at[level] + nodes[level]]
                    own = layers.codes[layers.first_code[level] + code]
                    for k in range(len(x)):
                        x[k] += own[k]
    if len(layers.item_norm):
        norm_rows(states, layers.item_norm[0], layers.item_norm[1], layers.item_norm[2, 0], states)


@jit
def _mix_by_position(
    layers: ItemLayers, number: int, normed: np.ndarray, starts: np.ndarray, states: np.ndarray
) -> None:
    n_users, width = len(starts) - 1, states.shape[1]
    means, mapped = np.empty((n_users, width), np.float32), np.empty((n_users, width), np.float32)
    mixed, ones = np.empty(width, np.float32), np.empty(layers.matrix.shape[1], np.float32)
    for user in range(n_users):
        n = starts[user + 1] - starts[user]
        for place in range(n):
            ones[place] = np.float32(1) / np.float32(n)
        weighted_sum(normed, starts[user], starts[user + 1], 0, ones[:n], means[user])
    affine(means, layers.mean[number], layers.mean_bias[number], mapped)
    for user in range(n_users):
        first, last = starts[user], starts[user + 1]
        for row in range(first, last):
            weighted_sum(normed, first, last, 0, layers.matrix[number, row - first, : last - first], mixed)
            own, shared = states[row], mapped[user]
            for k in range(width):
                own[k] += mixed[k] + shared[k]


@jit
def _mix_by_attention(
    layers: ItemLayers, number: int, normed: np.ndarray, starts: np.ndarray, states: np.ndarray
) -> None:
    n, width = states.shape
    qkv, context = np.empty((n, 3 * width), np.float32), np.empty((n, width), np.float32)
    weights = np.empty(len(layers.position), np.float32)
    affine(normed, layers.qkv[number], layers.qkv_bias[number], qkv)
    for user in range(len(starts) - 1):
        attend(qkv, starts[user], starts[user + 1], layers.no_bias, weights, context)
    affine(context, layers.out[number], layers.out_bias[number], normed)
    add_rows(normed, states)
