"""Reading what a finished run wrote, complete or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError
from recbole_sid.util.reading import read_json

_OF_RUN: dict[str, type] = {
    "name": str,
    "model": str,
    "dataset": str,
    "seed": int,
    "settings": dict,
    "data": str,
    "model_file": str,
    "version": str,
    "evaluations": dict,
}
_OF_EVALUATION: dict[str, type] = {"settings": dict, "metrics": dict, "per_user": str}


def read_result(file: Path) -> dict[str, Any]:
    """Return the ``result.json`` of a run, as `recbole_sid.comparison.job.run_job` returns it.

    Raises:
        InputError: if it is damaged, or lacks something that readers need; names the first.
    """
    result = read_json(file)
    _require(result, _OF_RUN, file, "")
    if not result["evaluations"]:
        raise InputError(f"'{file}' is no result of a run (it has no evaluation): delete it or run again.")
    for name, evaluation in result["evaluations"].items():
        _require(evaluation, _OF_EVALUATION, file, f" of the evaluation '{name}'")
        if not set(map(type, evaluation["metrics"].values())) <= {int, float}:
            raise InputError(f"'{file}' is no result of a run (a metric is no number): delete it or run again.")
        if Path(evaluation["per_user"]).name != evaluation["per_user"]:
            raise InputError(f"'{file}' names a file of another folder ('{evaluation['per_user']}'): run again.")
    return result


def _require(content: Any, kinds: dict[str, type], file: Path, of: str) -> None:
    for key, kind in kinds.items():
        if not isinstance(content, dict) or type(content.get(key)) is not kind:
            raise InputError(
                f"'{file}' is no result of a run (its {key}{of} is missing or wrong): delete it or run again."
            )
