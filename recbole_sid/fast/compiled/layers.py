"""Compiled: norms and attention of a few rows at a time, fp32."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.heads import exp
from recbole_sid.fast.compiled.jit import jit

_ONE, _ZERO = np.float32(1), np.float32(0)


@jit
def copy(x: np.ndarray, out: np.ndarray) -> None:
    """Write x [n] to out [n]; an assignment of slices takes the compiler seconds."""
    for k in range(len(x)):
        out[k] = x[k]


@jit
def add_rows(x: np.ndarray, out: np.ndarray) -> None:
    """Add x [n, d] to out [n, d]."""
    for row in range(len(x)):
        own, total = x[row], out[row]
        for k in range(len(own)):
            total[k] += own[k]


@jit
def norm_rows(x: np.ndarray, gain: np.ndarray, shift: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    """Write the LayerNorm of x [n, d] to out [n, d], which may be x."""
    width = x.shape[1]
    for row in range(len(x)):
        own, found = x[row], out[row]
        total = _ZERO
        for k in range(width):
            total += own[k]
        mean, square = total / np.float32(width), _ZERO
        for k in range(width):
            centred = own[k] - mean
            square += centred * centred
        scale = _ONE / np.sqrt(square / np.float32(width) + eps)
        for k in range(width):
            found[k] = (own[k] - mean) * scale * gain[k] + shift[k]


@jit
def unit_rows(x: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    """Write x [n, d] times (|x|^2 + eps)^-0.5 to out [n, d], which may be x."""
    for row in range(len(x)):
        own, found = x[row], out[row]
        square = _ZERO
        for k in range(len(own)):
            square += own[k] * own[k]
        scale = _ONE / np.sqrt(square + eps)
        for k in range(len(own)):
            found[k] = own[k] * scale


@jit
def relu_rows(x: np.ndarray) -> None:
    """Replace what is below 0 in x [n, d] by 0."""
    for row in range(len(x)):
        own = x[row]
        for k in range(len(own)):
            own[k] = max(own[k], _ZERO)


@jit
def softmax(x: np.ndarray) -> None:
    """Replace x [n] by its softmax."""
    peak = x[0]
    for k in range(1, len(x)):
        peak = max(peak, x[k])
    total = _ZERO
    for k in range(len(x)):
        x[k] = exp(x[k] - peak)
        total += x[k]
    scale = _ONE / total
    for k in range(len(x)):
        x[k] *= scale


@jit
def dots_with(rows: np.ndarray, first: int, last: int, at: int, x: np.ndarray, out: np.ndarray) -> None:
    """Write the products of rows[first:last, at : at + d] with x [d] to out [last - first]."""
    width = len(x)
    for row in range(first, last):
        own, total = rows[row, at : at + width], _ZERO
        for k in range(width):
            total += own[k] * x[k]
        out[row - first] = total


@jit
def weighted_sum(rows: np.ndarray, first: int, last: int, at: int, weights: np.ndarray, out: np.ndarray) -> None:
    """Write the sum of rows[first:last, at : at + d] times weights [last - first] to out [d]."""
    width = len(out)
    for k in range(width):
        out[k] = _ZERO
    n = last - first
    for row in range(0, n - n % 4, 4):
        a, b = rows[first + row, at : at + width], rows[first + row + 1, at : at + width]
        c, d = rows[first + row + 2, at : at + width], rows[first + row + 3, at : at + width]
        p, q, r, s = weights[row], weights[row + 1], weights[row + 2], weights[row + 3]
        for k in range(width):
            out[k] += p * a[k] + q * b[k] + r * c[k] + s * d[k]
    for row in range(n - n % 4, n):
        own, weight = rows[first + row, at : at + width], weights[row]
        for k in range(width):
            out[k] += weight * own[k]


@jit
def attend(qkv: np.ndarray, first: int, last: int, bias: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Write the contexts out[first:last] [., inner] of one history's queries, keys and values, rows of [n, 3 * inner].

    Args:
        bias: [heads, 2 * n_max - 1], by how many places the key is behind the query, the middle for the same.
        weights: scratch space, [>= last - first].
    """
    n_heads, middle = len(bias), bias.shape[1] // 2
    inner = out.shape[1]
    width, n = inner // n_heads, last - first
    for head in range(n_heads):
        at = head * width
        for row in range(first, last):
            own = weights[:n]
            dots_with(qkv, first, last, inner + at, qkv[row, at : at + width], own)
            start = middle - (row - first)
            for key in range(n):
                own[key] += bias[head, start + key]
            softmax(own)
            weighted_sum(qkv, first, last, 2 * inner + at, own, out[row, at : at + width])
