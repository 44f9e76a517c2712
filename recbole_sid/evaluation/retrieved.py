"""Top-k lists of retrieved items and their hits, in memory that does not depend on the size of the catalogue."""

from __future__ import annotations

from typing import NamedTuple

import torch

from recbole_sid.util import hardware


class Retrieved(NamedTuple):
    """What a model retrieved for a batch, in place of a matrix of scores.

    Attributes:
        rows: int64 [n], the batch row of each retrieved item; rows may come in any order.
        items: int64 [n], within a row by falling score.
        scores: [n]; -inf means that the item was not retrieved.
        shape: (B, n_items), of the matrix that it stands for.
    """

    rows: torch.Tensor
    items: torch.Tensor
    scores: torch.Tensor
    shape: tuple[int, int]

    def top_lists(self, k: int) -> torch.Tensor:
        """Return the first k items of each row, int64 [B, k], padding item 0 where fewer were retrieved."""
        return self._in_rows(self.items.masked_fill(self.scores.isneginf(), 0), k)

    def top_scores(self, k: int) -> torch.Tensor:
        """Return the scores [B, k] of `top_lists`, 0 where fewer were retrieved."""
        return self._in_rows(self.scores.masked_fill(self.scores.isneginf(), 0), k)

    def _in_rows(self, values: torch.Tensor, k: int) -> torch.Tensor:
        """Return the first k values [n] of each row as [B, k], 0 where there are fewer."""
        n_rows = self.shape[0]
        order = torch.argsort(self.rows, stable=True)
        rows = self.rows[order]
        count = torch.zeros(n_rows, dtype=torch.int64, device=rows.device).index_add_(0, rows, torch.ones_like(rows))
        rank = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows]
        table = values.new_zeros(n_rows, k + 1)  # all that comes after rank k falls into the last column
        table[rows, rank.clamp(max=k)] = values[order]
        return table[:, :k]


def hits_and_positives(
    lists: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor, n_items: int
) -> torch.Tensor:
    """Return RecBole's ``rec.topk``: which places of each list hold a positive item, then how many positives there are.

    Args:
        lists: int64 [B, k], 0 where there is nothing.
        positive_u: int64 [p], rows of the positive items, in any order.
        positive_i: int64 [p], positive items.
        n_items: size of the catalogue with the padding item; B * n_items fits in 63 bits.

    Returns:
        int64 [B, k + 1].
    """
    device = lists.device
    keys = torch.cat([positive_u.new_full((1,), -1), positive_u * n_items + positive_i]).sort().values
    keys = hardware.moved(keys, device)
    row = torch.arange(len(lists), device=device)
    wanted = row.unsqueeze(1) * n_items + lists
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    hits = (keys[place] == wanted) & (lists > 0)
    distinct = keys[1:] != keys[:-1]
    positives = torch.zeros_like(row).index_add_(0, keys[1:] // n_items, distinct.long())
    return torch.cat([hits.long(), positives.unsqueeze(1)], dim=1)
