"""Compiled: linear maps, norms and attention of a few rows at a time, fp32. Weights are [outputs, inputs]."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.heads import exp
from recbole_sid.fast.compiled.jit import jit

_ONE, _ZERO = np.float32(1), np.float32(0)
# Of the weights that rows are multiplied with before the next ones are: they stay in the first-level cache.
_BLOCK = 4096


@jit
def _products_of_four(
    p: np.ndarray, q: np.ndarray, r: np.ndarray, s: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray
) -> None:
    """Write the products of four rows with two: out [8]; eight sums share six loads."""
    pa, qa, ra, sa = _ZERO, _ZERO, _ZERO, _ZERO
    pb, qb, rb, sb = _ZERO, _ZERO, _ZERO, _ZERO
    for k in range(len(p)):
        x, y = a[k], b[k]
        pa += p[k] * x
        qa += q[k] * x
        ra += r[k] * x
        sa += s[k] * x
        pb += p[k] * y
        qb += q[k] * y
        rb += r[k] * y
        sb += s[k] * y
    out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7] = pa, qa, ra, sa, pb, qb, rb, sb


@jit
def _affine_of_row(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Write the affine map of one row; four outputs at a time share its reading."""
    m = len(weight)
    for j in range(0, m - m % 4, 4):
        a, b, c, d = weight[j], weight[j + 1], weight[j + 2], weight[j + 3]
        at, bt, ct, dt = _ZERO, _ZERO, _ZERO, _ZERO
        for k in range(len(x)):
            value = x[k]
            at += value * a[k]
            bt += value * b[k]
            ct += value * c[k]
            dt += value * d[k]
        out[j], out[j + 1], out[j + 2], out[j + 3] = at + bias[j], bt + bias[j + 1], ct + bias[j + 2], dt + bias[j + 3]
    for j in range(m - m % 4, m):
        row, total = weight[j], _ZERO
        for k in range(len(x)):
            total += x[k] * row[k]
        out[j] = total + bias[j]


@jit
def affine(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Write ``x W^T + b``: out [n, m] of x [n, k], weight [m, k] and bias [m]."""
    n, m = len(x), len(weight)
    if n < 4:
        for row in range(n):
            _affine_of_row(x[row], weight, bias, out[row])
        return
    found = np.empty(8, np.float32)
    step = max(2, _BLOCK // x.shape[1] // 2 * 2)
    for block in range(0, m, step):
        for tile in range(0, n, 4):
            row = min(tile, n - 4)  # the last four overlap with those before
            p, q, r, s = x[row], x[row + 1], x[row + 2], x[row + 3]
            for j in range(block, min(block + step, m), 2):
                other = min(j + 1, m - 1)
                _products_of_four(p, q, r, s, weight[j], weight[other], found)
                for k in range(4):
                    out[row + k, j] = found[k] + bias[j]
                    out[row + k, other] = found[4 + k] + bias[other]


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
    out[:] = _ZERO
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
