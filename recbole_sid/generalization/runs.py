"""Finished runs: the results per user that evaluation kept, put in the order of the instances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics, read_per_user
from recbole_sid.evaluation.results import read_result
from recbole_sid.util.item_tokens import match_rows, token_array
from recbole_sid.util.reading import read_parquet

RESULT = "result.json"
CUT_OFF = 10
METRICS = (f"ndcg@{CUT_OFF}", f"recall@{CUT_OFF}")


class FinishedRun(NamedTuple):
    """One evaluation of one trained model.

    Attributes:
        name: of the model, with the evaluation's suffix.
        result: what its ``result.json`` holds.
        per_user: the Parquet file of its results per user.
    """

    name: str
    result: dict[str, Any]
    per_user: Path


def find_runs(folders: Sequence[str | Path]) -> list[FinishedRun]:
    """Return all runs in `folders` and below, by path.

    Raises:
        InputError: if a folder holds none, a result is damaged, or they are of more than one dataset.
    """
    runs: list[FinishedRun] = []
    for folder in folders:
        files = sorted(Path(folder).rglob(RESULT))
        if not files:
            raise InputError(f"'{folder}' holds no finished run: no {RESULT} as `recbole-sid compare` writes it.")
        for file in files:
            runs += _evaluations(file)
    found = {run.result["dataset"]: run for run in runs}
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise InputError(
            f"'{first.per_user.parent}' is of dataset {first.result['dataset']} but '{second.per_user.parent}' of "
            f"{second.result['dataset']}: analyze runs of one dataset at a time."
        )
    return runs


def metrics_by_model(runs: Sequence[FinishedRun], instances: pd.MultiIndex) -> dict[str, pd.DataFrame]:
    """Return per model each instance's `METRICS` [n], the mean over the model's runs (seeds).

    Args:
        runs: finished runs.
        instances: (user, target) tokens, the order of the rows.

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
        instances: (user, target) tokens, the order of the rows.
        item_tokens: str [n_items], by internal id from 1 on.
    """
    order = _order(run, read_per_user(run.per_user, ("user", "target")), instances)
    lists = read_parquet(run.per_user, ["items"]).column("items").combine_chunks()
    offsets = lists.offsets.to_numpy()
    tokens = lists.values.dictionary_encode()
    known = match_rows(item_tokens, token_array(tokens.dictionary.to_pylist(), f"'{run.per_user}'")) + 1
    if (known == 0).any():
        raise InputError(f"'{run.per_user}' names items that the dataset does not have: run the model again.")
    items = known[tokens.indices.to_numpy()]
    where = offsets[:-1, None] + np.arange(CUT_OFF)
    inside = where < offsets[1:, None]
    return np.where(inside, items[np.where(inside, where, 0)], 0)[order]


def _evaluations(file: Path) -> list[FinishedRun]:
    result = read_result(file)
    suffixes = {name: file.parent / found["per_user"] for name, found in result["evaluations"].items()}
    return [
        FinishedRun(f"{result['name']}-{suffix}" if suffix else result["name"], result, path)
        for suffix, path in suffixes.items()
    ]


def _order(run: FinishedRun, frame: pd.DataFrame, instances: pd.MultiIndex) -> np.ndarray:
    """Return the row of each instance in a run's `frame`."""
    index = pd.MultiIndex.from_frame(frame[["user", "target"]])
    order = index.get_indexer(instances) if index.is_unique else np.full(1, -1)
    if len(index) != len(instances) or (order < 0).any():
        raise InputError(
            f"'{run.per_user}' has {len(index)} rows that are not the {len(instances)} test instances of the dataset: "
            "analyze it with the data and filters that it was run with."
        )
    return order
