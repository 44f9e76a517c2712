"""What all SID models share: histories as tokens, and items ranked by beam search, in RecBole's interface."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_sid.data.vocabulary import PAD, TokenVocabulary
from recbole_sid.decoding.beam import LevelScorer, constrained_beam_search, masked_log_softmax
from recbole_sid.decoding.trie import Trie
from recbole_sid.errors import InputError

# A batch is ranked in groups of similar history length if that saves this share of the tokens or more.
_WORTHWHILE_SAVING = 0.1
_MAX_GROUPS = 4


class SIDRecommender(SequentialRecommender):
    """Base of TIGER, SIDMLP and SIDMLPPlusPlus.

    Scores of items are log-probabilities of their semantic IDs. Items outside the beam score -inf.

    Attributes:
        semantic_ids: the artefact the model was built for.
        vocabulary: token ids.
        trie: valid semantic IDs; its items are RecBole's internal item ids.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if getattr(dataset, "semantic_ids", None) is None:
            raise InputError(
                f"{type(self).__name__} needs a dataset with semantic IDs: prepare it with "
                "recbole_sid.data.data_preparation, or run `recbole_sid.quick_start.run_recbole_sid`."
            )
        self.semantic_ids = dataset.semantic_ids
        sizes = self.semantic_ids.codebook_sizes
        table = self.semantic_ids.table(dataset.item_tokens())
        self.vocabulary = TokenVocabulary(sizes, config["n_user_tokens"])
        self.beam_size = config["beam_size"]
        self.trie = Trie(table[1:], sizes, items=np.arange(1, len(table)))
        item_codes = torch.from_numpy(table)
        item_tokens = self.vocabulary.code_tokens(item_codes)
        item_tokens[0] = PAD
        self.register_buffer("item_codes", item_codes, persistent=False)
        self.register_buffer("item_tokens", item_tokens, persistent=False)

    @abstractmethod
    def scorer(self, tokens: torch.Tensor) -> LevelScorer:
        """Return the level scorer of a batch of serialised histories int64 [B, S]."""

    @abstractmethod
    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        """Return per level the logits [B, size] given the true codes int64 [B, L] before it."""

    def history_tokens(self, interaction: Any) -> torch.Tensor:
        """Return the serialised histories int64 [B, 2 + T * L], T the longest history of this batch."""
        lengths = interaction[self.ITEM_SEQ_LEN]
        history = interaction[self.ITEM_SEQ][:, : int(lengths.max())]
        return self.vocabulary.serialise(self.item_tokens[history], lengths, interaction[self.USER_ID])

    def target_codes(self, interaction: Any) -> torch.Tensor:
        """Return the codes of the target items int64 [B, L]."""
        return self.item_codes[interaction[self.ITEM_ID]]

    def search(self, scorer: LevelScorer) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves and scores [B, K] of the best semantic IDs."""
        return constrained_beam_search(scorer, self.trie, self.beam_size)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Return log-probabilities [B * n_items] as RecBole expects; -inf for items that were not retrieved."""
        rows, items, scores = self.retrieve(interaction)
        table = scores.new_full((len(interaction), self.n_items), -torch.inf)
        table[rows, items] = scores
        return table.view(-1)

    def retrieve(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rank the catalogue for each history by beam search.

        Returns:
            rows, items and scores, each [n]: the retrieved items of all rows, by falling score within a row. Items
            that share a semantic ID share its score.
        """
        found = []
        for group in length_groups(interaction[self.ITEM_SEQ_LEN], self.vocabulary.n_levels):
            tokens = self.history_tokens(interaction if group is None else interaction[group])
            leaves, scores = self.search(self.scorer(tokens))
            position, items = self.trie.expand_leaves(leaves)
            rows = position // leaves.shape[1]
            found.append((rows if group is None else group[rows], items, scores.flatten()[position]))
        rows, items, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rows, items, scores

    def predict(self, interaction: Any) -> torch.Tensor:
        """Return the log-probability [B] of each row's item, whether or not a beam would reach it."""
        codes = self.target_codes(interaction)
        logits = self.target_logits(self.history_tokens(interaction), codes)
        return self.log_prob(logits, codes)

    def log_prob(self, logits: list[torch.Tensor], codes: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [B] of `codes` from per-level logits, renormalised over valid children."""
        total = torch.zeros(len(codes), device=codes.device)
        for level, nodes in enumerate(self.trie.path(self.trie.find(codes))):
            log_probs = masked_log_softmax(logits[level], self.trie.child_mask(level, nodes))
            total = total + log_probs.gather(1, codes[:, level : level + 1]).squeeze(1)
        return total


def length_groups(lengths: torch.Tensor, tokens_per_item: int) -> list[torch.Tensor | None]:
    """Split a batch into at most four groups of similar length, so that short histories do not pay for long ones.

    Args:
        lengths: items per history int64 [B].
        tokens_per_item: L.

    Returns:
        row numbers per group; [None], meaning the whole batch, where splitting saves little.
    """
    order = torch.argsort(lengths, stable=True)
    groups = [group for group in order.tensor_split(_MAX_GROUPS) if len(group)]
    tokens = 2 + lengths * tokens_per_item
    whole = len(lengths) * int(tokens.max())
    split = sum(len(group) * int(tokens[group].max()) for group in groups)
    return list(groups) if split < (1 - _WORTHWHILE_SAVING) * whole else [None]
