"""The one interface between decoders and models: level logits for prefixes."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class LevelScorer(Protocol):
    """A model's view of a batch of users while their prefixes grow.

    A state belongs to beams [B, K], one prefix each, and is never changed: it may be extended several times.

    Attributes:
        n_users: B.
        device: where logits are computed.
    """

    n_users: int
    device: torch.device

    def start(self) -> Any:
        """Return the state of one beam a user, the empty prefix: K = 1."""

    def extend(self, state: Any, parents: torch.Tensor, codes: torch.Tensor) -> Any:
        """Return the state of longer prefixes.

        Args:
            state: of beams [B, K'].
            parents: int64 [B, K], which beam of `state` each new beam extends.
            codes: int64 [B, K], the code it is extended by.
        """

    def logits(self, state: Any, beams: torch.Tensor | None) -> torch.Tensor:
        """Return the next level's logits [M, size] of the beams int64 [M] among the B * K (None: of all)."""
