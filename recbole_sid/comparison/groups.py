"""The rows of finished comparisons, and their test instances in groups: by category, by popularity of the target."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError
from recbole_sid.evaluation.recorded_data import data_config
from recbole_sid.evaluation.runs import FinishedRun, RunResult, find_runs, instance_index
from recbole_sid.generalization.analysis import label_split
from recbole_sid.generalization.labels import CLASSES
from recbole_sid.semantic_ids.build import training_popularity
from recbole_sid.util.reading import read_json

CATEGORY, POPULARITY = "category", "popularity"
# Where a range of training occurrences of the target begins, below the first: never seen. The same for every dataset.
POPULARITY_FROM = (1, 4, 8, 20)
NEVER = "never"


class Groups(NamedTuple):
    """Test instances and how they are told apart.

    Attributes:
        instances: of `instance_index`, the order of the masks.
        masks: by `CATEGORY` and by `POPULARITY`: name -> bool [n]. Each of the two is a partition without empty groups.
    """

    instances: pd.MultiIndex
    masks: dict[str, dict[str, np.ndarray]]


def runs_by_row(outputs: Sequence[str | os.PathLike[str]]) -> dict[str, list[FinishedRun]]:
    """Return row -> its runs, one a seed, over the outputs of several comparisons; a run in two of them counts once.

    An output keeps the runs of earlier settings: of those with the same row and seed, the one that its
    ``comparison.json`` is of counts.

    Raises:
        InputError: if it is open which of two runs counts, a ``comparison.json`` is damaged, or as `find_runs`.
    """
    compared = {name for output in outputs for name in _compared(Path(output))}
    found: dict[str, dict[int, dict[str, FinishedRun]]] = {}
    for run in find_runs([Path(output) / "runs" for output in outputs]):
        found.setdefault(run.name, {}).setdefault(run.result["seed"], {})[run.per_user.parent.name] = run
    return {row: [_which(runs, compared) for runs in seeds.values()] for row, seeds in found.items()}


def in_plan_order(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Return `runs` in the order of the comparisons whose outputs they lie in, others after them, by path."""
    outputs = dict.fromkeys(run.per_user.parent.parent.parent for run in runs)
    compared = [folder for output in outputs for folder in _compared(output)]
    place = {folder: number for number, folder in reversed(list(enumerate(compared)))}
    return sorted(runs, key=lambda run: place.get(run.per_user.parent.name, len(place)))


def _compared(output: Path) -> list[str]:
    """Return the names of the folders of runs that an output's table is of; none before there is one."""
    file = output / "comparison.json"
    content = read_json(file) if file.exists() else {"runs": []}
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, str) for run in runs):
        raise InputError(f"'{file}' is not what `recbole-sid compare` writes: run it again.")
    return [Path(run).name for run in runs]


def _which(runs: Mapping[str, FinishedRun], compared: Collection[str]) -> FinishedRun:
    """Return the only one of the runs of a row and seed (by folder), or the only one among those compared."""
    known = [name for name in runs if name in compared] if len(runs) > 1 else list(runs)
    if len(known) != 1:
        first, second = list(runs.values())[:2]
        raise InputError(
            f"Two runs are {first.name} with seed {first.result['seed']}, '{first.per_user.parent}' and "
            f"'{second.per_user.parent}': leave out an output, or move one of them away."
        )
    return runs[known[0]]


def groups_of(result: RunResult) -> Groups:
    """Return the groups of the test instances that a run was evaluated on, read from its data.

    Raises:
        InputError: if the data is not where the run had it.
    """
    labelled = label_split(data_config(result, overrides={"use_gpu": False}))  # nothing to compute
    counts = training_popularity(labelled.dataset)[labelled.instances.targets - 1]
    category = labelled.labels["category"].to_numpy()
    masks = {CATEGORY: {name: category == name for name in CLASSES}, POPULARITY: by_popularity(counts)}
    return Groups(
        instance_index(labelled.frame),
        {by: {name: mask for name, mask in of.items() if mask.any()} for by, of in masks.items()},
    )


def by_popularity(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return range -> bool [n], whether an occurrence count [n] of the target in training is in it."""
    names = [NEVER, *(f"{low}-{after - 1}" for low, after in pairwise(POPULARITY_FROM))]
    place = np.searchsorted(POPULARITY_FROM, counts, side="right")
    return {name: place == number for number, name in enumerate([*names, f"{POPULARITY_FROM[-1]}+"])}
