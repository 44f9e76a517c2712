"""What networks are made of, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.heads import gelu_in_place
from recbole_sid.serving.engines.reading import Reader


class Linear(NamedTuple):
    """A linear map; `weight` is [outputs, inputs]."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def read(cls, reader: Reader, at: str, n_in: int, n_out: int) -> Linear:
        """Read the one whose arrays' names begin with `at`."""
        weight = reader.array(f"{at}.weight", np.float32, n_out, n_in)
        return cls(weight, reader.array(f"{at}.bias", np.float32, n_out))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return [..., outputs] of x [..., inputs]."""
        return x @ self.weight.T + self.bias


class Norm(NamedTuple):
    """A LayerNorm."""

    gain: np.ndarray
    shift: np.ndarray
    eps: np.float32

    @classmethod
    def read(cls, reader: Reader, at: str, width: int) -> Norm:
        """Read the one whose arrays' names begin with `at`."""
        gain, shift, eps = reader.array(at, np.float32, 3, width)
        return cls(gain, shift, eps[0])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return x [..., width] of mean 0 and variance 1, scaled and shifted."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        return centred / np.sqrt(variance + self.eps) * self.gain + self.shift


def gelu(x: np.ndarray) -> np.ndarray:
    """Return GELU of x, which is written over."""
    gelu_in_place(x.reshape(-1))
    return x
