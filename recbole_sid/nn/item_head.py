"""A head over items themselves, beside those over the codes of their semantic IDs.

Items are known by their numbers in the semantic IDs' artefact, which later items leave as they are: a table that was
learnt fits a catalogue that has grown, in whatever order its dataset numbers the items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# Spread of fresh rows of the table.
_SPREAD = 0.02
# Logits, and pairs of users and items, that are in memory together.
_LOGITS, _PAIRS = 1 << 23, 1 << 16


class ItemHead(nn.Module):
    """Scores items by ``E u`` with ``u = LN(last state + W z)``; items without a row in E have no probability.

    Args:
        d_model: width of states and contexts.
        numbers: int64 [n_items], each item's number in the artefact, by its id in the dataset; -1 where it has none.
        seen: int64 [n], ids of the items that have a row.
        counts: int64 [n], how often each occurs in training.

    Attributes:
        table: E [n, d].
        numbers: int64 [n], of the items of its rows; part of the state_dict.
        items: int64 [n], their ids in the dataset, 0 for those that it lacks.
        row: int64 [n_items], the row of each item, -1 where it has none.
    """

    numbers: torch.Tensor
    catalogue: torch.Tensor
    cumulative: torch.Tensor
    items: torch.Tensor
    row: torch.Tensor

    def __init__(self, d_model: int, numbers: torch.Tensor, seen: torch.Tensor, counts: torch.Tensor) -> None:
        super().__init__()
        self.context = nn.Linear(d_model, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model)
        self.table = nn.Parameter(torch.randn(len(seen), d_model) * _SPREAD)
        self.register_buffer("catalogue", numbers, persistent=False)
        self.register_buffer("numbers", numbers[seen])
        self.register_buffer("items", seen, persistent=False)
        self.register_buffer("row", torch.full_like(numbers, -1), persistent=False)
        self.register_buffer("cumulative", counts.double().cumsum(0) / counts.sum(), persistent=False)
        self._place_items()

    def query(self, last: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return u [B, d] of the last states [B, d] and contexts z [B, d]."""
        return self.norm(last + self.context(context))

    def logits(self, query: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, n] of the items of all rows for u [B, d]."""
        return F.linear(query, self.table)

    def drawn(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return k rows int64 [k], drawn by how often their items occur, and the logarithm of how often each is to be
        expected among the k.
        """
        points = torch.rand(k, dtype=torch.float64, device=self.cumulative.device)
        rows = torch.searchsorted(self.cumulative, points, right=True).clamp(max=len(self.cumulative) - 1)
        chance = self.cumulative[rows] - self.cumulative[(rows - 1).clamp(min=0)] * (rows > 0)
        return rows, (k * chance).log().float()

    def _place_items(self) -> None:
        """Find the items of the rows in the dataset, and the other way round."""
        order = self.catalogue.argsort()
        known = self.catalogue[order]
        place = torch.searchsorted(known, self.numbers).clamp(max=len(known) - 1)
        self.items = torch.where(known[place] == self.numbers, order[place], 0)
        self.row = torch.full_like(self.catalogue, -1)
        self.row[self.items] = torch.arange(len(self.items), device=self.items.device)
        self.row[0] = -1

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take a table of any number of items, if its numbers are those of items."""
        numbers, table = (state_dict.get(prefix + name) for name in ("numbers", "table"))
        if numbers is not None and table is not None:
            problem = self._problem(numbers, table)
            if problem:
                args[-1].append(f"{prefix}table is not one of items: {problem}.")
                return
            self.numbers = torch.empty_like(numbers, device=self.numbers.device)
            self.table = nn.Parameter(self.table.new_empty(table.shape), self.table.requires_grad)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._place_items()

    def _problem(self, numbers: torch.Tensor, table: torch.Tensor) -> str | None:
        """Return why these are no numbers of items with a row each; None if they are."""
        if numbers.dtype != torch.int64 or numbers.dim() != 1 or table.shape != (len(numbers), self.table.shape[1]):
            return "a tensor has another type or shape"
        if not len(numbers) or bool((numbers < 0).any()) or len(numbers.unique()) != len(numbers):
            return "its rows are not each of one item"
        return None


class ItemScores:
    """What an `ItemHead` says of a batch of users.

    Args:
        head: in eval mode.
        query: u [B, d].
    """

    def __init__(self, head: ItemHead, query: torch.Tensor) -> None:
        self.head, self.query = head, query
        self.n_users, self.device = len(query), query.device

    @cached_property
    def log_total(self) -> torch.Tensor:
        """What logits are shared by, [B]: the log-sum-exp of those of all rows."""
        return torch.cat([self.head.logits(part).logsumexp(1) for part in self._parts()])

    def log_probs(self) -> torch.Tensor:
        """Return the log-probabilities [B, n_items] of all items, -inf for those that have no row."""
        found = self.query.new_full((self.n_users, len(self.head.row)), -torch.inf)
        found.index_copy_(1, self.head.items, self.head.logits(self.query) - self.log_total.unsqueeze(1))
        found[:, 0] = -torch.inf
        return found

    def best(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the k best items int64 [B, K] and their log-probabilities, by falling ones; 0 and -inf for none."""
        k = min(k, len(self.head.items))
        found = [self.head.logits(part).topk(k, dim=1) for part in self._parts()]
        items = self.head.items[torch.cat([indices for _, indices in found])]
        scores = torch.cat([values for values, _ in found]) - self.log_total.unsqueeze(1)
        return items, scores.masked_fill(items == 0, -torch.inf)

    def log_probs_of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [n] of items of users, both int64 [n], -inf for those that have no row."""
        return self._logits_of(rows, items) - self.log_total[rows]

    def _logits_of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        row = self.head.row[items]
        found = [
            (self.query[user] * self.head.table[place]).sum(1)
            for user, place in zip(rows.split(_PAIRS), row.clamp(min=0).split(_PAIRS), strict=True)
        ]
        return torch.cat(found).masked_fill(row < 0, -torch.inf)

    def _parts(self) -> Sequence[torch.Tensor]:
        """Return the queries of users whose logits of all rows are in memory together."""
        return self.query.split(max(1, _LOGITS // max(1, len(self.head.items))))


class ItemScoresOf(ItemScores):
    """What an `ItemHead` says where only some items are scored for each user: of a large catalogue those that an index
    finds.

    They alone are what logits are shared by, so that all log-probabilities are a little too high.

    Args:
        head, query: as of `ItemScores`.
        found: returns int64 [P] each: users, rising, and the items that are scored for them, each once; called where
            they are asked for.
    """

    def __init__(
        self, head: ItemHead, query: torch.Tensor, found: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        super().__init__(head, query)
        self._found = found

    @cached_property
    def _scored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The items int64 and their logits, both [B, K]; 0 and -inf for none."""
        rows, items = self._found()
        logits = self._logits_of(rows, items)
        of_user = torch.bincount(rows, minlength=self.n_users)
        column = torch.arange(len(rows), device=rows.device) - (of_user.cumsum(0) - of_user)[rows]
        width = max(1, int(of_user.max()))
        scored = items.new_zeros(self.n_users, width).index_put_((rows, column), items)
        return scored, logits.new_full((self.n_users, width), -torch.inf).index_put_((rows, column), logits)

    @cached_property
    def log_total(self) -> torch.Tensor:
        """What logits are shared by, [B]: the log-sum-exp of those that are computed."""
        return self._scored[1].logsumexp(1)

    def best(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        scored, logits = self._scored
        scores, place = logits.topk(min(k, logits.shape[1]), dim=1)
        items = scored.gather(1, place).masked_fill(scores.isneginf(), 0)
        return items, (scores - self.log_total.unsqueeze(1)).masked_fill(items == 0, -torch.inf)
