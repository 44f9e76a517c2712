"""What all SID models share: histories as tokens, and items ranked by beam search, in RecBole's interface."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from logging import Logger
from typing import Any, ClassVar

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_sid.capabilities import Capabilities
from recbole_sid.data.batch import on_host
from recbole_sid.data.histories import cut_histories, known_items, recent_items
from recbole_sid.decoding import decoder_named
from recbole_sid.decoding.children import masked_log_softmax
from recbole_sid.decoding.full import items_of_leaves, leaf_log_probs, ranked_items
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.walk import walk
from recbole_sid.errors import InputError
from recbole_sid.fast.captured import FoundItems
from recbole_sid.fast.prepared import weights_unchanged
from recbole_sid.memory import Memory, Recall
from recbole_sid.memory.mixture import best_with_memory, scores_of_all, sharpened
from recbole_sid.model.batches import length_groups, listed
from recbole_sid.model.by_graphs import RanksByGraphs
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary
from recbole_sid.settings.training import DecodingSettings, MemorySettings
from recbole_sid.util import hardware

# Users whose whole catalogue is scored together, and scores: what is computed for all prefixes has to fit the memory.
_FULL_USERS, _FULL_SCORES = 32, 1 << 23
_ROUNDING = 1e-4  # of the sum of shares


class SIDRecommender(RanksByGraphs, Capabilities, SequentialRecommender):
    """Base of TIGER, CausalSID, SIDMLP and SIDMLPPlusPlus.

    Scores of items are log-probabilities p0, a mixture of `parts`: here of one, that of their semantic IDs. With
    ``memory: transitions`` they are ``log p + sharpness * log p0``, p the mixture of p0 and the memory
    (`recbole_sid.memory`), as soon as this has learnt something: during training it has not.

    Attributes:
        semantic_ids: the artefact the model was built for.
        vocabulary: token ids.
        trie: valid semantic IDs; its items are RecBole's internal item ids.
        decoding: how the best items are found: beam, exact or full.
        normaliser: how a prefix's probability is shared: among its valid children, or among all codes.
        item_codes: of each item int64 [n_items, L].
        item_tokens: their token ids int64 [n_items, L], 0 for the padding item.
        parts: what p0 is mixed of.
        shares: float32 [n_parts], of each part in p0; the sum is 1.
        memory: None without one.
        sharpness: float32 [], 0 for the plain mixture.
    """

    parts: tuple[str, ...] = ("semantic IDs",)
    # Keys of what is decided after training: runs that differ in them only train alike, and so share their training.
    chosen_after_training: ClassVar[tuple[str, ...]] = tuple(MemorySettings.declarations())

    trainer: ClassVar[str] = "recbole_sid.trainer.sid_trainer:SIDTrainer"
    input_type = InputType.POINTWISE
    uses_semantic_ids = True
    retrieves = True

    logger: Logger
    item_codes: torch.Tensor
    item_tokens: torch.Tensor
    shares: torch.Tensor
    sharpness: torch.Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if getattr(dataset, "semantic_ids", None) is None:  # RecBole's have no such attribute
            raise InputError(
                f"{type(self).__name__} needs a dataset with semantic IDs: prepare it with "
                "recbole_sid.data.data_preparation, or run `recbole_sid.quick_start.run_recbole_sid`."
            )
        self.semantic_ids = dataset.semantic_ids
        sizes = self.semantic_ids.codebook_sizes
        table = self.semantic_ids.table(dataset.item_tokens())
        self.vocabulary = TokenVocabulary(sizes, config["n_user_tokens"])
        self.beam_size = config["beam_size"]
        found = DecodingSettings.of(config)
        self.decoding, self.normaliser = found.decoding, found.normaliser
        self.full_sort_items = found.full_sort_items
        self.start_graphs(found.captured)
        self.trie = self.semantic_ids.trie_of(dataset.item_tokens())
        item_codes = torch.from_numpy(table)
        item_tokens = self.vocabulary.code_tokens(item_codes)
        item_tokens[0] = PAD
        self.register_buffer("item_codes", item_codes, persistent=False)
        self.register_buffer("item_tokens", item_tokens, persistent=False)
        remembering = MemorySettings.of(config)
        of_transitions = remembering.memory == "transitions"
        self.memory = Memory(self.n_items, row_limit=remembering.memory_row_limit) if of_transitions else None
        n_parts = len(self.parts)
        self.register_buffer("sharpness", torch.zeros(()), persistent=self.memory is not None)
        self.register_buffer("shares", torch.full((n_parts,), 1 / n_parts), persistent=n_parts > 1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        errors: list[str] = args[-1]
        if not (bool(self.sharpness.isfinite()) and self.sharpness >= 0):
            errors.append(f"{prefix}sharpness is not a number of at least 0.")
        if not (bool((self.shares >= 0).all()) and abs(float(self.shares.sum()) - 1) < _ROUNDING):
            errors.append(f"{prefix}shares are not of sum 1.")

    @abstractmethod
    def encode(self, tokens: torch.Tensor) -> Any:
        """Return what the scorer needs of a batch of serialised histories int64 [B, S]."""

    @abstractmethod
    def scorer(self, encoded: Any) -> LevelScorer:
        """Return the level scorer of encoded histories."""

    @abstractmethod
    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        """Return per level the logits [B, size] given the true codes int64 [B, L] before it."""

    def forward(self, interaction: Any) -> torch.Tensor:
        """Return the training loss of a batch: what wrappers such as DistributedDataParallel call."""
        return self.calculate_loss(interaction)

    def start_from_data(self, config: Any, dataset: Any) -> None:
        """Set what starts from the training part, before the first epoch of a new training; nothing by default.

        Args:
            config: of the run.
            dataset: the training split.
        """

    def start_lineage(self, config: Any, dataset: Any) -> dict[str, str]:
        """Return what `start_from_data` depends on beside the configuration, cheaply: a name -> a fingerprint."""
        return {}

    def history_tokens(self, interaction: Any) -> torch.Tensor:
        """Return the serialised histories int64 [B, 2 + T * L], T the width of this batch's histories.

        Loaders cut it to the longest (see `cut_histories`); here no device's values are asked for.
        """
        history, lengths = known_items(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return self.vocabulary.serialise(self.item_tokens[history], lengths, self._users(interaction))

    def _users(self, interaction: Any) -> torch.Tensor:
        """Return the users int64 [B]; without them 0 for all, where users share one token anyway."""
        if self.USER_ID in interaction:
            return interaction[self.USER_ID]
        if self.vocabulary.n_user_tokens > 1:
            raise InputError(
                f"This model reads who the user is (n_user_tokens={self.vocabulary.n_user_tokens}): "
                f"give '{self.USER_ID}'."
            )
        return torch.zeros_like(interaction[self.ITEM_SEQ_LEN])

    def target_codes(self, interaction: Any) -> torch.Tensor:
        """Return the codes of the target items int64 [B, L]."""
        return self.item_codes[interaction[self.ITEM_ID]]

    @property
    def shared_among(self) -> str:
        """What a prefix's probability is shared among: its valid ``children``, or all ``codes``."""
        return self.normaliser

    def search(self, scorer: LevelScorer) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves and log-probabilities [B, K] of the best semantic IDs, by the configured decoder."""
        return decoder_named(self.decoding)(scorer, self.trie, self.beam_size, self.shared_among)

    def check_finite(self, leaves: torch.Tensor) -> None:
        """Raise InputError if some user's search for valid semantic IDs found none: only NaN scores do that."""
        if hardware.on_cpu(leaves) and (leaves[:, :1] < 0).any():
            raise InputError(
                "The model's scores are not finite, so nothing can be ranked: its weights are damaged, or its training "
                "diverged (lower learning_rate, set clip_grad_norm)."
            )

    def leaf_log_probs(self, scorer: LevelScorer) -> torch.Tensor:
        """Return the log-probabilities [B, n_leaves] of all semantic IDs, in the trie's order."""
        return leaf_log_probs(scorer, self.trie, self.shared_among)

    def item_log_probs(self, scorer: LevelScorer) -> torch.Tensor:
        """Return log p0 [B, n_items] of all items, -inf for padding."""
        return items_of_leaves(self.leaf_log_probs(scorer), self.trie, self.n_items)

    @property
    def chosen(self) -> dict[str, float]:
        """What was chosen after training, by the names of the keys."""
        if self.memory is None:
            return {}
        numbers = {f"memory_{name}": value for name, value in self.memory.numbers._asdict().items()}
        return {**numbers, "memory_sharpness": float(self.sharpness)}

    def trained_state(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the `state` of a model of this form, with what is decided after training as it is here."""
        decided = {name: value for name, value in self.state_dict().items() if _is_decided(name)}
        return {**{name: value for name, value in state.items() if not _is_decided(name)}, **decided}

    @classmethod
    def left_to_validation(cls, config: Any) -> list[str]:
        """As `Capabilities.left_to_validation`: the numbers of a memory, if the run has one."""
        if config["memory"] == "none":
            return []
        return [key for key in MemorySettings.declarations() if config[key] is None]

    def shares_tried(self, config: Any) -> list[tuple[float, ...]]:
        """Return the `shares` to choose among after training, the first the start; one: they are set."""
        return [(1.0,)]

    def part_log_probs(self, scorer: LevelScorer, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [n_parts, n] that each part of p0 gives to items of users.

        Args:
            scorer: of B users.
            rows, items: int64 [n], on the host; in any order.
        """
        return walk(scorer, self.trie, rows, self.trie.leaves_of(items), self.shared_among).unsqueeze(0)

    def mixed(self, parts: torch.Tensor) -> torch.Tensor:
        """Return log p0 [...] from the log-probabilities [n_parts, ...] of its parts."""
        if len(parts) == 1:
            return parts[0]
        return (parts + self.shares.log().view(-1, *[1] * (parts.dim() - 1))).logsumexp(0)

    def candidates(self, scorer: LevelScorer) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the items int64 and their log p0, both [B, K], that the configured decoder finds; 0 and -inf for none.

        Among them are the best ``beam_size`` by p0, as far as the decoder finds these.
        """
        leaves, scores = self.search(scorer)
        self.check_finite(leaves)
        return ranked_items(leaves, scores, self.trie)

    @property
    def finds_by_beam(self) -> bool:
        """Whether what is found is a beam's guess: then as much of what is remembered competes as the beam is wide."""
        return self.decoding == "beam"

    def best_items(self, scorer: LevelScorer, recall: Recall) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ``beam_size`` best items int64 and scores, both [B, K], by the mixture; 0 and -inf for none.

        Exactly these if the candidates are: an item that is no candidate and not remembered scores no more than each
        of ``beam_size`` candidates. By a beam they are the best of what it finds and of as many that are remembered,
        those of the largest masses.

        Args:
            scorer: of B users.
            recall: of their histories, on the host.
        """
        return self._with_memory(FoundItems(scorer, *self.candidates(scorer)), recall)

    def _with_memory(self, ranked: FoundItems, recall: Recall) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `best_items` of what was found."""
        scorer, found, log_p0 = ranked
        remembered = recall.heaviest(self.beam_size) if self.finds_by_beam else recall
        of_remembered = self.mixed(self.part_log_probs(scorer, remembered.rows, remembered.items))
        return best_with_memory(recall, remembered, of_remembered, found, log_p0, self.sharpness, self.beam_size)

    def best_after(self, scorer: LevelScorer, recent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `best_items` of the memory's recall.

        Args:
            scorer: of B users.
            recent: int64 [B, W], on the host, as `Memory.recall` takes them.
        """
        assert self.memory is not None
        return self.best_items(scorer, self.memory.recall(recent))

    @property
    def remembers(self) -> bool:
        """Whether there is a memory that has learnt something."""
        return self.memory is not None and len(self.memory.counts) > 0

    def recent(self, interaction: Any) -> torch.Tensor:
        """Return, on the host, the items of a batch of histories that the memory looks up."""
        assert self.memory is not None
        histories, lengths = on_host(interaction, self.ITEM_SEQ, self.ITEM_SEQ_LEN)
        return recent_items(histories, lengths, self.memory.numbers.window)

    def recall(self, interaction: Any) -> Recall | None:
        """Return, on the host, what is remembered after the histories of a batch; None if it does not remember."""
        return self.memory.recall(self.recent(interaction)) if self.memory is not None and self.remembers else None

    @property
    def scores_every_item(self) -> bool:
        """Whether `full_sort_predict` scores all items, not the retrieved ones only."""
        return self.n_items - 1 <= self.full_sort_items

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Return scores [B * n_items] as RecBole expects.

        Of every item if the catalogue has at most ``full_sort_items``; else of those that `retrieve` finds, and -inf.
        """
        if self.scores_every_item:
            with weights_unchanged(self):
                parts = [self._scores_of_all(interaction[rows]) for rows in self.fully_scored_parts(len(interaction))]
            return torch.cat(parts).view(-1)
        rows, items, scores = self.retrieve(interaction)
        table = scores.new_full((len(interaction), self.n_items), -torch.inf)
        table[rows, items] = scores
        return table.view(-1)

    def _scores_of_all(self, interaction: Any) -> torch.Tensor:
        log_p0 = self.item_log_probs(self.scorer(self.encode(self.history_tokens(interaction))))
        recall = self.recall(interaction)
        return log_p0 if recall is None else scores_of_all(recall.to(log_p0.device), log_p0, self.sharpness)

    @torch.no_grad()
    def retrieve(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rank the catalogue for each history by the configured decoder.

        Returns:
            rows, items and scores, each [n]: the retrieved items of all rows, by falling score within a row. Items
            that share a semantic ID share its score. On other devices than the CPU those of score -inf (and item 0)
            are places that hold none, after the others of a row.
        """
        found = []
        with weights_unchanged(self):
            for group, part in self.ranked_together(interaction):
                rows, items, scores = self._remembered(part) if self.remembers else self._retrieved(part)
                found.append((rows if group is None else group[rows], items, scores))
        rows, items, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rows, items, scores

    def _retrieved(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `retrieve` does, of histories that are ranked together, by p0; on the CPU without those of score
        -inf.
        """
        tokens = self.history_tokens(interaction)
        if not hardware.on_cpu(tokens):
            return listed(*self.ranked(tokens)[1:])
        leaves, scores = self.rank(tokens)
        self.check_finite(leaves)
        position, items = self.trie.expand_leaves(leaves)
        return position // max(1, leaves.shape[1]), items, scores.flatten()[position]

    def _remembered(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what `retrieve` does, of histories that are ranked together, by the mixture; on the CPU without those
        of score -inf.
        """
        assert self.memory is not None
        tokens = self.history_tokens(interaction)
        if not hardware.on_cpu(tokens):
            ranked = self.ranked(tokens)
            return listed(*self._with_memory(ranked, self.memory.recall(self.recent(interaction))))
        return listed(*self.best_after(self.scorer(self.encode(tokens)), self.recent(interaction)))

    def rank(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves and log-probabilities [B, K] of the best semantic IDs for histories int64 [B, S]."""
        with weights_unchanged(self):
            return self.search(self.scorer(self.encode(tokens)))

    def ranked_together(self, interaction: Any) -> list[tuple[torch.Tensor | None, Any]]:
        """Return the parts of a batch that are ranked together, each with its rows int64; None: the whole batch."""
        parts: list[tuple[torch.Tensor | None, Any]] = []
        lengths = interaction[self.ITEM_SEQ_LEN]
        full = self.decoding == "full"
        chosen: list[Any] = self.fully_scored_parts(len(lengths)) if full else self.groups(lengths)
        for rows in chosen:
            part = interaction if rows is None else interaction[rows]
            group = torch.arange(len(lengths), device=lengths.device)[rows] if isinstance(rows, slice) else rows
            if hardware.on_cpu(part[self.ITEM_SEQ_LEN]):
                part = cut_histories(part, self.ITEM_SEQ, self.ITEM_SEQ_LEN)
            parts.append((group, part))
        return parts

    def groups(self, lengths: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the rows int64 of each part of a batch that is ranked together; [None] is the whole batch."""
        if not hardware.on_cpu(lengths):  # the host would have to wait for the lengths
            return [None]
        return length_groups(lengths, self.vocabulary.n_levels)

    def fully_scored_parts(self, n_rows: int) -> list[slice]:
        """Return the rows that are scored together: slices, as an `Interaction` reads other indices on the host."""
        return [slice(start, start + self.fully_scored_users) for start in range(0, n_rows, self.fully_scored_users)]

    @property
    def fully_scored_users(self) -> int:
        """How many users' whole catalogue is scored at a time."""
        return max(1, min(_FULL_USERS, _FULL_SCORES // self.n_items))

    def predict(self, interaction: Any) -> torch.Tensor:
        """Return the score [B] of each row's item, whether or not a beam would reach it."""
        log_p0, recall = self.target_log_probs(interaction), self.recall(interaction)
        if recall is None:
            return log_p0
        recall = recall.to(log_p0.device)
        rows = torch.arange(len(log_p0), device=log_p0.device)
        masses = recall.mass_of(rows, interaction[self.ITEM_ID])
        return sharpened(masses, recall.remaining, log_p0, self.sharpness)

    def target_log_probs(self, interaction: Any) -> torch.Tensor:
        """Return log p0 [B] of each row's item."""
        codes = self.target_codes(interaction)
        logits = self.target_logits(self.history_tokens(interaction), codes)
        return self.log_prob(logits, codes)

    def log_prob(self, logits: list[torch.Tensor], codes: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [B] of `codes` from per-level logits, renormalised over valid children."""
        total = torch.zeros(len(codes), device=codes.device)
        for level, nodes in enumerate(self.trie.path(self.trie.find(codes))):
            mask = self.trie.child_mask(level, nodes)
            if self.shared_among == "codes":
                mask = torch.ones_like(mask)
            log_probs = masked_log_softmax(logits[level], mask)
            total = total + log_probs.gather(1, codes[:, level : level + 1]).squeeze(1)
        return total


def _is_decided(name: str) -> bool:
    """Say whether a tensor of a model's state is decided after training."""
    return name in ("sharpness", "shares") or name.startswith("memory.")
