"""Where models differ: metrics by history length, by popularity of the target, and by what training holds of the step
to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.generalization.curves import support
from recbole_sid.generalization.instances import instances_of, training_graph_sequences
from recbole_sid.registry import BREAKDOWNS, resolve
from recbole_sid.semantic_ids.build import training_popularity
from recbole_sid.util.numbers import bins_of

_BINS = 4


class Breakdown(NamedTuple):
    """A way to tell test instances apart, before any model sees them.

    Attributes:
        values: (training split, test split) -> counts or texts [n], of each instance. Counts are put into ranges that
            hold about equally many instances, every text is a bin.
        zero: name of a bin for the count 0 alone; empty: it is a count as others.
    """

    values: Callable[[Any, Any], np.ndarray]
    zero: str = ""


def _history(train: Any, test: Any) -> np.ndarray:
    """Interactions before the target, not cut to MAX_ITEM_LIST_LENGTH."""
    return test.full_history_lengths()


def _popularity(train: Any, test: Any) -> np.ndarray:
    """How often the target occurs in the training part."""
    return training_popularity(train)[test.inter_feat[test.iid_field].numpy() - 1]


def _support(train: Any, test: Any) -> np.ndarray:
    """How often the target directly followed the last item in training: what can be memorized."""
    found = instances_of(test, 1)
    return support(training_graph_sequences(train), found.recent[:, 0], found.targets, train.item_num)


HISTORY, POPULARITY = Breakdown(_history), Breakdown(_popularity, zero="cold")
SUPPORT = Breakdown(_support, zero="never")


def test_instances(train: Any, test: Any) -> pd.DataFrame:
    """Return what is known of each test instance before any model sees it.

    Args:
        train, test: the training and the test split, as any sequential model has them.

    Returns:
        user and target (tokens), and the values of each registered `Breakdown`.
    """
    rows = test.inter_feat
    return pd.DataFrame(
        {
            "user": test.id2token(test.uid_field, rows[test.uid_field].numpy()),
            "target": test.id2token(test.iid_field, rows[test.iid_field].numpy()),
            **{name: _breakdown(name).values(train, test) for name in BREAKDOWNS},
        }
    )


def breakdown(instances: pd.DataFrame, values: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the mean of each model's metric in bins of history length, of popularity and of what else is registered.

    Args:
        instances: of `test_instances`, n rows.
        values: model -> metric of each instance, float [n], in the same order.

    Returns:
        rows with by (name of the `Breakdown`), bin (a range, or text), instances, and one value a model.
    """
    frame = pd.DataFrame(dict(values), index=instances.index)
    rows = []
    for by in instances.columns.intersection(list(BREAKDOWNS), sort=False):
        for label, members in _bins(instances[by].to_numpy(), _breakdown(by).zero):
            means = frame[members].mean()
            rows.append({"by": by, "bin": label, "instances": int(members.sum()), **means.astype(float).to_dict()})
    return rows


def _breakdown(name: str) -> Breakdown:
    return resolve(BREAKDOWNS, name, "breakdown")


def _bins(values: np.ndarray, zero: str) -> list[tuple[str, np.ndarray]]:
    """Return labels and masks of bins."""
    if values.dtype.kind not in "iu":
        return [(str(text), values == text) for text in np.unique(values)]
    unseen = values == 0
    if not zero or not unseen.any():
        return bins_of(values, _BINS)
    return [(zero, unseen), *((label, members & ~unseen) for label, members in bins_of(values, _BINS, ~unseen))]
