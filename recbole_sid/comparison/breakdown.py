"""Where models differ: metrics by history length, by popularity of the target, and on targets unseen in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.config import Config
from recbole_sid.data import create_dataset
from recbole_sid.semantic_ids.build import training_popularity
from recbole_sid.util.numbers import bins_of

_BINS = 4


def test_instances(config: Config) -> pd.DataFrame:
    """Return what is known of each test instance before any model sees it.

    Args:
        config: of any sequential model on the dataset.

    Returns:
        user and target (tokens), history (interactions before the target, not cut to MAX_ITEM_LIST_LENGTH) and
        popularity (of the target in the training part).
    """
    train, _, test = create_dataset(config).build()
    rows = test.inter_feat
    items = rows[test.iid_field].numpy()
    return pd.DataFrame(
        {
            "user": test.id2token(test.uid_field, rows[test.uid_field].numpy()),
            "target": test.id2token(test.iid_field, items),
            "history": test.full_history_lengths(),
            "popularity": training_popularity(train)[items - 1],
        }
    )


def breakdown(instances: pd.DataFrame, values: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the mean of each model's metric in bins of history length and popularity.

    Args:
        instances: of `test_instances`, n rows.
        values: model -> metric of each instance, float [n], in the same order.

    Returns:
        rows with by (``history`` or ``popularity``), bin (a range, or ``cold``), instances, and one value a model.
        Bins hold about equally many instances; cold targets are a bin of their own.
    """
    frame = pd.DataFrame(dict(values), index=instances.index)
    rows = []
    for by in ("history", "popularity"):
        for label, members in _bins(instances[by].to_numpy(), cold=by == "popularity"):
            means = frame[members].mean()
            rows.append({"by": by, "bin": label, "instances": int(members.sum()), **means.astype(float).to_dict()})
    return rows


def _bins(values: np.ndarray, cold: bool) -> list[tuple[str, np.ndarray]]:
    """Return labels and masks of bins; 0 is one of its own where it means ``cold``."""
    unseen = values == 0
    if not cold or not unseen.any():
        return bins_of(values, _BINS)
    return [("cold", unseen), *((label, members & ~unseen) for label, members in bins_of(values, _BINS, ~unseen))]
