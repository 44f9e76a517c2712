"""HistoryDataset against RecBole's SequentialDataset, pandas and plain Python; loaders bucketed by length."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import recbole
import torch
from conftest import random_sequences, write_dataset
from recbole.config import Config as RecBoleConfig
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_sid.checkpoint import training_part
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.dataset import ROW_FIELD, HistoryDataset, TimeOrderedDataset
from recbole_sid.data.loader import LengthBucketSampler, training_loader
from recbole_sid.errors import InputError
from recbole_sid.quick_start import run_model

SPLITS = ("train", "valid", "test")
ML_100K = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"


class Event(NamedTuple):
    """A line of an .inter file."""

    user: str
    item: str
    time: int
    rating: float
    tags: str


def random_events(seed: int, n_users: int = 12, n_items: int = 9) -> list[Event]:
    """Users with 1 to 9 events, in mixed file order, with tied times and repeated items."""
    rng = np.random.default_rng(seed)
    events = []
    for user in range(n_users):
        for _ in range(int(rng.integers(1, 10)) if user else 9):
            tags = " ".join(f"t{tag}" for tag in rng.integers(4, size=rng.integers(1, 4)))
            item, time, rating = f"i{rng.integers(n_items)}", int(rng.integers(6)), float(rng.integers(1, 6))
            events.append(Event(f"u{user}", item, time, rating, tags))
    return [events[i] for i in rng.permutation(len(events))]


def write_events(folder: Path, events: Sequence[Event], name: str = "tiny") -> Path:
    (folder / name).mkdir(parents=True)
    header = "user_id:token\titem_id:token\ttimestamp:float\trating:float\ttags:token_seq"
    lines = ["\t".join(map(str, event)) for event in events]
    (folder / name / f"{name}.inter").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def make_config(model: str, data: Path | str = "dataset", dataset: str = "tiny", **changes: Any) -> Config:
    return Config(model, dataset, config_dict={"data_path": str(data), "state": "WARNING", **changes})


def table(split: Any) -> dict[str, np.ndarray]:
    """All rows of a split, field by field, as its loader would give them."""
    rows = split[torch.arange(len(split))].interaction
    return {field: value.numpy() for field, value in rows.items() if field != ROW_FIELD}


def same_rows(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Whether two tables hold the same rows, in any order."""
    if ours.keys() != theirs.keys() or len(ours["user_id"]) != len(theirs["user_id"]):
        return False

    def in_order(rows: dict[str, np.ndarray]) -> np.ndarray:
        flat = np.concatenate([rows[field].reshape(len(rows["user_id"]), -1) for field in sorted(rows)], axis=1)
        return flat[np.lexsort(flat.T)]

    return np.array_equal(in_order(ours), in_order(theirs))


def split_reference(n_rows: int) -> list[str]:
    """To which split each of a user's rows belongs: leave the last two out, but keep one for training."""
    held_out = min(2, n_rows - 1)
    return ["train"] * (n_rows - held_out) + ["valid", "test"][2 - held_out :]


def reference(events: Sequence[Event], longest: int) -> dict[str, set[tuple[Any, ...]]]:
    """Split -> (user, history, target), from the events alone."""
    rows: dict[str, set[tuple[Any, ...]]] = {split: set() for split in SPLITS}
    for user in {event.user for event in events}:
        items = [event.item for event in sorted((e for e in events if e.user == user), key=lambda e: e.time)]
        if len(items) > 1:
            for t, split in enumerate(split_reference(len(items) - 1), start=1):
                rows[split].add((user, tuple(items[max(0, t - longest) : t]), items[t], t))
    return rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("longest", [2, 5])
def test_rows_are_the_prefixes_of_each_user_in_time_order(tmp_path: Path, seed: int, longest: int) -> None:
    events = random_events(seed)
    config = make_config("SASRec", write_events(tmp_path / "data", events), MAX_ITEM_LIST_LENGTH=longest)
    expected = reference(events, longest)
    for name, split in zip(SPLITS, create_dataset(config).build(), strict=True):
        rows = table(split)
        users, items = split.field2id_token["user_id"], split.field2id_token["item_id"]
        found = {
            (str(users[user]), tuple(map(str, items[history[:length]])), str(items[target]))
            for user, history, length, target in zip(
                rows["user_id"], rows["item_id_list"], rows["item_length"], rows["item_id"], strict=True
            )
        }
        assert found == {row[:3] for row in expected[name]}
        assert len(split) == len(expected[name])
        assert not any(
            history[length:].any() for history, length in zip(rows["item_id_list"], rows["item_length"], strict=True)
        )


@pytest.mark.parametrize("longest", [3, 20])
def test_all_fields_are_those_of_recbole(tmp_path: Path, longest: int) -> None:
    """Ties are broken by file order in both; these times are the same in float32."""
    data = write_events(tmp_path / "data", random_events(7))
    columns = ["user_id", "item_id", "timestamp", "rating", "tags"]
    config = make_config("SASRec", data, MAX_ITEM_LIST_LENGTH=longest, load_col={"inter": columns})
    ours, theirs = HistoryDataset(config).build(), SequentialDataset(config).build()
    assert {"rating_list", "timestamp_list", "tags_list"} <= table(ours[0]).keys()
    assert all(same_rows(table(a), table(b)) for a, b in zip(ours, theirs, strict=True))


def test_rows_of_the_tiny_dataset_are_those_of_recbole(data_path: Path) -> None:
    config = make_config("SASRec", data_path, MAX_ITEM_LIST_LENGTH=6)
    ours, theirs = HistoryDataset(config).build(), SequentialDataset(config).build()
    assert all(same_rows(table(a), table(b)) for a, b in zip(ours, theirs, strict=True))


def test_joined_item_features_are_those_of_recbole(data_path: Path) -> None:
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title", "kind"]}
    config = make_config("SASRec", data_path, load_col=columns)
    ours, theirs = HistoryDataset(config).build(), SequentialDataset(config).build()
    assert {"title", "kind"} <= table(ours[0]).keys()
    assert same_rows(table(ours[0]), table(theirs[0]))


def test_one_row_is_the_same_alone_and_in_a_slice(data_path: Path) -> None:
    train = create_dataset(make_config("SASRec", data_path)).build()[0]
    one, slice_ = train[5], train[4:7]
    assert all(torch.equal(one[field], slice_[field][1].reshape(one[field].shape)) for field in one.interaction)


@pytest.fixture(scope="module")
def ml_100k() -> dict[str, Any]:
    """ml-100k's sequences by float64 time from pandas, our splits, RecBole's splits."""
    config = make_config("SASRec", dataset="ml-100k")
    frame = pd.read_csv(ML_100K, sep="\t", header=0, names=["user", "item", "rating", "time"], dtype={"user": str})
    frame = frame.sort_values(["user", "time"], kind="stable")
    sequences = {user: group.item.astype(str).tolist() for user, group in frame.groupby("user")}
    return {
        "config": config,
        "sequences": sequences,
        "ours": HistoryDataset(config).build(),
        "theirs": SequentialDataset(config).build(),
    }


def test_rows_of_ml_100k_follow_the_float64_times_of_the_file(ml_100k: dict[str, Any]) -> None:
    train, valid, test = ml_100k["ours"]
    token2id = {field: train.field2token_id[field] for field in ("user_id", "item_id")}
    expected: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    for user, tokens in ml_100k["sequences"].items():
        items = [token2id["item_id"][token] for token in tokens]
        for t, split in enumerate(split_reference(len(items) - 1), start=1):
            history = items[max(0, t - 20) : t]
            padded = history + [0] * (20 - len(history))
            expected[split].append(np.array([token2id["user_id"][user], items[t], len(history), *padded]))
    for name, split in zip(SPLITS, (train, valid, test), strict=True):
        rows = table(split)
        found = np.column_stack([rows[key] for key in ("user_id", "item_id", "item_length", "item_id_list")])
        wanted = np.stack(expected[name])
        assert np.array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


def test_rows_of_ml_100k_are_recboles_where_float32_keeps_the_order(ml_100k: dict[str, Any]) -> None:
    """RecBole orders by times rounded to float32; users whose order that does not change must agree in every field."""
    ours, theirs = ml_100k["ours"], ml_100k["theirs"]
    items = ours[0].field2id_token["item_id"]
    sequences: dict[int, list[str]] = {}
    for split in theirs:
        rows = table(split)
        for user in np.unique(rows["user_id"]):
            of_user = np.flatnonzero(rows["user_id"] == user)
            if user not in sequences:
                sequences[user] = [items[rows["item_id_list"][of_user[rows["item_length"][of_user].argmin()]][0]]]
            sequences[user] += list(items[rows["item_id"][of_user]])
    users = ours[0].field2id_token["user_id"]
    agreeing = [user for user, tokens in sequences.items() if tokens == ml_100k["sequences"][users[user]]]
    assert 100 < len(agreeing) < len(sequences)
    for a, b in zip(ours, theirs, strict=True):
        tables = [table(split) for split in (a, b)]
        kept = [{key: value[np.isin(rows["user_id"], agreeing)] for key, value in rows.items()} for rows in tables]
        assert same_rows(*kept)


def test_long_histories_keep_the_most_recent_items(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [list(range(12)), list(range(12))])
    _, _, test = create_dataset(make_config("SASRec", data, MAX_ITEM_LIST_LENGTH=4)).build()
    tokens = test.field2id_token["item_id"][table(test)["item_id_list"]]
    assert tokens.tolist() == [["i7", "i8", "i9", "i10"]] * 2


@pytest.mark.parametrize("value_field", [None, "rating"])
def test_inter_matrix_is_recboles(tmp_path: Path, value_field: str | None) -> None:
    columns = ["user_id", "item_id", "timestamp", "rating"]
    config = make_config("SASRec", write_events(tmp_path / "data", random_events(3)), load_col={"inter": columns})
    for ours, theirs in zip(HistoryDataset(config).build(), SequentialDataset(config).build(), strict=True):
        matrices = [split.inter_matrix("csr", value_field).toarray() for split in (ours, theirs)]
        assert matrices[0].any()
        assert np.allclose(*matrices)


@pytest.mark.parametrize("seed", range(3))
def test_training_sequences_leave_the_last_two_out(tmp_path: Path, seed: int) -> None:
    sequences = random_sequences(seed)
    train = create_dataset(make_config("SASRec", write_dataset(tmp_path / "data", sequences))).build()[0]
    items, offsets = train.training_sequences()
    tokens = train.item_tokens()[items - 1]
    found = [tokens[start:end].tolist() for start, end in pairwise(offsets)]
    assert sorted(found) == sorted([f"i{item}" for item in sequence[:-2]] for sequence in sequences)


def test_training_sequences_survive_truncated_histories(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [list(range(9)), [3, 1, 4, 1, 5]])
    items, offsets = create_dataset(make_config("SASRec", data, MAX_ITEM_LIST_LENGTH=2)).build()[0].training_sequences()
    assert offsets.tolist() == [0, 7, 10]
    assert len(set(items[:7])) == 7


def test_training_parts_are_named_as_in_earlier_versions(tmp_path: Path) -> None:
    """Checkpoints and semantic IDs record a hash of numbers of 64 bits, whatever they are kept in now."""
    train = create_dataset(make_config("SASRec", write_dataset(tmp_path / "data", random_sequences(0)))).build()[0]
    items, offsets = (numbers.tolist() for numbers in train.training_sequences())
    content = struct.pack(f"={len(items)}q{len(offsets)}q", *items, *offsets)
    assert training_part(train) == hashlib.sha256(content).hexdigest()[:16]


def test_general_and_sequential_models_get_the_same_targets(tmp_path: Path) -> None:
    events = random_events(5, n_users=30)
    often = [event for event in events if sum(e.user == event.user for e in events) > 3]
    data = write_events(tmp_path / "data", often)
    general, sequential = (create_dataset(make_config(model, data)).build() for model in ("Pop", "SASRec"))
    assert isinstance(general[0], TimeOrderedDataset)
    for a, b in zip(general[1:], sequential[1:], strict=True):
        feats = [split.inter_feat for split in (a, b)]
        pairs = [set(zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True)) for feat in feats]
        assert pairs[0] == pairs[1]
        assert len(pairs[0]) == len(a)


def test_general_model_on_ml_100k_has_the_targets_of_the_file(ml_100k: dict[str, Any]) -> None:
    """RecBole's own Dataset has others, because float32 times tie."""
    config = make_config("BPR", dataset="ml-100k")

    def targets(split: Any) -> dict[str, str]:
        users, items = (split.field2id_token[field] for field in ("user_id", "item_id"))
        feat = split.inter_feat
        return dict(zip(users[feat["user_id"].numpy()], items[feat["item_id"].numpy()], strict=True))

    _, valid, test = create_dataset(config).build()
    assert targets(test) == {user: items[-1] for user, items in ml_100k["sequences"].items()}
    assert targets(valid) == {user: items[-2] for user, items in ml_100k["sequences"].items()}
    assert targets(Dataset(config).build()[2]) != targets(test)


def test_general_model_without_times_is_split_as_by_recbole(data_path: Path) -> None:
    changes = {
        "load_col": {"inter": ["user_id", "item_id"]},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
    }
    config = make_config("BPR", data_path, **changes)
    splits = []
    for make in (create_dataset, Dataset):
        torch.manual_seed(3)
        splits.append([split.inter_feat["item_id"].tolist() for split in make(config).build()])
    assert splits[0] == splits[1]


def sampled_batches(sampler: LengthBucketSampler) -> list[list[int]]:
    order = list(sampler)
    return [order[start : start + sampler.batch_size] for start in range(0, len(order), sampler.batch_size)]


def padding(lengths: torch.Tensor, batches: Sequence[Sequence[int]]) -> int:
    return sum(int(lengths[batch].max()) * len(batch) - int(lengths[batch].sum()) for batch in batches)


@pytest.fixture
def lengths() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 51, size=2003))


def test_bucket_sampler_yields_every_row_once(lengths: torch.Tensor) -> None:
    sampler = LengthBucketSampler(lengths, 16, torch.Generator().manual_seed(1))
    for _ in range(2):
        assert sorted(sampler) == list(range(2003))
    assert len(sampler) == 2003


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17])
def test_bucket_sampler_handles_few_rows(n: int) -> None:
    assert sorted(LengthBucketSampler(torch.ones(n, dtype=torch.int64), 16, torch.Generator())) == list(range(n))


@pytest.mark.parametrize("n", [40, 7])
def test_every_row_is_equally_likely_to_be_in_the_short_batch(n: int) -> None:
    """Whatever its length; 16 rows a batch, so that the short batch has 8 or 7 rows."""
    sampler = LengthBucketSampler(torch.arange(n), 16, torch.Generator().manual_seed(0))
    epochs, short = 4000, n % 16
    counts = np.bincount(np.concatenate([list(sampler)[-short:] for _ in range(epochs)]), minlength=n)
    share = short / n
    assert np.abs(counts - epochs * share).max() <= 5 * np.sqrt(epochs * share * (1 - share))


def test_bucket_sampler_makes_batches_of_like_length(lengths: torch.Tensor) -> None:
    sampler = LengthBucketSampler(lengths, 16, torch.Generator().manual_seed(1))
    shuffled = np.random.default_rng(1).permutation(2003).tolist()
    random_batches = [shuffled[start : start + 16] for start in range(0, 2003, 16)]
    assert padding(lengths, sampled_batches(sampler)) < 0.1 * padding(lengths, random_batches)


def test_bucket_sampler_mixes_lengths_over_the_epoch(lengths: torch.Tensor) -> None:
    """Batches do not come in order of length."""
    means = [
        lengths[batch].float().mean() for batch in sampled_batches(LengthBucketSampler(lengths, 16, torch.Generator()))
    ]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_bucket_sampler_follows_its_generator(lengths: torch.Tensor) -> None:
    one, same, other = (LengthBucketSampler(lengths, 16, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    first, second = list(one), list(one)
    assert first != second
    assert [first, second] == [list(same), list(same)]
    assert list(other) != first


def test_training_loader_is_bucketed_and_complete(prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("TIGER", train_batch_size=8)
    batches = [batch for batch in train]
    assert sorted(torch.cat([batch[ROW_FIELD] for batch in batches]).tolist()) == sorted(
        train._dataset.inter_feat[ROW_FIELD].tolist()
    )
    all_lengths = train._dataset.inter_feat["item_length"]
    unsorted = [list(range(start, min(start + 8, len(all_lengths)))) for start in range(0, len(all_lengths), 8)]
    padded = sum(int((batch["item_length"].max() - batch["item_length"]).sum()) for batch in batches)
    assert padded < 0.5 * padding(all_lengths, unsorted)
    again = training_loader(config, train._dataset)
    assert all(torch.equal(a[ROW_FIELD], b[ROW_FIELD]) for a, b in zip(batches, again, strict=True))


def test_training_loader_keeps_the_order_if_it_does_not_shuffle(prepare: Callable[..., Any]) -> None:
    _, train, _, _ = prepare("TIGER", shuffle=False)
    rows = torch.cat([batch[ROW_FIELD] for batch in train])
    assert torch.equal(rows, train._dataset.inter_feat[ROW_FIELD])


def test_missing_folder_is_refused() -> None:
    with pytest.raises(InputError, match=r"no dataset folder '.*nowhere.*tiny'.*--data_path"):
        create_dataset(make_config("TIGER", "nowhere"))


def test_missing_inter_file_is_refused(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "data" / "tiny")
    with pytest.raises(InputError, match=r"has no file 'tiny\.inter'"):
        create_dataset(make_config("TIGER", tmp_path / "data"))


@pytest.mark.parametrize("model", ["TIGER", "Pop"])
@pytest.mark.parametrize("changes", [{"load_col": {"inter": ["user_id", "item_id"]}}, {"TIME_FIELD": "time"}])
def test_missing_time_field_is_refused(data_path: Path, model: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"no loaded field '(timestamp|time)': name it in load_col"):
        create_dataset(make_config(model, data_path, **changes)).build()


@pytest.mark.parametrize(("n_items", "empty"), [(3, "validation"), (2, "validation"), (1, "training")])
def test_empty_split_is_refused(tmp_path: Path, n_items: int, empty: str) -> None:
    data = write_dataset(tmp_path / "data", [list(range(n_items))] * 3)
    with pytest.raises(InputError, match=f"The {empty} split of 'tiny' is empty.*at least 4 interactions"):
        create_dataset(make_config("TIGER", data)).build()


@pytest.mark.parametrize(("mode", "empty"), [("valid_only", 2), ("test_only", 1)])
def test_split_that_is_not_asked_for_may_be_empty(data_path: Path, mode: str, empty: int) -> None:
    changes = {"eval_args": {"split": {"LS": mode}, "order": "TO", "group_by": "user", "mode": "full"}}
    splits = create_dataset(make_config("TIGER", data_path, **changes)).build()
    assert [len(split) > 0 for split in splits] == [number != empty for number in range(3)]


@pytest.mark.parametrize("mode", ["RS", "TS"])
@pytest.mark.parametrize(("shares", "empty"), [([0.7, 0.0, 0.3], 1), ([7, 3, 0], 2)])
def test_a_share_of_zero_leaves_its_part_empty(data_path: Path, mode: str, shares: list[float], empty: int) -> None:
    file = data_path / "tiny" / "tiny.inter"
    file.write_text(file.read_text().replace("\t16000000", "\t"))  # times that float32 tells apart
    changes = {"eval_args": {"split": {mode: shares}, "order": "TO", "group_by": "user", "mode": "full"}}
    for model in ("TIGER", "BPR"):
        splits = create_dataset(make_config(model, data_path, **changes)).build()
        assert [len(split) > 0 for split in splits] == [number != empty for number in range(3)]


def test_a_split_without_validation_trains_and_tests(data_path: Path) -> None:
    changes = {"eval_args": {"split": {"RS": [0.7, 0.0, 0.3]}, "order": "TO", "group_by": "user", "mode": "full"}}
    for model in ("TIGER", "BPR"):
        run = run_model(make_config(model, data_path, epochs=1, **changes))
        assert len(run.test_data._dataset)
        assert 0 <= run.test_result["ndcg@10"] <= 1


@pytest.mark.parametrize("model", ["TIGER", "BPR"])
@pytest.mark.parametrize("shares", [[0.8, 0.2], [1.0], [0.0, 0.5, 0.5], [1, 0, 0], [0.8, -0.1, 0.3], ["a", 0.1, 0.1]])
def test_shares_that_are_not_three_are_refused(data_path: Path, model: str, shares: list[Any]) -> None:
    changes = {"eval_args": {"split": {"RS": shares}, "order": "TO", "group_by": "user", "mode": "full"}}
    config = make_config(model, data_path, **changes)
    with pytest.raises(InputError, match=r"RS takes three shares, of training .* as in \[0\.8, 0\.0, 0\.2\]"):
        data_preparation(config, create_dataset(config))


def test_shares_that_are_too_small_for_the_histories_are_named(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [[0, 1, 2]] * 3)
    changes = {"eval_args": {"split": {"RS": [0.5, 0.25, 0.25]}, "order": "TO", "group_by": "user", "mode": "full"}}
    with pytest.raises(InputError, match=r"The validation split .* is empty: by shares .* too few interactions"):
        create_dataset(make_config("TIGER", data, **changes)).build()


@pytest.mark.parametrize("model", ["TIGER", "CausalSID", "SIDMLP", "AdaptiveEnsemble"])
def test_files_that_are_split_already_are_refused_early(data_path: Path, model: str) -> None:
    with pytest.raises(InputError, match=f"{model} needs whole sequences of interactions: leave out benchmark_file"):
        make_config(model, data_path, benchmark_filename=["train", "valid", "test"])


COMMAS = ("\t", ",")
OTHER_NAMES = ("user_id", "uid")


@pytest.mark.parametrize(
    ("encoding", "replaced", "changes", "mend", "says"),
    [
        ("utf-8-sig", COMMAS[:1] * 2, {}, {"encoding": "utf-8-sig"}, "byte order mark: set encoding to utf-8-sig"),
        ("utf-16", COMMAS[:1] * 2, {}, {"encoding": "utf-16"}, "is not text in encoding=utf-8: name its own in enc"),
        ("utf-8", COMMAS[:1] * 2, {"encoding": "utf-9"}, {"encoding": "utf-8"}, "is not text in encoding=utf-9"),
        ("utf-8", COMMAS, {}, {"field_separator": ","}, "has one column only by .*: set field_separator to what"),
        (
            "utf-8",
            OTHER_NAMES,
            {},
            {"USER_ID_FIELD": "uid", "load_col": {"inter": ["uid", "item_id", "timestamp"]}},
            "has no field 'user_id': set USER_ID_FIELD to the one of uid, item_id, timestamp .* name it in load_col",
        ),
        (
            "utf-8",
            OTHER_NAMES,
            {"USER_ID_FIELD": "uid"},
            {"load_col": {"inter": ["uid", "item_id", "timestamp"]}},
            r"The field 'uid' of USER_ID_FIELD is not loaded from 'tiny.inter': add it to load_col\.inter",
        ),
        (
            "utf-8",
            COMMAS[:1] * 2,
            {"load_col": None, "unload_col": {"inter": ["item_id"]}},
            {"unload_col": None},
            r"The field 'item_id' of ITEM_ID_FIELD is left out .*: take it out of unload_col\.inter",
        ),
        (
            "utf-8",
            COMMAS[:1] * 2,
            {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["title"]}},
            {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}},
            r"The field 'item_id' of ITEM_ID_FIELD is not loaded from 'tiny.item': add it to load_col\.item",
        ),
    ],
)
@pytest.mark.parametrize("model", ["TIGER", "BPR"])
def test_a_first_line_that_cannot_be_used_names_the_key_that_mends_it(
    data_path: Path,
    model: str,
    encoding: str,
    replaced: tuple[str, str],
    changes: dict[str, Any],
    mend: dict[str, Any],
    says: str,
) -> None:
    file = data_path / "tiny" / "tiny.inter"
    expected = create_dataset(make_config(model, data_path)).inter_num
    file.write_text(file.read_text(encoding="utf-8").replace(*replaced), encoding=encoding)
    with pytest.raises(InputError, match=says):
        create_dataset(make_config(model, data_path, **changes))
    assert create_dataset(make_config(model, data_path, **{**changes, **mend})).inter_num == expected


@pytest.mark.parametrize(("wrong", "named"), [("user_id", "user_id"), ("user_id:tokens", "user_id:tokens")])
def test_a_column_without_a_type_is_named(data_path: Path, wrong: str, named: str) -> None:
    file = data_path / "tiny" / "tiny.inter"
    file.write_text(file.read_text(encoding="utf-8").replace("user_id:token", wrong, 1), encoding="utf-8")
    with pytest.raises(InputError, match=f"The column '{named}' .* must be name:type, of type token, float"):
        create_dataset(make_config("TIGER", data_path))


def test_nothing_left_after_filtering_is_refused(data_path: Path) -> None:
    with pytest.raises(InputError, match="no interaction left after filtering"):
        create_dataset(make_config("TIGER", data_path, user_inter_num_interval="[100,inf)"))


def test_file_without_interactions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no interaction left"):
        create_dataset(make_config("Pop", write_events(tmp_path / "data", [])))


def test_configuration_of_recboles_own_gets_recboles_dataset(data_path: Path) -> None:
    for model, class_ in (("BPR", Dataset), ("SASRec", SequentialDataset)):
        settings = {"data_path": str(data_path), "train_neg_sample_args": None}
        assert type(create_dataset(RecBoleConfig(model, "tiny", config_dict=settings))) is class_


def test_preparation_of_a_recbole_model_keeps_its_loaders(data_path: Path) -> None:
    config = make_config("SASRec", data_path)
    train, _, test = data_preparation(config, create_dataset(config))
    assert train._dataset.semantic_ids is None
    assert not isinstance(train.batch_sampler.sampler, LengthBucketSampler)
    assert next(iter(test))[0]["item_id_list"].shape[1] == 20


def test_general_models_are_evaluated_by_as_many_users_as_others(data_path: Path) -> None:
    settings = {"data_path": str(data_path), "eval_batch_size": 7, "state": "WARNING"}
    config = Config("BPR", "tiny", config_dict=settings)
    _, _, test = data_preparation(config, create_dataset(config))
    sizes = [len(batch[0]) for batch in test]
    assert sizes[:-1] == [7] * (len(sizes) - 1)
    assert len(sizes) == len(test)
    assert sum(sizes) == test.sample_size


def test_topk_beyond_the_catalogue_is_refused(data_path: Path) -> None:
    config = Config("BPR", "tiny", config_dict={"data_path": str(data_path), "topk": [10, 31], "beam_size": 50})
    with pytest.raises(InputError, match="asks for more than the 30 items"):
        data_preparation(config, create_dataset(config))


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
@pytest.mark.parametrize("time", ["", "nan", "inf", "-inf"])
def test_a_time_that_is_no_number_is_refused_with_count_and_line(tmp_path: Path, model: str, time: str) -> None:
    data = write_events(tmp_path / "data", random_events(3))
    file = data / "tiny" / "tiny.inter"
    lines = file.read_text(encoding="utf-8").splitlines()
    for number in (4, 9):
        fields = lines[number - 1].split("\t")
        fields[2] = time
        lines[number - 1] = "\t".join(fields)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"'timestamp' .* in 2 rows, first in line 4: .*recbole-sid convert"):
        create_dataset(make_config(model, data))


def test_a_time_of_type_token_is_refused(tmp_path: Path) -> None:
    data = write_events(tmp_path / "data", random_events(3))
    file = data / "tiny" / "tiny.inter"
    file.write_text(file.read_text(encoding="utf-8").replace("timestamp:float", "timestamp:token"), encoding="utf-8")
    with pytest.raises(InputError, match=r"'timestamp' .* type token.*recbole-sid convert"):
        create_dataset(make_config("SASRec", data))
