"""Whether what was exported ranks as the model it was made of: lists side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from recbole_sid.errors import InputError

# Scores may differ by so much: the same sums in another order.
TOLERANCE = 1e-4
# Share of histories that must have the model's own list, but for ties.
LEAST = 0.999
# Histories that are compared, at most.
_MOST_HISTORIES = 2048


class RankedItems(NamedTuple):
    """Items int64 and scores, both [B, K], by falling score; 0 and -inf beyond those found."""

    items: torch.Tensor
    scores: torch.Tensor


class ListAgreement(NamedTuple):
    """How two rankings of the same histories compare.

    Attributes:
        n_histories: how many were compared.
        identical: share of those with the same items at the same ranks.
        alike: share of those with the same list, but for the order of items whose scores differ by no more than
            `TOLERANCE`, and which of those at the end of the list are still in it.
        largest_difference: of the scores of an item that both lists hold.
    """

    n_histories: int
    identical: float
    alike: float
    largest_difference: float

    def require(self, what: str) -> None:
        """Raise InputError unless `what` ranks as the model does."""
        if not self.alike >= LEAST:
            raise InputError(
                f"{what} gives {self.alike:.2%} of {self.n_histories} histories the model's own list, scores differ by "
                f"up to {self.largest_difference:.2g}: less than {LEAST:.1%} is not written."
            )

    def __str__(self) -> str:
        return (
            f"{self.identical:.2%} of {self.n_histories} histories have the identical list, {self.alike:.2%} but for "
            f"ties; scores differ by at most {self.largest_difference:.2g}"
        )


def compared(expected: RankedItems, found: RankedItems) -> ListAgreement:
    """Return how `found` compares with what was `expected`; the longer lists are cut to the width of the shorter."""
    k = min(expected.items.shape[1], found.items.shape[1])
    expected, found = (RankedItems(items[:, :k], scores[:, :k]) for items, scores in (expected, found))
    same = (expected.items == found.items).all(1)
    pairs = (expected.items.unsqueeze(2) == found.items.unsqueeze(1)) & (expected.items > 0).unsqueeze(2)
    apart = (expected.scores.unsqueeze(2) - found.scores.unsqueeze(1)).abs().masked_fill(~pairs, 0)
    apart = apart.nan_to_num(torch.inf)
    equal = (apart.flatten(1) <= TOLERANCE).all(1)
    ends = torch.maximum(expected.scores[:, -1:], found.scores[:, -1:]) + TOLERANCE
    for lists, shared in ((expected, pairs.any(2)), (found, pairs.any(1))):
        equal &= (shared | (lists.items == 0) | (lists.scores <= ends)).all(1)
        equal &= (lists.scores.diff(dim=1).nan_to_num(0) <= TOLERANCE).all(1)
    equal &= ((expected.items > 0) == (found.items > 0)).all(1)
    if not len(same):
        raise InputError("There are no histories to compare lists of.")
    return ListAgreement(len(same), same.float().mean().item(), equal.float().mean().item(), apart.max().item())


def lists_of(model: Any, interaction: Any) -> RankedItems:
    """Return the best ``beam_size`` items of each history of a batch, as the model's `retrieve` finds them."""
    rows, items, scores = model.retrieve(interaction)
    rows, by_row = rows.sort(stable=True)
    n, k = len(interaction), model.beam_size
    of_row = torch.bincount(rows, minlength=n)
    column = torch.arange(len(rows)) - (of_row.cumsum(0) - of_row)[rows]
    kept = column < k
    rows, column, by_row = rows[kept], column[kept], by_row[kept]
    found = RankedItems(torch.zeros(n, k, dtype=torch.int64), torch.full((n, k), -torch.inf))
    found.items[rows, column], found.scores[rows, column] = items[by_row], scores[by_row]
    return found


def joined(parts: Iterable[RankedItems]) -> RankedItems:
    """Return the lists of batches as one."""
    items, scores = zip(*parts, strict=True)
    return RankedItems(torch.cat(items), torch.cat(scores))


def sampled(loader: Any) -> Iterator[Any]:
    """Yield the first batches of an evaluation loader, of no more than some thousand histories."""
    left = _MOST_HISTORIES
    for batch in loader:
        interaction = (batch[0] if isinstance(batch, tuple) else batch)[:left]
        yield interaction
        left -= len(interaction)
        if left <= 0:
            return
