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
from recbole_sid.memory.table import transition_table


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

    def dense(self) -> torch.Tensor:
        """Return the masses of all items [B, n_items]."""
        table = self.masses.new_zeros(len(self.remaining), self.n_items)
        table[self.rows, self.items] = self.masses
        return table


class Memory(torch.nn.Module):
    """A table of transitions and its numbers; all of it is part of the state_dict.

    It is looked up on the host, whatever device it is on.

    Attributes:
        numbers: in use.
        starts, successors, counts: the table as `scipy.sparse.csr_matrix` has it (indptr, indices, data).
    """

    starts: torch.Tensor
    successors: torch.Tensor
    counts: torch.Tensor
    settings: torch.Tensor

    def __init__(self, n_items: int, numbers: Numbers | None = None) -> None:
        super().__init__()
        self.n_items, self.numbers = n_items, numbers or Numbers()
        self.register_buffer("settings", torch.tensor(self.numbers, dtype=torch.float64))
        for name in ("starts", "successors", "counts"):
            self.register_buffer(name, torch.zeros(0))
        self._take(csr_matrix((n_items, n_items), dtype=np.float32))

    def learn(self, items: np.ndarray, offsets: np.ndarray, numbers: Numbers) -> None:
        """Forget all, and remember the sequences `items` [n] that start at `offsets` [n_sequences + 1]."""
        table = transition_table(items, offsets, self.n_items, numbers.hops, numbers.hop_decay)
        self._take(table)
        self.use(numbers)

    def use(self, numbers: Numbers) -> None:
        """Look up by `numbers` from now on; hops and hop_decay are those that the table was learnt with."""
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
        looked_up = recent[:, : self.numbers.window].cpu().numpy()
        there = looked_up > 0
        weights = np.where(there, self.numbers.window_decay ** np.arange(looked_up.shape[1]), 0)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        share = weights / (self._row_sums[looked_up] + self.numbers.pseudo_counts)
        left = np.where(there.any(axis=1), self.numbers.pseudo_counts * share.sum(axis=1), 1)
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        shape = (len(looked_up), self.n_items)
        found = csr_matrix((share[there].astype(np.float32), looked_up[there], indptr), shape=shape) @ self._table
        found.eliminate_zeros()  # the weight of a far item may be too small for a number
        found.sort_indices()
        row = np.repeat(np.arange(shape[0]), np.diff(found.indptr))
        parts = row, found.indices.astype(np.int64), found.data, left.astype(np.float32)
        rows, items, masses, remaining = (torch.from_numpy(part).to(recent.device) for part in parts)
        return Recall(rows, items, masses, remaining, self.n_items)

    def _take(self, table: csr_matrix) -> None:
        """Make `table`, float32 [n_items, n_items], the memory's."""
        device = self.starts.device
        self.starts = torch.from_numpy(table.indptr.astype(np.int64, copy=False)).to(device)
        self.successors = torch.from_numpy(table.indices.astype(np.int32, copy=False)).to(device)
        self.counts = torch.from_numpy(table.data).to(device)
        self._table = table
        self._row_sums = np.asarray(table.sum(axis=1, dtype=np.float64)).ravel()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take a table of any size, if it is one: scipy would read beyond its arrays otherwise."""
        errors: list[str] = args[-1]
        found = {name: state_dict.get(prefix + name) for name in ("starts", "successors", "counts", "settings")}
        missing = [name for name, value in found.items() if value is None]
        problem = f"{', '.join(missing)} missing" if missing else self._problem(**found)
        if problem:
            errors.append(f"{prefix}table is not one of transitions: {problem}.")
            return
        host = (found[name].cpu().numpy() for name in ("counts", "successors", "starts"))
        self._take(csr_matrix(tuple(host), shape=(self.n_items, self.n_items)))
        hops, hop_decay, window, window_decay, pseudo_counts = found["settings"].tolist()
        self.use(Numbers(int(hops), hop_decay, int(window), window_decay, pseudo_counts))

    def _problem(
        self, starts: torch.Tensor, successors: torch.Tensor, counts: torch.Tensor, settings: torch.Tensor
    ) -> str | None:
        """Return why these tensors are no table and numbers of this catalogue; None if they are."""
        kinds = (starts, torch.int64), (successors, torch.int32), (counts, torch.float32), (settings, torch.float64)
        if any(value.dtype != dtype or value.dim() != 1 for value, dtype in kinds) or len(settings) != len(Numbers()):
            return "a tensor has another type or shape"
        if len(starts) != self.n_items + 1:
            return f"it is of {len(starts) - 1} items, not of {self.n_items}"
        n = len(successors)
        if len(counts) != n or starts[0] != 0 or starts[-1] != n or bool((starts.diff() < 0).any()):
            return "its rows do not begin and end where its entries do"
        if n and (successors.min() < 0 or successors.max() >= self.n_items):
            return "it names items that are not in the catalogue"
        if not bool((counts.isfinite() & (counts > 0)).all()):
            return "a count is not a number above 0"
        return Numbers(*settings.tolist()).problem()
