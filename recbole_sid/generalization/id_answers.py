"""What an item-ID model answers: the scores of all items, and the indicator of memorization."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from recbole_sid.data.histories import widen_histories
from recbole_sid.model.transition_memory import TransitionMemory


class IDAnswers(NamedTuple):
    """Of a batch.

    Attributes:
        scores: [B, n_items], -inf for the padding item and for what cannot be ranked.
        indicator: [B], from 0 to 1, large where the model has memorized what comes after the history.
    """

    scores: torch.Tensor
    indicator: torch.Tensor


@torch.no_grad()
def id_answers(model: Any, interaction: Any) -> IDAnswers:
    """Return what an ID model answers to the histories of a batch.

    The indicator of a sequential model of RecBole is its confidence, as in arXiv 2603.19809: the largest softmax
    probability of an item. TransitionMemory knows what it has memorized: its indicator is the evidence of the rows that
    it looks up. (Its largest probability is small also where it remembers many items, and large where one is popular.)
    """
    if isinstance(model, TransitionMemory):
        scores = model.full_sort_predict(interaction).view(len(interaction), -1)
        return IDAnswers(scores, model.evidence(interaction))
    # RecBole's own models may rely on histories of full width, which our loaders cut.
    wide = widen_histories(interaction, model.ITEM_SEQ, model.max_seq_length)
    logits = item_logits(model, wide)
    return IDAnswers(logits, confidence_of(logits))


def item_logits(model: Any, interaction: Any) -> torch.Tensor:
    """Return the logits [B, n_items] of a sequential model of RecBole, -inf for the padding item."""
    logits = model.full_sort_predict(interaction).view(len(interaction), -1)[:, : model.n_items].float()
    padding = torch.zeros(1, dtype=torch.int64, device=logits.device)
    return logits.index_fill(1, padding, -torch.inf)


def confidence_of(logits: torch.Tensor) -> torch.Tensor:
    """Return the largest softmax probability [B] of an item: the paper's indicator of memorization."""
    return logits.softmax(dim=1).amax(dim=1)
