"""What a memory of transitions says of a batch of histories, and what it leaves to a base measure.

For a history with most recent items h_1, h_2, ..., their weights w_k falling with k and of sum 1, the row sums n of the
table T and c pseudo-counts of a base measure p0 (Dirichlet smoothing):

    p(i | h) = sum_k w_k * (T[h_k, i] + c * p0(i | h)) / (n_{h_k} + c) = mass(i) + remaining * p0(i | h)

`Memory.recall` returns the masses, of the few items that have one, and what remains for p0, whatever p0 is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix

from recbole_sid.memory.numbers import Numbers
from recbole_sid.memory.table import Table, transition_table
from recbole_sid.util import hardware

_TABLE = ("starts", "successors", "counts", "row_sums")
# What the sum of a row may be below that of its entries: sums of float32 counts.
_ROUNDING = 1e-5


class Recall(NamedTuple):
    """What is remembered after each history of a batch.

    Attributes:
        rows: int64 [nnz], of the batch, rising.
        items: int64 [nnz], rising within a row; each at most once.
        masses: [nnz], above 0: what the memory gives the item.
        remaining: [B], above 0: what is left for the base measure; 1 where nothing is remembered. With the masses of
            the row the sum is 1.
        n_items: size of the catalogue.
    """

    rows: torch.Tensor
    items: torch.Tensor
    masses: torch.Tensor
    remaining: torch.Tensor
    n_items: int

    def mass_of(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Return the masses of `items` in `rows`, both int64 of one shape; 0 for those that are not remembered."""
        if not len(self.items):
            return torch.zeros_like(rows, dtype=self.masses.dtype)
        keys, wanted = self.rows * self.n_items + self.items, rows * self.n_items + items
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == wanted, self.masses[place], 0)

    def heaviest(self, k: int) -> Recall:
        """Return it with the k items of the largest masses of each history alone, of equal ones the first.

        The others' mass is nobody's then: with what remains, the sum may be below 1.
        """
        order = torch.argsort(self.masses, descending=True, stable=True)
        order = order[torch.argsort(self.rows[order], stable=True)]
        sizes = torch.bincount(self.rows, minlength=len(self.remaining))
        place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[self.rows[order]]
        kept = order[place < k].sort().values
        return self._replace(rows=self.rows[kept], items=self.items[kept], masses=self.masses[kept])

    def to(self, device: torch.device) -> Recall:
        """Return it on `device`; the host need not wait."""
        rows, items, masses, remaining = (hardware.moved(part, device) for part in self[:-1])
        return Recall(rows, items, masses, remaining, self.n_items)

    def dense(self) -> torch.Tensor:
        """Return the masses of all items [B, n_items]."""
        table = self.masses.new_zeros(len(self.remaining), self.n_items)
        table[self.rows, self.items] = self.masses
        return table


class _Found(NamedTuple):
    """The arrays of a `Recall`; masses may be 0, as where the weight of a far item is too small for a number."""

    rows: np.ndarray
    items: np.ndarray
    masses: np.ndarray
    n_items: int

    def recall(self, remaining: np.ndarray, device: torch.device) -> Recall:
        kept = self.masses > 0
        parts = self.rows[kept], self.items[kept], self.masses[kept], remaining.astype(np.float32)
        rows, items, masses, left = (torch.from_numpy(part).to(device) for part in parts)
        return Recall(rows, items, masses, left, self.n_items)


class Memory(torch.nn.Module):
    """A table of transitions and its numbers; all of it is part of the state_dict.

    It is looked up on the host, whatever device it is on.

    Args:
        n_items: size of the catalogue.
        numbers: in use until it learns.
        row_limit: successors of an item that it learns, those that count most; what is left out of a row is left to p0.
            None: all.

    Attributes:
        numbers: in use.
        starts, successors, counts: the table as `scipy.sparse.csr_matrix` has it (indptr, indices, data).
        row_sums: float64 [n_items], of each row with what was left out of it.
        alike: float32 [n_items, n_items], how alike items are, from 0 to 1; only needed to learn with a text weight.
        table: the same on the host; `left_out`: float64 [n_items], what the entries of each row lack of its sum.
    """

    starts: torch.Tensor
    successors: torch.Tensor
    counts: torch.Tensor
    row_sums: torch.Tensor
    settings: torch.Tensor

    def __init__(self, n_items: int, numbers: Numbers | None = None, row_limit: int | None = None) -> None:
        super().__init__()
        self.n_items, self.numbers, self.row_limit = n_items, numbers or Numbers(), row_limit
        self.alike: csr_matrix | None = None
        self.register_buffer("settings", torch.tensor(self.numbers, dtype=torch.float64))
        for name in _TABLE:
            self.register_buffer(name, torch.zeros(0))
        self._take(Table(csr_matrix((n_items, n_items), dtype=np.float32), np.zeros(n_items)))

    def learn(self, items: np.ndarray, offsets: np.ndarray, numbers: Numbers) -> None:
        """Forget all, and remember the sequences `items` [n] that start at `offsets` [n_sequences + 1].

        With a text weight, an item that is like another counts as if it had followed it so often.
        """
        beside = None
        if numbers.text_weight:
            if self.alike is None:
                raise ValueError("a text weight needs to know which items are alike")
            beside = self.alike * np.float32(numbers.text_weight)
        self._take(
            transition_table(items, offsets, self.n_items, numbers.hops, numbers.hop_decay, self.row_limit, beside)
        )
        self.use(numbers)

    def learn_again(self, items: np.ndarray, offsets: np.ndarray, numbers: Numbers) -> None:
        """As `learn`, of the sequences that were learnt before: counted anew only if the table changes by `numbers`."""
        if len(self.counts) and self.numbers.of_table == numbers.of_table:
            self.use(numbers)
        else:
            self.learn(items, offsets, numbers)

    def use(self, numbers: Numbers) -> None:
        """Look up by `numbers` from now on; those of `Numbers.of_table` are what the table was learnt with."""
        problem = numbers.problem()
        if problem:
            raise ValueError(problem)
        self.numbers = numbers
        self.settings.copy_(torch.tensor(numbers, dtype=torch.float64))

    @torch.no_grad()
    def recall(self, recent: torch.Tensor) -> Recall:
        """Look up histories.

        Args:
            recent: int64 [B, W], the last items, the most recent first; 0 where there is none, at the end of a row
                only. Items beyond the window are not looked at. An item may come several times.
        """
        items = self._looked_up(recent)
        share, remaining = self._shares(items, self.table.row_sums[items], self.left_out[items])
        return self._found(items, share).recall(remaining, recent.device)

    @torch.no_grad()
    def recall_without(self, recent: torch.Tensor, targets: torch.Tensor) -> Recall:
        """Look up histories of the sequences that were learnt as if the item that follows each had not been counted.

        What `recall` finds after such a history the target has partly put there itself. Without the target's own pairs
        this is what the other counts say, as after a history that was not learnt. (Pairs of other items of the same
        sequence, later ones too, stay.)

        Args:
            recent: as of `recall`. To leave out all of the target's pairs with these items it must hold the last
                `hops` items before the target, where there are so many.
            targets: int64 [B], the item that came next in a sequence that was learnt.
        """
        items, wanted = self._looked_up(recent), targets.cpu().numpy()
        before = recent[:, : self.numbers.hops].cpu().numpy()
        count = (self.numbers.hop_decay ** np.arange(before.shape[1])).astype(np.float32)  # as in the table
        own = np.where(items[:, :, None] == before[:, None, :], count, 0).sum(axis=2)
        of_target = self._counts_of(items, np.repeat(wanted[:, None], items.shape[1], axis=1))
        left_out = _less(self.left_out[items], np.where(of_target > 0, 0, own))
        share, remaining = self._shares(items, _less(self.table.row_sums[items], own), left_out)
        found = self._found(items, share)
        is_target = found.items == wanted[found.rows]
        masses = (share * _less(of_target, own)).sum(axis=1).astype(np.float32)
        found.masses[is_target] = masses[found.rows[is_target]]
        return found.recall(remaining, recent.device)

    def _looked_up(self, recent: torch.Tensor) -> np.ndarray:
        """Return the items [B, W] of histories that the window holds."""
        return recent[:, : self.numbers.window].cpu().numpy()

    def _shares(self, items: np.ndarray, row_sums: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what one count in each item's row is worth, [B, W], and what remains for the base measure, [B].

        Args:
            items: int64 [B, W], 0 where there is none.
            row_sums, left_out: [B, W], of their rows.
        """
        there = items > 0
        weights = np.where(there, self.numbers.window_decay ** np.arange(items.shape[1]), 0)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        share = weights / (row_sums + self.numbers.pseudo_counts)
        remaining = (share * (self.numbers.pseudo_counts + left_out)).sum(axis=1)
        return share, np.where(there.any(axis=1), remaining, 1)

    def _counts_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the entries T[first, second] of the table, both of one shape."""
        if not first.size:  # for which scipy answers [[]], of one row
            return np.zeros(first.shape, dtype=np.float32)
        return np.asarray(self.table.counts[first.ravel(), second.ravel()]).reshape(first.shape)

    def _found(self, items: np.ndarray, share: np.ndarray) -> _Found:
        there = items > 0
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        shape = (len(items), self.n_items)
        found = csr_matrix((share[there].astype(np.float32), items[there], indptr), shape=shape) @ self.table.counts
        found.sort_indices()
        row = np.repeat(np.arange(shape[0]), np.diff(found.indptr))
        return _Found(row, found.indices.astype(np.int64), found.data, self.n_items)

    def _take(self, table: Table) -> None:
        """Make `table` the memory's."""
        device, counts = self.starts.device, table.counts
        self.starts = torch.from_numpy(counts.indptr.astype(np.int64, copy=False)).to(device)
        self.successors = torch.from_numpy(counts.indices.astype(np.int32, copy=False)).to(device)
        self.counts = torch.from_numpy(counts.data).to(device)
        self.row_sums = torch.from_numpy(table.row_sums).to(device)
        self.table = table
        self.left_out = np.maximum(table.row_sums - np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take a table of any size, if it is one: scipy would read beyond its arrays otherwise."""
        errors: list[str] = args[-1]
        found = {name: state_dict.get(prefix + name) for name in (*_TABLE, "settings")}
        missing = [name for name, value in found.items() if value is None]
        problem = f"{', '.join(missing)} missing" if missing else self._problem(**found)
        if problem:
            errors.append(f"{prefix}table is not one of transitions: {problem}.")
            return
        starts, successors, counts, row_sums = (found[name].cpu().numpy() for name in _TABLE)
        self._take(Table(csr_matrix((counts, successors, starts), shape=(self.n_items, self.n_items)), row_sums))
        numbers = Numbers.read(found["settings"].tolist())
        assert isinstance(numbers, Numbers)  # else it is a problem
        self.use(numbers)

    def _problem(
        self,
        starts: torch.Tensor,
        successors: torch.Tensor,
        counts: torch.Tensor,
        row_sums: torch.Tensor,
        settings: torch.Tensor,
    ) -> str | None:
        """Return why these tensors are no table and numbers of this catalogue; None if they are."""
        dtypes = torch.int64, torch.int32, torch.float32, torch.float64, torch.float64
        values = starts, successors, counts, row_sums, settings
        typed = all(value.dtype == dtype and value.dim() == 1 for value, dtype in zip(values, dtypes, strict=True))
        if not typed or len(settings) != len(Numbers()):
            return "a tensor has another type or shape"
        if len(starts) != self.n_items + 1:
            return f"it is of {len(starts) - 1} items, not of {self.n_items}"
        n = len(successors)
        if len(row_sums) != self.n_items:
            return f"its sums are of {len(row_sums)} items, not of {self.n_items}"
        if len(counts) != n or starts[0] != 0 or starts[-1] != n or bool((starts.diff() < 0).any()):
            return "its rows do not begin and end where its entries do"
        if n and (successors.min() < 0 or successors.max() >= self.n_items):
            return "it names items that are not in the catalogue"
        if not bool((counts.isfinite() & (counts > 0)).all()):
            return "a count is not a number above 0"
        row = torch.repeat_interleave(starts.diff())
        known = torch.zeros_like(row_sums).index_add_(0, row, counts.double())
        if not bool((row_sums.isfinite() & (row_sums >= (1 - _ROUNDING) * known)).all()):
            return "a row's sum is not a number, or below that of its entries"
        numbers = Numbers.read(settings.tolist())
        return None if isinstance(numbers, Numbers) else numbers


def _less(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return `whole` - `part`, 0 where only rounding is left: counts are sums of float32."""
    rest = whole - part
    return np.where(rest > 1e-6 * whole, rest, 0)
