"""Tables of finished runs against loops over the same results; the command."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SETTINGS, SMALL, random_sequences, table_cells, write_dataset
from test_analysis import literal_label

from recbole_sid.cli import main
from recbole_sid.comparison.job import make_jobs, run_job
from recbole_sid.comparison.plan import make_plan
from recbole_sid.evaluation.runs import find_runs, read_per_user, write_per_user
from recbole_sid.generalization import indicator
from recbole_sid.generalization.curves import dilution, support
from recbole_sid.generalization.indicator import quantile_bins
from recbole_sid.generalization.transitions import ragged
from recbole_sid.quick_start import load_data_and_model
from recbole_sid.util.numbers import bins_of

SASREC = {"n_layers": 1, "hidden_size": 16, "inner_size": 16, "n_heads": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a SASRec and a TIGER, with two seeds each, on the tiny dataset."""
    folder = tmp_path_factory.mktemp("analysis")
    data = write_dataset(folder / "data", random_sequences())
    plain = {key: value for key, value in SMALL.items() if key not in ("codebook_sizes", "collaborative_dim")}
    models = {"SASRec": {**plain, **SASREC}, "TIGER": {**SETTINGS["TIGER"], "evaluate": {"": {"constrained": True}}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, seed in enumerate((2020, 2021)):  # RecBole names a checkpoint after the second: a folder each
            common = {"data_path": str(data), "checkpoint_dir": str(folder / f"saved{number}")}
            settings = {name: {**own, **common} for name, own in models.items()}
            for job in make_jobs(make_plan("tiny", settings, [seed]), folder / "runs"):
                run_job(job)
    file = find_runs([folder / "runs"])[0].per_user
    write_per_user(read_per_user(file).iloc[::-1], file)  # rows may come in any order
    return folder / "runs"


def tables(runs: Path, *options: str) -> tuple[dict[str, Any], Path]:
    folder = Path("out")
    assert main(["analyze", f"--runs={runs}", f"--output={folder}", "--json=out.json", *options]) == 0
    return json.loads(Path("out.json").read_text()), folder


def literal_instances(runs: Path) -> dict[str, tuple[list[str], str]]:
    """History and target of each user, from the file; the training part is all but the last two."""
    whole: dict[str, list[str]] = {}
    for line in (runs.parent / "data" / "tiny" / "tiny.inter").read_text().splitlines()[1:]:
        user, item, _ = line.split("\t")
        whole.setdefault(user, []).append(item)
    return {user: (items[:-1], items[-1]) for user, items in whole.items()}


def test_categories_and_predictions_equal_loops_over_users(runs: Path) -> None:
    found, _ = tables(runs, "--hops=2")
    instances = literal_instances(runs)
    train: Any = [history[:-1] for history, _ in instances.values()]
    label = {user: literal_label(train, history, v, 2) for user, (history, v) in instances.items()}  # type: ignore[arg-type]
    ndcg: dict[str, dict[str, list[float]]] = {"SASRec": {}, "TIGER": {}}
    predicted: dict[str, Counter[str]] = {"SASRec": Counter(), "TIGER": Counter()}
    for run in find_runs([runs]):
        for row in read_per_user(run.per_user).to_dict("records"):
            gain = 1 / np.log2(row["rank"] + 1) if 1 <= row["rank"] <= 10 else 0.0
            ndcg[run.name].setdefault(row["user"], []).append(gain)
            history, target = instances[row["user"]]
            assert row["target"] == target
            for item in row["items"][:10]:
                predicted[run.name][literal_label(train, history, item, 2)["category"]] += 1  # type: ignore[arg-type]
    for row in found["categories"]:
        name, _, hop = row["category"].rpartition("_")
        users = [
            user
            for user, labels in label.items()
            if (labels[name] == int(hop) if name else labels["category"] == row["category"])
        ]
        assert row["count"] == len(users)
        values = [np.mean(ndcg[row["model"]][user]) for user in users]
        assert row["ndcg@10"] == (pytest.approx(np.mean(values)) if users else None)
        if len(users) > 1:
            half = 1.959964 * np.std(values, ddof=1) / np.sqrt(len(values))
            assert row["ndcg@10_high"] - row["ndcg@10"] == pytest.approx(half)
    for row in found["predicted"]:
        if "_" not in row["category"]:
            counts = predicted[row["model"]]
            assert row["share"] == pytest.approx(counts[row["category"]] / counts.total())
    assert {row["model"] for row in found["predicted"]} == {"SASRec", "TIGER"}


def test_indicator_bins_are_of_the_id_models_confidence(runs: Path) -> None:
    found, _ = tables(runs)
    run = next(run for run in find_runs([runs]) if run.name == "SASRec" and run.result["seed"] == 2020)
    _, model, _, _, _, test = load_data_and_model(run.result["model_file"])
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model.full_sort_predict(batch[0]).view(-1, model.n_items)[:, 1:] for batch in test])
    confidence = np.sort(scores.double().softmax(1).max(1).values.numpy())
    rows = found["indicator"]
    assert [row["count"] for row in rows] == [8] * 5
    for number, row in enumerate(rows):
        low, high = confidence[8 * number], confidence[8 * number + 7]
        assert row["bin"] == f"{low:.3f}-{high:.3f}"
    assert np.mean([row["memorization"] for row in rows]) == pytest.approx(found["rows"][0]["share"])
    overall = {row["model"]: 0.0 for row in found["categories"]}
    for row in found["categories"]:
        if row["category"] in ("memorization", "generalization", "uncategorized") and row["count"]:
            overall[row["model"]] += row["ndcg@10"] * row["share"]
    for model_name, mean in overall.items():
        assert np.mean([row[model_name] for row in rows]) == pytest.approx(mean)


@pytest.fixture(scope="module")
def runs_of_a_memory(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a TransitionMemory on the same data."""
    folder = tmp_path_factory.mktemp("memory")
    plain = {key: value for key, value in SMALL.items() if key not in ("codebook_sizes", "collaborative_dim")}
    own = {**plain, "data_path": str(runs.parent / "data"), "checkpoint_dir": str(folder / "saved")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for job in make_jobs(make_plan("tiny", {"TransitionMemory": own}, [2020]), folder / "runs"):
            run_job(job)
    return folder / "runs"


def test_a_memory_is_the_reference_of_memorization(runs_of_a_memory: Path) -> None:
    found, _ = tables(runs_of_a_memory)
    run = find_runs([runs_of_a_memory])[0]
    _, model, _, _, _, test = load_data_and_model(run.result["model_file"])
    evidence = np.sort(torch.cat([1 - model.recall(batch[0]).remaining for batch in test]).double().numpy())
    rows = found["indicator"]
    for number, row in enumerate(rows):
        assert row["bin"] == f"{evidence[8 * number]:.3f}-{evidence[8 * number + 7]:.3f}"
    assert np.mean([row["memorization"] for row in rows]) == pytest.approx(found["rows"][0]["share"])
    assert found["indicator_of"] == "TransitionMemory (seed 2020)"


def test_the_reference_can_be_named(runs: Path, runs_of_a_memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = f"{runs_of_a_memory} {runs}"
    of = {}
    for name in (None, "TransitionMemory", "SASRec"):
        options = [f"--runs={both}", "--output=out", "--json=out.json", *([f"--id_model={name}"] if name else [])]
        assert main(["analyze", *options]) == 0
        of[name] = json.loads(Path("out.json").read_text())
    assert of[None]["indicator_of"].startswith("SASRec")  # the paper's, whatever the order
    assert of["SASRec"]["indicator"] == of[None]["indicator"] != of["TransitionMemory"]["indicator"]
    assert of["TransitionMemory"]["indicator_of"] == "TransitionMemory (seed 2020)"
    for wrong, message in (("SASRek", "did you mean 'SASRec'"), ("TIGER", "must be one of SASRec, TransitionMemory")):
        assert main(["analyze", f"--runs={both}", f"--id_model={wrong}"]) != 0
        assert message in capsys.readouterr().err


def test_everything_is_written(runs: Path) -> None:
    found, folder = tables(runs)
    names = {path.name for path in folder.iterdir()}
    kept = {
        "shares.csv",
        "categories.csv",
        "predicted.csv",
        "tokens.csv",
        "support.csv",
        "dilution.csv",
        "indicator.csv",
    }
    assert names == {
        "analysis.md",
        "analysis.json",
        "analysis.html",
        *(f"analysis.{ending}" for ending in ("png", "pdf", "svg")),
        "labels.parquet",
        *kept,
    }
    labels = pd.read_parquet(folder / "labels.parquet")
    assert len(labels) == found["instances"] == 40
    assert labels["tokens"].between(0, 3).all()  # two codes and the rank
    for row in found["tokens"]:
        parts = [value for key, value in row.items() if key not in ("category", "count")]
        assert len(parts) == 4
        assert sum(parts) == pytest.approx(1 if row["count"] else 0)
    memorized = next(row["count"] for row in found["rows"] if row["category"] == "memorization")
    assert sum(row["count"] for row in found["support"]) == memorized
    assert "Memorization, generalization" in (folder / "analysis.md").read_text()


def test_labels_only_needs_no_run(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "--dataset=tiny", f"--data_path={data_path}", "--labels-only", "--use_gpu=False"]
    assert main([*words, "--json", "labels.json"]) == 0
    test = json.loads(Path("labels.json").read_text())
    assert [row["category"] for row in test["rows"]][:4] == [
        *("memorization", "generalization", "uncategorized", "substitutability_2")
    ]
    assert sum(row["count"] for row in test["rows"][:3]) == test["instances"] == 40
    assert main([*words, "--json=valid.json", "--split=valid", "--hops=3"]) == 0
    valid = json.loads(Path("valid.json").read_text())
    assert valid["rows"] != test["rows"]
    assert "memorization" in [row[0] for row in table_cells(capsys.readouterr().out)]
    assert not Path("saved/analysis").exists()


def test_wrong_calls_are_refused(
    runs: Path, data_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--dataset=tiny", f"--data_path={data_path}", "--use_gpu=False"]
    for words, message in (
        ([*data], "either --runs=DIR"),
        ([*data, "--labels-only", f"--runs={runs}"], "either --runs=DIR"),
        ([*data, "--labels-only", "--hops=0"], "hops=0"),
        ([*data, "--labels-only", "--split=all"], "split='all'"),
        ([f"--runs={tmp_path / 'data'}"], "holds no finished run"),
        ([f"--runs={runs}", "--split=valid"], "split=valid has no runs"),
        ([f"--runs={runs}", "--dataset=beauty"], "the runs are of tiny"),
    ):
        assert main(["analyze", *words]) == 2
        assert message in capsys.readouterr().err


def test_runs_on_other_instances_are_refused(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", random_sequences(seed=1))
    assert main(["analyze", f"--runs={runs}", f"--data_path={other}"]) == 2
    assert "test instances of the dataset" in capsys.readouterr().err


def test_results_from_elsewhere_run_and_write_nothing(runs: Path, tmp_path: Path) -> None:
    theirs, marker = tmp_path / "theirs", tmp_path / "marker"
    shutil.copytree(runs, tmp_path / "runs")
    for file in (tmp_path / "runs").rglob("result.json"):
        result = json.loads(file.read_text())
        hostile = f"__import__('pathlib').Path({str(marker)!r}).touch()"
        result["settings"] |= {
            "checkpoint_dir": str(theirs),
            "field_separator": "\t",
            "ITEM_LIST_LENGTH_FIELD": hostile,
        }
        if result["model"] == "TIGER":
            result["settings"] |= {"feature_file": hostile, "text_model": hostile}
        file.write_text(json.dumps(result))
    tables(tmp_path / "runs")
    assert not marker.exists()
    assert not theirs.exists()


def test_runs_whose_data_is_gone_download_nothing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    for file in (tmp_path / "runs").rglob("result.json"):
        result = json.loads(file.read_text())
        result["dataset"], result["settings"]["data_path"] = "ml-1m", "nowhere"
        file.write_text(json.dumps(result))
    assert main(["analyze", f"--runs={tmp_path / 'runs'}"]) == 2
    assert "no dataset folder 'nowhere/ml-1m'" in capsys.readouterr().err
    assert not Path("nowhere").exists()


def test_data_may_have_moved_since_the_runs(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, _ = tables(runs)
    moved = tmp_path / "moved"
    data = runs.parent / "data"
    shutil.copytree(data, moved)
    away = data.rename(runs.parent / "away")
    try:
        found, _ = tables(runs, f"--data_path={moved}")
        assert found["indicator"] == expected["indicator"]
        with monkeypatch.context() as patch:
            patch.setattr(indicator, "Path", lambda _: tmp_path / "nowhere")
            found, _ = tables(runs, f"--data_path={moved}")
    finally:
        away.rename(data)
    assert "indicator" not in found
    assert found["categories"] == expected["categories"]
    assert "The indicator is left out: the checkpoint of SASRec" in caplog.text


def test_support_and_dilution_equal_loops() -> None:
    rng = np.random.default_rng(3)
    n_items = 15
    sequences = [rng.integers(0, n_items, size=rng.integers(0, 9)).tolist() for _ in range(30)]
    codes = rng.integers(0, 3, size=(n_items, 3))
    last, targets = rng.integers(-1, n_items, size=80), rng.integers(0, n_items, size=80)
    steps = [pair for items in sequences for pair in pairwise(items)]
    expected = [steps.count((u, v)) for u, v in zip(last, targets, strict=True)]
    assert support(ragged(sequences), last, targets, n_items).tolist() == expected
    for n in (1, 2, 3):
        alike = [
            sum((codes[a][:n] == codes[u][:n]).all() and (codes[b][:n] == codes[v][:n]).all() for a, b in set(steps))
            if u >= 0
            else 0
            for u, v in zip(last, targets, strict=True)
        ]
        assert dilution(ragged(sequences), codes, n, last, targets).tolist() == alike


def test_bins_partition() -> None:
    values = np.array([1, 1, 1, 1, 1, 2, 3, 9])
    found = bins_of(values, 4)
    assert sum(mask.astype(int) for _, mask in found).tolist() == [1] * 8
    assert found[0][0] == "1"
    assert bins_of(np.array([4, 4]), 4)[0][0] == "4"
    assert bins_of(np.zeros(0, dtype=int), 4) == []
    assert np.bincount(quantile_bins(np.array([0.5, 0.1, 0.1, 0.9, 0.3]), 5)).tolist() == [1] * 5


def test_analysis_keeps_the_order_of_the_comparison_and_prints_three_tables(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted(path.parent for path in runs.rglob("result.json"))
    wanted = [*folders[1:], folders[0]]
    (runs.parent / "comparison.json").write_text(json.dumps({"runs": [str(folder) for folder in wanted]}))
    try:
        capsys.readouterr()
        found, _ = tables(runs)
        printed = capsys.readouterr().out
    finally:
        (runs.parent / "comparison.json").unlink()
    models = list(dict.fromkeys(row["model"] for row in found["categories"]))
    names = [json.loads((folder / "result.json").read_text())["name"] for folder in wanted]
    assert list(dict.fromkeys(model.partition("-constrained")[0] for model in models)) == list(dict.fromkeys(names))
    assert sum(line.startswith("|:--") for line in printed.splitlines()) == 3
