"""The readout of SID-MLP (`recbole_sid.nn.readout`), and what reads its contexts, as compiled loops take them."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.read_out import ReadoutWeights
from recbole_sid.serving.engines.reading import Reader


def read_readout(reader: Reader, n_parts: int) -> ReadoutWeights:
    """Return the weights of the readout.

    Args:
        reader: of the arrays and settings.
        n_parts: numbers in the users' part of all level heads together; 0 without these.
    """
    d_model, width = reader.whole("d_model", 1), reader.whole("ffn_size", 1)
    n_in = d_model * (2 if reader.has("query_from_last") else 1)
    n_out, n_keys = d_model * reader.whole("n_queries", 1), d_model * reader.whole("attention_heads", 1)
    has_items = reader.has("item_head")

    def array(name: str, *shape: int) -> np.ndarray:
        return reader.array(name, np.float32, *shape)

    return ReadoutWeights(
        query=array("readout.query.weight", n_out, n_in),
        query_bias=array("readout.query.bias", n_out),
        keys=array("readout.keys", n_keys, d_model),
        values=array("readout.values", d_model, n_keys),
        norm1=array("readout.norm1", 3, d_model),
        norm2=array("readout.norm2", 3, d_model),
        wide=array("readout.wide.weight", width, d_model),
        wide_bias=array("readout.wide.bias", width),
        narrow=array("readout.narrow.weight", d_model, width),
        narrow_bias=array("readout.narrow.bias", d_model),
        user=array("heads.user.weight", n_parts, d_model) if n_parts else np.empty((0, d_model), np.float32),
        user_bias=array("heads.user.bias", n_parts) if n_parts else np.empty(0, np.float32),
        of_last=array("item_head.context", d_model, d_model) if has_items else np.empty((0, d_model), np.float32),
        item_norm=array("item_head.norm", 3, d_model) if has_items else np.empty((0, d_model), np.float32),
        nothing=np.zeros(max(n_keys, d_model), np.float32),
    )
