"""The readout of SID-MLP (`recbole_sid.nn.readout`), and what reads its contexts, as compiled loops take them."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import PANEL
from recbole_sid.fast.compiled.read_out import ReadoutWeights
from recbole_sid.serving.engines.reading import Reader


def read_readout(reader: Reader, n_levels: int) -> ReadoutWeights:
    """Return the weights of the readout.

    Args:
        reader: of the arrays and settings.
        n_levels: of the heads over codes; 0 without these.
    """
    d_model, width = reader.whole("d_model", 1), reader.whole("ffn_size", 1)
    n_in = d_model * (2 if reader.has("query_from_last") else 1)
    n_keys = d_model * reader.whole("attention_heads", 1)

    def linear(name: str, n_out: int, n_in: int) -> tuple[np.ndarray, np.ndarray]:
        return reader.panels(f"{name}.weight", n_out, n_in), reader.bias(f"{name}.bias", n_out)

    query, query_bias = linear("readout.query", d_model * reader.whole("n_queries", 1), n_in)
    wide, wide_bias = linear("readout.wide", width, d_model)
    narrow, narrow_bias = linear("readout.narrow", d_model, width)
    user, user_bias = np.empty((0, 0, d_model, PANEL), np.float32), np.empty((0, 0), np.float32)
    if n_levels:
        hidden = reader.whole("head_hidden", 1)
        user = reader.panels("heads.user.weight", hidden, d_model, n_levels)
        user_bias = reader.bias("heads.user.bias", hidden, n_levels)
    of_last, item_norm = np.empty((0, d_model, PANEL), np.float32), np.empty((0, d_model), np.float32)
    if reader.has("item_head"):
        of_last = reader.panels("item_head.context", d_model, d_model)
        item_norm = reader.array("item_head.norm", np.float32, 3, d_model)
    return ReadoutWeights(
        query=query,
        query_bias=query_bias,
        keys=reader.panels("readout.keys", n_keys, d_model),
        values=reader.panels("readout.values", d_model, n_keys),
        norm1=reader.array("readout.norm1", np.float32, 3, d_model),
        norm2=reader.array("readout.norm2", np.float32, 3, d_model),
        wide=wide,
        wide_bias=wide_bias,
        narrow=narrow,
        narrow_bias=narrow_bias,
        user=user,
        user_bias=user_bias,
        of_last=of_last,
        item_norm=item_norm,
        nothing=np.zeros(max(n_keys, d_model) + PANEL, np.float32),
    )
