"""A hybrid of semantic IDs and items: one light encoder, level heads of SID-MLP, and a head over items themselves.

Not in the SID-MLP paper. Its items' input is their codes alone, whose embeddings start from the items' features and are
trained; no teacher is needed. Semantic IDs share what is learnt of popular codes, the item head tells items apart; the
probability of an item is a mixture of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.code_init import features_lineage, start_codes_from_features
from recbole_sid.model.mlp_ranking import MLPRanking
from recbole_sid.nn.item_encoder import ItemEncoder, TrainedItemEmbedding
from recbole_sid.nn.item_head import ItemHead, ItemScores
from recbole_sid.nn.packing import Packed, Padded
from recbole_sid.nn.readout import SIDMLPDecoder, last_states
from recbole_sid.settings import declare
from recbole_sid.settings.training import DecodingSettings, ItemEncoderSettings, ReadoutSettings, TrainingSettings
from recbole_sid.util import hardware

# Of the item head, tried after training; the first is what epochs are compared with. With 1 no new item would be ranked.
_SHARES = (0.35, 0.0, 0.1, 0.2, 0.5, 0.75, 0.95)


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

    chosen_after_training = (*MLPRanking.chosen_after_training, "item_share")

    def __init__(self, config: Any, dataset: Any) -> None:
        settings = SIDMLPHybridSettings.of(config)
        heads = {"items": settings.item_head, "semantic IDs": settings.sid_heads}
        self.parts = tuple(name for name, there in heads.items() if there)
        super().__init__(config, dataset)
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
        if len(self.parts) > 1:
            self.shares.copy_(torch.tensor([_SHARES[0], 1 - _SHARES[0]]))

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

    @property
    def chosen(self) -> dict[str, float]:
        return {**super().chosen, **({"item_share": float(self.shares[0])} if len(self.parts) > 1 else {})}

    def shares_tried(self, config: Any) -> list[tuple[float, ...]]:
        if len(self.parts) == 1:
            return [(1.0,)]
        shares = _SHARES if config["item_share"] is None else (config["item_share"],)
        return [(share, 1 - share) for share in shares]

    def scorer(self, encoded: Packed | Padded) -> Any:
        context = self.context(encoded)
        items = None
        if self.item_head is not None:
            items = ItemScores(self.item_head, self.item_head.query(last_states(encoded), context.squeeze(1)))
        if not self.has_sid_heads:
            return ItemScorer(items)
        scorer = self.scorer_of(context)
        scorer.items = items
        return scorer

    def item_log_probs(self, scorer: Any) -> torch.Tensor:
        parts = [scorer.items.log_probs()] if self.item_head is not None else []
        if self.has_sid_heads:
            parts.append(super().item_log_probs(scorer))
        return self.mixed(torch.stack(parts))

    def part_log_probs(self, scorer: Any, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        parts = []
        if self.item_head is not None:
            pairs = (hardware.moved(index, scorer.device) for index in (rows, items))
            parts.append(scorer.items.log_probs_of(*pairs))
        if self.has_sid_heads:
            parts.append(super().part_log_probs(scorer, rows, items)[0])
        return torch.stack(parts)

    def candidates(self, scorer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the items int64 and their log p0, both [B, K], that the configured decoder finds; 0 and -inf for none.

        With both heads they are what the decoder finds by semantic IDs and as many of the item head's best; for
        decoding ``exact`` also all others that could be among the best by the mixture of both.
        """
        if self.item_head is None:
            return super().candidates(scorer)
        if not self.has_sid_heads:
            return scorer.items.best(self.beam_size)
        if self.decoding == "full":
            scores, items = self.item_log_probs(scorer).topk(min(self.beam_size, self.n_items - 1), dim=1)
            return items.masked_fill(scores.isneginf(), 0), scores
        items, of_codes = super().candidates(scorer)
        scores = self._mixed_with_codes(scorer, items, of_codes)
        others, of_items = scorer.items.best(self.beam_size)
        items, scores = self._joined(scorer, items, scores, others, of_items)
        if self.decoding == "exact":
            others, of_items = self._possibly_better(scorer, scores, of_codes[:, -1])
            items, scores = self._joined(scorer, items, scores, others, of_items)
        return items, scores

    def best_after(self, scorer: Any, recent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.item_head is None:
            return super().best_after(scorer, recent)
        return SIDRecommender.best_after(self, scorer, recent)  # the compiled one knows semantic IDs only

    def _mixed_with_codes(self, scorer: Any, items: torch.Tensor, of_codes: torch.Tensor) -> torch.Tensor:
        """Return log p0 [B, K] of items int64 [B, K] from the log-probabilities of their semantic IDs."""
        rows = torch.arange(len(items), device=items.device).unsqueeze(1).expand_as(items)
        of_items = scorer.items.log_probs_of(rows.flatten(), items.flatten()).view_as(of_codes)
        return self.mixed(torch.stack([of_items, of_codes]))

    def _joined(
        self, scorer: Any, items: torch.Tensor, scores: torch.Tensor, others: torch.Tensor, of_items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return items and scores [B, K] with `others` [B, K'] that are not among them, by what the item head says."""
        first = torch.arange(len(items), device=items.device).unsqueeze(1) * self.n_items
        new = (others > 0) & ~torch.isin(others + first, items + first)
        rows, columns = new.nonzero(as_tuple=True)
        found = others[rows, columns]
        of_codes = super().part_log_probs(scorer, rows.cpu(), found.cpu())[0]
        mixed = torch.full_like(of_items, -torch.inf)
        mixed[rows, columns] = self.mixed(torch.stack([of_items[rows, columns], of_codes]))
        return torch.cat([items, others * new], dim=1), torch.cat([scores, mixed], dim=1)

    def _possibly_better(
        self, scorer: Any, scores: torch.Tensor, least: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the items int64 [B, K] that could score more than the best ``beam_size`` so far, and what the item
        head says; 0 for none.

        Args:
            scores: log p0 [B, K] of those so far, which hold the best ``beam_size`` by semantic IDs.
            least: [B], the log-probability of the last of these: no other item's semantic ID has more.
        """
        of_items = scorer.items.log_probs()
        most = self.mixed(torch.stack([of_items, least.unsqueeze(1).expand_as(of_items)]))
        last = scores.topk(min(self.beam_size, scores.shape[1]), dim=1).values[:, -1:]
        possible = (most > last).index_fill(1, torch.zeros(1, dtype=torch.int64, device=most.device), False)
        width = int(possible.sum(1).max())
        found, items = of_items.masked_fill(~possible, -torch.inf).topk(width, dim=1)
        return items * possible.gather(1, items), found

    def _retrieved(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.item_head is None:
            return super()._retrieved(interaction)
        items, scores = self.candidates(self.scorer(self.encode(self.history_tokens(interaction))))
        scores, place = scores.topk(min(self.beam_size, scores.shape[1]), dim=1)
        rows = torch.arange(len(items), device=items.device).unsqueeze(1).expand_as(scores)
        there = scores > -torch.inf
        return rows[there], items.gather(1, place)[there], scores[there]

    def target_log_probs(self, interaction: Any) -> torch.Tensor:
        items = interaction[self.ITEM_ID]
        encoded = self.encode_padded(self.history_tokens(interaction))
        context = self.decoder.readout(*encoded)
        parts = []
        if self.item_head is not None:
            scores = ItemScores(self.item_head, self.item_head.query(last_states(encoded), context.squeeze(1)))
            parts.append(scores.log_probs_of(torch.arange(len(items), device=items.device), items))
        if self.has_sid_heads:
            codes = self.item_codes[items]
            parts.append(self.log_prob(self.decoder(context, self.embed_prefix(codes)), codes))
        return self.mixed(torch.stack(parts))


class ItemScorer:
    """What stands for the level scorer of a model that has an item head only.

    Args:
        items: what this says.
    """

    def __init__(self, items: Any) -> None:
        self.items = items
        self.n_users, self.device = items.n_users, items.device
