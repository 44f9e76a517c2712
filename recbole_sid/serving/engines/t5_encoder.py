"""The T5 encoder (`recbole_sid.fast.t5`) in numpy: norms folded into products, no padding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.serving.engines.level_heads import Codes
from recbole_sid.serving.engines.packed import PackedTokens
from recbole_sid.serving.engines.reading import Reader

# Rows of a chunk: the widest product then stays in the cache, however large the batch.
_ROWS = 512


class NumpyT5Layer(NamedTuple):
    """Weights of a block: queries, keys and values [d, 3 * inner], output [inner, d], feed-forward."""

    qkv: np.ndarray
    output: np.ndarray
    wide: np.ndarray
    narrow: np.ndarray


class NumpyT5Encoder:
    """Tokens to states.

    Args:
        reader: of the arrays and settings.
        codes: of the catalogue.
    """

    def __init__(self, reader: Reader, codes: Codes) -> None:
        d_model, inner, d_ff = (reader.whole(key, 1) for key in ("d_model", "inner_dim", "d_ff"))
        self.n_heads, longest = reader.whole("n_heads", 1), 2 + reader.whole("max_history", 1) * codes.n_levels
        reader.divides("n_heads", self.n_heads, "inner_dim", inner)
        self.embedding = reader.array("encoder.embedding", np.float32, 3 + sum(codes.sizes), d_model)
        self.layers = [
            NumpyT5Layer(
                reader.array(f"encoder.{n}.qkv", np.float32, d_model, 3 * inner),
                reader.array(f"encoder.{n}.output", np.float32, inner, d_model),
                reader.array(f"encoder.{n}.wide", np.float32, d_model, d_ff),
                reader.array(f"encoder.{n}.narrow", np.float32, d_ff, d_model),
            )
            for n in range(reader.whole("encoder_layers", 1))
        ]
        self.first = reader.array("encoder.first_qkv", np.float32, len(self.embedding), 3 * inner)
        self.bias = reader.array("encoder.bias", np.float32, self.n_heads, 2 * longest - 1)
        self.gain = reader.array("encoder.gain", np.float32, d_model)
        self.eps = reader.array("encoder.eps", np.float32, 1)[0]
        self._biases: dict[int, np.ndarray] = {}

    def __call__(self, packed: PackedTokens) -> np.ndarray:
        """Return the states [N, d] of packed tokens."""
        x = self.embedding[packed.tokens]
        for number, layer in enumerate(self.layers):
            qkv = self.first[packed.tokens] if number == 0 else _product(self._unit(x), layer.qkv)
            x += _product(self._attended(qkv, packed.groups), layer.output)
            for rows in _chunks(len(x)):
                hidden = self._unit(x[rows]) @ layer.wide
                np.maximum(hidden, 0, out=hidden)
                x[rows] += hidden @ layer.narrow
        return self._unit(x) * self.gain

    def _unit(self, x: np.ndarray) -> np.ndarray:
        """Return x [n, d] times (|x|^2 + eps)^-0.5: the RMS norm but for its gain, which weights carry."""
        squares = np.einsum("nd,nd->n", x, x)
        return x * (1 / np.sqrt(squares + self.eps))[:, None]

    def _attended(self, qkv: np.ndarray, groups: list[tuple[int, int]]) -> np.ndarray:
        """Return the contexts [N, inner] of queries, keys and values [N, 3 * inner]."""
        found, first = np.empty((len(qkv), qkv.shape[1] // 3), np.float32), 0
        for length, count in groups:
            rows = slice(first, first + count * length)
            q, k, v = qkv[rows].reshape(count, length, 3, self.n_heads, -1).transpose(2, 0, 3, 1, 4)
            weights = q @ k.transpose(0, 1, 3, 2)
            weights += self._bias(length)
            weights -= weights.max(axis=-1, keepdims=True)
            np.exp(weights, out=weights)
            weights /= weights.sum(axis=-1, keepdims=True)
            found[rows] = (weights @ v).transpose(0, 2, 1, 3).reshape(count * length, -1)
            first = rows.stop
        return found

    def _bias(self, length: int) -> np.ndarray:
        """Return the relative bias [heads, length, length]."""
        if length not in self._biases:
            middle = self.bias.shape[1] // 2
            place = np.arange(length)
            self._biases[length] = np.ascontiguousarray(self.bias[:, middle + place - place[:, None]])
        return self._biases[length]


def _product(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return rows [n, a] times weight [a, b], in chunks."""
    found = np.empty((len(rows), weight.shape[1]), np.float32)
    for part in _chunks(len(rows)):
        np.matmul(rows[part], weight, out=found[part])
    return found


def _chunks(n: int) -> list[slice]:
    return [slice(first, first + _ROWS) for first in range(0, n, _ROWS)]
