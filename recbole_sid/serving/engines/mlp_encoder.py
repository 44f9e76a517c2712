"""The encoder of tokens by MLPs (`recbole_sid.nn.token_encoder`) in numpy: each MLP sees the tokens of its role."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.serving.engines.layers import Linear, Norm, gelu
from recbole_sid.serving.engines.level_heads import Codes
from recbole_sid.serving.engines.packed import PackedTokens
from recbole_sid.serving.engines.reading import Reader


class NumpyRoleMLP(NamedTuple):
    """The MLP of a role: `own` sees the token and `shared` the mean, both before the norm."""

    own: np.ndarray
    shared: Linear
    norm: Norm
    narrow: Linear

    @classmethod
    def read(cls, reader: Reader, at: str, d_model: int, ffn_size: int) -> NumpyRoleMLP:
        """Read the one whose arrays' names begin with `at`."""
        return cls(
            reader.array(f"{at}.own", np.float32, ffn_size, d_model),
            Linear.read(reader, f"{at}.shared", d_model, ffn_size),
            Norm.read(reader, f"{at}.norm", ffn_size),
            Linear.read(reader, f"{at}.narrow", ffn_size, d_model),
        )


class NumpyMLPEncoder:
    """Tokens to states.

    Args:
        reader: of the arrays and settings.
        codes: of the catalogue.
    """

    def __init__(self, reader: Reader, codes: Codes) -> None:
        d_model, ffn_size = reader.whole("d_model", 1), reader.whole("encoder_ffn_size", 1)
        longest = 2 + reader.whole("max_history", 1) * codes.n_levels
        self.n_roles = codes.n_levels
        self.from_end = reader.word("encoder_positions", ("start", "end")) == "end"
        weighted = reader.word("encoder_mixing", ("mean", "weighted")) == "weighted"
        self.embedding = reader.array("encoder.embedding", np.float32, 3 + sum(codes.sizes), d_model)
        self.position = reader.array("encoder.position", np.float32, longest, d_model)
        n_layers = reader.whole("encoder_layers", 1)
        self.layers = [
            [NumpyRoleMLP.read(reader, f"encoder.{n}.{role}", d_model, ffn_size) for role in range(self.n_roles)]
            for n in range(n_layers)
        ]
        # What tokens weigh in the mean by position, and the sums of weights up to each; of the plain mean one column.
        width = d_model if weighted else 1
        self.weights = [reader.array(f"encoder.{n}.weights", np.float32, longest, width) for n in range(n_layers)]
        self.totals = [np.cumsum(weights, axis=0, dtype=np.float32) for weights in self.weights]
        self.norm = Norm.read(reader, "encoder.norm", d_model)

    def __call__(self, packed: PackedTokens) -> np.ndarray:
        """Return the states [N, d] of packed tokens."""
        n_tokens = np.diff(packed.starts)
        last = n_tokens[packed.user] - 1
        role = np.where(packed.column == last, self.n_roles - 1, (packed.column - 1) % self.n_roles)
        position = last - packed.column if self.from_end else packed.column
        rows = [np.flatnonzero(role == own) for own in range(self.n_roles)]
        x = self.embedding[packed.tokens] + self.position[position]
        for layer, weights, totals in zip(self.layers, self.weights, self.totals, strict=True):
            mean = np.add.reduceat(x * weights[position], packed.starts[:-1], axis=0) / totals[n_tokens - 1]
            for mlp, own in zip(layer, rows, strict=True):
                x[own] += _mixed(mlp, x[own], mean, packed.user[own])
        return self.norm(x)


def _mixed(mlp: NumpyRoleMLP, x: np.ndarray, mean: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Return what the MLP of a role adds to its tokens [n, d], of `user` int64 [n] with means [B, d]."""
    hidden = x @ mlp.own.T
    hidden += mlp.shared(mean)[user]
    return mlp.narrow(gelu(mlp.norm(hidden)))
