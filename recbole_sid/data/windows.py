"""Training rows that one pass over a sequence serves together, for models that predict every item from those before."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from recbole_sid.data.dataset import ROW_FIELD, HistoryDataset

# How many of the last items of a row's history and target are targets of its window.
WINDOW_FIELD = "window_targets"


class Windows(NamedTuple):
    """Windows, each a row of the dataset whose history and target hold all that the window trains.

    Attributes:
        rows: int64 [W], positions of the rows in the dataset, in the order of its sequences.
        n_targets: int64 [W], how many of each window's last items are targets; they sum to the rows of the dataset.
    """

    rows: torch.Tensor
    n_targets: torch.Tensor

    @classmethod
    def of(cls, dataset: HistoryDataset, stride: int) -> Windows:
        """Divide the rows ``history -> target`` of `dataset` among windows, each row exactly once.

        The first MAX_ITEM_LIST_LENGTH targets of a sequence are one window. After it, every `stride` targets are one
        of MAX_ITEM_LIST_LENGTH items and the last target: with stride 1 every target has the history that its row has;
        with more, the earlier targets of a window lack up to ``stride - 1`` of the oldest items. No window has more
        than MAX_ITEM_LIST_LENGTH targets.

        Args:
            dataset: a training split; rows that others miss between them are not in one window.
            stride: at least 1.
        """
        rows = dataset.inter_feat
        number = rows[ROW_FIELD].numpy()
        order = np.argsort(number, kind="stable")
        number, user = number[order], rows[dataset.uid_field].numpy()[order]
        longest = dataset.max_item_list_len
        beyond = dataset.full_history_lengths()[order] - longest
        block = np.where(beyond <= 0, 0, 1 + (beyond - 1) // min(stride, longest))
        follows = (user[1:] == user[:-1]) & (block[1:] == block[:-1]) & (number[1:] == number[:-1] + 1)
        last = np.flatnonzero(np.append(~follows, True)) if len(number) else np.zeros(0, dtype=np.int64)
        return cls(torch.from_numpy(order[last]), torch.from_numpy(np.diff(last, prepend=-1)))
