"""SIDMLP, and SIDMLPPlusPlus with an encoder of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.code_ranking import CodeEngine, Encoded
from recbole_sid.serving.engines.mlp_encoder import MLPEncoder
from recbole_sid.serving.engines.packed import Packed
from recbole_sid.serving.engines.reading import Reader
from recbole_sid.serving.engines.readout import Readout
from recbole_sid.serving.engines.t5_encoder import T5Encoder

_ENCODERS: dict[str, Any] = {"t5": T5Encoder, "mlp": MLPEncoder}


class TokenEngine(CodeEngine):
    """Ranks by an encoder of the tokens of a history."""

    def _read(self, reader: Reader) -> None:
        self.encoder = _ENCODERS[reader.word("encoder", tuple(_ENCODERS))](reader, self.codes)
        self.readout = Readout(reader)

    def encode(self, histories: Histories) -> Encoded:
        packed = Packed.of(histories, self.codes)
        states, there = packed.padded(self.encoder(packed))
        last = states[np.arange(len(states)), there.sum(axis=1) - 1]
        return Encoded(self.readout(states, there, last), last)
