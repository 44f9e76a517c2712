"""SID-MLP: the teacher's frozen encoder, one attention readout and one MLP head per level.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.data.vocabulary import PAD
from recbole_sid.decoding.beam import LevelScorer
from recbole_sid.errors import InputError
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.mlp import SIDMLPDecoder, SIDMLPScorer
from recbole_sid.model.supervision import Supervision
from recbole_sid.model.teacher import build_teacher, freeze, load_teacher


class SIDMLP(SIDRecommender):
    """Student with the teacher's encoder and token table, both frozen and part of its own checkpoint.

    Configuration: teacher_path (a teacher's checkpoint) or teacher_model and teacher_config; attention_heads,
    attention_dim, ffn_size, head_hidden, head_layers, dropout_prob; alpha, temperature; beam_size.

    Attributes:
        teacher: the frozen teacher, or None when loaded for inference; not part of the checkpoint.
        supervision: gives states and teacher logits of a training batch; set by the distillation trainer.
    """

    stages: tuple[str, ...] = ("decoder",)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        teacher = load_teacher(config, dataset) if config["teacher_path"] else build_teacher(config, dataset)
        # Neither registered as a submodule: they are no part of the student.
        object.__setattr__(self, "teacher", teacher if config["teacher_path"] else None)
        self.supervision: Callable[[Any], Supervision] | None = None
        self.alpha, self.temperature = config["alpha"], config["temperature"]
        if not 0 <= self.alpha <= 1 or self.temperature <= 0:
            raise InputError(f"alpha={self.alpha} must be in 0..1 and temperature={self.temperature} above 0.")
        if config["attention_dim"] % config["attention_heads"]:
            raise InputError(
                f"attention_dim={config['attention_dim']} must be a multiple of attention_heads="
                f"{config['attention_heads']}."
            )
        self.token_embedding: nn.Embedding = freeze(teacher.token_embedding)
        self.history_encoder: nn.Module = self.make_encoder(config, teacher)
        self.decoder = SIDMLPDecoder(
            teacher.d_model,
            self.vocabulary.codebook_sizes,
            attention_dim=config["attention_dim"],
            n_heads=config["attention_heads"],
            ffn_size=config["ffn_size"],
            head_hidden=config["head_hidden"],
            head_layers=config["head_layers"],
            dropout=config["dropout_prob"],
        )
        self.start_stage(self.stages[-1])

    def make_encoder(self, config: Any, teacher: Any) -> nn.Module:
        """Return the encoder of histories: here the teacher's."""
        return freeze(teacher.history_encoder)

    def start_stage(self, stage: str) -> None:
        """Freeze all but what `stage` trains; `calculate_loss` is that stage's loss from now on."""
        self.stage = stage
        self.requires_grad_(False)
        for module in self.trained_in(stage):
            module.requires_grad_(True)

    def trained_in(self, stage: str) -> Sequence[nn.Module]:
        """Return the modules that `stage` trains."""
        return [self.decoder]

    def train(self, mode: bool = True) -> SIDMLP:
        """Switch only what is being trained: frozen modules stay in eval mode, without dropout."""
        super().train(False)
        self.training = mode
        for module in self.trained_in(self.stage):
            module.train(mode)
        return self

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the distillation loss of the batch."""
        return self.distillation_loss(interaction, self.supervise(interaction))

    def supervise(self, interaction: Any) -> Supervision:
        """Return the frozen states and teacher logits of a training batch."""
        if self.supervision is None:
            raise InputError(f"{type(self).__name__} learns from a teacher: set teacher_path and use its trainer.")
        return self.supervision(interaction)

    def distillation_loss(self, interaction: Any, given: Supervision) -> torch.Tensor:
        """Return ``alpha T^2 KL(teacher || student) + (1 - alpha) CE``, summed over levels, from `given` states."""
        codes = self.target_codes(interaction)
        logits = self.decoder(self.decoder.readout(given.states, given.mask), self.embed_prefix(codes))
        loss = logits[0].new_zeros(())
        for level, (student, teacher) in enumerate(zip(logits, given.logits, strict=True)):
            divergence = F.kl_div(
                (student.float() / self.temperature).log_softmax(-1),
                (teacher.float() / self.temperature).log_softmax(-1),
                reduction="batchmean",
                log_target=True,
            )
            cross_entropy = F.cross_entropy(student.float(), codes[:, level])
            loss = loss + self.alpha * self.temperature**2 * divergence + (1 - self.alpha) * cross_entropy
        return loss

    def embed_prefix(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the embedded codes of all levels but the last: [B, L - 1, d]."""
        return self.token_embedding(self.vocabulary.code_tokens(codes[:, :-1]))

    def context(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the user context z [B, d] of serialised histories int64 [B, S]."""
        mask = tokens != PAD
        return self.decoder.readout(self.history_encoder(tokens, mask), mask)

    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        return self.decoder(self.context(tokens), self.embed_prefix(codes))

    def scorer(self, tokens: torch.Tensor) -> LevelScorer:
        return SIDMLPScorer(self.decoder, self.token_embedding, self.vocabulary.level_offsets, self.context(tokens))
