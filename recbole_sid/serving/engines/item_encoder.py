"""The encoder of items (`recbole_sid.nn.item_encoder`) in numpy: histories of item numbers to a state for each item."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recbole_sid.serving.engines.layers import Linear, Norm, gelu
from recbole_sid.serving.engines.reading import Reader

_HEADS = 4  # of attention over items


class NumpyMixingLayer(NamedTuple):
    """Mixing over items, by a matrix over recencies and the mean or by attention, then an MLP on each."""

    mixing_norm: Norm
    matrix: Any  # of attention None
    first: Linear
    second: Any  # of a matrix None
    mlp_norm: Norm
    wide: Linear
    narrow: Linear

    @classmethod
    def read(
        cls, reader: Reader, at: str, mixing: str, d_model: int, max_items: int, ffn_size: int
    ) -> NumpyMixingLayer:
        """Read the layer whose arrays' names begin with `at`."""
        by_position = mixing == "position"
        return cls(
            Norm.read(reader, f"{at}.mixing_norm", d_model),
            reader.array(f"{at}.mixing.matrix", np.float32, max_items, max_items) if by_position else None,
            Linear.read(reader, f"{at}.mixing.{'mean' if by_position else 'qkv'}", d_model, None),
            None if by_position else Linear.read(reader, f"{at}.mixing.out", d_model, d_model),
            Norm.read(reader, f"{at}.mlp_norm", d_model),
            Linear.read(reader, f"{at}.wide", d_model, ffn_size),
            Linear.read(reader, f"{at}.narrow", ffn_size, d_model),
        )

    def __call__(self, x: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Return [B, T, d] of x [B, T, d] by recency, of which bool [B, T] are items."""
        normed = self.mixing_norm(x)
        x = x + (self._attended(normed, present) if self.matrix is None else self._by_position(normed, present))
        return x + self.narrow(gelu(self.wide(self.mlp_norm(x))))

    def _by_position(self, x: np.ndarray, present: np.ndarray) -> np.ndarray:
        n_slots = x.shape[1]
        x = x * present[..., None]
        mean = x.sum(axis=1, keepdims=True) / present.sum(axis=1, dtype=np.float32)[:, None, None]
        return self.matrix[:n_slots, :n_slots] @ x + self.first(mean)

    def _attended(self, x: np.ndarray, present: np.ndarray) -> np.ndarray:
        n_users, n_slots, d_model = x.shape
        qkv = self.first(x).reshape(n_users, n_slots, 3, _HEADS, -1).transpose(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(0, 1, 3, 2) * np.float32((d_model // _HEADS) ** -0.5)
        scores = np.where(present[:, None, None], scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return self.second((weights @ qkv[2]).transpose(0, 2, 1, 3).reshape(x.shape))


class NumpyItemEncoder:
    """Encodes histories of item numbers.

    Args:
        reader: of the arrays and settings.
        n_codes: codes of all levels.
    """

    def __init__(self, reader: Reader, n_codes: int) -> None:
        d_model, max_items = reader.whole("d_model", 1), reader.whole("max_history", 1)
        mixing = reader.word("item_mixing", ("position", "attention"))
        self.codes = reader.array("encoder.codes", np.float32, n_codes, d_model)
        self.position = reader.array("encoder.position", np.float32, max_items, d_model)
        self.item_norm = Norm.read(reader, "encoder.item_norm", d_model) if reader.has("item_norm") else None
        self.layers = [
            NumpyMixingLayer.read(reader, f"encoder.{n}", mixing, d_model, max_items, reader.whole("item_ffn_size", 1))
            for n in range(reader.whole("item_layers"))
        ]
        self.norm = Norm.read(reader, "encoder.norm", d_model)

    def __call__(self, rows: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Return states [B, T, d] by recency of items with codes in `rows` int [B, T, L], of which `present` are."""
        x = self.codes[rows].sum(axis=2) + self.position[: rows.shape[1]]
        if self.item_norm is not None:
            x = self.item_norm(x)
        for layer in self.layers:
            x = layer(x, present)
        return self.norm(x) * present[..., None]
