"""What each process of a group has of every training batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from recbole_sid.data.batch import Batch, Portion, Size
from recbole_sid.distributed.group import Group


class SharedBatches:
    """A training loader's `collate_fn` by which the processes of a group share every batch.

    All draw the same batches, of ``train_batch_size`` rows, and each keeps every n-th row: a batch is sorted by length,
    so that all have about as much to do. Where a batch has fewer rows than there are processes, those without one keep
    the first, which counts for nothing, so that each has something in every batch.

    Args:
        collate: the loader's own; returns a `Batch`.
        lengths: int64 [n_rows], items in the histories of all rows.
        group: who shares.
    """

    def __init__(self, collate: Callable[[Any], Batch], lengths: torch.Tensor, group: Group) -> None:
        self.collate, self.lengths, self.group = collate, lengths, group

    def __call__(self, index: Sequence[int]) -> Batch:
        own = index[self.group.rank :: self.group.size]
        batch = self.collate(own or index[:1])
        batch.portion = Portion(self._size(own), self._size(index))
        return batch

    def _size(self, index: Sequence[int]) -> Size:
        return Size(len(index), int(self.lengths[torch.tensor(index, dtype=torch.long)].sum()))
