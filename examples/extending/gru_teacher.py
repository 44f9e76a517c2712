"""A teacher: a GRU that reads the codes of a history and goes on with those of the next item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.model.generator import Generator
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.readout import last_state
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.settings import declare
from recbole_sid.settings.training import GeneratorSettings


@dataclass(frozen=True)
class GRUTeacherSettings(GeneratorSettings):
    """A recurrent teacher."""

    input_dropout: float = declare(0.1, "Of the embedded tokens.", below=1)
    epochs: int = 30


class GRUEncoder(HistoryEncoder):
    """A state after every token; padding is on the right, so that it changes none before it."""

    def __init__(self, vocabulary: int, d_model: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model, padding_idx=PAD)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(d_model, d_model, batch_first=True)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.gru(self.dropout(self.embedding(tokens)))[0]


class GRUTeacher(Generator):
    """The logits of level t are those of the state after the history and t - 1 codes."""

    settings = GRUTeacherSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = GRUTeacherSettings.of(config)
        self.encoder = GRUEncoder(self.vocabulary.size, settings.d_model, settings.input_dropout)

    @property
    def history_encoder(self) -> GRUEncoder:
        return self.encoder

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.encoder.embedding

    def teach(self, tokens: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        states = self.encoder(tokens, tokens != PAD)
        state, logits = last_state(states, tokens != PAD), []
        for level in range(self.vocabulary.n_levels):
            logits.append(self.level_vocabulary_logits(state, level))
            state = self.after(state, codes[:, level], level)
        return states, logits

    def after(self, states: torch.Tensor, codes: torch.Tensor, level: int) -> torch.Tensor:
        """Return states [N, d] after one more code int64 [N], of `level`."""
        read = self.token_embedding(codes + self.vocabulary.level_offsets[level])
        return self.encoder.gru(read.unsqueeze(1), states.unsqueeze(0))[0].squeeze(1)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        codes = self.target_codes(interaction)
        logits = self.target_logits(self.history_tokens(interaction), codes)
        return torch.stack([F.cross_entropy(own, codes[:, level]) for level, own in enumerate(logits)]).mean()

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        return last_state(self.encoder(tokens, tokens != PAD), tokens != PAD)

    def scorer(self, encoded: torch.Tensor) -> LevelScorer:
        return GRUScorer(self, encoded)


class GRUState(NamedTuple):
    """Level of the next code, and states [B, K, d] of the beams."""

    level: int
    states: torch.Tensor


class GRUScorer:
    """What decoders ask: logits for prefixes, and longer prefixes."""

    def __init__(self, model: GRUTeacher, encoded: torch.Tensor) -> None:
        self.model, self.encoded = model, encoded
        self.n_users, self.device = len(encoded), encoded.device

    def start(self) -> GRUState:
        return GRUState(0, self.encoded.unsqueeze(1))

    def extend(self, state: GRUState, parents: torch.Tensor, codes: torch.Tensor) -> GRUState:
        before = state.states.take_along_dim(parents.unsqueeze(-1), dim=1)
        after = self.model.after(before.flatten(0, 1), codes.flatten(), state.level)
        return GRUState(state.level + 1, after.view_as(before))

    def logits(self, state: GRUState, beams: torch.Tensor | None) -> torch.Tensor:
        states = state.states.flatten(0, 1)
        return self.model.level_vocabulary_logits(states if beams is None else states[beams], state.level)
