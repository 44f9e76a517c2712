"""What a finished run wrote is read whole, or refused in a sentence that names what it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import (
    KeptEvaluation,
    RunResult,
    find_runs,
    read_lists,
    read_per_user,
    read_result,
    write_per_user,
    write_result,
)
from recbole_sid.generalization.members import checkpoint_file

# As version 0.1.0 wrote it.
_EVALUATION: KeptEvaluation = {
    "settings": {},
    "metrics": {"ndcg@10": 0.5},
    "users_per_s": 1.0,
    "per_user": "per_user.parquet",
}
_RESULT: RunResult = {
    "name": "TIGER",
    "model": "TIGER",
    "dataset": "tiny",
    "seed": 1,
    "fingerprint": "1f2e3d4c",
    "settings": {"learning_rate": 0.001, "topk": [10]},
    "data": "01234567",
    "model_file": "saved/a.pth",
    "teacher_file": None,
    "parameters": 10,
    "train_s": 2,
    "best_valid": {"ndcg@10": 0.25},
    "peak_memory_mb": None,
    "device": "cpu",
    "version": "0.1.0",
    "evaluations": {"": _EVALUATION},
}


def _write(text: Any) -> Path:
    folder = Path("run")
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return folder


def test_a_whole_result_is_read() -> None:
    assert read_result(_write(_RESULT)) == _RESULT
    assert [run.per_user for run in find_runs(["run"])] == [Path("run/per_user.parquet")]
    assert checkpoint_file("run") == "saved/a.pth"
    write_result("again", _RESULT)
    assert Path("again/result.json").read_text(encoding="utf-8") == json.dumps(_RESULT, indent=2) + "\n"
    assert read_result("again") == _RESULT
    further = {**_RESULT, "from_later": 1}
    assert read_result(_write(further)) == further


def test_evaluations_are_named_by_their_suffix() -> None:
    evaluations = {"": _EVALUATION, "exact": {**_EVALUATION, "per_user": "per_user-exact.parquet"}}
    _write({**_RESULT, "evaluations": evaluations})
    found = {run.name: run.per_user for run in find_runs(["run"])}
    assert found == {"TIGER": Path("run/per_user.parquet"), "TIGER-exact": Path("run/per_user-exact.parquet")}


@pytest.mark.parametrize("key", _RESULT)
def test_a_result_that_lacks_something_is_refused(key: str) -> None:
    folder = _write({name: value for name, value in _RESULT.items() if name != key})
    for read in (read_result, lambda folder: find_runs([folder]), lambda folder: checkpoint_file(str(folder))):
        with pytest.raises(InputError, match=f"no result of a run \\(its {key} is missing"):
            read(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", True),
        ("seed", 1.5),
        ("parameters", "many"),
        ("train_s", None),
        ("peak_memory_mb", "much"),
        ("teacher_file", 3),
        ("best_valid", {"ndcg@10": [1]}),
        ("settings", []),
        ("evaluations", []),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"its {key} is missing or wrong"):
        read_result(_write({**_RESULT, key: value}))


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({**_EVALUATION, "metrics": None}, "its metrics of the evaluation '' is missing"),
        ({"settings": {}, "per_user": "a.parquet"}, "its metrics of the evaluation '' is missing"),
        ({**_EVALUATION, "metrics": {"ndcg@10": "high"}}, "its metrics of the evaluation '' is missing or wrong"),
        ({**_EVALUATION, "metrics": {"ndcg@10": True}}, "its metrics of the evaluation '' is missing or wrong"),
        ({**_EVALUATION, "per_user": "../other/per_user.parquet"}, "of another folder"),
        ({**_EVALUATION, "per_user": "/elsewhere/per_user.parquet"}, "of another folder"),
        (3, "its settings of the evaluation '' is missing"),
    ],
)
def test_an_evaluation_that_lacks_something_is_refused(evaluation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_result(_write({**_RESULT, "evaluations": {"": evaluation}}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": "\\ud800"}', "[]", "{", '{"evaluations": {}}'])
def test_what_is_no_result_is_refused(text: str) -> None:
    folder = _write(text)
    for read in (read_result, lambda folder: checkpoint_file(str(folder))):
        with pytest.raises(InputError):
            read(folder)


_ANSWERS = {
    "user": ["u1", "u2", "u3"],
    "target": ["i1", "i2", "i3"],
    "rank": [1, 0, 2],
    "items": [["i1", "i2", "i3"], [], ["i9", "i3"]],
    "scores": [[3.0, 2.0, 1.0], [], [0.5, 0.25]],
}


def test_the_first_items_of_every_list() -> None:
    write_per_user(pd.DataFrame(_ANSWERS), "per_user.parquet")
    places, tokens = read_lists("per_user.parquet", 2)
    found = [[tokens[place] if place >= 0 else None for place in row] for row in places.tolist()]
    assert found == [["i1", "i2"], [None, None], ["i9", "i3"]]
    assert read_per_user("per_user.parquet")["items"].tolist() == _ANSWERS["items"]


def test_lists_of_users_who_got_nothing() -> None:
    table = pa.table({"items": pa.array([[], []], pa.list_(pa.string()))})
    parquet.write_table(table, "per_user.parquet")
    places, tokens = read_lists("per_user.parquet", 2)
    assert places.tolist() == [[-1, -1], [-1, -1]]
    assert len(tokens) == 0


@pytest.mark.parametrize(
    ("column", "values"),
    [("user", [1, 2, 3]), ("rank", ["1", "0", "2"]), ("items", ["i1", "i2", "i3"]), ("items", [[1], [2], [3]])],
)
def test_results_per_user_of_other_types_are_refused(column: str, values: list[Any]) -> None:
    write_per_user(pd.DataFrame({**_ANSWERS, column: values}), "per_user.parquet")
    reads: list[Any] = [lambda path: read_per_user(path, (column,)), read_per_user]
    for read in [*reads, lambda path: read_lists(path, 2)] if column == "items" else reads:
        with pytest.raises(InputError, match=f"does not hold results per user \\(its column '{column}' is of type"):
            read("per_user.parquet")
