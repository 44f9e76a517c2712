"""Choosing a few numbers on validation: by which metric, and one group of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_sid import compat  # noqa: F401 - patches RecBole
from recbole_sid.errors import InputError

_SWEEPS = 3

Values = TypeVar("Values", bound=Any)


def rank_metric(config: Any, valid_data: Any) -> tuple[str, int]:
    """Return the name and the cut-off of ``valid_metric``, such as ndcg and 10.

    Raises:
        InputError: if it is not one of the rank of the target alone, or `valid_data` is not ranked in full.
    """
    if not isinstance(valid_data, FullSortEvalDataLoader):
        raise InputError(
            f"{config['model']} is tuned by ranking all items: set eval_args.mode to full, for validation at "
            "least ({valid: full, test: uni100})."
        )
    metric, _, k = config["valid_metric"].lower().partition("@")
    if metric not in ("recall", "ndcg"):
        raise InputError(f"{config['model']} is tuned on Recall or NDCG, not on valid_metric={config['valid_metric']}.")
    return metric, int(k)


def best_by_groups(
    start: Values, groups: Sequence[Sequence[Mapping[str, Any]]], value_of: Callable[[Values], float]
) -> Values:
    """Return the values (a named tuple) that varying one group at a time finds the best, the first of equals.

    Args:
        start: to begin with.
        groups: for each group what is tried of it: field -> value.
        value_of: what is to be large.
    """
    chosen = start
    for _ in range(_SWEEPS):
        before = chosen
        for tried in groups:
            chosen = max((chosen._replace(**each) for each in tried), key=value_of)
        if chosen == before:
            break
    return chosen


def varied(names: Sequence[str], tried: Sequence[Sequence[Any]], fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a group for `best_by_groups`: values of the fields `names`; those that are fixed keep theirs."""
    kept = {name: fixed[name] for name in names if name in fixed}
    return [{**dict(zip(names, values, strict=True)), **kept} for values in tried]


def shown(values: Mapping[str, float]) -> str:
    """Return values as a log shows them."""
    return ", ".join(f"{name}={value:g}" for name, value in values.items())
