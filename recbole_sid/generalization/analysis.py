"""An analysis from a dataset, semantic IDs and finished runs, as far as these are there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.config import Config
from recbole_sid.data.dataset import create_history_dataset
from recbole_sid.errors import InputError, require_known
from recbole_sid.evaluation.runs import FinishedRun, instance_index
from recbole_sid.generalization import aggregates
from recbole_sid.generalization.curves import dilution, support
from recbole_sid.generalization.indicator import confidence, id_run
from recbole_sid.generalization.instances import SPLITS, Instances, instances_of, training_graph_sequences
from recbole_sid.generalization.labels import Labeller, check_hops, shares
from recbole_sid.generalization.members import is_sid_model, placement
from recbole_sid.generalization.per_instance import METRICS, metrics_by_model, predicted_items
from recbole_sid.generalization.tokens import label_tokens
from recbole_sid.generalization.transitions import Gaps, Ragged
from recbole_sid.semantic_ids.recorded import Recorded, recorded_semantic_ids
from recbole_sid.settings.known import semantic_id_keys
from recbole_sid.util.progress import progress


class Labelled(NamedTuple):
    """A split's instances with their labels.

    Attributes:
        dataset: the training split.
        hops: the largest distance that counted.
        train: its sequences.
        instances: of the split, over internal item ids.
        labeller: labels further items after the same histories.
        labels: of `label_instances`, [n] rows; with semantic IDs also ``tokens``, the longest memorized prefix.
        codes: int64 [n_items + 1, L] by internal id; None without semantic IDs.
    """

    dataset: Any
    hops: int
    train: Ragged
    instances: Instances
    labeller: Labeller
    labels: pd.DataFrame
    codes: np.ndarray | None

    @property
    def frame(self) -> pd.DataFrame:
        """The labels by user and target (tokens)."""
        target = np.asarray(self.dataset.field2id_token[self.dataset.iid_field], dtype=str)[self.instances.targets]
        return pd.concat([pd.DataFrame({"user": self.instances.users, "target": target}), self.labels], axis=1)


class Analysis(NamedTuple):
    """The tables of an analysis as flat rows; those that need what is not there are empty.

    Attributes:
        shares: of `labels.shares`.
        categories: of `aggregates.by_category`.
        predicted: of `aggregates.of_predictions`, for each model the mean over its runs.
        tokens: of `aggregates.by_tokens`.
        support, dilution: of `aggregates.curve` over memorized instances; dilution for each prefix length n.
        indicator: of `aggregates.by_confidence`.
        indicator_of: the model whose confidence it is, or whose evidence.
    """

    shares: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    predicted: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    support: list[dict[str, Any]]
    dilution: list[dict[str, Any]]
    indicator: list[dict[str, Any]]
    indicator_of: str | None


def label_split(
    config: Config,
    split: str = "test",
    hops: int = 4,
    semantic_id_config: Config | None = None,
    named: Collection[str] = (),
) -> Labelled:
    """Label the instances of a dataset's split; nothing is written.

    Args:
        config: of any sequential model on the dataset.
        split: valid or test.
        hops: the largest distance H that counts.
        semantic_id_config: says which semantic IDs the token labels are of; None: no token labels.
        named: the keys of it that the caller gave; the others stand in the result of a run.

    Raises:
        InputError: if the data, the split, the hops or the semantic IDs are wrong.
    """
    check_hops(hops)
    require_known("split", split, SPLITS)
    train, valid, test = create_history_dataset(config).build()
    evaluated = valid if split == "valid" else test
    if len(evaluated) == 0:
        raise InputError(f"The {split} split of '{config['dataset']}' is empty: choose the other one with --split.")
    instances = instances_of(evaluated, hops)
    sequences = training_graph_sequences(train)
    labeller = Labeller(Gaps(sequences, train.item_num, hops))
    labels = labeller.label(instances.recent, instances.targets)
    codes = None
    if semantic_id_config is not None:
        codes = recorded_semantic_ids(semantic_id_config, train, Recorded(named)).table(train.item_tokens())
        labels["tokens"] = label_tokens(codes, sequences, instances.recent, instances.targets, hops)
    return Labelled(train, hops, sequences, instances, labeller, labels, codes)


def run_semantic_ids(config: Config, runs: Sequence[FinishedRun], named: Collection[str] = ()) -> Config | None:
    """Return the configuration that says which semantic IDs to look at: `config` if it names a file, else that of the
    first run of a SID model, but for the keys `named`, which are as in `config`; None without either.
    """
    if config["semantic_ids_path"]:
        return config
    for run in runs:
        settings = run.result["settings"]
        if is_sid_model(run.result["model"]):
            keys = {"seed", "checkpoint_dir", *semantic_id_keys()} - set(named)
            return Config(
                config["model"],
                config["dataset"],
                config_dict={**config.plain(), **{key: settings[key] for key in keys if key in settings}},
            )
    return None


def analyze(
    labelled: Labelled,
    runs: Sequence[FinishedRun] = (),
    show_progress: bool = False,
    id_model: str | None = None,
) -> Analysis:
    """Return the tables of a labelled test split and the runs that were evaluated on it.

    Args:
        labelled: the split.
        runs: of any models.
        show_progress: bars over batches and runs.
        id_model: the name of the runs whose indicator of memorization is shown; None: as `id_run` has it.

    Raises:
        InputError: if a run was evaluated on other instances, or none is of that ID model.
    """
    by_id = id_run(runs, id_model)
    labels, hops = labelled.labels, labelled.hops
    frame = labelled.frame
    index = instance_index(frame)
    metrics = metrics_by_model(runs, index)
    last, targets = labelled.instances.recent[:, 0], labelled.instances.targets
    memorized = (labels["category"] == "memorization").to_numpy()
    backing = support(labelled.train, last, targets, labelled.dataset.item_num)
    diluted = []
    if labelled.codes is not None and metrics:
        for n in range(1, labelled.codes.shape[1] + 1):
            counts = dilution(labelled.train, labelled.codes, n, last, targets)
            diluted += [{"n": n, **row} for row in aggregates.curve(counts, metrics, memorized, METRICS[0])]
    indicator = []
    if by_id is not None:
        certain = confidence(by_id, index, placement(labelled.dataset.config), show_progress)
        indicator = aggregates.by_confidence(certain, labels, metrics, METRICS[0])
    levels = 0 if labelled.codes is None else labelled.codes.shape[1]
    return Analysis(
        shares=shares(labels, hops),
        categories=aggregates.by_category(labels, metrics, hops, labelled.instances.users),
        predicted=_predicted(labelled, runs, index, show_progress),
        tokens=aggregates.by_tokens(labels, labels["tokens"].to_numpy(), levels, hops) if levels else [],
        support=aggregates.curve(backing, metrics, memorized, METRICS[0]) if metrics else [],
        dilution=diluted,
        indicator=indicator,
        indicator_of=None if by_id is None else f"{by_id.name} (seed {by_id.result['seed']})",
    )


def _predicted(
    labelled: Labelled, runs: Sequence[FinishedRun], index: pd.MultiIndex, show_progress: bool
) -> list[dict[str, Any]]:
    found: dict[str, list[pd.DataFrame]] = {}
    for run in progress(runs, "predicted items", show_progress and bool(runs), unit="run"):
        items = predicted_items(run, index, labelled.dataset.item_tokens())
        row, place = np.nonzero(items)
        labels = labelled.labeller.label(labelled.instances.recent[row], items[row, place])
        found.setdefault(run.name, []).append(labels)
    rows = []
    for model, labels in found.items():
        rows += aggregates.of_predictions(model, pd.concat(labels, ignore_index=True), labelled.hops)
    return rows
