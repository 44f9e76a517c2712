"""SIDMLP, and SIDMLPPlusPlus with an encoder of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.code_ranking import CodeEngine, Encoded
from recbole_sid.serving.engines.mlp_encoder import NumpyMLPEncoder
from recbole_sid.serving.engines.packed import PackedTokens
from recbole_sid.serving.engines.reading import Reader
from recbole_sid.serving.engines.readout import NumpyReadout
from recbole_sid.serving.engines.t5_encoder import NumpyT5Encoder

_ENCODERS: dict[str, Any] = {"t5": NumpyT5Encoder, "mlp": NumpyMLPEncoder}


class TokenEngine(CodeEngine):
    """Ranks by an encoder of the tokens of a history."""

    def _read(self, reader: Reader) -> None:
        self.encoder = _ENCODERS[reader.word("encoder", tuple(_ENCODERS))](reader, self.codes)
        self.readout = NumpyReadout(reader)

    def encode(self, histories: Histories) -> Encoded:
        packed = PackedTokens.of(histories, self.codes)
        states, there = packed.padded(self.encoder(packed))
        last = states[np.arange(len(states)), there.sum(axis=1) - 1]
        return Encoded(self.readout(states, there, last), last)
