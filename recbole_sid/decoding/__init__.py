"""From level logits to items: the trie of valid semantic IDs and the decoders over it.

To add a decoder, write a function as in `Decoder` and add its line to `DECODERS`, or name it in a package of your own
(docs/extending.md).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from recbole_sid.decoding.beam import beam_search
from recbole_sid.decoding.exact import exact_search
from recbole_sid.decoding.full import full_search
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie
from recbole_sid.util.installed import imported, with_installed


class Decoder(Protocol):
    """Finds the best leaves of a trie by a model's level logits."""

    def __call__(
        self, scorer: LevelScorer, trie: Trie, k: int, normaliser: str = "children"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves int64 [B, K], -1 beyond those found, and log-probabilities [B, K], -inf there; K <= k."""


# Beam search; the true top k by bounding; the true top k from the scores of all leaves. Or "module:function".
DECODERS: dict[str, Any] = with_installed("decoders", {"beam": beam_search, "exact": exact_search, "full": full_search})


def decoder_named(name: str) -> Decoder:
    """Return the decoder that `DECODERS` holds under `name`."""
    found = DECODERS[name]
    return imported(found) if isinstance(found, str) else found
