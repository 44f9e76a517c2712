"""`compare`, `tune`, `tokenize`, `analyze` as functions: what they return is what the commands write."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL

import recbole_sid
from recbole_sid import analyze, compare, tokenize, tune
from recbole_sid.cli import main
from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError

POP = {"use_gpu": False, "show_progress": False, "state": "WARNING", "eval_batch_size": 64}


def test_the_package_gives_functions_and_not_modules_of_their_names() -> None:
    code = "import recbole_sid.tuning.search, recbole_sid; from recbole_sid import tune; print(callable(tune))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert {"analyze", "compare", "tokenize", "tune"} <= set(dir(recbole_sid))
    with pytest.raises(AttributeError, match="no attribute 'compair'"):
        recbole_sid.compair  # noqa: B018 # type: ignore[attr-defined]


def test_type_checkers_know_all_that_the_package_has() -> None:
    stub = ast.parse(Path(recbole_sid.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    functions = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    values = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert functions | values == set(recbole_sid.__all__)
    assert all(callable(getattr(recbole_sid, name)) for name in functions)


def test_compare_and_analyze_give_what_the_commands_write(data_path: Path) -> None:
    told: list[str] = []
    settings = {**POP, "data_path": str(data_path)}
    models = {"Pop": None, "memory": {"model": "TransitionMemory", "pseudo_counts": 3}}
    found = compare(models, "tiny", config_dict=settings, output="out", report=told.append)
    assert found.table["model"].tolist() == ["Pop", "memory"]
    assert found.tests["model"].tolist() == ["memory"]
    assert told[0].startswith("[1/2] Pop")
    written = json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))
    pd.testing.assert_frame_equal(pd.DataFrame(written["rows"]), found.table)
    assert "<table" in found._repr_html_()
    assert "memory" in repr(found)
    again = compare(models, "tiny", config_dict=settings, output="out", report=told.append)
    pd.testing.assert_frame_equal(again.table, found.table)
    assert sum("reused" in line for line in told) == 2

    labelled = analyze("out/runs", hops=2, output="found")
    assert main(["analyze", "--runs=out/runs", "--hops=2", "--output=by_command", "--json=analysis.json"]) == 0
    written = json.loads(Path("analysis.json").read_text(encoding="utf-8"))
    assert labelled.table.to_dict("records") == written["rows"]
    assert set(labelled.categories["model"]) == {"Pop", "memory"}
    assert len(labelled.labels) == labelled.details["instances"] == 40
    assert Path("found/analysis.md").read_text() == Path("by_command/analysis.md").read_text()
    only = analyze(dataset="tiny", hops=2, config_dict={"data_path": str(data_path)})
    assert only.categories.empty
    assert not only.files
    pd.testing.assert_frame_equal(only.table, labelled.table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["Pop"]}, "compare needs models and a dataset"),
        ({"models": ["Pop"], "plan": "plan.yaml"}, "models is part of the plan"),
        ({"models": "Pop", "dataset": "tiny", "seeds": 0}, "seeds=0 must be how many"),
        ({"models": "Pop", "dataset": "tiny", "seeds": True}, "seeds=True must be how many"),
    ],
)
def test_wrong_calls_are_refused_in_a_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(**arguments)


def test_tokenize_gives_the_codes_and_their_quality(data_path: Path) -> None:
    keys = ("codebook_sizes", "collaborative_dim", "use_gpu", "show_progress", "state")
    settings = {**{key: SMALL[key] for key in keys}, "data_path": str(data_path)}
    found = tokenize("tiny", config_dict=settings, output="ids.npz", report="quality")
    read = SemanticIDs.load("ids.npz")
    assert np.array_equal(found.semantic_ids.codes, read.codes)
    assert found.table["size"].tolist() == list(read.codebook_sizes)
    assert found.table["used"].tolist() == [len(np.unique(codes)) for codes in read.codes.T]
    assert {"neighbourhood", "co_occurrence"} <= set(found.report)
    assert Path("quality/report.md").is_file()
    plain = tokenize("tiny", config_dict=settings)  # where a run of these settings finds them
    assert plain.path.is_file()
    assert plain.path.parent.name == "semantic_ids"
    assert "neighbourhood" not in plain.report
    with pytest.raises(InputError, match="names ready-made ones"):
        tokenize("tiny", config_dict={**settings, "semantic_ids_path": "ids.npz"})


@pytest.mark.ray
def test_tune_gives_the_trials_and_the_winner(data_path: Path) -> None:
    settings = {**POP, "data_path": str(data_path), "epochs": 1}
    space = {"pseudo_counts": {"choice": [0.1, 30.0]}, "hops": 2, "hop_decay": 0.5, "window": 2, "window_decay": 0.5}
    found = tune("TransitionMemory", "tiny", space=space, searcher="grid", config_dict=settings, report=lambda _: None)
    assert sorted(found.table["pseudo_counts"]) == [0.1, 30.0]
    assert found.table["score"].is_monotonic_decreasing
    assert found.best["pseudo_counts"] == found.table["pseudo_counts"][0]
    assert found.outcome.result["best_valid_score"] == pytest.approx(found.table["score"][0])
    assert set(found.test) == set(found.outcome.result["test_result"])
    assert len(found.curves) == 2


def test_wrong_searches_are_refused_in_a_sentence(settings: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"option of tune='sampels' \(did you mean 'samples'\?\)"):
        tune("TIGER", "tiny", sampels=3)
    with pytest.raises(InputError, match="The search space is empty"):
        tune("TIGER", "tiny", space={"epochs": 3}, config_dict=settings("TIGER"))


def test_a_script_without_a_guard_does_not_start_itself_again(data_path: Path) -> None:
    """Trainings and scoring run in processes that are spawned; these must not run the caller's script."""
    Path("script.py").write_text(
        "from pathlib import Path\n"
        "from recbole_sid import compare\n"
        "Path('started').open('a').write('x')\n"
        f"found = compare(['Pop'], 'tiny', config_dict={ {**POP, 'data_path': str(data_path)}!r}, output='out')\n"
        "print(found.table['model'].tolist(), found.failures)\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "['Pop'] []"
    assert Path("started").read_text() == "x"
