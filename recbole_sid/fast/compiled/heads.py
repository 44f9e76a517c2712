"""Compiled: one head of SID-MLP, from codes of a prefix to log-probabilities of its children.

fp32 throughout: a Python float in an expression would make it fp64.
"""

from __future__ import annotations

import math

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads
from recbole_sid.fast.compiled.jit import jit

_ONE, _HALF, _ROOT_HALF = np.float32(1), np.float32(0.5), np.float32(math.sqrt(0.5))
_LOWEST = np.float32(-np.inf)
# Users whose activations are held at a time: they stay in the first-level cache.
TILE = 4


@jit
def _erf(x: np.float32) -> np.float32:
    """Error function to fp32 rounding, as a rational function of x on [-4, 4] (its values beyond are +-1)."""
    x = min(max(x, np.float32(-4)), np.float32(4))
    y = x * x
    top = np.float32(-2.72614225801306e-10)
    top = top * y + np.float32(2.77068142495902e-08)
    top = top * y + np.float32(-2.10102402082508e-06)
    top = top * y + np.float32(-5.69250639462346e-05)
    top = top * y + np.float32(-7.34990630326855e-04)
    top = top * y + np.float32(-2.95459980854025e-03)
    top = top * y + np.float32(-1.60960333262415e-02)
    low = np.float32(-1.45660718464996e-05)
    low = low * y + np.float32(-2.13374055278905e-04)
    low = low * y + np.float32(-1.68282697438203e-03)
    low = low * y + np.float32(-7.37332916720468e-03)
    low = low * y + np.float32(-1.42647390514189e-02)
    return x * top / low


@jit
def gelu_in_place(x: np.ndarray) -> None:
    """Replace x [n] by its GELU."""
    for place in range(len(x)):
        x[place] *= _HALF * (_ONE + _erf(x[place] * _ROOT_HALF))


@jit
def exp(x: np.float32) -> np.float32:
    """Exponential of x <= 0 to fp32 rounding: 2^n times a polynomial; unlike numpy's, it vectorises."""
    t = max(x, np.float32(-87)) * np.float32(1.4426950408889634)
    n = np.floor(t + _HALF)
    f = (t - n) * np.float32(0.6931471805599453)
    p = np.float32(1 / 5040) * f + np.float32(1 / 720)
    p = p * f + np.float32(1 / 120)
    p = p * f + np.float32(1 / 24)
    p = p * f + np.float32(1 / 6)
    p = p * f + _HALF
    p = p * f + _ONE
    p = p * f + _ONE
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@jit
def prefix_part_of(heads: Heads, level: int, path: np.ndarray, out: np.ndarray) -> None:
    """Write what the codes path[:level] contribute to the first layer [H] of the head of `level`."""
    out[:] = np.float32(0)
    for earlier in range(level):
        row = heads.tables[heads.table_start[level, earlier] + path[earlier]]
        for h in range(len(out)):
            out[h] += row[h]


@jit
def activate(heads: Heads, level: int, user_part: np.ndarray, prefix_part: np.ndarray, out: np.ndarray) -> None:
    """Write the activations [H] of the head of `level`: LayerNorm of centred parts, then GELU."""
    width = len(out)
    square = np.float32(0)
    for h in range(width):
        x = user_part[h] + prefix_part[h]
        out[h] = x
        square += x * x
    scale = _ONE / np.sqrt(square / np.float32(width) + heads.eps[level])
    gain, shift = heads.gain[level], heads.shift[level]
    for h in range(width):
        x = out[h] * scale * gain[h] + shift[h]
        out[h] = x * _HALF * (_ONE + _erf(x * _ROOT_HALF))


@jit
def dot(row: np.ndarray, hidden: np.ndarray) -> np.float32:
    """Return the product of two vectors."""
    total = np.float32(0)
    for h in range(len(hidden)):
        total += row[h] * hidden[h]
    return total


@jit
def dots(weight: np.ndarray, codes: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> None:
    """Write the products of rows `codes` [n] of `weight` with hidden [H]; four rows at a time share its reading."""
    n, width = len(codes), len(hidden)
    for child in range(0, n - n % 4, 4):
        a, b, c, d = weight[codes[child]], weight[codes[child + 1]], weight[codes[child + 2]], weight[codes[child + 3]]
        at, bt, ct, dt = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for h in range(width):
            x = hidden[h]
            at += x * a[h]
            bt += x * b[h]
            ct += x * c[h]
            dt += x * d[h]
        out[child], out[child + 1], out[child + 2], out[child + 3] = at, bt, ct, dt
    for child in range(n - n % 4, n):
        row = weight[codes[child]]
        total = np.float32(0)
        for h in range(width):
            total += hidden[h] * row[h]
        out[child] = total


@jit
def _dots_of_four(weight: np.ndarray, codes: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> None:
    """Write the products of rows `codes` [n] of `weight` with each of hidden [4, H] to out [4, n].

    Two rows at a time: eight sums share six loads.
    """
    n, width = len(codes), hidden.shape[1]
    p, q, r, s = hidden[0], hidden[1], hidden[2], hidden[3]
    for child in range(0, n, 2):
        a, b = weight[codes[child]], weight[codes[min(child + 1, n - 1)]]
        pa, qa, ra, sa = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        pb, qb, rb, sb = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for h in range(width):
            x, y = a[h], b[h]
            pa += p[h] * x
            qa += q[h] * x
            ra += r[h] * x
            sa += s[h] * x
            pb += p[h] * y
            qb += q[h] * y
            rb += r[h] * y
            sb += s[h] * y
        out[0, child], out[1, child], out[2, child], out[3, child] = pa, qa, ra, sa
        if child + 1 < n:
            out[0, child + 1], out[1, child + 1], out[2, child + 1], out[3, child + 1] = pb, qb, rb, sb


@jit
def normalise(heads: Heads, level: int, codes: np.ndarray, log_probs: np.ndarray) -> None:
    """Turn products [n] into log-probabilities, renormalised over the children `codes`."""
    n, first = len(codes), heads.weight_start[level]
    peak = _LOWEST
    for child in range(n):
        log_probs[child] += heads.bias[first + codes[child]]
        peak = max(peak, log_probs[child])
    mass = np.float32(0)
    for child in range(n):
        mass += exp(log_probs[child] - peak)
    shift = peak + np.log(mass)
    for child in range(n):
        log_probs[child] -= shift


@jit
def tile_log_probs(
    heads: Heads, level: int, weight: np.ndarray, codes: np.ndarray, hidden: np.ndarray, held: int, out: np.ndarray
) -> None:
    """Write the log-probabilities of children `codes` [n] for the first `held` of hidden [4, H] to out [4, >= n].

    The others may hold any numbers: for two already it is quicker to compute four. Both may have `held` rows only.
    """
    if held > 1 and len(hidden) == TILE and len(out) == TILE:
        _dots_of_four(weight, codes, hidden, out)
    else:
        for row in range(held):
            dots(weight, codes, hidden[row], out[row])
    for row in range(held):
        normalise(heads, level, codes, out[row, : len(codes)])


@jit
def rows_of_level(heads: Heads, level: int) -> np.ndarray:
    """Return the output rows of `level` and of those after it."""
    return heads.weight[heads.weight_start[level] :]
