"""Rows of finished comparisons and the groups of their users, with made-up answers: tests of pairs, and the figure."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import N_ITEMS, SMALL, random_sequences, table_cells, write_dataset
from scipy import stats
from test_analysis import literal_label

from recbole_sid.comparison.groups import by_popularity, runs_by_row
from recbole_sid.comparison.statistics import holm
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import write_per_user, write_result

SEQUENCES = random_sequences(n_users=90, seed=3)
USERS = [f"u{user}" for user in range(len(SEQUENCES))]
TARGETS = [f"i{items[-1]}" for items in SEQUENCES]
SEEDS = {"SASRec": (2020, 2021), "TIGER": (2020, 2021, 2022), "Pop": (2020,)}


def script(name: str) -> ModuleType:
    """Return a script of benchmarks/ as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ranks_of(row: str, seed: int) -> np.ndarray:
    """Return made-up ranks (0: not found), the same for the same row and seed."""
    worst = {"SASRec": 12, "TIGER": 20, "Pop": 40}[row]
    return np.random.default_rng([seed, worst]).integers(0, worst, len(USERS))


def ndcg(row: str) -> np.ndarray:
    """Return each user's NDCG@10, the mean over seeds, by a loop."""
    of_seed = [
        [1 / np.log2(rank + 1) if 1 <= rank <= 10 else 0.0 for rank in ranks_of(row, seed)] for seed in SEEDS[row]
    ]
    return np.mean(of_seed, axis=0)


def write_run(output: Path, row: str, seed: int, data_path: Path, users: list[str] = USERS) -> Path:
    settings = {key: value for key, value in SMALL.items() if key not in ("codebook_sizes", "collaborative_dim")}
    config = Config("SASRec", "tiny", config_dict={**settings, "data_path": str(data_path)})
    folder = output / "runs" / f"{row}-tiny-{seed}"
    folder.mkdir(parents=True)
    result = {"name": row, "model": row, "dataset": "tiny", "seed": seed, "fingerprint": f"{row}{seed}"}
    result |= {"settings": config.plain(), "data": "", "model_file": "", "teacher_file": None, "parameters": 1}
    result |= {"train_s": 1.0, "best_valid": {}, "peak_memory_mb": None, "device": "cpu", "version": "0"}
    speed = 100.0 * (seed - 2018)
    found = {"settings": {}, "metrics": {}, "users_per_s": speed, "per_user": "per_user.parquet"}
    write_result(folder, {**result, "evaluations": {"": found}})  # type: ignore[typeddict-item]
    order = np.random.default_rng(seed).permutation(len(users))  # rows may come in any order
    frame = pd.DataFrame({"user": users, "target": TARGETS, "rank": ranks_of(row, seed).astype(np.int32)})
    frame["items"], frame["scores"] = [["i0"]] * len(frame), [np.ones(1, np.float32)] * len(frame)
    write_per_user(frame.iloc[order], folder / "per_user.parquet")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    data = write_dataset(tmp_path / "data", SEQUENCES)
    for row, seeds in SEEDS.items():
        for seed in seeds:
            write_run(tmp_path / "output", row, seed, data)
    return tmp_path / "output"


def call(name: str, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *words])
        script(name).main()


def literal_groups() -> dict[str, list[str]]:
    """Return the category and the range of popularity of each user, by loops."""
    training = [items[:-2] for items in SEQUENCES]
    counts = Counter(item for items in training for item in items)
    ranges = [(0, 0, "never"), (1, 3, "1-3"), (4, 7, "4-7"), (8, 19, "8-19"), (20, 10**9, "20+")]
    labels = [literal_label(training, items[:-1], items[-1], 4)["category"] for items in SEQUENCES]
    occurrences = [counts[items[-1]] for items in SEQUENCES]
    names = [next(name for low, high, name in ranges if low <= count <= high) for count in occurrences]
    return {"category": [str(label) for label in labels], "popularity": names}


def test_pairs_are_tested_over_users_with_means_over_seeds(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("paired_tests", str(output), "--pairs", "SASRec:TIGER", "TIGER:Pop", "--by", "popularity", "category")
    whole, *grouped = [table_cells(table) for table in capsys.readouterr().out.split("\n\n")]
    values = {row: ndcg(row) for row in SEEDS}
    pairs = [("SASRec", "TIGER"), ("TIGER", "Pop")]
    expected = [stats.ttest_rel(values[a], values[b]).pvalue for a, b in pairs]
    assert [row[1] for row in whole[1:]] == ["2 and 3", "3 and 1"]
    for (a, b), row, p, adjusted in zip(pairs, whole[1:], expected, holm(np.array(expected)), strict=True):
        assert row[0] == f"{a} against {b}"
        check_cells(row[2:], values[a], values[b], p, adjusted)
    for table, (by, of_user) in zip(grouped, sorted(literal_groups().items(), reverse=True), strict=True):
        assert table[0][1] == by
        assert {row[1] for row in table[1:]} == set(of_user)
        assert len(table) - 1 == 2 * len(set(of_user))
        inside = [np.array([name == row[1] for name in of_user]) for row in table[1:]]
        names = [row[0].split(" against ") for row in table[1:]]
        found = [(values[a][mask], values[b][mask]) for (a, b), mask in zip(names, inside, strict=True)]
        p_values = np.array(
            [stats.ttest_rel(a, b).pvalue if len(a) > 1 and (a - b).any() else np.nan for a, b in found]
        )
        tested = ~np.isnan(p_values)
        adjusted = np.full(len(found), np.nan)
        adjusted[tested] = holm(p_values[tested])
        for row, (a, b), p, by_holm in zip(table[1:], found, p_values, adjusted, strict=True):
            assert int(row[2]) == len(a)
            check_cells(row[3:], a, b, p, by_holm)


def check_cells(cells: list[str], first: np.ndarray, second: np.ndarray, p: float, adjusted: float) -> None:
    assert cells[:2] == [f"{first.mean():.4f}", f"{second.mean():.4f}"]
    assert cells[2] == (f"{first.mean() / second.mean():.3f}" if second.any() else "")
    assert float(cells[3]) == pytest.approx(first.mean() - second.mean(), abs=1e-4)
    if len(first) < 2 or not (first - second).any():
        assert cells[4:] == ["", "", ""]
        return
    low, high = map(float, cells[4].split(" to "))
    means = (first - second)[np.random.default_rng(5).integers(len(first), size=(5000, len(first)))].mean(1)
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    assert float(cells[5]) == pytest.approx(p, rel=0.1)
    assert float(cells[6]) == pytest.approx(adjusted, rel=0.1)


def test_pairs_that_cannot_be_tested_are_refused(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        ("SASRec:Other",): "There is no row 'Other': one of Pop, SASRec, TIGER",
        ("SASRec",): "'SASRec' is not two different rows",
        ("SASRec:SASRec",): "'SASRec:SASRec' is not two different rows",
    }
    for pairs, message in wrong.items():
        with pytest.raises(SystemExit):
            call("paired_tests", str(output), "--pairs", *pairs)
        assert message in capsys.readouterr().err
    data = output.parent / "data"
    write_run(output.parent / "second", "SASRec", 2022, data, [f"{user}x" for user in USERS])
    with pytest.raises(SystemExit):  # a seed of other users
        call("paired_tests", str(output), str(output.parent / "second"), "--pairs", "SASRec:TIGER")
    assert "were not evaluated on the same users and targets" in capsys.readouterr().err
    write_run(output.parent / "third", "SASRec", 2020, data).rename(output.parent / "third" / "runs" / "other")
    with pytest.raises(SystemExit):
        call("paired_tests", str(output), str(output.parent / "third"), "--pairs", "SASRec:TIGER")
    assert "Two runs are SASRec with seed 2020" in capsys.readouterr().err
    call("paired_tests", str(output), str(output), "--pairs", "SASRec:TIGER")  # the same runs twice count once
    assert "| 2 and 3 |" in re.sub(r" +", " ", capsys.readouterr().out)
    write_dataset(data, [[*items, (items[-1] + 1) % N_ITEMS] for items in SEQUENCES])
    with pytest.raises(SystemExit):  # the data has changed since
        call("paired_tests", str(output), "--pairs", "SASRec:TIGER", "--by", "category")
    assert "was not evaluated on the test instances of the data as it is now" in capsys.readouterr().err


def test_ranges_of_popularity_hold_every_count_once() -> None:
    counts = np.arange(30)
    masks = by_popularity(counts)
    assert {name: counts[mask].tolist() for name, mask in masks.items()} == {
        "never": [0],
        "1-3": [1, 2, 3],
        "4-7": [4, 5, 6, 7],
        "8-19": list(range(8, 20)),
        "20+": list(range(20, 30)),
    }


def test_figure_prints_what_it_draws(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("memory_figure", str(output), "--rows", "TIGER", "SASRec=a SASRec", "--output", "pictures/memory")
    heading, *rows = table_cells(capsys.readouterr().out)
    for row, (name, label) in zip(rows, [("TIGER", "TIGER"), ("SASRec", "a SASRec")], strict=True):
        found = dict(zip(heading, row, strict=True))
        values = ndcg(name)
        assert (found["Model"], found["Seeds"]) == (label, str(len(SEEDS[name])))
        assert found["Users/s"] == f"{np.mean([100 * (seed - 2018) for seed in SEEDS[name]]):.0f}"
        recall = np.mean([(ranks_of(name, seed) > 0) & (ranks_of(name, seed) <= 10) for seed in SEEDS[name]])
        assert found["Recall@10"] == f"{recall:.4f}"
        groups = [(group, of_user) for of_user in literal_groups().values() for group in set(of_user)]
        expected = {f"{group} ({of_user.count(group)})": np.array(of_user) == group for group, of_user in groups}
        assert set(expected) | {"NDCG@10"} == set(heading) - {"Model", "Seeds", "Users/s", "Recall@10"}
        for column, mask in {**expected, "NDCG@10": np.ones(len(values), dtype=bool)}.items():
            mean, *half = map(float, found[column].split(" ± "))
            assert mean == pytest.approx(values[mask].mean(), abs=6e-5)
            if mask.sum() > 1 and not column[0].isdigit() and not column.startswith("never"):
                assert half == [pytest.approx(1.959964 * stats.sem(values[mask]), abs=6e-5)]
    assert Path("pictures/memory.png").read_bytes().startswith(b"\x89PNG")
    drawn = Path("pictures/memory.svg").read_text(encoding="utf-8")
    assert "a SASRec" in drawn
    call("memory_figure", str(output), "--rows", "TIGER", "SASRec=a SASRec", "--output", "again")
    assert Path("again.svg").read_text(encoding="utf-8") == drawn


def test_figure_shows_speeds_that_are_given_in_place_of_all_recorded(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("memory_figure", str(output), "--users_per_s", "SASRec=2,270", "--output", "memory")
    heading, *rows = table_cells(capsys.readouterr().out)
    column = heading.index("Users/s")
    assert {row[0]: row[column] for row in rows} == {"Pop": "", "SASRec": "2,270", "TIGER": ""}
    for words in (["--users_per_s", "SASRec"], ["--users_per_s", "SASRec=-1"], ["--rows", "Other"]):
        with pytest.raises(SystemExit):
            call("memory_figure", str(output), *words, "--output", "none")
        assert f"'{words[-1]}'" in capsys.readouterr().err
    assert not list(Path().glob("none*"))


def test_a_row_with_a_memory_looks_like_the_one_without_but_filled() -> None:
    labels = ["SASRec", "TransitionMemory", "TIGER", "TIGER + memory", "SIDMLP-memory", "SIDMLP", "X with memory"]
    found = dict(zip(labels, script("memory_figure")._styles(labels), strict=True))
    for name, with_memory in (("TIGER", "TIGER + memory"), ("SIDMLP", "SIDMLP-memory")):
        plain, filled = found[name], found[with_memory]
        assert (plain["color"], plain["marker"]) == (filled["color"], filled["marker"])
        assert (plain["markerfacecolor"], filled["markerfacecolor"]) == ("white", filled["color"])
    alone = [found[name] for name in ("SASRec", "TransitionMemory", "X with memory", "TIGER", "SIDMLP")]
    assert len({(style["color"], style["marker"]) for style in alone}) == 5


def test_of_runs_with_the_same_row_and_seed_the_compared_one_counts(output: Path) -> None:
    assert {row: len(runs) for row, runs in runs_by_row([output]).items()} == {
        row: len(of) for row, of in SEEDS.items()
    }
    first = output / "runs" / "SASRec-tiny-2020"
    later = first.rename(output / "runs" / "SASRec-tiny-later")
    earliest = write_run(output, "SASRec", 2020, output.parent / "data").rename(output / "runs" / "SASRec-tiny-first")
    earlier = write_run(output, "SASRec", 2020, output.parent / "data")
    for compared in (earliest, earlier, later):
        (output / "comparison.json").write_text(json.dumps({"runs": [f"elsewhere/runs/{compared.name}"]}))
        (run,) = [run for run in runs_by_row([output])["SASRec"] if run.result["seed"] == 2020]
        assert run.per_user.parent == compared
    for both in ([], [earlier.name, later.name]):
        (output / "comparison.json").write_text(json.dumps({"runs": both}))
        with pytest.raises(InputError, match="leave out an output, or move one of them away"):
            runs_by_row([output])
    for damaged in ([], {}, {"runs": [1]}):
        (output / "comparison.json").write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="is not what `recbole-sid compare` writes"):
            runs_by_row([output])
