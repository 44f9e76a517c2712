"""What a model finds for a batch, on a GPU as one captured graph."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.decoding import decoder_named
from recbole_sid.decoding.beam import beam_search
from recbole_sid.decoding.full import MOST_PLACES
from recbole_sid.decoding.trie import Trie
from recbole_sid.fast.captured import CapturedSearches, FoundItems
from recbole_sid.fast.prepared import Prepared, weights_unchanged
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.util import hardware


class RanksByGraphs:
    """Of `SIDRecommender`: histories to candidates, operation by operation or by a graph of these.

    Configuration: captured.

    Attributes:
        captured: whether graphs are captured where they can be.
        graphs: those of the weights as they are.
    """

    captured: bool
    graphs: Prepared[CapturedSearches]
    history_encoder: Any
    decoding: str
    beam_size: int
    trie: Trie
    shared_among: Any
    encode: Any
    scorer: Any
    candidates: Any

    def start_graphs(self, captured: bool) -> None:
        """Have no graph yet."""
        self.captured = captured
        self.graphs = Prepared(_no_graphs)

    def found(self, tokens: torch.Tensor) -> FoundItems:
        """Return the `candidates` of histories int64 [B, S] and the scorer that they are by."""
        scorer = self.scorer(self.encode(tokens))
        return FoundItems(scorer, *self.candidates(scorer))

    def ranked(self, tokens: torch.Tensor) -> FoundItems:
        """Return `found`, on a GPU as one captured graph where it is possible; until the next call."""
        if not (self.captured and hardware.has_graphs(tokens.device) and self.found_by_shapes):
            return self.found(tokens)
        model: Any = self  # a module
        with weights_unchanged(model):
            return self.graphs.get(model).rank(model, tokens, self.in_graph)

    @property
    def found_by_shapes(self) -> bool:
        """Whether `found` asks no device for values, so that a CUDA graph can hold it."""
        encoder = getattr(self, "history_encoder", None)
        by_shapes = isinstance(encoder, HistoryEncoder) and encoder.static_shapes
        return by_shapes and decoder_named(self.decoding) is beam_search and self.trie.most_items <= MOST_PLACES

    @property
    def in_graph(self) -> tuple[Any, ...]:
        """What a graph of `found` holds beside the weights, and may be changed."""
        return self.beam_size, self.shared_among, self.history_encoder.inference_dtype


def _no_graphs(model: Any) -> CapturedSearches:
    return CapturedSearches()
