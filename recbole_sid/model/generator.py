"""What the models that write codes by themselves share: tied logits, and search over all code combinations."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from recbole_sid.decoding.beam import unconstrained_beam_search
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.code_init import features_lineage, start_codes_from_features
from recbole_sid.model.teacher import Teacher
from recbole_sid.nn.generator_scorers import TiedCodes
from recbole_sid.settings.training import GeneratorSettings


class Generator(SIDRecommender, Teacher):
    """Base of TIGER and CausalSID, which can teach.

    Configuration: d_model, constrained (search valid semantic IDs only, or all code combinations as TIGER's authors
    do), code_init (code embeddings start at random, or from the items' features).
    """

    settings: ClassVar[type[GeneratorSettings]] = GeneratorSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = GeneratorSettings.of(config)
        self.constrained = settings.constrained
        self.d_model = settings.d_model
        self.code_init = settings.code_init or "random"

    def start_from_data(self, config: Any, dataset: Any) -> None:
        if self.code_init == "features":
            start_codes_from_features(self, config, dataset)

    def start_lineage(self, config: Any, dataset: Any) -> dict[str, str]:
        return features_lineage(config, dataset) if self.code_init == "features" else {}

    def check_finite(self, leaves: torch.Tensor) -> None:
        if self.constrained:  # else a user's beams may all be no item's semantic ID
            super().check_finite(leaves)

    @property
    def shared_among(self) -> str:
        """Among all codes, unless only valid semantic IDs are searched."""
        return self.normaliser if self.constrained else "codes"

    @property
    def in_graph(self) -> tuple[Any, ...]:
        """As `SIDRecommender.in_graph`."""
        return *super().in_graph, self.constrained

    def level_vocabulary_logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        """Return logits [..., size] over the codes of `level` of states [..., d]: the tied embedding, by d^-0.5."""
        return self.codes.logits(states, level)

    @property
    def codes(self) -> TiedCodes:
        """The token table, to read codes from and to write them by."""
        return TiedCodes(self.token_embedding, self.vocabulary)

    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        return self.teach(tokens, codes)[1]

    def with_targets(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return histories with their targets int64 [B, T + 1], zero where padded, and their lengths int64 [B]."""
        lengths, history = interaction[self.ITEM_SEQ_LEN], interaction[self.ITEM_SEQ]
        target = interaction[self.ITEM_ID].unsqueeze(1)
        return F.pad(history, (0, 1)).scatter(1, lengths.unsqueeze(1), target), lengths + 1

    def search(self, scorer: LevelScorer) -> tuple[torch.Tensor, torch.Tensor]:
        if self.constrained or self.decoding != "beam":
            return super().search(scorer)
        return unconstrained_beam_search(scorer, self.trie, self.beam_size)
