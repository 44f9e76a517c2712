"""SIDMLPPlusPlus with an encoder of items, and SIDMLPHybrid."""

from __future__ import annotations

import numpy as np

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
        nothing = np.empty((0, d_model, d_model), np.float32)

        def array(name: str, *shape: int) -> np.ndarray:
            return reader.array(f"encoder.{name}", np.float32, *shape)

        def mixing(name: str, used: bool, *shape: int) -> np.ndarray:
            return array(name, n, *shape) if used else nothing[:, 0, :] if len(shape) == 1 else nothing

        self.layers = ItemLayers(
            codes=array("codes", n_codes, d_model),
            first_code=np.cumsum([0, *self.codes.sizes[:-1]]).astype(np.int64),
            position=array("position", longest, d_model),
            item_norm=array("item_norm", 3, d_model) if reader.has("item_norm") else nothing[:, 0, :],
            mixing_norm=array("mixing_norm", n, 3, d_model),
            matrix=mixing("matrix", by_position, longest, longest),
            mean=mixing("mean.weight", by_position, d_model, d_model),
            mean_bias=mixing("mean.bias", by_position, d_model),
            qkv=mixing("qkv.weight", not by_position, 3 * d_model, d_model),
            qkv_bias=mixing("qkv.bias", not by_position, 3 * d_model),
            out=mixing("out.weight", not by_position, d_model, d_model),
            out_bias=mixing("out.bias", not by_position, d_model),
            no_bias=np.zeros((_HEADS, 2 * longest - 1), np.float32),
            mlp_norm=array("mlp_norm", n, 3, d_model),
            wide=array("wide.weight", n, width, d_model),
            wide_bias=array("wide.bias", n, width),
            narrow=array("narrow.weight", n, d_model, width),
            narrow_bias=array("narrow.bias", n, d_model),
            norm=array("norm", 3, d_model),
        )

    def _ask(self, histories: Histories, asked: Asked) -> None:
        ask_of_items(self.model, self.layers, *histories, asked)
