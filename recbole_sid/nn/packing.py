"""Histories without padding: rows of equal length lie together, so that attention needs no mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class EqualLengths(NamedTuple):
    """Neighbouring histories of one length.

    Attributes:
        users: the places in the sorted order that it covers.
        rows: the packed rows that it covers, ``n_users * length`` of them, history after history.
        length: rows per history.
    """

    users: slice
    rows: slice
    length: int


@dataclass(frozen=True)
class Packing:
    """Where the valid positions of a padded batch [B, S] lie among packed rows [N].

    Attributes:
        order: int64 [B], the batch row at each place of the sorted order (stable, by length).
        index: int64 [N], the position in the flattened [B * S] of each packed row.
        groups: runs of histories of equal length; together they cover all places and rows in order.
        shape: (B, S).
    """

    order: torch.Tensor
    index: torch.Tensor
    groups: tuple[EqualLengths, ...]
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: torch.Tensor) -> Packing:
        """Return the packing of mask bool [B, S], whose rows are True first and False after."""
        lengths, order = torch.sort(mask.sum(1), stable=True)
        n_columns = mask.shape[1]
        in_order = mask[order]
        place = in_order.flatten().nonzero().squeeze(1)
        index = order[place // n_columns] * n_columns + place % n_columns
        groups, user, row = [], 0, 0
        for length, count in Counter(lengths.tolist()).items():
            groups.append(EqualLengths(slice(user, user + count), slice(row, row + count * length), length))
            user, row = user + count, row + count * length
        return cls(order, index, tuple(groups), (mask.shape[0], n_columns))


def chunked(groups: Sequence[EqualLengths], max_rows: int) -> Iterator[list[EqualLengths]]:
    """Split `groups` into runs of neighbouring histories of at most `max_rows` rows, or of one longer history."""
    chunk: list[EqualLengths] = []
    room = max_rows
    for group in groups:
        user, row, length = group.users.start, group.rows.start, group.length
        while length and user < group.users.stop:
            if chunk and room < length:
                yield chunk
                chunk, room = [], max_rows
            count = min(max(room // length, 1), group.users.stop - user)
            chunk.append(EqualLengths(slice(user, user + count), slice(row, row + count * length), length))
            user, row, room = user + count, row + count * length, room - count * length
    if chunk:
        yield chunk


def taken(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return [B, n, d], of x [B, S, d] the rows at places int64 [B, n]; as `take_along_dim`, which fixes the shapes of
    what is recorded.
    """
    return x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class Padded(NamedTuple):
    """States with padding.

    Attributes:
        states: [B, S, d].
        mask: bool [B, S], which of them are no padding.
    """

    states: torch.Tensor
    mask: torch.Tensor


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
