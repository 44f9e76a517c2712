"""The test or validation instances of a dataset, as the labels need them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recbole_sid.data.dataset import ROW_FIELD
from recbole_sid.generalization.transitions import Ragged

SPLITS = ("valid", "test")


class Instances(NamedTuple):
    """The instances of a split, over RecBole's internal item ids: one a user, or several if the split gives them.

    Attributes:
        users: str [n], user tokens.
        recent: int64 [n, hops], the last items before the target, the most recent first, -1 beyond the first.
        targets: int64 [n].
    """

    users: np.ndarray
    recent: np.ndarray
    targets: np.ndarray


def instances_of(dataset: Any, hops: int) -> Instances:
    """Return the instances of an evaluation split (a `HistoryDataset`).

    Histories are the whole sequences, as training's are, whatever MAX_ITEM_LIST_LENGTH cuts for the models.
    """
    rows = dataset.inter_feat
    length = rows[dataset.item_list_length_field].numpy()
    position = dataset.history_start.numpy()[rows[ROW_FIELD].numpy()] + length
    items, users = dataset.sequences[dataset.iid_field].numpy(), dataset.sequences[dataset.uid_field].numpy()
    before = position[:, None] - 1 - np.arange(hops)
    same_user = (before >= 0) & (users[before] == users[position][:, None])
    tokens = np.asarray(dataset.field2id_token[dataset.uid_field], dtype=str)[users[position]]
    recent = np.where(same_user, items[before], -1)
    return Instances(tokens, *(part.astype(np.int64) for part in (recent, items[position])))  # pairs are made of them


def training_graph_sequences(train_dataset: Any) -> Ragged:
    """Return the full training sequences of a `HistoryDataset`."""
    return Ragged(*train_dataset.training_sequences())
