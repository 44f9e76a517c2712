"""What a student learns from in one training batch, computed by the frozen teacher on the fly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.teacher import Teacher
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.vocabulary import PAD


class Supervision(NamedTuple):
    """States of a frozen encoder and the teacher's level logits for one batch.

    Attributes:
        states: [B, S, d_model]; empty [B, S, 0] if the stage needs none.
        mask: bool [B, S].
        logits: per level [B, size]; empty if the stage needs none.
    """

    states: torch.Tensor
    mask: torch.Tensor
    logits: list[torch.Tensor]


# From a training batch: the frozen models, or a cache of what they said.
Supervise = Callable[[Any], Supervision]


class OnlineSupervision:
    """Runs the frozen encoder and the teacher on each batch.

    Args:
        student: serialises histories.
        encoder: frozen encoder whose states the stage needs, or None.
        teacher: teacher whose level logits the stage needs, or None.
    """

    def __init__(self, student: SIDRecommender, encoder: HistoryEncoder | None, teacher: Teacher | None) -> None:
        self.student = student
        self.encoder = encoder
        self.teacher = teacher

    @torch.no_grad()
    def __call__(self, interaction: Any) -> Supervision:
        tokens = self.student.history_tokens(interaction)
        mask = tokens != PAD
        if self.teacher is None:
            return Supervision(self._states(tokens, mask), mask, [])
        states, logits = self.teacher.teach(tokens, self.student.target_codes(interaction))
        if self.encoder is not self.teacher.history_encoder:
            states = self._states(tokens, mask)
        return Supervision(states, mask, logits)

    def _states(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return tokens.new_zeros(*tokens.shape, 0) if self.encoder is None else self.encoder(tokens, mask)
