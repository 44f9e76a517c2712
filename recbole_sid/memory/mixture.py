"""Ranking by a memory and a base measure: the same for all histories, such as popularity, or a model's own."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.memory.memory import Recall
from recbole_sid.util import hardware

_ROUNDING = 1e-4  # of the sum of probabilities


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
        found, errors = self.probabilities.double(), args[-1]
        if not (bool((found >= 0).all()) and float(found.sum()) <= 1 + _ROUNDING):
            errors.append(f"{args[1]}probabilities are not those of items: below 0, or of a sum above 1.")
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
    frequent = base.order[:k].expand(len(recall.remaining), -1)
    remembered = recall.masses + recall.remaining[recall.rows] * base.probabilities[recall.items]
    found = recall.remaining.unsqueeze(1) * base.probabilities[frequent]
    items, scores = best_of_union(recall, remembered, frequent, found.masked_fill(found == 0, -torch.inf), k)
    return items, scores.masked_fill(items == 0, 0)


def best_of_union(
    recall: Recall, remembered: torch.Tensor, found: torch.Tensor, scores: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k best of what is remembered and what a search found; an item that is both counts as remembered.

    Args:
        recall: of B histories; on the host, so that it need not wait for a device, or where the others are.
        remembered: [nnz], the score of each of its items.
        found: int64 [B, K], items, each at most once in a row; 0 for none.
        scores: [B, K], of them; -inf for none.

    Returns:
        items int64 and scores, both [B, <= k]: by falling score, equal ones by number; 0 and -inf where no item is
        left. Of the items that are equal to the last, some are left out.
    """
    n_rows, device = len(found), found.device
    sizes = torch.bincount(recall.rows, minlength=n_rows)
    starts = sizes.cumsum(0) - sizes
    width = int(sizes.max()) if n_rows else 0
    column = torch.arange(len(recall.rows), device=recall.rows.device) - starts[recall.rows]
    recall, column = recall.to(device), hardware.moved(column, device)
    row = torch.arange(n_rows, device=device).unsqueeze(1)
    only_found = scores.masked_fill(recall.mass_of(*torch.broadcast_tensors(row, found)) > 0, -torch.inf)
    # Columns: what is remembered, then what was found.
    together = scores.new_full((n_rows, width + found.shape[1]), -torch.inf)
    together[:, width:] = only_found
    items = found.new_zeros(together.shape)
    items[:, width:] = found
    together[recall.rows, column], items[recall.rows, column] = remembered, recall.items
    best_scores, place = together.topk(min(k, together.shape[1]), dim=1)
    best_items, by_number = items.gather(1, place).masked_fill(best_scores.isneginf(), 0).sort(dim=1)
    best_scores, by_score = best_scores.gather(1, by_number).sort(dim=1, descending=True, stable=True)
    return best_items.gather(1, by_score), best_scores


def best_with_memory(
    recall: Recall,
    remembered: Recall,
    of_remembered: torch.Tensor,
    found: torch.Tensor,
    log_p0: torch.Tensor,
    sharpness: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k best items by the mixture, of what is remembered and what a search by p0 found.

    Args:
        recall: of B histories, on the host.
        remembered: what of it competes.
        of_remembered: [nnz], log p0 of each of its items.
        found: int64 [B, K], items, each at most once in a row; 0 for none.
        log_p0: [B, K], of them; -inf for none.
        sharpness: as of `sharpened`.
        k: of the lists.

    Returns:
        items and scores, as of `best_of_union`.
    """
    there, competitors = recall.to(found.device), remembered.to(found.device)
    scores = sharpened(competitors.masses, there.remaining[competitors.rows], of_remembered, sharpness)
    row = torch.arange(len(found), device=found.device).unsqueeze(1)
    masses = there.mass_of(*torch.broadcast_tensors(row, found))
    of_found = sharpened(masses, there.remaining.unsqueeze(1), log_p0, sharpness)
    return best_of_union(remembered, scores, found, of_found, k)


def sharpened(
    masses: torch.Tensor, remaining: torch.Tensor, log_p0: torch.Tensor, sharpness: torch.Tensor
) -> torch.Tensor:
    """Return ``log p + sharpness * log p0``, ``p = masses + remaining * p0``; all of one shape but `sharpness` []."""
    p = torch.logaddexp(masses.log(), remaining.log() + log_p0)
    return p + sharpness * log_p0.clamp(min=torch.finfo(log_p0.dtype).min)  # 0 times infinity is no number


def scores_of_all(recall: Recall, log_p0: torch.Tensor, sharpness: torch.Tensor) -> torch.Tensor:
    """Return `sharpened` of all items [B, n_items] from their `log_p0` [B, n_items]."""
    scores = recall.remaining.log().unsqueeze(1) + (1 + sharpness) * log_p0
    known = recall.rows, recall.items
    scores[known] = sharpened(recall.masses, recall.remaining[recall.rows], log_p0[known], sharpness)
    return scores


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
