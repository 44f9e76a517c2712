"""What a bundle says of the training that it comes from: protocol, metrics, fingerprints, sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.checkpoint import is_checkpoint, load_checkpoint
from recbole_sid.compat import load_recbole_checkpoint
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import RESULT, read_result
from recbole_sid.identity import data_hash
from recbole_sid.quick_start import count_parameters
from recbole_sid.registry import get_trainer
from recbole_sid.util.item_tokens import hash_tokens

_FILTERS = ("user_inter_num_interval", "item_inter_num_interval", "val_interval", "rm_dup_inter")
_ALL = "[0,inf)"  # an interval that filters nothing
_PROTOCOL = ("eval_args", "metrics", "topk", "valid_metric", "repeatable", "MAX_ITEM_LIST_LENGTH", "seed", *_FILTERS)


class TrainingRecord(NamedTuple):
    """What is on the disk of a training beside its weights.

    Attributes:
        file: its checkpoint.
        validation: metrics of the best epoch, by which it was selected.
        test: metrics of the test split; empty: they were not recorded.
        version: of the package that trained it; empty: RecBole did, or it was not recorded.
        semantic_ids: fingerprint of the semantic IDs that it was trained with; None without.
    """

    file: str
    validation: dict[str, float]
    test: dict[str, float]
    version: str
    semantic_ids: str | None


def recorded_of(path: str | os.PathLike[str]) -> TrainingRecord:
    """Return what is recorded of the training whose checkpoint, or whose folder of `compare`, `path` is.

    The test's metrics stand in the ``result.json`` of a finished run, not in checkpoints.

    Raises:
        InputError: if it is neither, or damaged.
    """
    test: dict[str, float] = {}
    file = os.fspath(path)
    if os.path.isdir(path):
        if not (Path(path) / RESULT).is_file():
            raise InputError(f"'{path}' is no folder of a finished run (it has no {RESULT}): name a checkpoint.")
        result = read_result(path)
        file = result["model_file"]
        test = next(iter(result["evaluations"].values()))["metrics"]
    if is_checkpoint(file):
        content = load_checkpoint(file)
        version = str(content.get("package_version", ""))
        validation = _finite(content.get("best_valid_result") or {})
        return TrainingRecord(file, validation, test, version, content["lineage"].get("semantic IDs"))
    content = load_recbole_checkpoint(file, map_location="cpu")
    name = str(content["config"].final_config_dict.get("valid_metric", "score"))
    score = content.get("best_valid_score")
    return TrainingRecord(file, _finite({name.lower(): score}), test, "", None)


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that were measured: RecBole records minus infinity where nothing validates."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, float) and isfinite(value)}


def test_metrics(config: Any, model: Any, train_data: Any, test_data: Any) -> dict[str, float]:
    """Evaluate a trained model on the test split, as its training would have."""
    trainer = get_trainer(config)(config, model)
    trainer.eval_collector.data_collect(train_data)
    found = trainer.evaluate(test_data, load_best_model=False, show_progress=config["show_progress"])
    return {name: float(value) for name, value in (found or {}).items()}


def protocol_of(config: Any) -> dict[str, Any]:
    """Return how the data were filtered and split and the metrics taken; only settings that say something."""
    plain = config.plain()
    told = {key: plain[key] for key in _PROTOCOL if plain.get(key) not in (None, _ALL)}
    return {"dataset": config["dataset"], **told}


def fingerprints_of(config: Any, train_dataset: Any) -> dict[str, str]:
    """Return hashes of what the model was trained on: semantic IDs, item tokens, files of the data."""
    found = {"item tokens": hash_tokens(train_dataset.item_tokens()), "data": data_hash(config)}
    if train_dataset.semantic_ids is not None:
        found["semantic IDs"] = train_dataset.semantic_ids.fingerprint
    return found


def sizes_of(config: Any, model: Any, train_dataset: Any) -> dict[str, Any]:
    """Return what the model and its data are made of, to be shown."""
    items, starts = train_dataset.training_sequences()
    found: dict[str, Any] = {
        "items": len(train_dataset.item_tokens()),
        "users": len(train_dataset.field2id_token[train_dataset.uid_field]) - 1,
        "training_interactions": len(items),
        "training_sequences": len(starts) - 1,
        "parameters": count_parameters(model),
    }
    if train_dataset.semantic_ids is not None:
        found["codebook_sizes"] = list(train_dataset.semantic_ids.codebook_sizes)
    return found
