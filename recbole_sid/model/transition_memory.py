"""TransitionMemory: items ranked by a smoothed table of which item followed which, and by popularity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_sid.capabilities import Capabilities
from recbole_sid.data.histories import recent_items
from recbole_sid.errors import InputError
from recbole_sid.memory import BaseMeasure, Memory, Numbers, Recall, best
from recbole_sid.memory.mixture import probabilities, probability_of
from recbole_sid.memory.numbers import LARGEST, LEAST_PSEUDO_COUNTS, ROW_LIMIT
from recbole_sid.settings import Settings, declare

# Of the numbers of the memory, in their order.
KEYS = ("hops", "hop_decay", "window", "window_decay", "pseudo_counts", "memory_text_weight")


@dataclass(frozen=True)
class TransitionMemorySettings(Settings):
    """Which item followed which in training, and popularity where that says little. Empty: chosen on validation."""

    hops: int | None = declare(None, "Pairs up to so many positions apart count.", most=LARGEST)
    hop_decay: float | None = declare(None, "A pair one position further apart counts so much of it.", most=1)
    window: int | None = declare(None, "So many last items of the history are looked up.", most=LARGEST)
    window_decay: float | None = declare(None, "An item one position further back weighs so much of it.", most=1)
    pseudo_counts: float | None = declare(
        None,
        "Of popularity in each row: the more, the less a few observations weigh.",
        least=LEAST_PSEUDO_COUNTS,
        most=LARGEST,
    )
    memory_text_weight: float | None = declare(
        0.0,
        "An item that is like another by its features (of the keys of semantic IDs) counts as if it had followed it so "
        "often, times their cosine cubed.",
        most=LARGEST,
    )
    row_limit: int = declare(
        ROW_LIMIT, "So many successors of an item are kept, those that count most; the rest is left to popularity."
    )
    train_neg_sample_args: Any = declare(None)


class TransitionMemory(Capabilities, SequentialRecommender):
    """Ranks by ``p(i | h)`` of `recbole_sid.memory.memory`, popularity in training the base measure.

    It has nothing to train: `TransitionMemoryTrainer` counts, and chooses on validation what is not set. Scores are
    log-probabilities. Configuration beyond its own keys: beam_size (how many items `retrieve` returns).

    Attributes:
        memory: the table and its numbers.
        base: popularity.
    """

    settings = TransitionMemorySettings
    trainer = "recbole_sid.trainer.transition_memory:TransitionMemoryTrainer"
    retrieves = True
    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.beam_size = config["beam_size"]
        self.memory = Memory(self.n_items, row_limit=config["row_limit"])
        self.base = BaseMeasure(self.n_items)

    @classmethod
    def reads_features(cls, config: Any) -> bool:
        """As `Capabilities.reads_features`: for a text weight."""
        return config["memory_text_weight"] != 0

    @classmethod
    def left_to_validation(cls, config: Any) -> list[str]:
        """As `Capabilities.left_to_validation`."""
        return [key for key in KEYS if config[key] is None]

    @property
    def scores_every_item(self) -> bool:
        """As `Capabilities.scores_every_item`: always."""
        return True

    @property
    def chosen(self) -> dict[str, float]:
        """The memory's numbers in use, by the names of their keys."""
        return dict(zip(KEYS, self.memory.numbers, strict=True))

    def learn(self, dataset: Any, numbers: Numbers) -> None:
        """Count the sequences of the training split `dataset`, whole and whatever the length of histories."""
        items, offsets = dataset.training_sequences()
        self.memory.learn(items, offsets, numbers)
        self.base.learn(torch.bincount(torch.from_numpy(items), minlength=self.n_items).to(self.base.probabilities))

    def recall(self, interaction: Any) -> Recall:
        """Return what is remembered after the histories of a batch."""
        histories, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.memory.recall(recent_items(histories, lengths, self.memory.numbers.window))

    @torch.no_grad()
    def evidence(self, interaction: Any) -> torch.Tensor:
        """Return how much of ``p(i | h)`` the memory itself gives, [B], from 0 to below 1: what is not left for
        popularity. It is large where the rows that are looked up hold many counts, and 0 where nothing is remembered.
        """
        return 1 - self.recall(interaction).remaining

    @torch.no_grad()
    def retrieve(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the best ``beam_size`` items of each history: exactly those of all.

        Returns:
            rows, items and scores, each [n]: by falling score within a row.
        """
        items, found = best(self.recall(interaction), self.base, self.beam_size)
        rows = torch.arange(len(items), device=items.device).unsqueeze(1).expand_as(items)
        there = items > 0
        return rows[there], items[there], found[there].log()

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Return log-probabilities [B * n_items] of all items, -inf for those that training never saw."""
        return probabilities(self.recall(interaction), self.base).log().view(-1)

    @torch.no_grad()
    def predict(self, interaction: Any) -> torch.Tensor:
        """Return the log-probability [B] of each row's item."""
        return probability_of(self.recall(interaction), self.base, interaction[self.ITEM_ID]).log()

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Refuse: there is nothing to learn by gradients."""
        raise InputError("TransitionMemory is counted by its own trainer, not trained: use `fit` of that.")
