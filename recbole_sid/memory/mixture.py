"""Ranking by a memory and a base measure that is the same for all histories, such as popularity."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.memory.memory import Recall


class BaseMeasure(torch.nn.Module):
    """A probability for each item.

    Attributes:
        probabilities: float32 [n_items].
        order: int64 [n_items], items by falling probability, equal ones by number.
        place: int64 [n_items], where each item stands in `order`.
    """

    probabilities: torch.Tensor
    order: torch.Tensor
    place: torch.Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.register_buffer("probabilities", torch.zeros(n_items))
        self.register_buffer("order", torch.arange(n_items), persistent=False)
        self.register_buffer("place", torch.arange(n_items), persistent=False)

    def learn(self, counts: torch.Tensor) -> None:
        """Be proportional to `counts` [n_items]."""
        self.probabilities.copy_(counts.double() / counts.sum().clamp(min=1))
        self._arrange()

    def _arrange(self) -> None:
        self.order = torch.argsort(self.probabilities, descending=True, stable=True)
        self.place = torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(self.order)).to(self.order))

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._arrange()


def probabilities(recall: Recall, base: BaseMeasure) -> torch.Tensor:
    """Return p(i | h) of all items [B, n_items]."""
    return recall.dense() + recall.remaining.unsqueeze(1) * base.probabilities


def probability_of(recall: Recall, base: BaseMeasure, items: torch.Tensor) -> torch.Tensor:
    """Return p(i | h) [B] of one item int64 [B] for each history."""
    rows = torch.arange(len(items), device=items.device)
    return recall.mass_of(rows, items) + recall.remaining * base.probabilities[items]


def best(recall: Recall, base: BaseMeasure, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k items of the largest p(i | h), exactly, without computing that of all items.

    An item that is not remembered is among them only if it is among the k of the largest base measure.

    Returns:
        items int64 and p(i | h), both [B, k]: by falling probability, equal ones by number; 0 where no item is left
        that has any. Of the items that are equal to the last, some are left out.
    """
    n_rows = len(recall.remaining)
    frequent = base.order[:k]
    row = torch.arange(n_rows, device=frequent.device).unsqueeze(1)
    left = recall.remaining.unsqueeze(1) * base.probabilities[frequent]
    left = left.masked_fill(recall.mass_of(*torch.broadcast_tensors(row, frequent)) > 0, 0)
    remembered = recall.masses + recall.remaining[recall.rows] * base.probabilities[recall.items]
    sizes = torch.bincount(recall.rows, minlength=n_rows)
    starts = sizes.cumsum(0) - sizes
    width = int(sizes.max()) if n_rows else 0
    # Columns: what is remembered, then what is frequent.
    scores = left.new_zeros(n_rows, width + len(frequent))
    scores[:, width:] = left
    scores[recall.rows, torch.arange(len(recall.rows), device=frequent.device) - starts[recall.rows]] = remembered
    scores, place = scores.topk(min(k, scores.shape[1]), dim=1)
    entry = (starts.unsqueeze(1) + place).clamp(max=max(0, len(recall.items) - 1))
    of_entry = recall.items[entry] if len(recall.items) else torch.zeros_like(place)
    items = torch.where(place < width, of_entry, frequent[(place - width).clamp(min=0)]).masked_fill(scores == 0, 0)
    items, by_number = items.sort(dim=1)
    scores, by_score = scores.gather(1, by_number).sort(dim=1, descending=True, stable=True)
    return items.gather(1, by_score), scores


def ranks(recall: Recall, base: BaseMeasure, targets: torch.Tensor) -> torch.Tensor:
    """Return the rank int64 [B] of each history's target, from 1, equal ones by number; 0 if it has no probability."""
    rows = torch.arange(len(targets), device=targets.device)
    mass = recall.mass_of(rows, targets)
    own = mass + recall.remaining * base.probabilities[targets]
    rising = base.probabilities[base.order].flip(0)
    more = len(rising) - torch.searchsorted(rising, own / recall.remaining, right=True)
    # So many items of the base measure's order come before a target that is not remembered, or outweigh one that is.
    bound = torch.where(mass > 0, more, base.place[targets])
    score = recall.masses + recall.remaining[recall.rows] * base.probabilities[recall.items]
    wanted = own[recall.rows]
    before = (score > wanted) | ((score == wanted) & (recall.items < targets[recall.rows]))
    outside = base.place[recall.items] < bound[recall.rows]  # those that `bound` counts, and that are remembered
    correction = torch.bincount(recall.rows, before.double() - outside.double(), minlength=len(targets))
    return torch.where(own > 0, 1 + bound + correction.round().long(), 0)
