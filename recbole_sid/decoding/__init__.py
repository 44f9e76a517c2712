"""From level logits to items: the trie of valid semantic IDs and the decoders over it.

To add a decoder, write a function as in `Decoder` and add its line to `DECODERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from recbole_sid.decoding.beam import beam_search
from recbole_sid.decoding.exact import exact_search
from recbole_sid.decoding.full import full_search
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie


class Decoder(Protocol):
    """Finds the best leaves of a trie by a model's level logits."""

    def __call__(
        self, scorer: LevelScorer, trie: Trie, k: int, normaliser: str = "children"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves int64 [B, K], -1 beyond those found, and log-probabilities [B, K], -inf there; K <= k."""


# Beam search; the true top k by bounding; the true top k from the scores of all leaves.
DECODERS: Mapping[str, Decoder] = {"beam": beam_search, "exact": exact_search, "full": full_search}
