"""How models rank whose decoder is a readout and level heads (`nn.readout.SIDMLPDecoder`): fast forms for inference.

What such a model is made of and how it learns is in its own class: SIDMLP, SIDMLPPlusPlus, SIDMLPHybrid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.decoding import decoder_named
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.fast.compiled.arrays import Looked, Mixing, Places
from recbole_sid.fast.compiled_memory import look_up
from recbole_sid.fast.compiled_scorer import (
    COMPILED,
    CompiledScorer,
    can_compile,
    compiled_heads,
    compiled_places,
    compiled_prefixes,
    is_usable,
)
from recbole_sid.fast.factorised import FactorisedHeads, FactorisedScorer
from recbole_sid.fast.prepared import Prepared
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.batches import is_cpu_inference
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.item_encoder import ItemEmbedding, ItemEncoder
from recbole_sid.nn.packing import Packed, Padded
from recbole_sid.nn.readout import SIDMLPDecoder
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.settings.training import ItemEncoderSettings, ReadoutSettings
from recbole_sid.util import hardware

# Users whose beams are searched together on the CPU: more, and activations leave the cache.
_USERS_IN_CACHE = 32


class MLPRanking(SIDRecommender):
    """Base of models that rank by a history encoder and the decoder of SID-MLP.

    Configuration: compiled.

    Attributes:
        token_embedding: the table [vocabulary.size, d] that codes are embedded with.
        history_encoder: histories to states.
        decoder: states and codes before to level logits.
    """

    token_embedding: nn.Embedding
    history_encoder: HistoryEncoder
    decoder: SIDMLPDecoder

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.compiled = config["compiled"]
        if self.compiled and hardware.on_cpu(config["device"]):
            is_usable()  # compiles now, before anything is timed
        self.heads_form = Prepared(_factorise)
        self.compiled_form = Prepared(_compile)

    def made_decoder(
        self, settings: ReadoutSettings, d_model: int, sizes: Sequence[int], query_per_level: bool = False
    ) -> SIDMLPDecoder:
        """Return the untrained decoder of states [B, S', d_model], with a head for each of `sizes`."""
        return SIDMLPDecoder(
            d_model,
            sizes,
            attention_dim=settings.attention_dim,
            n_heads=settings.attention_heads,
            ffn_size=settings.ffn_size,
            head_hidden=settings.head_hidden,
            head_layers=settings.head_layers,
            dropout=settings.dropout_prob,
            query_per_level=query_per_level,
            query_from_last=settings.query_from_last,
        )

    def made_item_encoder(self, settings: ItemEncoderSettings, items: ItemEmbedding | None = None) -> ItemEncoder:
        """Return the untrained encoder of items, over `items`, or else the frozen token table."""
        return ItemEncoder(
            self.token_embedding,
            n_levels=self.vocabulary.n_levels,
            first_code_token=self.vocabulary.level_offsets[0],
            n_code_tokens=sum(self.vocabulary.codebook_sizes),
            max_items=self.max_seq_length,
            n_layers=settings.item_layers,
            ffn_size=settings.item_ffn_size,
            mixing=settings.item_mixing,
            dropout=settings.item_dropout_prob,
            items=items,
        )

    def embed_prefix(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the embedded codes of all levels but the last: [B, L - 1, d]."""
        return self.token_embedding(self.vocabulary.code_tokens(codes[:, :-1]))

    def encode_padded(self, tokens: torch.Tensor) -> Padded:
        """Return the encoder's states of histories int64 [B, S] by shapes that do not depend on the data."""
        return self.history_encoder.encode_padded(tokens)

    def level_logits(self, encoded: Padded, codes: torch.Tensor) -> list[torch.Tensor]:
        """Return per level the logits [B, size] given states and the true codes int64 [B, L] before it."""
        return self.decoder(self.decoder.readout(*encoded), self.embed_prefix(codes))

    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        return self.level_logits(self.encode_padded(tokens), codes)

    def encode(self, tokens: torch.Tensor) -> Packed | Padded:
        """Return the encoder's states: for inference on the CPU without padding."""
        if is_cpu_inference(tokens):
            return self.history_encoder.packed(tokens, tokens != PAD)
        return self.encode_padded(tokens)

    def context(self, encoded: Packed | Padded) -> torch.Tensor:
        """Return the user contexts z [B, Q, d] (see `Readout`)."""
        readout = self.decoder.readout
        return readout.packed(encoded) if isinstance(encoded, Packed) else readout(*encoded)

    def scorer(self, encoded: Packed | Padded) -> LevelScorer:
        return self.scorer_of(self.context(encoded))

    def scorer_of(self, context: torch.Tensor) -> FactorisedScorer:
        """Return the level scorer of contexts z [B, Q, d]."""
        heads = self.heads_form.get(self)
        user_parts = heads.user_parts(context)
        if self._runs_compiled(heads, context):
            return CompiledScorer(heads, user_parts, self.trie, *self.compiled_form.get(self))
        return FactorisedScorer(heads, user_parts)

    def _runs_compiled(self, heads: FactorisedHeads, context: torch.Tensor) -> bool:
        on_cpu = self.compiled and hardware.on_cpu(context)  # asked first: numba compiles for seconds
        return on_cpu and self.normaliser == "children" and can_compile(heads) and is_usable()

    def search(self, scorer: LevelScorer) -> tuple[torch.Tensor, torch.Tensor]:
        compiled = COMPILED.get(decoder_named(self.decoding))
        if compiled and isinstance(scorer, CompiledScorer):
            return scorer.search(compiled, self.beam_size)
        if not hardware.on_cpu(scorer.device) or not isinstance(scorer, FactorisedScorer):
            return super().search(scorer)
        return join_rankings([super(MLPRanking, self).search(part) for part in scorer.split(_USERS_IN_CACHE)])

    def best_after(self, scorer: LevelScorer, recent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        decoding = COMPILED.get(decoder_named(self.decoding))
        if decoding not in ("beam", "exact") or not isinstance(scorer, CompiledScorer) or self.memory is None:
            return super().best_after(scorer, recent)
        remembered = self._looked_up(recent)
        mixing = Mixing.of_one_head(remembered.remaining, float(self.sharpness))
        return self._best_compiled(scorer, decoding, mixing, remembered)

    def _looked_up(self, recent: torch.Tensor) -> Looked:
        """Return, for compiled loops, what of the memory competes after histories int64 [B, W]."""
        assert self.memory is not None
        return look_up(self.memory, recent, self.beam_size if self.finds_by_beam else None)

    def _best_compiled(
        self, scorer: CompiledScorer, decoding: str, mixing: Mixing, candidates: Looked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._checked(*scorer.best_items(decoding, self.beam_size, self.places, mixing, candidates))

    def _checked(self, items: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.check_finite(torch.where(scores > -torch.inf, 0, -1))
        return items, scores

    @cached_property
    def places(self) -> Places:
        """Where the items stand in the trie, for compiled loops."""
        return compiled_places(self.trie, self.n_items)

    def leaf_log_probs(self, scorer: LevelScorer) -> torch.Tensor:
        if isinstance(scorer, CompiledScorer):
            return scorer.leaf_log_probs()
        return super().leaf_log_probs(scorer)

    def groups(self, lengths: torch.Tensor) -> list[torch.Tensor | None]:
        return [None] if self.history_encoder.skips_padding else super().groups(lengths)


def _factorise(model: MLPRanking) -> FactorisedHeads:
    return FactorisedHeads.of(model.decoder, model.token_embedding.weight, model.vocabulary.level_offsets)


def _compile(model: MLPRanking) -> tuple[Any, Any]:
    prefixes = compiled_prefixes(model.trie)
    return compiled_heads(model.heads_form.get(model), prefixes), prefixes


def join_rankings(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Join leaves and scores [b, K] of parts of a batch, whose K may differ."""
    width = max(leaves.shape[1] for leaves, _ in parts)
    leaves = [F.pad(leaves, (0, width - leaves.shape[1]), value=-1) for leaves, _ in parts]
    scores = [F.pad(scores, (0, width - scores.shape[1]), value=-torch.inf) for _, scores in parts]
    return torch.cat(leaves), torch.cat(scores)
