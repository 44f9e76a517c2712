"""SIDMLPPlusPlus with an encoder of items, and SIDMLPHybrid."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import PANEL
from recbole_sid.fast.compiled.asking import Asked, ask_of_items
from recbole_sid.fast.compiled.encode_items import ItemLayers
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.code_ranking import CodeEngine
from recbole_sid.serving.engines.reading import Reader

_HEADS = 4  # of attention over items


class ItemEngine(CodeEngine):
    """Ranks by light layers over one vector an item."""

    def _read(self, reader: Reader) -> None:
        d_model, longest, n_codes = reader.whole("d_model", 1), reader.whole("max_history", 1), sum(self.codes.sizes)
        n, width = reader.whole("item_layers", 1), reader.whole("item_ffn_size", 1)
        by_position = reader.word("item_mixing", ("position", "attention")) == "position"
        if not by_position:
            reader.divides("attention heads", _HEADS, "d_model", d_model)
        no_weight, no_bias = np.empty((0, 0, d_model, PANEL), np.float32), np.empty((0, 0), np.float32)

        def array(name: str, *shape: int) -> np.ndarray:
            return reader.array(f"encoder.{name}", np.float32, *shape)

        def linear(name: str, is_there: bool, n_out: int, n_in: int) -> tuple[np.ndarray, np.ndarray]:
            if not is_there:
                return no_weight, no_bias
            return reader.panels(f"encoder.{name}.weight", n_out, n_in, n), reader.bias(
                f"encoder.{name}.bias", n_out, n
            )

        mean, mean_bias = linear("mean", by_position, d_model, d_model)
        qkv, qkv_bias = linear("qkv", not by_position, 3 * d_model, d_model)
        out, out_bias = linear("out", not by_position, d_model, d_model)
        wide, wide_bias = linear("wide", True, width, d_model)
        narrow, narrow_bias = linear("narrow", True, d_model, width)
        self.layers = ItemLayers(
            codes=array("codes", n_codes, d_model),
            first_code=np.cumsum([0, *self.codes.sizes[:-1]]).astype(np.int64),
            position=array("position", longest, d_model),
            item_norm=array("item_norm", 3, d_model) if reader.has("item_norm") else np.empty((0, d_model), np.float32),
            mixing_norm=array("mixing_norm", n, 3, d_model),
            matrix=array("matrix", n, longest, longest) if by_position else np.empty((0, 0, 0), np.float32),
            mean=mean,
            mean_bias=mean_bias,
            qkv=qkv,
            qkv_bias=qkv_bias,
            out=out,
            out_bias=out_bias,
            no_bias=np.zeros((_HEADS, 2 * longest - 1), np.float32),
            mlp_norm=array("mlp_norm", n, 3, d_model),
            wide=wide,
            wide_bias=wide_bias,
            narrow=narrow,
            narrow_bias=narrow_bias,
            norm=array("norm", 3, d_model),
        )

    def _ask(self, histories: Histories, asked: Asked) -> None:
        ask_of_items(self.model, self.layers, *histories, asked)
