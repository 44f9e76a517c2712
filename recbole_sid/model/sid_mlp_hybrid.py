"""A hybrid of semantic IDs and items: one light encoder, level heads of SID-MLP, and a head over items themselves.

Not in the SID-MLP paper. Its items' input is their codes alone, whose embeddings start from the items' features and are
trained; no teacher is needed. Semantic IDs share what is learnt of popular codes, the item head tells items apart; the
probability of an item is a mixture of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.fast.prepared import weights_unchanged
from recbole_sid.model.code_init import features_lineage, start_codes_from_features
from recbole_sid.model.mlp_ranking import MLPRanking
from recbole_sid.nn.item_encoder import ItemEncoder, TrainedItemEmbedding
from recbole_sid.nn.item_head import ItemHead
from recbole_sid.nn.packing import Packed, Padded
from recbole_sid.nn.readout import SIDMLPDecoder, last_states
from recbole_sid.settings import declare
from recbole_sid.settings.training import DecodingSettings, ItemEncoderSettings, ReadoutSettings, TrainingSettings

_USUAL_SHARE = 0.35  # of the item head, where it is not chosen yet


@dataclass(frozen=True)
class SIDMLPHybridSettings(ItemEncoderSettings, ReadoutSettings, TrainingSettings, DecodingSettings):
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


class SIDMLPHybrid(MLPRanking):
    """Encoder of items, level heads and item head; an item's probability is a mixture of what both heads say.

    ``p(i | h) = share * p_items(i | h) + (1 - share) * p_sid(i | h)``: p_items is a softmax over the items seen in
    training, p_sid the probability of the item's semantic ID. New items have the second alone.

    Configuration: see `SIDMLPHybridSettings`.
    """

    settings: ClassVar[type[SIDMLPHybridSettings]] = SIDMLPHybridSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = SIDMLPHybridSettings.of(config)
        self.history_dropout, self.item_loss_weight = settings.history_dropout_prob, settings.item_loss_weight
        self.code_init = settings.code_init or "random"
        self.token_embedding = nn.Embedding(self.vocabulary.size, settings.d_model)
        self.token_embedding.requires_grad_(settings.train_code_embeddings)
        self.history_encoder = self._encoder(settings)
        self.decoder = SIDMLPDecoder(
            settings.d_model,
            self.vocabulary.codebook_sizes if settings.sid_heads else (),
            attention_dim=settings.attention_dim,
            n_heads=settings.attention_heads,
            ffn_size=settings.ffn_size,
            head_hidden=settings.head_hidden,
            head_layers=settings.head_layers,
            dropout=settings.dropout_prob,
            query_from_last=settings.query_from_last,
        )
        self.has_sid_heads = settings.sid_heads
        self.item_head = self._item_head(settings, dataset) if settings.item_head else None
        self.item_share = _USUAL_SHARE if settings.item_share is None else settings.item_share

    def _encoder(self, settings: SIDMLPHybridSettings) -> ItemEncoder:
        vocabulary = self.vocabulary
        items = TrainedItemEmbedding(
            self.token_embedding,
            vocabulary.codebook_sizes,
            vocabulary.level_offsets[0],
            self.max_seq_length,
            settings.input_dropout_prob,
        )
        return ItemEncoder(
            self.token_embedding,
            n_levels=vocabulary.n_levels,
            first_code_token=vocabulary.level_offsets[0],
            n_code_tokens=sum(vocabulary.codebook_sizes),
            max_items=self.max_seq_length,
            n_layers=settings.item_layers,
            ffn_size=settings.item_ffn_size,
            mixing=settings.item_mixing,
            dropout=settings.item_dropout_prob,
            items=items,
        )

    def _item_head(self, settings: SIDMLPHybridSettings, dataset: Any) -> ItemHead:
        numbers = np.concatenate([[-1], self.semantic_ids.rows_of(dataset.item_tokens())])
        seen = np.unique(dataset.training_sequences()[0])
        return ItemHead(settings.d_model, torch.from_numpy(numbers), torch.from_numpy(seen))

    def start_from_data(self, config: Any, dataset: Any) -> None:
        if self.code_init == "features":
            start_codes_from_features(self, config, dataset)

    def start_lineage(self, config: Any, dataset: Any) -> dict[str, str]:
        return features_lineage(config, dataset) if self.code_init == "features" else {}

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the mean over rows of the levels' cross entropies and, weighted, that of the item head."""
        encoded = self.encode_padded(self.history_tokens(self._thinned(interaction)))
        context = self.decoder.readout(*encoded)
        codes, target = self.target_codes(interaction), interaction[self.ITEM_ID]
        loss = context.new_zeros(())
        for level, logits in enumerate(self.decoder(context, self.embed_prefix(codes))):
            loss = loss + F.cross_entropy(logits, codes[:, level])
        if self.item_head is not None:
            query = self.item_head.query(last_states(encoded), context.squeeze(1))
            of_items = F.cross_entropy(self.item_head.logits(query), self.item_head.row[target])
            loss = loss + self.item_loss_weight * of_items
        return loss

    def _thinned(self, interaction: Any) -> Any:
        """Return a training batch with a share of its histories' items left out, never the last."""
        if not (self.history_dropout and self.training):
            return interaction
        history = interaction[self.ITEM_SEQ]
        kept = torch.rand(history.shape, device=history.device) >= self.history_dropout
        kept.scatter_(1, (interaction[self.ITEM_SEQ_LEN] - 1).clamp(min=0).unsqueeze(1), True)
        return type(interaction)({**interaction.interaction, self.ITEM_SEQ: history * kept})

    def scorer(self, encoded: Packed | Padded) -> Any:
        context = self.context(encoded)
        query = None if self.item_head is None else self.item_head.query(last_states(encoded), context.squeeze(1))
        if not self.has_sid_heads:
            return ItemScorer(query)
        scorer = self.scorer_of(context)
        scorer.item_query = query
        return scorer

    def item_log_probs(self, scorer: Any) -> torch.Tensor:
        """Return the log-probabilities [B, n_items] of all items by both heads, -inf for padding."""
        parts = []
        if self.item_head is not None:
            parts.append(self.item_head.log_probs(scorer.item_query))
        if self.has_sid_heads:
            parts.append(super().item_log_probs(scorer))
        return self._mixed(parts)

    def _mixed(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of the mixture of the heads' there are, the items' first."""
        if len(parts) == 1:
            return parts[0]
        if self.item_share in (0, 1):
            return parts[1 - int(self.item_share)]
        of_items, of_codes = parts
        return torch.logaddexp(of_items + math.log(self.item_share), of_codes + math.log1p(-self.item_share))

    @torch.no_grad()
    def retrieve(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = []
        with weights_unchanged(self):
            for rows in self.fully_scored_parts(len(interaction)):
                scores = self.item_log_probs(self.scorer(self.encode(self.history_tokens(interaction[rows]))))
                best, items = scores.topk(min(self.beam_size, self.n_items - 1), dim=1)
                row, place = (best > -torch.inf).nonzero(as_tuple=True)
                found.append((row + rows.start, items[row, place], best[row, place]))
        rows_, items, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rows_, items, scores

    @torch.no_grad()
    def predict(self, interaction: Any) -> torch.Tensor:
        rows = torch.arange(len(interaction), device=self.item_codes.device)
        scores = self.item_log_probs(self.scorer(self.encode(self.history_tokens(interaction))))
        return scores[rows, interaction[self.ITEM_ID]]


class ItemScorer:
    """What stands for the level scorer of a model that has an item head only.

    Args:
        item_query: [B, d], what the `ItemHead` scores items by.
    """

    def __init__(self, item_query: Any) -> None:
        self.item_query = item_query
        self.n_users, self.device = len(item_query), item_query.device
