"""The split by time against pandas, and that nothing after its first moment reaches training."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SASREC, SETTINGS, SMALL_STUDENT, write_dataset

from recbole_sid.cli import main
from recbole_sid.comparison.job import make_jobs, run_job
from recbole_sid.comparison.plan import make_plan
from recbole_sid.comparison.runner import run_jobs
from recbole_sid.comparison.summary import summarise
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import per_user_results, rank_metrics
from recbole_sid.evaluation.runs import read_per_user
from recbole_sid.features.pipeline import FeaturePipeline
from recbole_sid.generalization.labels import CLASSES
from recbole_sid.quick_start import run_model
from recbole_sid.settings.time_split import moments_of

PARTS = ("training", "validation", "test")
SPLIT = {"split": {"TS": [0.7, 0.85]}}
PLAIN = {"use_gpu": False, "show_progress": False, "state": "WARNING", "topk": [5], "valid_metric": "NDCG@5"}


def random_log(seed: int, n_users: int = 30, n_items: int = 20, ends: int = 1000) -> pd.DataFrame:
    """Users who come and go over a common clock, in mixed file order, with ties and repeated items."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        begins = int(rng.integers(ends)) if user else 0
        n = int(rng.integers(1, 12)) if user else 15
        times = np.sort(rng.integers(begins, ends, size=n)) * 0.5 + 1e9
        items = (int(rng.integers(n_items)) + np.cumsum(rng.integers(0, 3, size=n))) % n_items
        rows += [(f"u{user}", f"i{item}", time) for item, time in zip(items, times, strict=True)]
    log = pd.DataFrame(rows, columns=["user", "item", "time"])
    return log.iloc[rng.permutation(len(log))].reset_index(drop=True)


def write_log(folder: Path, log: pd.DataFrame, name: str = "tiny") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [f"{row.user}\t{row.item}\t{row.time!r}" for row in log.itertuples()]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
    (folder / name / f"{name}.inter").write_text(text, encoding="utf-8")
    return folder


def make_config(model: str, data: Path, eval_args: Any = None, **changes: Any) -> Config:
    settings = {**SETTINGS.get(model, PLAIN), "data_path": str(data), "eval_args": eval_args or SPLIT, **changes}
    return Config(model, "tiny", config_dict=settings)


def reference(log: pd.DataFrame, first: float, second: float) -> dict[str, list[tuple[str, tuple[str, ...], str]]]:
    """Part -> (user, everything before, item) of its interactions, by a loop over the users."""
    parts: dict[str, list[tuple[str, tuple[str, ...], str]]] = {name: [] for name in PARTS}
    for user, rows in log.groupby("user"):
        ordered = rows.sort_values("time", kind="stable")
        items = ordered["item"].tolist()
        for place, time in enumerate(ordered["time"]):
            part = "training" if time < first else "validation" if time < second else "test"
            parts[part].append((str(user), tuple(items[:place]), items[place]))
    return parts


def rows_of(split: Any, longest: int) -> list[tuple[str, tuple[str, ...], str]]:
    """The rows of a sequential part, by tokens."""
    users, items = split.field2id_token["user_id"], split.field2id_token["item_id"]
    rows = split[torch.arange(len(split))]
    lengths = rows["item_length"].tolist()
    return [
        (str(users[user]), tuple(items[history[:length]]), str(items[target]))
        for user, history, length, target in zip(
            rows["user_id"].tolist(), rows["item_id_list"].numpy(), lengths, rows["item_id"].tolist(), strict=True
        )
    ]


def pairs_of(split: Any) -> list[tuple[str, str]]:
    users, items = split.field2id_token["user_id"], split.field2id_token["item_id"]
    feat = split.inter_feat
    return [
        (str(users[u]), str(items[i])) for u, i in zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True)
    ]


def sequences_of(split: Any) -> Counter[tuple[str, ...]]:
    items, offsets = split.training_sequences()
    tokens = np.asarray(split.field2id_token["item_id"])
    return Counter(tuple(map(str, tokens[part])) for part in np.split(items, offsets[1:-1]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("given", ["quantiles", "moments"])
def test_targets_and_histories_are_those_of_the_log(tmp_path: Path, seed: int, given: str) -> None:
    log = random_log(seed)
    data, longest = write_log(tmp_path / "data", log), 6
    first, second = (float(log["time"].quantile(share, interpolation="higher")) for share in (0.7, 0.85))
    split = SPLIT if given == "quantiles" else {"split": {"TS": [first, second]}}
    expected = reference(log, first, second)
    sequential = create_dataset(make_config("SASRec", data, split, MAX_ITEM_LIST_LENGTH=longest)).build()
    general = create_dataset(make_config("Pop", data, split)).build()
    for name, ours, theirs in zip(PARTS, sequential, general, strict=True):
        with_history = [row for row in expected[name] if row[1]]
        cut = Counter((user, history[-longest:], item) for user, history, item in with_history)
        assert Counter(rows_of(ours, longest)) == cut
        wanted = expected[name] if name == "training" else with_history
        assert Counter(pairs_of(theirs)) == Counter((user, item) for user, _, item in wanted)
    for ours, theirs in zip(sequential[1:], general[1:], strict=True):
        assert pairs_of(ours) == pairs_of(theirs)  # in one order, so that results of both can be paired


@pytest.mark.parametrize("seed", range(3))
def test_training_sequences_are_all_interactions_before_the_first_moment(tmp_path: Path, seed: int) -> None:
    log = random_log(seed)
    first = float(log["time"].quantile(0.7, interpolation="higher"))
    train = create_dataset(make_config("SASRec", write_log(tmp_path / "data", log))).build()[0]
    before = log[log["time"] < first].sort_values("time", kind="stable")
    expected = Counter(tuple(rows["item"]) for _, rows in before.groupby("user"))
    assert sequences_of(train) == expected
    assert any(len(items) == 1 for items in expected)
    matrix = train.inter_matrix("csr").toarray()
    users, items = train.field2token_id["user_id"], train.field2token_id["item_id"]
    counted = np.zeros_like(matrix)
    for row in before.itertuples():
        counted[users[row.user], items[row.item]] += 1
    np.testing.assert_array_equal(matrix, counted)


def test_pairs_from_the_future_are_counted(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "future_pairs.py"
    spec = importlib.util.spec_from_file_location("future_pairs", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    log = random_log(2, n_users=40, n_items=25)
    data = write_log(tmp_path / "data", log)
    learnt: dict[tuple[str, str], float] = {}
    tested = []
    for _, rows in log.groupby("user"):
        ordered = rows.sort_values("time", kind="stable")
        steps = list(pairwise(zip(ordered["item"], ordered["time"], strict=True)))
        kept = len(steps) - min(2, len(steps) - 1)
        for (before, _), (item, time) in steps[:kept]:
            learnt[before, item] = min(time, learnt.get((before, item), np.inf))
        if len(steps) > 1:
            (before, _), (item, time) = steps[-1]
            tested.append((before, item, time))
    memorised = [(before, item, time) for before, item, time in tested if (before, item) in learnt]
    future = [learnt[before, item] > time for before, item, time in memorised]
    by_last = make_config("SASRec", data, {"split": {"LS": "valid_and_test"}, "order": "TO"})
    found = module.counts(by_last)
    counted = [found[name] for name in ("Test instances", "memorised", "only from the future")]
    assert counted == [len(tested), len(memorised), sum(future)]
    assert 0 < sum(future) < len(memorised)
    assert module.counts(make_config("SASRec", data))["only from the future"] == 0


def changed_after(log: pd.DataFrame, first: float, seed: int) -> pd.DataFrame:
    """The log with other items, users and numbers of interactions from `first` on; before it as it was."""
    rng = np.random.default_rng(seed)
    before = log[log["time"] < first]
    n = 2 * int((log["time"] >= first).sum())
    users, items = (rng.choice(before[column].unique(), size=n) for column in ("user", "item"))
    after = pd.DataFrame({"user": users, "item": items, "time": first + rng.integers(0, 900, size=n) * 0.5})
    after.loc[0, "time"], after.loc[1, "time"] = first, first + 450
    return pd.concat([before, after], ignore_index=True)


@pytest.fixture
def two_worlds(tmp_path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Data that differ in all that happens from the first moment on, and the split that both are given."""
    log = random_log(3)
    first, second = (float(log["time"].quantile(share, interpolation="higher")) for share in (0.7, 0.85))
    log = log[log["user"].isin(log.loc[log["time"] < first, "user"])]
    # RecBole numbers users and items as it reads them.
    log = pd.concat([log[log["time"] < first], log[log["time"] >= first]], ignore_index=True)
    known = log.loc[log["time"] < first, "item"]
    log.loc[~log["item"].isin(known), "item"] = known.iloc[0]
    worlds = {"as it was": log, "other": changed_after(log, first, 5)}
    split = {"split": {"TS": [first, second]}}
    return [(write_log(tmp_path / name, world), split) for name, world in worlds.items()]


def test_what_is_counted_and_made_in_training_knows_nothing_of_what_comes_after(
    two_worlds: list[tuple[Path, dict[str, Any]]],
) -> None:
    rows, sequences, features, codes, tested = [], [], [], [], []
    for number, (data, split) in enumerate(two_worlds):
        config = make_config("TIGER", data, split, checkpoint_dir=f"saved{number}", epochs=1, code_init="features")
        dataset = create_dataset(config)
        train, _, test = data_preparation(config, dataset)
        rows.append(Counter(rows_of(train._dataset, 6)))
        sequences.append(sequences_of(train._dataset))
        features.append(FeaturePipeline(config).fit_encode(train._dataset))
        codes.append(train._dataset.semantic_ids.table(train._dataset.item_tokens()))
        tested.append(Counter(rows_of(test._dataset, 6)))
    assert rows[0] == rows[1]
    assert sequences[0] == sequences[1]
    np.testing.assert_array_equal(*features)
    np.testing.assert_array_equal(*codes)
    assert tested[0] != tested[1]


OF_MEMORY = {"hops": 3, "hop_decay": 0.3, "window": 2, "window_decay": 0.5, "pseudo_counts": 1.0}
OF_MEMORY_BESIDE = {
    "memory": "transitions",
    "memory_text_weight": 2.0,
    **{f"memory_{name}": value for name, value in OF_MEMORY.items()},
}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("TransitionMemory", OF_MEMORY),
        ("Pop", {}),
        ("BPR", {"embedding_size": 8, "epochs": 1}),
        ("SASRec", {**SASREC, "epochs": 1, "train_neg_sample_args": None}),
        ("TIGER", {"epochs": 1, "code_init": "features"}),
        ("SIDMLP", {"epochs": 1, "teacher_config": {**SMALL_STUDENT["teacher_config"], "epochs": 1}}),
        ("TransitionMemory", {**OF_MEMORY, "memory_text_weight": 2.0, "features": ["collaborative"]}),
        ("SIDMLPHybrid", {"epochs": 1, "item_share": 0.5, "memory_sharpness": 0.5, **OF_MEMORY_BESIDE}),
    ],
)
def test_weights_know_nothing_of_what_comes_after(
    two_worlds: list[tuple[Path, dict[str, Any]]], model: str, changes: dict[str, Any]
) -> None:
    """One epoch, so that validation, which is after the moment, has nothing to choose."""
    states, results = [], []
    for number, (data, split) in enumerate(two_worlds):
        run = run_model(make_config(model, data, split, checkpoint_dir=f"saved{number}", **changes))
        states.append(run.trainer.model.state_dict())
        results.append(run.test_result)
        if model == "Pop":
            states[-1] = {"counts": run.trainer.model.item_cnt}
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert results[0] != results[1]


@pytest.mark.parametrize("repeatable", [True, False])
def test_general_models_rank_for_each_target(tmp_path: Path, repeatable: bool) -> None:
    log = random_log(1)
    run = run_model(make_config("Pop", write_log(tmp_path / "data", log), repeatable=repeatable, topk=[3, 5]))
    first, second = (float(log["time"].quantile(share, interpolation="higher")) for share in (0.7, 0.85))
    popularity = Counter(log.loc[log["time"] < first, "item"])
    results = per_user_results(run.trainer, run.test_data, size=50)
    wanted = sorted((user, item, history) for user, history, item in reference(log, first, second)["test"] if history)
    found = sorted(zip(results["user"], results["target"], results["items"], strict=True), key=lambda row: row[:2])
    pairs = [row[:2] for row in found]
    assert pairs == [row[:2] for row in wanted]
    assert len(set(pairs)) < len(pairs)  # somebody had the same item twice
    histories: dict[tuple[str, str], list[set[str]]] = {}
    for user, item, history in wanted:
        histories.setdefault((user, item), []).append(set(history) - {item})
    for user, target, items in found:
        taken_out = set(run.test_data._dataset.field2id_token["item_id"][1:]) - set(items)
        assert (taken_out == set()) if repeatable else (taken_out in histories[user, target])
        counts = [popularity[item] for item in items]
        assert counts == sorted(counts, reverse=True)
    for name, values in rank_metrics(results["rank"].to_numpy(), [3, 5]).items():
        assert values.mean() == pytest.approx(run.test_result[name], abs=1e-6)


def test_the_log_counts_what_training_has_not_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = random_log(4)
    first, second = (float(log["time"].quantile(share, interpolation="higher")) for share in (0.7, 0.85))
    rows = reference(log, first, second)
    users, items = ({row[place] for row in rows["training"]} for place in (0, 2))
    expected = f"{len(rows['training'])} interactions of {len(users)} users and {len(items)} items"
    for name in PARTS[1:]:
        there = [row for row in rows[name] if row[1]]
        new = [sum(row[place] not in seen for row in there) for place, seen in ((0, users), (2, items))]
        expected += (
            f"; {name} of {len(there)} targets of {len({row[0] for row in there})} users ({new[0]} of users and "
            f"{new[1]} of items that training has not seen)"
        )
    without = sum(not row[1] for name in PARTS[1:] for row in rows[name])
    caplog.set_level(logging.INFO)
    create_dataset(make_config("SASRec", write_log(tmp_path / "data", log))).build()
    assert f"'tiny' is split at the times {first:.15g} and {second:.15g}: training on {expected}; {without} later" in (
        caplog.text
    )


def test_moments_before_1970_are_no_quantiles() -> None:
    moments = moments_of({"TS": [-2e9, -1e9]})
    assert moments is not None
    assert not moments.are_quantiles


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"TS": [0.9, 0.8]}, "second, which must be later"),
        ({"TS": [0.8, 0.8]}, "second, which must be later"),
        ({"TS": [0.0, 0.9]}, "quantiles lie between 0 and 1"),
        ({"TS": [0.8, 1.0]}, "quantiles lie between 0 and 1"),
        ({"TS": [-0.5, 0.9]}, "quantiles lie between 0 and 1"),
        ({"TS": [0.8, 1e9]}, "0.8 is a quantile and 1000000000.0 a time: give two of a kind"),
        ({"TS": [0.8]}, "TS takes two moments"),
        ({"TS": 0.8}, "TS takes two moments"),
        ({"TS": ["2001-01-01", "2002-01-01"]}, "TS takes two moments"),
        ({"TS": [True, 3]}, "TS takes two moments"),
        ({"TS": [0.8, float("nan")]}, "TS takes two moments"),
        ({"TS": [0.8, 0.9], "LS": "valid_and_test"}, "names several ways to split"),
    ],
)
@pytest.mark.parametrize("model", ["SASRec", "Pop"])
def test_moments_that_are_none_are_refused(tmp_path: Path, model: str, split: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make_config(model, tmp_path, {"split": split})


@pytest.mark.parametrize(
    ("model", "changes", "says"),
    [
        ("Pop", {"eval_args": {**SPLIT, "order": "RO"}}, "order='RO' contradicts a split by time"),
        ("TIGER", {"eval_args": {**SPLIT, "group_by": "user"}}, "group_by='user' contradicts a split by time"),
        ("BPR", {"eval_args": {**SPLIT, "mode": "uni100"}}, "BPR is evaluated for each target of a split by time"),
        ("FM", {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {**SPLIT, "mode": "labeled"}}, "neither a seq"),
        ("BPR", {"benchmark_filename": ["a", "b", "c"]}, "are not split by time: leave out benchmark_filename or TS"),
        (
            "BPR",
            {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 1, "alpha": 1.0}},
            "draws negatives by popularity in all of the data",
        ),
    ],
)
def test_what_contradicts_a_split_by_time_is_refused(
    tmp_path: Path, model: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        Config(model, "tiny", config_dict={"data_path": str(tmp_path), "eval_args": SPLIT, "use_gpu": False, **changes})


def test_a_dataset_of_recboles_own_is_refused(tmp_path: Path) -> None:
    config = make_config("GRU4RecKG", write_log(tmp_path / "data", random_log(0)))
    with pytest.raises(InputError, match="GRU4RecKG has a dataset of its own in RecBole, which knows no eval_args"):
        create_dataset(config)


@pytest.mark.parametrize("first", [0, 1_600_000_000])
@pytest.mark.parametrize("model", ["SASRec", "Pop"])
def test_times_that_are_positions_are_refused(tmp_path: Path, model: str, first: int) -> None:
    data = write_dataset(tmp_path / "data", [[0, 1, 2, 3], [2, 3, 4, 5, 6], [1, 2]])
    file = data / "tiny" / "tiny.inter"
    if first == 0:
        lines = [line.replace("\t160000000", "\t") for line in file.read_text().splitlines()]
        file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="The times of 'tiny' are positions in each user's sequence"):
        create_dataset(make_config(model, data)).build()


def test_times_that_look_like_positions_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = pd.DataFrame([(f"u{u}", f"i{i}", float(i + 2 * (i > u) + (u == 0))) for u in range(8) for i in range(10)])
    log.columns = pd.Index(["user", "item", "time"])
    create_dataset(make_config("Pop", write_log(tmp_path / "data", log))).build()
    assert "88% of the users of 'tiny' begin at the same time, 0: if" in caplog.text


@pytest.mark.parametrize(
    ("moments", "empty"), [([10.0, 20.0], "training"), ([1e9 + 100, 1e9 + 100.1], "validation"), ([1e9, 2e9], "t")]
)
def test_a_part_without_interactions_is_refused(tmp_path: Path, moments: list[float], empty: str) -> None:
    data = write_log(tmp_path / "data", random_log(0))
    with pytest.raises(
        InputError, match=rf"The {empty}\w* part of 'tiny' is empty: move .* as the times run from 1000000"
    ):
        create_dataset(make_config("SASRec", data, {"split": {"TS": moments}})).build()


def test_a_file_without_times_is_refused(tmp_path: Path) -> None:
    data = write_log(tmp_path / "data", random_log(0))
    for model in ("SASRec", "Pop"):
        config = make_config(model, data, load_col={"inter": ["user_id", "item_id"]})
        with pytest.raises(InputError, match="has no loaded field 'timestamp'"):
            create_dataset(config).build()


def test_recboles_three_shares_keep_their_meaning(tmp_path: Path) -> None:
    data = write_log(tmp_path / "data", random_log(0))
    split = {"split": {"TS": [0.7, 0.1, 0.2]}, "order": "TO", "group_by": "user", "mode": "full"}
    dataset = create_dataset(make_config("Pop", data, split))
    dataset.build()
    assert dataset.time_split is None


OF_MODEL = {
    "Pop": {},
    "TransitionMemory": OF_MEMORY,
    "SASRec": {**SASREC, "epochs": 1},
    "TIGER": {**SETTINGS["TIGER"], "epochs": 1, "evaluate": {"": {"constrained": True}}},
}


def test_models_are_compared_and_analysed_target_by_target(tmp_path: Path) -> None:
    """Users have several targets, and some of them the same item several times."""
    log = random_log(1)
    first, second = (float(log["time"].quantile(share, interpolation="higher")) for share in (0.7, 0.85))
    wanted = Counter((u, item) for u, history, item in reference(log, first, second)["test"] if history)
    assert max(wanted.values()) > 1
    common = {**PLAIN, "data_path": str(write_log(tmp_path / "data", log)), "eval_args": SPLIT, "topk": [5, 10]}
    common |= {"valid_metric": "NDCG@10"}
    plan = make_plan("tiny", {name: {**common, **own, **common} for name, own in OF_MODEL.items()}, [1])
    outcomes = run_jobs(make_jobs(plan, tmp_path / "runs"), run_job, report=lambda line: None)
    assert [outcome.failure for outcome in outcomes] == [None] * 4
    summary = summarise(outcomes, baseline="Pop")
    for row, outcome in zip(summary.rows, outcomes, strict=True):
        results = read_per_user(Path(outcome.job.folder) / "per_user.parquet")
        assert Counter(zip(results["user"], results["target"], strict=True)) == wanted
        assert rank_metrics(results["rank"].to_numpy(), [10])["ndcg@10"].mean() == pytest.approx(
            row["ndcg@10"], abs=1e-6
        )
    n = sum(wanted.values())
    by_history = [row for row in summary.breakdown if row["by"] == "history"]
    assert sum(row["instances"] for row in by_history) == n
    means = {row["model"]: row["ndcg@10"] for row in summary.rows}
    for name, mean in means.items():
        assert sum(row["instances"] * row[name] for row in by_history) / n == pytest.approx(mean, abs=1e-6)
    for row in summary.tests:
        assert row["difference"] == pytest.approx(means[row["model"]] - means["Pop"], abs=1e-6)

    assert main(["analyze", f"--runs={tmp_path / 'runs'}", "--output=out", "--json=out.json"]) == 0
    tables = json.loads(Path("out.json").read_text())
    assert tables["instances"] == n
    for name, mean in means.items():
        of_model = [row for row in tables["categories"] if row["model"] == name]
        parts = [row for row in of_model if row["category"] in CLASSES]
        assert sum(row["count"] for row in parts) == n
        assert sum(row["count"] * (row["ndcg@10"] or 0) for row in parts) / n == pytest.approx(mean, abs=1e-6)
    assert sum(row["count"] for row in tables["indicator"]) == n
