"""Checks of RecBole's own keys: values that RecBole accepts and that mean nothing, or not what they seem."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import ModelType

from recbole_sid import compat  # noqa: F401 - patches RecBole
from recbole_sid.distributed.place import launched_place
from recbole_sid.errors import InputError, require_known
from recbole_sid.settings.run import LaunchSettings
from recbole_sid.settings.time_split import check_time_split
from recbole_sid.settings.whole_data import check_whole_data
from recbole_sid.util.reading import check_array_file, check_tensor_file

_MOST_DECIMALS = 15  # a float has no more
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def check_recbole_keys(config: Any) -> None:
    """Check a Config.

    Raises:
        InputError: for the first value that is refused.
    """
    _check_placement(config)
    if config["log_wandb"]:
        _require_wandb()
    _check_protocol(config)
    _check_split_settings(config)
    _check_files(config)
    _check_filters(config)


def check_launch(given: Mapping[str, Any]) -> None:
    """Refuse what RecBole's launcher tells its processes: RecBole would start a group of its own, by nccl alone."""
    for key, instead in (("local_rank", "torchrun and nproc say it"), ("offset", "its name is group_offset")):
        if given.get(key) is not None:
            raise InputError(f"Leave out {key}={given[key]}: {instead}.")


def refuse_launch(config: Any, what: str) -> None:
    """Raise InputError if several processes are asked for where they cannot train together.

    Args:
        config: a Config.
        what: trains in one process, at the start of a sentence.
    """
    place, processes = launched_place(), LaunchSettings.of(config).processes()
    if processes.n_all > 1:
        raise InputError(f"{what} in one process: leave out nproc={processes.n_here} (and world_size).")
    if place.size > 1:
        raise InputError(f"{what} in one process: start it without torchrun, which has started {place.size}.")


def processes_of_each(config: Any, what: str) -> int:
    """Return how many processes, all on this machine, train each of several models together.

    Args:
        config: a Config.
        what: is trained, at the start of a sentence.

    Raises:
        InputError: if they are on several machines, or torchrun has started some.
    """
    place, processes = launched_place(), LaunchSettings.of(config).processes()
    if not processes.are_all_here:
        raise InputError(
            f"{what} is trained on one machine: leave out world_size={processes.n_all}, and say by nproc how many "
            "processes train it."
        )
    if place.size > 1:
        raise InputError(
            f"{what} has processes of its own (nproc): start it without torchrun, which has started {place.size}."
        )
    return processes.n_here


def _check_placement(config: Any) -> None:
    """Refuse what names no GPU, and say that the CPU is used where a GPU was asked for, here or by a checkpoint."""
    gpu = str(config.external_config_dict.get("gpu_id", ""))
    if not all(part.strip().isdigit() for part in gpu.split(",") if gpu):
        raise InputError(f"gpu_id={gpu!r} must be numbers of GPUs, such as 0 or 0,1.")
    asked = config["use_gpu"] and (gpu or config.external_config_dict.get("use_gpu"))
    if asked and config["device"].type == "cpu":
        _warn_once(f"torch finds no GPU {gpu or '0'} here: the CPU is used in spite of use_gpu=True.")


def _check_protocol(config: Any) -> None:
    """Refuse values of RecBole's own keys that RecBole accepts and that mean nothing, or not what they seem."""
    require_known("state", str(config["state"]).lower(), _LOG_LEVELS)
    seed = config["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"seed={seed!r} must be a whole number from 0 to 4294967295.")
    for key, what in (("eval_step", "epochs between validations; 0: none"), ("metric_decimal_place", "decimals")):
        if not isinstance(config[key], int) or isinstance(config[key], bool) or config[key] < 0:
            raise InputError(f"{key}={config[key]!r} must be a whole number of at least 0 ({what}).")
    if config["metric_decimal_place"] > _MOST_DECIMALS:
        raise InputError(f"metric_decimal_place={config['metric_decimal_place']} must be at most {_MOST_DECIMALS}.")
    if config.external_config_dict.get("eval_step") == 0:
        _warn_once("eval_step=0: nothing is validated, so training never stops early and its last weights count.")
    if not all(isinstance(k, int) and not isinstance(k, bool) and k > 0 for k in config["topk"]):
        raise InputError(f"topk={config['topk']!r} must be whole numbers of at least 1, such as [5, 10].")
    clip = config["clip_grad_norm"]
    if clip is not None and not _is_clipping(clip):
        raise InputError(
            f"clip_grad_norm={clip!r} must be a dictionary such as {{max_norm: 1.0}}, of numbers above 0, or empty."
        )


def _check_split_settings(config: Any) -> None:
    """Refuse keys of eval_args that nothing reads, and an order that models of sequences do not have."""
    given = config.external_config_dict.get("eval_args") or {}
    for key in given:
        require_known("key of eval_args", key, ("split", "order", "group_by", "mode"))
    group_by = config["eval_args"]["group_by"]
    if group_by not in (None, "none", "user"):
        raise InputError(f"eval_args.group_by={group_by!r} must be user or none.")
    order = config["eval_args"]["order"]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and order != "TO":
        raise InputError(
            f"eval_args.order={order!r}: {config.model} learns from interactions in the order of time; name "
            "`order: TO`, also where only other parts of eval_args are to change, as it replaces the default whole."
        )
    check_time_split(config)
    check_whole_data(config)


def _is_clipping(clip: Any) -> bool:
    """Say whether `clip` is what torch's `clip_grad_norm_` takes; with a norm below 0 it would turn gradients round."""
    return (
        isinstance(clip, dict)
        and "max_norm" in clip
        and clip.keys() <= {"max_norm", "norm_type"}
        and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 for value in clip.values()
        )
    )


def _check_files(config: Any) -> None:
    """Refuse what RecBole would run or pickle."""
    if config["save_dataset"] or config["save_dataloaders"]:
        raise InputError("recbole_sid rebuilds datasets instead of pickling them: leave out save_dataset/dataloaders.")
    teacher = str(config.final_config_dict.get("teacher") or "")
    if teacher and not teacher.isidentifier():  # kd_dagfm.py, `__init__`: runs it through `eval`
        raise InputError(f"teacher={teacher!r} must be the name of a network, such as CrossNet.")
    for file in config.pretrained_files().values():
        check_tensor_file(file)
    embeddings = Path(config["data_path"]) / "item_emb.npy"  # ldiffrec.py, `__init__`: reads it with pickle
    if config.model == "LDiffRec" and embeddings.is_file():
        check_array_file(embeddings)


def _check_filters(config: Any) -> None:
    """Refuse filters that are no intervals."""
    intervals = {key: config[key] for key in ("user_inter_num_interval", "item_inter_num_interval")}
    by_value = config["val_interval"] or {}
    if not isinstance(by_value, dict):
        raise InputError(f"val_interval={by_value!r} must name fields, such as {{rating: '[3,inf)'}}.")
    lists = {field for field, value in by_value.items() if isinstance(value, (list, tuple))}  # of tokens
    intervals |= {f"val_interval of {field}": value for field, value in by_value.items() if field not in lists}
    for key, value in intervals.items():
        if value is not None and not all(_is_interval(part) for part in str(value).split(";")):
            raise InputError(f"{key}={value!r} must be an interval such as [5,inf) or (0,1];[3,4].")


@lru_cache
def _warn_once(message: str) -> None:
    getLogger().warning(message)


def _is_interval(text: str) -> bool:
    """Say whether `text` is an interval, not an empty one, that RecBole's filters understand, such as ``[5,inf)``."""
    found = re.fullmatch(r"\s*[\[(]\s*([^,\s]+)\s*,\s*([^,\s]+)\s*[\])]\s*", text)
    try:
        return found is not None and float(found[1]) <= float(found[2])
    except ValueError:
        return False


def _require_wandb() -> None:
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise InputError("log_wandb needs the package wandb: `pip install wandb`, or leave log_wandb out.") from error
