"""A student: the teacher's encoder, the mean of its states, and one linear layer a level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.model.student import Student
from recbole_sid.nn.packing import Padded
from recbole_sid.nn.readout import masked_mean
from recbole_sid.settings import declare
from recbole_sid.settings.training import StudentSettings


@dataclass(frozen=True)
class LinearStudentSettings(StudentSettings):
    """A student of one linear layer a level."""

    prefix_weight: float = declare(1.0, "Of the embedded codes before, against the mean state.")
    epochs: int = 50


class LinearStudent(Student):
    """The logits of level t are linear in the mean state and the sum of the embeddings of the codes before."""

    settings = LinearStudentSettings
    decoder: nn.ModuleList

    @property
    def form_keys(self) -> tuple[str, ...]:
        return ("prefix_weight",)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.prefix_weight = LinearStudentSettings.of(config).prefix_weight

    def make_decoder(self, config: Any, d_model: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(d_model, size) for size in self.vocabulary.codebook_sizes)

    def level_logits(self, encoded: Padded, codes: torch.Tensor) -> list[torch.Tensor]:
        before = F.pad(self.token_embedding(self.vocabulary.code_tokens(codes[:, :-1])), (0, 0, 1, 0))
        states = masked_mean(*encoded).unsqueeze(1) + self.prefix_weight * before.cumsum(1)
        return [head(states[:, level]) for level, head in enumerate(self.decoder)]

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        return masked_mean(*self.encode_padded(tokens))

    def scorer(self, encoded: torch.Tensor) -> LevelScorer:
        return LinearScorer(self, encoded)


class LinearState(NamedTuple):
    """Level of the next code, and what its layer reads of the beams, [B, K, d]."""

    level: int
    states: torch.Tensor


class LinearScorer:
    """What decoders ask: logits for prefixes, and longer prefixes."""

    def __init__(self, model: LinearStudent, encoded: torch.Tensor) -> None:
        self.model, self.encoded = model, encoded
        self.n_users, self.device = len(encoded), encoded.device

    def start(self) -> LinearState:
        return LinearState(0, self.encoded.unsqueeze(1))

    def extend(self, state: LinearState, parents: torch.Tensor, codes: torch.Tensor) -> LinearState:
        read = self.model.token_embedding(codes + self.model.vocabulary.level_offsets[state.level])
        before = state.states.take_along_dim(parents.unsqueeze(-1), dim=1)
        return LinearState(state.level + 1, before + self.model.prefix_weight * read)

    def logits(self, state: LinearState, beams: torch.Tensor | None) -> torch.Tensor:
        states = state.states.flatten(0, 1)
        return self.model.decoder[state.level](states if beams is None else states[beams])
