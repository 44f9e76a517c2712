"""SIDMLPPlusPlus with an encoder of items, and SIDMLPHybrid."""

from __future__ import annotations

import numpy as np

from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.code_ranking import CodeEngine, Encoded
from recbole_sid.serving.engines.item_encoder import NumpyItemEncoder
from recbole_sid.serving.engines.reading import Reader
from recbole_sid.serving.engines.readout import NumpyReadout


class ItemEngine(CodeEngine):
    """Ranks by light layers over one vector an item."""

    def _read(self, reader: Reader) -> None:
        self.encoder, self.readout = NumpyItemEncoder(reader, sum(self.codes.sizes)), NumpyReadout(reader)

    def encode(self, histories: Histories) -> Encoded:
        items, lengths = histories
        recency = np.arange(items.shape[1])
        present = recency < lengths[:, None]
        by_recency = np.take_along_axis(items, np.maximum(lengths[:, None] - 1 - recency, 0), axis=1)
        states = self.encoder(self.codes.rows(by_recency), present)
        return Encoded(self.readout(states, present, states[:, 0]), states[:, 0])
