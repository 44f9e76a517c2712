"""What a comparison found: means over seeds, tests over users, breakdowns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.comparison.breakdown import breakdown, test_instances
from recbole_sid.comparison.runner import JobOutcome
from recbole_sid.comparison.statistics import TEST_METRIC, over_users, paired_tests
from recbole_sid.data import create_dataset
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics
from recbole_sid.evaluation.recorded_data import data_config
from recbole_sid.evaluation.runs import instance_index, read_per_user

_CUT_OFF = 10


class Summary(NamedTuple):
    """A finished comparison.

    Attributes:
        rows: one a model and evaluation: model, seeds (how many), each metric and metric_sd (over seeds; None for one),
            share_of_teacher, users_per_s, parameters, train_s, peak_memory_mb (means).
        tests: of `paired_tests` on NDCG@10, each user's mean over seeds; empty for one model.
        breakdown: of NDCG@10, each user's mean over seeds.
        differences: of `over_users`, of the same values.
        data: users, items, interactions and the like of the dataset and its split.
        failures: one sentence a failed job.
    """

    rows: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    breakdown: list[dict[str, Any]]
    failures: list[str]
    differences: list[dict[str, Any]] = []  # never written to
    data: dict[str, Any] = {}


def summarise(outcomes: Sequence[JobOutcome], baseline: str | None = None) -> Summary:
    """Return the summary of finished jobs.

    Args:
        outcomes: of `run_jobs`.
        baseline: row that the others are tested against; None, or one that failed: the first.

    Raises:
        InputError: if every job failed, or rows were not evaluated on the same users.
    """
    failures = [f"{outcome.job.name}: {outcome.failure}" for outcome in outcomes if outcome.failure]
    done = [outcome for outcome in outcomes if outcome.result is not None]
    if not done:
        raise InputError(f"No model could be trained. {' '.join(failures)}")
    rows: list[dict[str, Any]] = []
    per_user: dict[str, pd.Series] = {}
    runs_of: dict[str, list[JobOutcome]] = {outcome.job.entry.name: [] for outcome in outcomes}  # the plan's order
    for outcome in done:
        runs_of[outcome.job.entry.name].append(outcome)
    runs_of = {name: runs for name, runs in runs_of.items() if runs}
    seeds = [{run.job.seed for run in runs} for runs in runs_of.values()]
    shared = set.intersection(*seeds)
    if any(of_entry != shared for of_entry in seeds):
        failures.append(
            f"Tests and breakdown are over the seeds that all models have: {sorted(shared)}."
            if shared
            else "No seed is there for all models: tests and breakdown compare different seeds."
        )
    for runs in runs_of.values():
        entry = runs[0].job.entry
        for name, evaluation in entry.rows().items():
            rows.append({"model": name, **_means(evaluation, runs), "share_of_teacher": None})
            rows[-1]["share_of_teacher"] = _share_of_teacher(runs, evaluation, runs_of.get(entry.teacher or "", []))
            tested = [run for run in runs if not shared or run.job.seed in shared]
            per_user[name] = _mean_over_seeds(tested, evaluation)
    if baseline is not None and baseline not in per_user:
        failures.append(f"The tests are against {rows[0]['model']}, as there are no results of {baseline}.")
        baseline = None
    values = aligned(per_user)
    assert done[0].result is not None
    train, _, test = create_dataset(data_config(done[0].result)).build()
    instances = test_instances(train, test)
    first = next(iter(per_user.values()))
    order = instance_index(instances).get_indexer(first.index)
    users = first.index.get_level_values("user").to_numpy()
    reference = baseline or rows[0]["model"]
    return Summary(
        rows,
        paired_tests(values, reference, users=users),
        breakdown(instances.iloc[order].reset_index(drop=True), values),
        failures,
        over_users(values, reference, users),
        _data(train, test, instances),
    )


def _data(train: Any, test: Any, instances: pd.DataFrame) -> dict[str, Any]:
    """Return the sizes of a dataset and its split, JSON types only."""
    items, offsets = train.training_sequences()
    lengths = np.diff(offsets)
    users, n_items = train.user_num - 1, train.item_num - 1
    return {
        "users": int(users),
        "items": int(n_items),
        "training_interactions": len(items),
        "training_sequences": len(lengths),
        "sequence_length_mean": float(lengths.mean()) if len(lengths) else 0.0,
        "sequence_length_median": float(np.median(lengths)) if len(lengths) else 0.0,
        "density": len(items) / max(1, users * n_items),
        "items_in_training": len(np.unique(items)),
        "test_instances": len(instances),
        "test_users": int(instances["user"].nunique()),
    }


def _means(evaluation: str, runs: Sequence[JobOutcome]) -> dict[str, Any]:
    """Return means over seeds of all that is measured of an evaluation, and the metrics' standard deviations."""
    results = [run.result for run in runs if run.result is not None]
    metrics = pd.DataFrame([result["evaluations"][evaluation]["metrics"] for result in results])
    row: dict[str, Any] = {"seeds": len(results)}
    for metric in metrics:
        row[metric] = float(metrics[metric].mean())
        row[f"{metric}_sd"] = float(metrics[metric].std(ddof=1)) if len(results) > 1 else None
    peaks = [peak for result in results if (peak := result["peak_memory_mb"]) is not None]
    return row | {
        "users_per_s": float(np.mean([result["evaluations"][evaluation]["users_per_s"] for result in results])),
        "parameters": int(np.mean([result["parameters"] for result in results])),
        "train_s": float(np.mean([result["train_s"] for result in results])),
        "peak_memory_mb": float(np.mean(peaks)) if peaks else None,
    }


def _share_of_teacher(runs: Sequence[JobOutcome], evaluation: str, teachers: Sequence[JobOutcome]) -> float | None:
    """Return the mean NDCG@10 over that of the teacher, constrained if it was evaluated so; over the seeds of both."""
    of_teacher = {outcome.job.seed: outcome for outcome in teachers}
    pairs = [(run, of_teacher[run.job.seed]) for run in runs if run.job.seed in of_teacher]
    if not pairs:
        return None
    reference = pairs[0][1].job.entry.reference()
    own, theirs = np.array([(_ndcg(run, evaluation), _ndcg(of, reference)) for run, of in pairs], dtype=float).sum(0)
    return float(own / theirs) if theirs > 0 and np.isfinite(own) else None


def _ndcg(run: JobOutcome, evaluation: str) -> float:
    """Return the NDCG@10 of an evaluation; NaN if it is not there."""
    assert run.result is not None
    return run.result["evaluations"].get(evaluation, {"metrics": {}})["metrics"].get(TEST_METRIC, np.nan)


def _mean_over_seeds(runs: Sequence[JobOutcome], evaluation: str) -> pd.Series:
    """Return each instance's NDCG@10, averaged over the seeds, by `instance_index`."""
    files = []
    for run in runs:
        assert run.result is not None
        files.append(Path(run.job.folder) / run.result["evaluations"][evaluation]["per_user"])
    return mean_ndcg(files)


def mean_ndcg(files: Sequence[Path]) -> pd.Series:
    """Return each instance's NDCG@10, averaged over files of results per user, by `instance_index`, sorted.

    Raises:
        InputError: if the files are not of the same users and targets.
    """
    found = {}
    for file in files:
        frame = read_per_user(file, ("user", "target", "rank"))
        values = rank_metrics(frame["rank"].to_numpy(), [_CUT_OFF])[TEST_METRIC]
        found[f"'{file}'"] = pd.Series(values, instance_index(frame)).sort_index()
    index = next(iter(found.values())).index
    return pd.Series(np.mean(list(aligned(found).values()), axis=0), index, name=TEST_METRIC)


def aligned(per_user: Mapping[str, pd.Series]) -> dict[str, np.ndarray]:
    """Return the values of each, in one order.

    Raises:
        InputError: if they are not of the same users and targets.
    """
    first = next(iter(per_user))
    for name, values in per_user.items():
        if not values.index.equals(per_user[first].index):
            raise InputError(f"{name} and {first} were not evaluated on the same users and targets: run both again.")
    return {name: values.to_numpy() for name, values in per_user.items()}
