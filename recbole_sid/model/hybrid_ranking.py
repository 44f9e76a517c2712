"""How a model ranks that has a head over items beside the level heads of SID-MLP, or in place of them."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.decoding import decoder_named
from recbole_sid.decoding.prefixes import best_prefixes, items_under
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.walk import walk_all
from recbole_sid.errors import InputError
from recbole_sid.fast.compiled.arrays import Looked
from recbole_sid.fast.compiled_memory import nothing
from recbole_sid.fast.compiled_scorer import COMPILED, CompiledScorer
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.batches import listed
from recbole_sid.model.mlp_ranking import MLPRanking
from recbole_sid.nn.item_head import ItemHead, ItemScores, ItemScoresOf
from recbole_sid.nn.packing import Packed, Padded
from recbole_sid.nn.readout import last_states
from recbole_sid.util import hardware

# Of the item head, tried after training; the first is what epochs are compared with. With 1 no new item is ranked.
_SHARES = (0.35, 0.0, 0.1, 0.2, 0.5, 0.75, 0.95)


class HybridRanking(MLPRanking):
    """Base of `SIDMLPHybrid`: an item's probability p0 is a mixture of what the heads say that there are.

    Attributes:
        has_item_head, has_sid_heads: set before `__init__`.
        item_head: None without.
        item_candidates: how many prefixes of two codes the item head looks for its best items under; None: everywhere.
    """

    chosen_after_training = (*MLPRanking.chosen_after_training, "item_share")

    has_item_head: bool
    has_sid_heads: bool
    item_head: ItemHead | None
    item_candidates: int | None

    def __init__(self, config: Any, dataset: Any) -> None:
        heads = {"items": self.has_item_head, "semantic IDs": self.has_sid_heads}
        self.parts = tuple(name for name, there in heads.items() if there)
        super().__init__(config, dataset)
        if len(self.parts) > 1:
            self.shares.copy_(torch.tensor([_SHARES[0], 1 - _SHARES[0]]))

    @property
    def chosen(self) -> dict[str, float]:
        return {**super().chosen, **({"item_share": float(self.shares[0])} if len(self.parts) > 1 else {})}

    def shares_tried(self, config: Any) -> list[tuple[float, ...]]:
        if len(self.parts) == 1:
            return [(1.0,)]
        shares = _SHARES if config["item_share"] is None else (config["item_share"],)
        return [(share, 1 - share) for share in shares]

    @property
    def found_by_shapes(self) -> bool:
        """As `SIDRecommender.found_by_shapes`: how many items an index finds is not known before."""
        return super().found_by_shapes and self.item_candidates is None

    @property
    def finds_by_beam(self) -> bool:
        """As `SIDRecommender.finds_by_beam`: not where heads over codes have no say."""
        return super().finds_by_beam and self.has_sid_heads and self._has_say(-1)

    def _has_say(self, part: int) -> bool:
        """Say whether a part of p0 has a share; off the CPU, where the host would have to wait for it, all have."""
        return not hardware.on_cpu(self.shares) or float(self.shares[part]) > 0

    def scorer(self, encoded: Packed | Padded) -> Any:
        context = self.context(encoded)
        if self.item_head is None:
            return self.scorer_of(context)
        query = self.item_head.query(last_states(encoded), context.squeeze(1))
        if not self.has_sid_heads:
            return ItemScorer(ItemScores(self.item_head, query))
        scorer = self.scorer_of(context)
        scorer.items = self._item_scores(self.item_head, query, scorer)
        return scorer

    def _item_scores(self, head: ItemHead, query: torch.Tensor, scorer: LevelScorer) -> ItemScores:
        if self.item_candidates is None:
            return ItemScores(head, query)
        widths = (self.beam_size, self.item_candidates)[-self.trie.n_levels :]

        def found() -> tuple[torch.Tensor, torch.Tensor]:
            nodes = best_prefixes(scorer, self.trie, widths, self.shared_among)
            return items_under(self.trie, len(widths), nodes)

        return ItemScoresOf(head, query, found)

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
        if self.item_head is None or not self._has_say(0):
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
            # Not the last column: users have fewer items in it whose leaves share less of them.
            least = of_codes.masked_fill(of_codes.isneginf(), torch.inf).amin(1)
            others, of_items = self._possibly_better(scorer, scores, least)
            items, scores = self._joined(scorer, items, scores, others, of_items)
        return items, scores

    def search(self, scorer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self._check_codes()
        return super().search(scorer)

    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        self._check_codes()
        return super().target_logits(tokens, codes)

    def _check_codes(self) -> None:
        if not self.has_sid_heads:
            raise InputError("sid_heads=False: this model ranks items (`retrieve`), and says nothing of their codes.")

    def best_after(self, scorer: Any, recent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.item_head is None:
            return super().best_after(scorer, recent)
        if self.memory is not None and self._ranks_compiled(scorer):
            return self._best_of_both(scorer, self._looked_up(recent), float(self.sharpness))
        if isinstance(scorer, CompiledScorer) and self.has_sid_heads and not self.shares[0]:
            return super().best_after(scorer, recent)  # the item head has no say: compiled loops of one head
        return SIDRecommender.best_after(self, scorer, recent)

    def _ranks_compiled(self, scorer: Any) -> bool:
        """Say whether compiled loops rank by both heads: by beam search, where the items scored fit the memory."""
        if not isinstance(scorer, CompiledScorer) or COMPILED.get(decoder_named(self.decoding)) != "beam":
            return False
        fits = self.scores_every_item if self.item_candidates is None else self.trie.n_levels > 1
        return fits and len(self.parts) == 2 and float(self.shares.min()) > 0

    def _best_of_both(self, scorer: Any, remembered: Looked, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `best_items` by compiled loops, from what was looked up."""
        # The item head would hide what the others cannot say.
        self.check_finite(torch.where(scorer.first_scores.isnan().any(1, keepdim=True), -1, 0))
        share_of_items, share_of_codes = self.shares.log().tolist()
        found = scorer.best_of_both(
            scorer.items, self.item_candidates, self.beam_size, self.places, remembered, sharpness,
            share_of_items, share_of_codes,
        )  # fmt: skip
        return self._checked(*found)

    def _mixed_with_codes(self, scorer: Any, items: torch.Tensor, of_codes: torch.Tensor) -> torch.Tensor:
        """Return log p0 [B, K] of items int64 [B, K] from the log-probabilities of their semantic IDs."""
        rows = torch.arange(len(items), device=items.device).unsqueeze(1).expand_as(items)
        of_items = scorer.items.log_probs_of(rows.flatten(), items.flatten()).view_as(of_codes)
        return self.mixed(torch.stack([of_items, of_codes]))

    def _joined(
        self, scorer: Any, items: torch.Tensor, scores: torch.Tensor, others: torch.Tensor, of_items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return items and scores [B, K] with `others` [B, K'] that are not among them, by what the item head says."""
        if not hardware.on_cpu(items):
            new = (others > 0) & (others.unsqueeze(2) != items.unsqueeze(1)).all(2)
            of_codes = walk_all(scorer, self.trie, self.trie.leaves_of(others), self.shared_among)
            mixed = self.mixed(torch.stack([of_items, of_codes])).masked_fill(~new, -torch.inf)
            return torch.cat([items, others * new], dim=1), torch.cat([scores, mixed], dim=1)
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
        tokens = self.history_tokens(interaction)
        if hardware.on_cpu(tokens):
            scorer = self.scorer(self.encode(tokens))
            if self._ranks_compiled(scorer):
                return listed(*self._best_of_both(scorer, nothing(len(interaction)), 0.0))
            items, scores = self.candidates(scorer)
        else:
            _, items, scores = self.ranked(tokens)
        scores, place = scores.topk(min(self.beam_size, scores.shape[1]), dim=1)
        return listed(items.gather(1, place).masked_fill(scores.isneginf(), 0), scores)

    def target_log_probs(self, interaction: Any) -> torch.Tensor:
        items = interaction[self.ITEM_ID]
        encoded = self.encode_padded(self.history_tokens(interaction))
        context = self.decoder.readout(*encoded)
        parts = []
        if self.item_head is not None:
            scores = self.scorer(encoded).items
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
