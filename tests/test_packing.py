"""Packing lists exactly the valid positions, sorted by length; its chunks keep everything and the bound."""

from __future__ import annotations

import pytest
import torch

from recbole_sid.nn.packing import EqualLengths, Packed, Packing, chunked


def mask_of(lengths: list[int], n_columns: int) -> torch.Tensor:
    return torch.tensor([[column < length for column in range(n_columns)] for length in lengths])


CASES = [([3, 1, 3, 2, 1, 3], 5), ([4], 4), ([2, 2, 2], 2), ([1, 5], 5), ([0, 2, 0], 3)]


@pytest.mark.parametrize(("lengths", "n_columns"), CASES)
def test_packing_is_a_stable_sort_by_length(lengths: list[int], n_columns: int) -> None:
    packing = Packing.of(mask_of(lengths, n_columns))
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    assert packing.order.tolist() == order
    assert packing.index.tolist() == [row * n_columns + column for row in order for column in range(lengths[row])]
    assert packing.shape == (len(lengths), n_columns)


@pytest.mark.parametrize(("lengths", "n_columns"), CASES)
def test_groups_hold_all_histories_of_their_length(lengths: list[int], n_columns: int) -> None:
    packing = Packing.of(mask_of(lengths, n_columns))
    assert [group.length for group in packing.groups] == sorted(set(lengths))
    user = row = 0
    for users, rows, length in packing.groups:
        count = lengths.count(length)
        assert (users, rows) == (slice(user, user + count), slice(row, row + count * length))
        user, row = user + count, row + count * length


@pytest.mark.parametrize(("lengths", "n_columns"), CASES)
def test_padded_puts_values_back(lengths: list[int], n_columns: int) -> None:
    mask = mask_of(lengths, n_columns)
    expected = torch.randn(len(lengths), n_columns, 2) * mask[..., None]
    packing = Packing.of(mask)
    packed = Packed(expected.flatten(0, 1)[packing.index], packing)
    assert torch.equal(packed.padded(), expected)


@pytest.mark.parametrize("max_rows", [1, 3, 7, 8, 20, 1000])
def test_chunks_hold_every_history_once_within_the_bound(max_rows: int) -> None:
    lengths = [3] * 5 + [4] * 3 + [9] * 2
    packing = Packing.of(mask_of(lengths, 9))
    chunks = list(chunked(packing.groups, max_rows))
    pieces = [piece for chunk in chunks for piece in chunk]
    assert [piece.users.start for piece in pieces] == [0, *(piece.users.stop for piece in pieces[:-1])]
    assert [piece.rows.start for piece in pieces] == [0, *(piece.rows.stop for piece in pieces[:-1])]
    assert [piece.length for piece in pieces for _ in range(piece.users.start, piece.users.stop)] == lengths
    for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
        n_rows = chunk[-1].rows.stop - chunk[0].rows.start
        n_users = chunk[-1].users.stop - chunk[0].users.start
        assert n_rows <= max_rows or n_users == 1
        # As full as it can be.
        assert following is None or n_rows + following[0].length > max_rows


def test_nothing_makes_no_chunk() -> None:
    assert list(chunked([], 5)) == []
    assert list(chunked([EqualLengths(slice(0, 2), slice(0, 0), 0)], 5)) == []
