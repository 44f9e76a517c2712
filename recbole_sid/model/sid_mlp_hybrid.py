"""A hybrid of semantic IDs and items: one light encoder, level heads of SID-MLP, and a head over items themselves.

Not in the SID-MLP paper. Its items' input is their codes alone, whose embeddings start from the items' features and are
trained; no teacher is needed. Semantic IDs share what is learnt of popular codes, the item head tells items apart; the
probability of an item is a mixture of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.model.code_init import features_lineage, start_codes_from_features
from recbole_sid.model.hybrid_ranking import HybridRanking
from recbole_sid.model.supervision import OnlineSupervision, Supervision
from recbole_sid.model.teacher import Teacher, check_teacher, load_teacher
from recbole_sid.nn.item_encoder import ItemEncoder, TrainedItemEmbedding
from recbole_sid.nn.item_head import ItemHead
from recbole_sid.nn.losses import distillation_loss, sampled_cross_entropy
from recbole_sid.nn.readout import last_states
from recbole_sid.settings import declare
from recbole_sid.settings.training import (
    DecodingSettings,
    ItemEncoderSettings,
    ReadoutSettings,
    TeacherSettings,
    TrainingSettings,
)


@dataclass(frozen=True)
class SIDMLPHybridSettings(ItemEncoderSettings, ReadoutSettings, TeacherSettings, TrainingSettings, DecodingSettings):
    """Semantic-ID heads and an item head over one encoder of items."""

    d_model: int = declare(128, "Width of states, token embeddings and rows of the item head.", least=1)
    item_head: bool = declare(True, "A head over the items themselves, those seen in training.")
    sid_heads: bool = declare(True, "Heads over the codes of semantic IDs; without them no new item is ranked.")
    item_share: float | None = declare(
        None, "Share of the item head in an item's probability; empty: chosen on validation.", least=0, most=1
    )
    item_loss_weight: float = declare(1.0, "Weight of the item head's cross entropy in the loss.", least=0)
    code_init: str | None = declare(
        "features",
        "Code embeddings start at random, or from the features of the items that have them (features).",
        choices=("random", "features"),
    )
    train_code_embeddings: bool = declare(True, "False leaves the code embeddings as they start.")
    item_candidates: int | None = declare(
        None,
        "So many prefixes of two codes, the best, are what the item head ranks items under; empty: it ranks all items.",
        least=1,
    )
    item_negatives: int | None = declare(
        None, "Items drawn for a batch's cross entropy, by how often they occur; empty: all items are in it.", least=1
    )
    alpha: float = declare(0.0, most=1, help="Weight of a teacher's distribution against the true code; 0: no teacher.")
    input_dropout_prob: float = declare(0.2, "Of the items' vectors.", below=1)
    history_dropout_prob: float = declare(
        0.0, "Share of a history's items, the last aside, that training leaves out.", below=1
    )
    item_layers: int = 2
    item_dropout_prob: float = 0.2
    attention_dim: int = 128
    query_from_last: bool = True
    ffn_size: int = 512
    dropout_prob: float = declare(0.3, "Of the readout and the level heads.", below=1)
    epochs: int = 10
    schedule_epochs: int | None = 16
    train_batch_size: int = 512
    learning_rate: float = 0.0015
    weight_decay: float = 0.0001
    full_sort_items: int = 50000

    def check(self) -> None:
        super().check()
        if not (self.item_head or self.sid_heads):
            raise InputError("item_head=False and sid_heads=False leave nothing to rank by: keep one of them.")
        if self.item_share is not None and not (self.item_head and self.sid_heads):
            raise InputError(f"item_share={self.item_share:g} needs item_head and sid_heads: leave it out.")
        if self.teacher_path and not self.alpha:
            raise InputError("With alpha=0 nothing is learnt from teacher_path: set alpha, or leave teacher_path out.")
        if self.alpha and not self.sid_heads:
            raise InputError(f"alpha={self.alpha} distils into heads that sid_heads=False leaves out: set alpha=0.")
        if self.item_candidates and not self.sid_heads:
            raise InputError(f"item_candidates={self.item_candidates} needs sid_heads, which find the prefixes.")
        for key in ("item_candidates", "item_negatives"):
            if getattr(self, key) and not self.item_head:
                raise InputError(f"{key}={getattr(self, key)} is of the item head, which item_head=False leaves out.")


class SIDMLPHybrid(HybridRanking):
    """Encoder of items, level heads and item head; an item's probability is a mixture of what both heads say.

    ``p(i | h) = share * p_items(i | h) + (1 - share) * p_sid(i | h)``: p_items is a softmax over the items seen in
    training, p_sid the probability of the item's semantic ID. New items have the second alone.

    Configuration: see `SIDMLPHybridSettings`.
    """

    settings: ClassVar[type[SIDMLPHybridSettings]] = SIDMLPHybridSettings
    made_of = ("teacher_path",)
    trainer = "recbole_sid.trainer.hybrid:HybridTrainer"

    teacher: Teacher | None

    @classmethod
    def learns_with(cls, settings: Any) -> bool:
        return bool(settings["alpha"] if "alpha" in settings else cls.settings.default("alpha"))

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        if cls.learns_with(config):
            check_teacher(config)

    @classmethod
    def left_to_validation(cls, config: Any) -> list[str]:
        mixed = config["item_head"] and config["sid_heads"] and config["item_share"] is None
        return [*super().left_to_validation(config), *(["item_share"] if mixed else [])]

    def __init__(self, config: Any, dataset: Any) -> None:
        settings = SIDMLPHybridSettings.of(config)
        self.has_item_head, self.has_sid_heads = settings.item_head, settings.sid_heads
        super().__init__(config, dataset)
        self.item_candidates = settings.item_candidates
        self.history_dropout, self.item_loss_weight = settings.history_dropout_prob, settings.item_loss_weight
        self.code_init = settings.code_init or "random"
        self.token_embedding = nn.Embedding(self.vocabulary.size, settings.d_model)
        self.token_embedding.requires_grad_(settings.train_code_embeddings)
        self.history_encoder = self._encoder(settings)
        sizes = self.vocabulary.codebook_sizes if settings.sid_heads else ()
        self.decoder = self.made_decoder(settings, settings.d_model, sizes)
        self.item_head = self._item_head(settings, dataset) if settings.item_head else None
        self.alpha, self.temperature = settings.alpha, settings.temperature
        self.item_negatives = settings.item_negatives
        # Not registered as a submodule, and loaded last: with a teacher the weights start as without.
        teacher = load_teacher(config, dataset) if self.alpha and config["teacher_path"] else None
        object.__setattr__(self, "teacher", teacher)

    def _encoder(self, settings: SIDMLPHybridSettings) -> ItemEncoder:
        vocabulary = self.vocabulary
        items = TrainedItemEmbedding(
            self.token_embedding,
            vocabulary.codebook_sizes,
            vocabulary.level_offsets[0],
            self.max_seq_length,
            settings.input_dropout_prob,
        )
        return self.made_item_encoder(settings, items)

    def _item_head(self, settings: SIDMLPHybridSettings, dataset: Any) -> ItemHead:
        numbers = np.concatenate([[-1], self.semantic_ids.rows_of(dataset.item_tokens())])
        seen, counts = np.unique(dataset.training_sequences()[0], return_counts=True)
        return ItemHead(settings.d_model, *(torch.from_numpy(part) for part in (numbers, seen, counts)))

    def start_from_data(self, config: Any, dataset: Any) -> None:
        if self.code_init == "features":
            start_codes_from_features(self, config, dataset)

    def start_lineage(self, config: Any, dataset: Any) -> dict[str, str]:
        return features_lineage(config, dataset) if self.code_init == "features" else {}

    def online_supervision(self) -> OnlineSupervision:
        """Return what asks the teacher, as it does of each batch anew.

        Raises:
            InputError: if there is none.
        """
        if self.teacher is None:
            raise InputError(f"alpha={self.alpha} distils from a teacher: set teacher_path to its checkpoint.")
        return OnlineSupervision(self, None, self.teacher)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the loss of a batch by the teacher itself, if there is one."""
        return self(interaction)

    def forward(self, interaction: Any, given: Supervision | None = None) -> torch.Tensor:
        """Return the mean over rows of the levels' cross entropies and, weighted, that of the item head.

        Args:
            interaction: of B training rows.
            given: what the teacher says of them, if one is learnt from; None: it is asked.
        """
        encoded = self.encode_padded(self.history_tokens(self._thinned(interaction)))
        context = self.decoder.readout(*encoded)
        loss = context.new_zeros(())
        if self.has_sid_heads:
            loss = loss + self._loss_of_codes(interaction, context, given)
        if self.item_head is not None:
            query = self.item_head.query(last_states(encoded), context.squeeze(1))
            loss = loss + self.item_loss_weight * self._loss_of_items(query, interaction[self.ITEM_ID])
        return loss

    def _loss_of_codes(self, interaction: Any, context: torch.Tensor, given: Supervision | None) -> torch.Tensor:
        codes = self.target_codes(interaction)
        logits = self.decoder(context, self.embed_prefix(codes))
        if not self.alpha:
            return torch.stack([F.cross_entropy(own, codes[:, level]) for level, own in enumerate(logits)]).sum()
        taught = (given or self.online_supervision()(interaction)).logits
        return distillation_loss(logits, taught, codes, self.alpha, self.temperature)

    def _loss_of_items(self, query: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        head = cast(ItemHead, self.item_head)
        targets = head.row[items]
        if self.item_negatives:
            return sampled_cross_entropy(query, head.table, targets, *head.drawn(self.item_negatives))
        return F.cross_entropy(head.logits(query), targets)

    def _thinned(self, interaction: Any) -> Any:
        """Return a training batch with a share of its histories' items left out, never the last."""
        if not (self.history_dropout and self.training):
            return interaction
        history = interaction[self.ITEM_SEQ]
        kept = torch.rand(history.shape, device=history.device) >= self.history_dropout
        kept.scatter_(1, (interaction[self.ITEM_SEQ_LEN] - 1).clamp(min=0).unsqueeze(1), True)
        return type(interaction)({**interaction.interaction, self.ITEM_SEQ: history * kept})
