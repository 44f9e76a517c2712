"""What finished runs answered, per test instance: metrics and predicted items in the order of the instances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics
from recbole_sid.evaluation.runs import FinishedRun, instance_index, read_lists, read_per_user
from recbole_sid.util.item_tokens import match_rows

CUT_OFF = 10
METRICS = (f"ndcg@{CUT_OFF}", f"recall@{CUT_OFF}")


def metrics_by_model(runs: Sequence[FinishedRun], instances: pd.MultiIndex) -> dict[str, pd.DataFrame]:
    """Return per model each instance's `METRICS` [n], the mean over the model's runs (seeds).

    Args:
        runs: finished runs.
        instances: of `instance_index`, the order of the rows.

    Raises:
        InputError: if a run was not evaluated on exactly these instances.
    """
    found: dict[str, list[np.ndarray]] = {}
    for run in runs:
        frame = read_per_user(run.per_user, ("user", "target", "rank"))
        ranks = frame["rank"].to_numpy()[_order(run, frame, instances)]
        metrics = rank_metrics(ranks, [CUT_OFF])
        found.setdefault(run.name, []).append(np.stack([metrics[name] for name in METRICS], axis=1))
    return {name: pd.DataFrame(np.mean(values, axis=0), columns=list(METRICS)) for name, values in found.items()}


def predicted_items(run: FinishedRun, instances: pd.MultiIndex, item_tokens: np.ndarray) -> np.ndarray:
    """Return the first ten items of each instance's list as internal ids, int64 [n, 10], 0 where there are fewer.

    Args:
        run: a finished run.
        instances: of `instance_index`, the order of the rows.
        item_tokens: str [n_items], by internal id from 1 on.
    """
    order = _order(run, read_per_user(run.per_user, ("user", "target")), instances)
    places, tokens = read_lists(run.per_user, CUT_OFF)
    known = match_rows(item_tokens, tokens) + 1
    if (known == 0).any():
        raise InputError(f"'{run.per_user}' names items that the dataset does not have: run the model again.")
    return np.append(known, 0)[places][order]  # place -1 is the last


def _order(run: FinishedRun, frame: pd.DataFrame, instances: pd.MultiIndex) -> np.ndarray:
    """Return the row of each instance in a run's `frame`."""
    index = instance_index(frame)
    order = index.get_indexer(instances)
    if len(index) != len(instances) or (order < 0).any():
        raise InputError(
            f"'{run.per_user}' has {len(index)} rows that are not the {len(instances)} test instances of the dataset: "
            "analyze it with the data and filters that it was run with."
        )
    return order
