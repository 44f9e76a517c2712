"""The two trained models of an ensemble: read from their checkpoints, kept as settings in the ensemble's own."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from recbole.utils import ModelType

from recbole_sid.checkpoint import (
    check_lineage,
    data_difference,
    is_checkpoint,
    lineage,
    lineage_without_semantic_ids,
    load_checkpoint,
    load_weights,
)
from recbole_sid.compat import load_recbole_checkpoint
from recbole_sid.config import DERIVED_KEYS, Config, plain_settings
from recbole_sid.errors import InputError, first_line
from recbole_sid.evaluation.runs import read_result
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.later_items import weights_for
from recbole_sid.model.transition_memory import TransitionMemory
from recbole_sid.registry import get_model, is_ours
from recbole_sid.settings.known import flagged

ID_MODEL, SID_MODEL = "id_model", "sid_model"
_PLACEMENT = ("data_path", "checkpoint_dir", "use_gpu", "gpu_id", "show_progress", "state", "worker")
# What the ensemble says of the search of its SID model.
_SEARCH = ("beam_size", "full_sort_items")


class TrainedMember(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        settings: of its run, JSON types.
        state: its weights.
        lineage: as `checkpoint.lineage`; None for a checkpoint of RecBole's, which records none.
    """

    settings: dict[str, Any]
    state: dict[str, torch.Tensor]
    lineage: dict[str, str] | None


def is_id_model(model: str) -> bool:
    """Say whether `model` is one that ranks by what it knows of each item itself, not of its semantic ID: a sequential
    model of RecBole, or TransitionMemory.
    """
    found = get_model(model)
    if is_ours(found):
        return issubclass(found, TransitionMemory)
    return getattr(found, "type", None) == ModelType.SEQUENTIAL


def is_sid_model(model: str) -> bool:
    """Say whether `model` is one of ours that scores semantic IDs."""
    return issubclass(get_model(model), SIDRecommender)


def adopt_members(config: Any) -> None:
    """Record in ``id_model_config`` and ``sid_model_config`` the settings of the checkpoints that the paths name.

    An ensemble that is loaded from its own checkpoint has them already.

    Raises:
        InputError: if a checkpoint is missing or of the wrong kind, or the two, or this run, are not of the same data
            and split.
    """
    paths = {name: config[f"{name}_path"] for name in (ID_MODEL, SID_MODEL)}
    if not any(paths.values()) and all(config[f"{name}_config"] for name in paths):
        return
    if not all(paths.values()):
        raise InputError(
            f"{config['model']} combines two trained models: set id_model_path to a checkpoint of SASRec, another "
            "sequential model of RecBole or TransitionMemory, and sid_model_path to one of TIGER, SIDMLP or "
            "SIDMLPPlusPlus."
        )
    found = {name: _read(name, path).settings for name, path in paths.items()}
    by_id, by_sid = (f"'{paths[name]}' ({found[name]['model']})" for name in (ID_MODEL, SID_MODEL))
    _require_same_data(by_id, found[ID_MODEL], by_sid, found[SID_MODEL])
    _require_same_data(by_sid, found[SID_MODEL], "this run", plain_settings(config.final_config_dict))
    for name, settings in found.items():
        kept = {key: value for key, value in settings.items() if key not in flagged("volatile")}
        config[f"{name}_config"] = {**kept, **({"teacher_path": None} if "teacher_path" in kept else {})}


def placement(config: Any) -> dict[str, Any]:
    """Return where and how a run runs (paths, device, progress), which a model loaded into it has to take over."""
    run = config.plain()
    placed = {key: run[key] for key in _PLACEMENT if key not in DERIVED_KEYS}
    return {**placed, "use_gpu": config["device"].type == "cuda"}  # a GPU that nobody asked for is not missed


def member_config(config: Any, name: str) -> Config:
    """Return the configuration of an ensemble's `name`: as recorded, but where and how this run runs."""
    search = {key: config[key] for key in _SEARCH} if name == SID_MODEL else {}
    settings = {**config[f"{name}_config"], **placement(config), **search}
    return Config(settings["model"], settings["dataset"], config_dict=settings)


def build_member(config: Any, name: str, dataset: Any) -> Any:
    """Build an ensemble's `name` frozen, with the weights of its checkpoint if the configuration names one.

    Raises:
        InputError: if the checkpoint was trained with other items, semantic IDs or shapes.
    """
    settings = member_config(config, name)
    model = get_model(settings["model"])(settings, dataset).to(config["device"])
    path = config[f"{name}_path"]
    if path:
        recorded = _read(name, path)
        weights = recorded.state
        if recorded.lineage is None:
            _check_items(path, recorded.settings, config, dataset)
        else:
            current = (lineage_without_semantic_ids if name == ID_MODEL else lineage)(config, dataset)
            check_lineage(path, recorded.lineage, current)
            weights = weights_for(model, weights, recorded.lineage, config, dataset)
        load_weights(model, weights, path)
    return model.eval().requires_grad_(False)


def _read(name: str, path: str) -> TrainedMember:
    file = checkpoint_file(path)
    return _read_id_model(file) if name == ID_MODEL else _read_sid_model(file)


def checkpoint_file(path: str) -> str:
    """Return `path`, or the checkpoint of the finished run whose folder it is.

    Raises:
        InputError: if it is a folder without the result of a run.
    """
    if not os.path.isdir(path):
        return path
    try:
        return read_result(path)["model_file"]
    except InputError as error:
        raise InputError(f"'{path}' is no folder of a finished run ({first_line(error)}).") from error


def _read_id_model(path: str) -> TrainedMember:
    if is_checkpoint(path):
        content = load_checkpoint(path)
        settings, origin = content["config"], content["lineage"]
    else:
        content = load_recbole_checkpoint(path, map_location="cpu")
        settings, origin = plain_settings(content["config"].final_config_dict), None
    if not is_id_model(settings["model"]):
        raise InputError(
            f"id_model_path='{path}' holds {settings['model']}: give a sequential model of RecBole such as SASRec, or "
            "TransitionMemory."
        )
    return TrainedMember(settings, content["state_dict"], origin)


def _read_sid_model(path: str) -> TrainedMember:
    content = load_checkpoint(path)
    if not is_sid_model(content["model"]):
        raise InputError(f"sid_model_path='{path}' holds {content['model']}: give a TIGER, SIDMLP or SIDMLPPlusPlus.")
    return TrainedMember(content["config"], content["state_dict"], content["lineage"])


def _require_same_data(first: str, theirs: dict[str, Any], second: str, ours: dict[str, Any]) -> None:
    difference = data_difference(theirs, ours, ("MAX_ITEM_LIST_LENGTH",))
    if difference:
        key, their, our = difference
        raise InputError(
            f"{first} has {key}={their} but {second} has {key}={our}: an ensemble combines models of the same data and "
            "split, or one may have seen what the other is tested on."
        )


def _check_items(path: str, recorded: dict[str, Any], config: Any, dataset: Any) -> None:
    """Raise InputError unless RecBole numbered the checkpoint's items as `dataset`'s: other columns bring others."""
    from recbole_sid.features.checkpoint import recorded_item_tokens

    if recorded["load_col"] == config["load_col"]:
        return
    theirs, ours = recorded_item_tokens(path, recorded, config), dataset.item_tokens()
    if len(theirs) != len(ours) or (theirs != ours).any():
        raise InputError(
            f"'{path}' was trained on {len(theirs)} items and this run has {len(ours)}, or in another order: train it "
            f"with load_col={config['load_col']}."
        )
