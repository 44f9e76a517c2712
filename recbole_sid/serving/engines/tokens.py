"""SIDMLP, and SIDMLPPlusPlus with an encoder of tokens."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import PANEL
from recbole_sid.fast.compiled.asking import Asked, ask_of_states, ask_of_tokens
from recbole_sid.fast.compiled.encode_tokens import T5Layers
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.code_ranking import CodeEngine
from recbole_sid.serving.engines.mlp_encoder import NumpyMLPEncoder
from recbole_sid.serving.engines.packed import PackedTokens
from recbole_sid.serving.engines.reading import Reader


class T5Engine(CodeEngine):
    """Ranks by the T5 encoder of the tokens of a history."""

    def _read(self, reader: Reader) -> None:
        d_model, inner, d_ff = (reader.whole(key, 1) for key in ("d_model", "inner_dim", "d_ff"))
        n, n_heads, n_tokens = reader.whole("encoder_layers", 1), reader.whole("n_heads", 1), 3 + sum(self.codes.sizes)
        longest = 2 + reader.whole("max_history", 1) * self.codes.n_levels
        reader.divides("n_heads", n_heads, "inner_dim", inner)

        def array(name: str, *shape: int) -> np.ndarray:
            return reader.array(f"encoder.{name}", np.float32, *shape)

        self.layers = T5Layers(
            embedding=array("embedding", n_tokens, d_model),
            first_qkv=array("first_qkv", n_tokens, 3 * inner),
            qkv=reader.panels("encoder.qkv", 3 * inner, d_model, n - 1),
            output=reader.panels("encoder.output", d_model, inner, n),
            wide=reader.panels("encoder.wide", d_ff, d_model, n),
            narrow=reader.panels("encoder.narrow", d_model, d_ff, n),
            bias=array("bias", n_heads, 2 * longest - 1),
            gain=array("gain", d_model),
            eps=array("eps", 1),
            nothing=np.zeros(max(3 * inner, d_ff, d_model) + PANEL, np.float32),
        )
        self.first_code = 1 + np.cumsum([0, *self.codes.sizes[:-1]]).astype(np.int64)

    def _ask(self, histories: Histories, asked: Asked) -> None:
        ask_of_tokens(self.model, self.layers, self.first_code, *histories, asked)


class MLPEngine(CodeEngine):
    """Ranks by MLPs over the tokens of a history."""

    def _read(self, reader: Reader) -> None:
        self.encoder = NumpyMLPEncoder(reader, self.codes)

    def _ask(self, histories: Histories, asked: Asked) -> None:
        packed = PackedTokens.of(histories, self.codes)
        ask_of_states(self.model, self.encoder(packed), packed.starts, packed.starts[1:] - 1, asked)
