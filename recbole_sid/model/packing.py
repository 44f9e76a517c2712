"""Histories without padding: rows of equal length lie together, so that attention needs no mask."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Group(NamedTuple):
    """Neighbouring histories of one length.

    Attributes:
        users: the places in the sorted order that it covers.
        rows: the packed rows that it covers, ``n_users * length`` of them, history after history.
        length: rows per history.
    """

    users: slice
    rows: slice
    length: int


class Packing(NamedTuple):
    """Where the valid positions of a padded batch [B, S] lie among packed rows [N].

    Attributes:
        order: int64 [B], the batch row at each place of the sorted order (stable, by length).
        index: int64 [N], the position in the flattened [B * S] of each packed row.
        groups: runs of histories of equal length; together they cover all places and rows in order.
        shape: (B, S).
    """

    order: torch.Tensor
    index: torch.Tensor
    groups: tuple[Group, ...]
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: torch.Tensor) -> Packing:
        """Return the packing of mask bool [B, S], whose rows are True first and False after."""
        lengths = mask.sum(1)
        order = torch.argsort(lengths, stable=True)
        n_columns = mask.shape[1]
        in_order = mask[order]
        place = in_order.flatten().nonzero().squeeze(1)
        index = order[place // n_columns] * n_columns + place % n_columns
        values, counts = torch.unique_consecutive(lengths[order], return_counts=True)
        groups, user, row = [], 0, 0
        for length, count in zip(values.tolist(), counts.tolist(), strict=True):
            groups.append(Group(slice(user, user + count), slice(row, row + count * length), length))
            user, row = user + count, row + count * length
        return cls(order, index, tuple(groups), (mask.shape[0], n_columns))


class Packed(NamedTuple):
    """Values of the valid positions only.

    Attributes:
        values: [N, d].
        packing: where they belong.
    """

    values: torch.Tensor
    packing: Packing

    def padded(self) -> torch.Tensor:
        """Return [B, S, d], zero where nothing is."""
        n_rows, n_columns = self.packing.shape
        table = self.values.new_zeros(n_rows * n_columns, self.values.shape[-1])
        return table.index_copy_(0, self.packing.index, self.values).view(n_rows, n_columns, -1)
