"""The readout of SID-MLP (`recbole_sid.nn.readout`) in numpy, its projections multiplied out."""

from __future__ import annotations

import numpy as np

from recbole_sid.serving.engines.layers import Linear, Norm
from recbole_sid.serving.engines.reading import Reader


class NumpyReadout:
    """Attention of a query over a history's states, then a feed-forward: contexts z.

    Args:
        reader: of the arrays and settings.

    Attributes:
        keys: [d, h * d], W_q^T W_k with the attention's scale, per head h.
        values: [h * d, d], W_v^T W_o^T.
    """

    def __init__(self, reader: Reader) -> None:
        d_model, n_heads = reader.whole("d_model", 1), reader.whole("attention_heads", 1)
        self.reads_last, self.n_queries = reader.has("query_from_last"), reader.whole("n_queries", 1)
        self.n_heads = n_heads
        self.query = Linear.read(
            reader, "readout.query", d_model * (2 if self.reads_last else 1), self.n_queries * d_model
        )
        self.keys = reader.array("readout.keys", np.float32, d_model, n_heads * d_model)
        self.values = reader.array("readout.values", np.float32, n_heads * d_model, d_model)
        self.norms = [Norm.read(reader, f"readout.norm{n}", d_model) for n in (1, 2)]
        self.wide = Linear.read(reader, "readout.wide", d_model, reader.whole("ffn_size", 1))
        self.narrow = Linear.read(reader, "readout.narrow", reader.whole("ffn_size", 1), d_model)

    def __call__(self, states: np.ndarray, present: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return contexts z [B, Q, d] of states [B, S, d], of which bool [B, S] are there, the last ones [B, d]."""
        n_users, _, d_model = states.shape
        mean = states.sum(axis=1) / present.sum(axis=1, dtype=np.float32)[:, None]
        query = self.query(np.concatenate([mean, last], axis=1) if self.reads_last else mean)
        query = query.reshape(n_users, self.n_queries, d_model)
        keys = (query @ self.keys).reshape(n_users, self.n_queries * self.n_heads, d_model)
        scores = keys @ states.transpose(0, 2, 1)
        scores = np.where(present[:, None], scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = self.norms[0](query + (weights @ states).reshape(n_users, self.n_queries, -1) @ self.values)
        return self.norms[1](x + self.narrow(np.maximum(self.wide(x), np.float32(0))))
