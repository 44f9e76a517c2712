"""The split by time, ``eval_args.split: {TS: [t1, t2]}``: two moments that are the same for all users.

RecBole's own TS takes three shares and keeps its meaning; it has none for two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from recbole.utils import ModelType

from recbole_sid import compat  # noqa: F401 - patches RecBole
from recbole_sid.errors import InputError

_SHARES = 3
_KINDS = (ModelType.SEQUENTIAL, ModelType.GENERAL, ModelType.TRADITIONAL)
_EXAMPLE = "eval_args: {split: {TS: [0.8, 0.9]}}"


class Moments(NamedTuple):
    """Where training ends and where validation ends.

    Attributes:
        first, second: in the unit of the file's times, or, if both lie between 0 and 1, quantiles of all times.
    """

    first: float
    second: float

    @property
    def are_quantiles(self) -> bool:
        """Whether they are shares of the interactions and not times, which may lie before 1970."""
        return self.first > -1 and self.second <= 1


def moments_of(split: Any) -> Moments | None:
    """Return the moments of a split by time; None for every other ``eval_args.split``.

    Raises:
        InputError: if TS is given and holds neither two possible moments nor three shares.
    """
    if not isinstance(split, Mapping) or "TS" not in split:
        return None
    if len(split) > 1:
        raise InputError(f"eval_args.split={dict(split)!r} names several ways to split: leave one.")
    given = split["TS"]
    if isinstance(given, list) and len(given) == _SHARES:
        return None
    possible = isinstance(given, list) and len(given) == 2 and all(map(_is_number, given))
    if not possible:
        raise InputError(
            f"eval_args.split={dict(split)!r} is not possible: TS takes two moments, in the unit of the file's times "
            "or as quantiles between 0 and 1, such as [0.8, 0.9] (or, as in RecBole, three shares)."
        )
    moments = Moments(float(given[0]), float(given[1]))
    if moments.first >= moments.second:
        raise InputError(
            f"eval_args.split={dict(split)!r}: training ends at the first moment and validation at the second, which "
            "must be later: turn them round, or move them apart."
        )
    if moments.are_quantiles and not (moments.first > 0 and moments.second < 1):
        raise InputError(f"eval_args.split={dict(split)!r}: quantiles lie between 0 and 1, such as [0.8, 0.9].")
    if 0 < moments.first < 1 and not moments.are_quantiles:
        raise InputError(
            f"eval_args.split={dict(split)!r}: {given[0]} is a quantile and {given[1]} a time: give two of a kind."
        )
    return moments


def with_time_defaults(eval_args: Any) -> Any:
    """Return ``eval_args`` with what a split by time implies where it is not given; other splits as they are."""
    if not isinstance(eval_args, Mapping) or moments_of(eval_args.get("split")) is None:
        return eval_args
    return {"order": "TO", "group_by": "none", **eval_args}


def check_time_split(config: Any) -> None:
    """Refuse what contradicts a split by time; a Config of any other split passes.

    Raises:
        InputError: for the first contradiction.
    """
    eval_args = config["eval_args"]
    if moments_of(eval_args["split"]) is None:
        return
    if eval_args["order"] != "TO":
        raise InputError(
            f"eval_args.order={eval_args['order']!r} contradicts a split by time, which is in the order of time: leave "
            "it out, or name TO."
        )
    if eval_args["group_by"] == "user":
        raise InputError(
            "eval_args.group_by='user' contradicts a split by time, whose moments are the same for all users: leave it "
            "out, or name none."
        )
    if config["benchmark_filename"]:
        raise InputError("Files that are split already are not split by time: leave out benchmark_filename or TS.")
    if config["MODEL_TYPE"] not in _KINDS:
        raise InputError(
            f"{config.model} is neither a sequential nor a general model, and only these are split by time: choose "
            "another split or model."
        )
    ranked = config["MODEL_TYPE"] == ModelType.SEQUENTIAL or set(eval_args["mode"].values()) == {"full"}
    if not ranked:
        raise InputError(
            f"{config.model} is evaluated for each target of a split by time, which needs full ranking: write mode: "
            f"full, or leave it out, as in {_EXAMPLE}."
        )
    if config["train_neg_sample_args"]["distribution"] == "popularity":
        raise InputError(
            "RecBole draws negatives by popularity in all of the data, also after the moment at which training ends: "
            "with a split by time name distribution: uniform in train_neg_sample_args."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
