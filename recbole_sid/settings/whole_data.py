"""Training on everything, ``eval_args.split: {LS: none}``: nothing is held out, for a model that goes into use."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

from recbole.utils import ModelType

from recbole_sid import compat  # noqa: F401 - patches RecBole
from recbole_sid.capabilities import capabilities_of
from recbole_sid.errors import InputError, require_known

_LEFT_OUT = ("valid_and_test", "valid_only", "test_only", "none")
_KINDS = (ModelType.SEQUENTIAL, ModelType.GENERAL, ModelType.TRADITIONAL)


def trains_on_all(split: Any) -> bool:
    """Say whether ``eval_args.split`` leaves nothing for validation and test.

    Raises:
        InputError: for LS with another value than RecBole's or none.
    """
    if not isinstance(split, Mapping) or "LS" not in split:
        return False
    require_known("eval_args.split LS", split["LS"], _LEFT_OUT)
    return bool(split["LS"] == "none")


def with_whole_data_defaults(eval_args: Any) -> Any:
    """Return ``eval_args`` with what training on everything implies where it is not given; others as they are."""
    if not isinstance(eval_args, Mapping) or not trains_on_all(eval_args.get("split")):
        return eval_args
    return {"order": "TO", "group_by": "user", **eval_args}


def check_whole_data(config: Any) -> None:
    """Refuse what training on everything cannot do; a Config of any other split passes.

    Raises:
        InputError: for the first contradiction, and if a number would have to be chosen on validation.
    """
    eval_args = config["eval_args"]
    if not trains_on_all(eval_args["split"]):
        return
    if eval_args["order"] != "TO" or config["benchmark_filename"]:
        raise InputError(
            "Training on everything (eval_args.split: {LS: none}) takes the interactions of one file in the order of "
            "time: leave out benchmark_filename and eval_args.order, or name TO."
        )
    if config["MODEL_TYPE"] not in _KINDS:
        raise InputError(
            f"{config.model} is neither a sequential nor a general model, and only these are trained on everything: "
            "choose another split or model."
        )
    unset = capabilities_of(config.model_class).left_to_validation(config)
    if unset:
        raise InputError(
            f"eval_args.split={dict(eval_args['split'])!r} leaves no validation part on which {config.model} could "
            f"choose {', '.join(unset)}: set each to what the run chose by which these settings were selected (its log "
            "says so, and its checkpoint under `chosen`)."
        )


def warn_if_seen(path: Any, recorded: Mapping[str, Any], config: Any) -> None:
    """Say so where a run evaluates on what a model at `path` with the `recorded` settings may have been trained on."""
    split = (recorded.get("eval_args") or {}).get("split")
    if trains_on_all(split) and not trains_on_all(config["eval_args"]["split"]):
        getLogger().warning(
            f"'{path}' was trained on all interactions of its data ({{LS: none}}): where they are the same, it has "
            "seen what is evaluated on here, and the metrics mean nothing."
        )
