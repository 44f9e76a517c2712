"""Finished runs on disk: ``result.json`` and the results per user beside it, written and read in one place.

What is read was declared as what is written, and is whole or refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from recbole_sid.errors import InputError, first_line
from recbole_sid.util.files import replacing, write_json
from recbole_sid.util.item_tokens import token_array
from recbole_sid.util.reading import read_json, read_parquet
from recbole_sid.util.typed_json import first_fault

RESULT = "result.json"


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


# The columns of results per user, and which types they have.
_PER_USER: dict[str, Callable[[pa.DataType], bool]] = {
    "user": _is_text,
    "target": _is_text,
    "rank": pa.types.is_integer,
    "items": lambda kind: pa.types.is_list(kind) and _is_text(kind.value_type),
    "scores": lambda kind: pa.types.is_list(kind) and pa.types.is_floating(kind.value_type),
}


class Evaluation(TypedDict):
    """What one evaluation of a trained model found.

    Attributes:
        settings: attributes of the model that were changed for it.
        metrics: name -> value on the test split.
        users_per_s: of the evaluation.
    """

    settings: dict[str, Any]
    metrics: dict[str, float]
    users_per_s: float


class KeptEvaluation(Evaluation):
    """An evaluation whose results per user are kept in the file `per_user` (a name) beside the result."""

    per_user: str


class _Noted(TypedDict, total=False):
    """What runs of 0.4 did not keep."""

    curve: list[dict[str, Any]]
    semantic_ids: dict[str, Any] | None
    machine: dict[str, Any]


class RunResult(_Noted):
    """What ``result.json`` holds of a run; JSON types only.

    Attributes:
        name: of its entry in the plan.
        model, dataset: names.
        seed: of everything random.
        fingerprint: of its configuration.
        settings: its configuration.
        data: hash of all files that it read its data from.
        model_file: its checkpoint.
        teacher_file: its teacher's checkpoint; None without a teacher.
        parameters: how many weights the model has.
        train_s: seconds of training and validation.
        best_valid: name -> value on the validation split.
        peak_memory_mb: of the process, or of the GPU; None if unknown.
        device: as torch calls it.
        version: of this package.
        evaluations: suffix of the name -> what was found.
        curve: a row for each epoch: stage, epoch (from 1), loss, and the metrics of validation where there was one.
        semantic_ids: their quality (`recbole_sid.semantic_ids.report.sid_report`); None without.
        machine: `recbole_sid.util.machine.machine`.
    """

    name: str
    model: str
    dataset: str
    seed: int
    fingerprint: str
    settings: dict[str, Any]
    data: str
    model_file: str
    teacher_file: str | None
    parameters: int
    train_s: float
    best_valid: dict[str, float]
    peak_memory_mb: float | None
    device: str
    version: str
    evaluations: dict[str, KeptEvaluation]


class FinishedRun(NamedTuple):
    """One evaluation of one trained model.

    Attributes:
        name: of the model, with the evaluation's suffix.
        result: what its ``result.json`` holds.
        per_user: the Parquet file of its results per user.
    """

    name: str
    result: RunResult
    per_user: Path


def write_result(folder: str | os.PathLike[str], result: RunResult) -> None:
    """Write ``result.json`` into the folder of a run."""
    write_json(Path(folder) / RESULT, result)


def read_result(folder: str | os.PathLike[str]) -> RunResult:
    """Return the ``result.json`` in the folder of a run.

    Raises:
        InputError: if it is missing or damaged, or lacks something that `RunResult` declares; names the first.
    """
    file = Path(folder) / RESULT
    result = read_json(file)
    _require(result, RunResult, file, "")
    if not result["evaluations"]:
        raise InputError(f"'{file}' is no result of a run (it has no evaluation): delete it or run again.")
    for name, evaluation in result["evaluations"].items():
        _require(evaluation, KeptEvaluation, file, f" of the evaluation '{name}'")
        if Path(evaluation["per_user"]).name != evaluation["per_user"]:
            raise InputError(f"'{file}' names a file of another folder ('{evaluation['per_user']}'): run again.")
    return result


def _require(content: Any, declared: type, file: Path, of: str) -> None:
    """Raise InputError unless `content` is what a TypedDict declares."""
    wrong = first_fault(content, declared)
    if wrong is not None:
        raise InputError(
            f"'{file}' is no result of a run (its {wrong}{of} is missing or wrong): delete it or run again."
        )


def per_user_file(evaluation: str) -> str:
    """Return the name of the file with an evaluation's results per user."""
    return f"per_user{'-' if evaluation else ''}{evaluation}.parquet"


def find_runs(folders: Sequence[str | os.PathLike[str]]) -> list[FinishedRun]:
    """Return all runs in `folders` and below, by path.

    Raises:
        InputError: if a folder holds none, a result is damaged, or they are of more than one dataset.
    """
    runs: list[FinishedRun] = []
    for folder in folders:
        files = sorted(Path(folder).rglob(RESULT))
        if not files:
            raise InputError(f"'{folder}' holds no finished run: no {RESULT} as `recbole-sid compare` writes it.")
        for file in files:
            runs += runs_of(file.parent, read_result(file.parent))
    found = {run.result["dataset"]: run for run in runs}
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise InputError(
            f"'{first.per_user.parent}' is of dataset {first.result['dataset']} but '{second.per_user.parent}' of "
            f"{second.result['dataset']}: analyze runs of one dataset at a time."
        )
    return runs


def runs_of(folder: Path, result: RunResult) -> list[FinishedRun]:
    """Return the evaluations of the run whose folder and result these are."""
    return [
        FinishedRun(f"{result['name']}-{suffix}" if suffix else result["name"], result, folder / found["per_user"])
        for suffix, found in result["evaluations"].items()
    ]


def write_per_user(results: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write results per user, as `recbole_sid.evaluation.per_user.per_user_results` gives them, as Parquet."""
    with replacing(path) as temporary:
        table = pa.Table.from_pandas(results, preserve_index=False)
        parquet.write_table(table.replace_schema_metadata(None), temporary)  # pandas cannot read its own notes on lists


def read_per_user(path: str | os.PathLike[str], columns: Sequence[str] = tuple(_PER_USER)) -> pd.DataFrame:
    """Read what `write_per_user` wrote, or some of its columns.

    Raises:
        InputError: if the file is missing, damaged, or of something else.
    """
    return _read(path, columns).to_pandas(types_mapper=list_types, ignore_metadata=True)


def instance_index(instances: pd.DataFrame) -> pd.MultiIndex:
    """Return what tells apart the rows of a split, in its order: user, target, and which of the same two it is, from 0,
    as a user may have an item several times.

    Args:
        instances: with the columns user and target.
    """
    keys = instances[["user", "target"]].reset_index(drop=True)
    return pd.MultiIndex.from_frame(keys.assign(time=keys.groupby(["user", "target"]).cumcount()))


def read_lists(path: str | os.PathLike[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `k` items that each user was given, int64 [n, k], as places in the second, str [m]; -1 where
    there are fewer.

    Raises:
        InputError: as `read_per_user`.
    """
    lists = _read(path, ("items",)).column("items").combine_chunks()
    offsets, tokens = lists.offsets.to_numpy(), lists.values.dictionary_encode()
    items = tokens.indices.to_numpy()
    where = offsets[:-1, None] + np.arange(k)
    inside = where < offsets[1:, None]
    places = np.where(inside, items[np.where(inside, where, 0)], -1) if len(items) else np.full(where.shape, -1)
    return places, token_array(tokens.dictionary.to_pylist(), f"'{path}'")


def list_types(kind: pa.DataType) -> Any:
    """Keep lists as Arrow's, where pandas would make an object of each."""
    return pd.ArrowDtype(kind) if pa.types.is_list(kind) else None


def _read(path: str | os.PathLike[str], columns: Sequence[str]) -> pa.Table:
    try:
        table = read_parquet(path, columns)
    except FileNotFoundError as error:
        raise InputError(f"There are no results per user at '{path}'.") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"'{path}' does not hold results per user ({first_line(error)}).") from error
    for name in columns:
        if not _PER_USER[name](table.schema.field(name).type):
            kind = table.schema.field(name).type
            raise InputError(f"'{path}' does not hold results per user (its column '{name}' is of type {kind}).")
    return table
