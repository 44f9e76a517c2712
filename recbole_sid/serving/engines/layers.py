"""What networks are made of, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.serving.engines.reading import Reader


class Linear(NamedTuple):
    """A linear map; `weight` is [inputs, outputs]."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def read(cls, reader: Reader, at: str, n_in: int, n_out: int | None) -> Linear:
        """Read the one whose arrays' names begin with `at`."""
        weight = reader.array(f"{at}.weight", np.float32, n_in, n_out)
        return cls(weight, reader.array(f"{at}.bias", np.float32, weight.shape[1]))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return [..., outputs] of x [..., inputs]."""
        return x @ self.weight + self.bias


class Norm(NamedTuple):
    """A LayerNorm."""

    gain: np.ndarray
    shift: np.ndarray
    eps: np.float32

    @classmethod
    def read(cls, reader: Reader, at: str, width: int) -> Norm:
        """Read the one whose arrays' names begin with `at`."""
        eps = reader.array(f"{at}.eps", np.float32, 1)[0]
        return cls(reader.array(f"{at}.gain", np.float32, width), reader.array(f"{at}.shift", np.float32, width), eps)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return x [..., width] of mean 0 and variance 1, scaled and shifted."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        return centred / np.sqrt(variance + self.eps) * self.gain + self.shift


def gelu(x: np.ndarray) -> np.ndarray:
    """Return GELU of x, which is written over."""
    from recbole_sid.fast.compiled.heads import gelu_in_place

    gelu_in_place(x.reshape(-1))
    return x
