"""What a finished run wrote is read whole, or refused in a sentence that names what it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_sid.errors import InputError
from recbole_sid.evaluation.results import read_result
from recbole_sid.generalization.members import checkpoint_file
from recbole_sid.generalization.runs import find_runs

_EVALUATION = {"settings": {}, "metrics": {"ndcg@10": 0.5}, "per_user": "per_user.parquet", "users_per_s": 1.0}
_RESULT = {
    "name": "TIGER",
    "model": "TIGER",
    "dataset": "tiny",
    "seed": 1,
    "settings": {},
    "data": "0123",
    "model_file": "saved/a.pth",
    "version": "0.1.0",
    "evaluations": {"": _EVALUATION},
}


def _write(text: Any) -> Path:
    file = Path("run/result.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return file


def test_a_whole_result_is_read() -> None:
    assert read_result(_write(_RESULT)) == _RESULT
    assert [run.per_user for run in find_runs(["run"])] == [Path("run/per_user.parquet")]
    assert checkpoint_file("run") == "saved/a.pth"


@pytest.mark.parametrize("key", _RESULT)
def test_a_result_that_lacks_something_is_refused(key: str) -> None:
    file = _write({name: value for name, value in _RESULT.items() if name != key})
    for read in (read_result, lambda file: find_runs([file.parent])):
        with pytest.raises(InputError, match=f"no result of a run \\(its {key} is missing"):
            read(file)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({**_EVALUATION, "metrics": None}, "its metrics of the evaluation '' is missing"),
        ({"settings": {}, "per_user": "a.parquet"}, "its metrics of the evaluation '' is missing"),
        ({**_EVALUATION, "metrics": {"ndcg@10": "high"}}, "a metric is no number"),
        ({**_EVALUATION, "per_user": "../other/per_user.parquet"}, "of another folder"),
        ({**_EVALUATION, "per_user": "/tmp/per_user.parquet"}, "of another folder"),
        (3, "its settings of the evaluation '' is missing"),
    ],
)
def test_an_evaluation_that_lacks_something_is_refused(evaluation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_result(_write({**_RESULT, "evaluations": {"": evaluation}}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": "\\ud800"}', "[]", "{", '{"evaluations": {}}'])
def test_what_is_no_result_is_refused(text: str) -> None:
    file = _write(text)
    for read in (read_result, lambda file: checkpoint_file(str(file.parent))):
        with pytest.raises(InputError):
            read(file)
