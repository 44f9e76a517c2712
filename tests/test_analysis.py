"""Labels of instances against a literal transcription of the paper's definitions, over sets and loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.config import Config
from recbole_sid.data.dataset import create_history_dataset
from recbole_sid.errors import InputError
from recbole_sid.generalization import label_instances, label_tokens, shares
from recbole_sid.generalization import transitions as transitions_module
from recbole_sid.generalization.curves import support
from recbole_sid.generalization.instances import instances_of, training_graph_sequences
from recbole_sid.generalization.labels import TYPES, Labeller
from recbole_sid.generalization.transitions import Gaps, last_items, ragged

Sequence = list[int]


def pairs_within(sequences: list[Sequence], hop: int) -> set[tuple[Any, Any]]:
    return {
        (sequence[i], sequence[j])
        for sequence in sequences
        for i in range(len(sequence))
        for j in range(i + 1, min(i + hop, len(sequence) - 1) + 1)
    }


def literal_label(sequences: list[Sequence], history: Sequence, v: int, hops: int) -> dict[str, Any]:
    """Section 3 of the paper, one instance at a time."""
    a = {h: pairs_within(sequences, h) for h in range(1, hops + 1)}
    none = dict.fromkeys(TYPES, 0)
    if history and (history[-1], v) in a[1]:
        return {"category": "memorization", **none}
    nodes = {item for sequence in sequences for item in sequence}
    holds = {
        "substitutability": lambda h, d: h >= 2 and (d, v) in a[h],
        "symmetry": lambda h, d: (v, d) in a[h],
        "transitivity": lambda h, d: any((d, x) in a[h] and (x, v) in a[h] for x in nodes),
        "second_symmetry": lambda h, d: any(
            ((v, x) in a[h] and (x, d) in a[h])
            or ((v, x) in a[h] and (d, x) in a[h])
            or ((x, v) in a[h] and (x, d) in a[h])
            for x in nodes
        ),
    }
    found = dict(none)
    for name, condition in holds.items():
        for h in range(1, hops + 1):
            if len(history) >= h and any(condition(h, history[-k]) for k in range(1, h + 1)):
                found[name] = h
                break
    return {"category": "generalization" if any(found.values()) else "uncategorized", **found}


def one(sequences: list[Sequence], history: Sequence, target: int, hops: int = 4) -> dict[str, Any]:
    return label_instances(sequences, [history], [target], hops).iloc[0].to_dict()


short = st.lists(st.integers(0, 11), max_size=7)
cases = st.tuples(
    st.lists(short, max_size=5), st.lists(st.tuples(short, st.integers(0, 12)), max_size=8), st.integers(1, 5)
)


@settings(max_examples=300, deadline=None)
@given(cases)
def test_labels_equal_the_literal_definition(case: Any) -> None:
    sequences, instances, hops = case
    labels = label_instances(sequences, [history for history, _ in instances], [v for _, v in instances], hops)
    expected = [literal_label(sequences, history, v, hops) for history, v in instances]
    assert labels.to_dict("records") == expected


@settings(max_examples=100, deadline=None)
@given(cases, st.permutations(range(13)))
def test_renaming_items_changes_no_label(case: Any, names: list[int]) -> None:
    sequences, instances, hops = case
    histories, targets = [history for history, _ in instances], [v for _, v in instances]
    labels = label_instances(sequences, histories, targets, hops)
    renamed = label_instances(
        [[f"item {names[i]}" for i in sequence] for sequence in sequences],
        [[f"item {names[i]}" for i in history] for history in histories],
        [f"item {names[i]}" for i in targets],
        hops,
    )
    assert renamed.equals(labels)


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([[8, 1]], {"category": "memorization"}),
        ([[8, 5, 1]], {"substitutability": 2, "transitivity": 1}),
        ([[7, 1]], {"substitutability": 2}),  # d_2 directly before: not memorization, which is of d_1 alone
        ([[8, 5, 4, 1]], {"substitutability": 3, "transitivity": 2}),
        ([[1, 8]], {"symmetry": 1}),
        ([[1, 7]], {"symmetry": 2}),
        ([[8, 5], [5, 1]], {"transitivity": 1}),
        ([[8, 0, 5], [5, 1]], {"transitivity": 2}),
        ([[1, 5], [5, 8]], {"second_symmetry": 1}),
        ([[1, 5], [8, 5]], {"second_symmetry": 1}),
        ([[5, 1], [5, 8]], {"second_symmetry": 1}),
        ([[5, 1], [5, 6]], {"second_symmetry": 3}),  # by d_3
        ([[2, 3]], {"category": "uncategorized"}),
        ([], {"category": "uncategorized"}),
    ],
)
def test_one_case_of_every_category(sequences: list[Sequence], expected: dict[str, Any]) -> None:
    full = {"category": "generalization", **dict.fromkeys(TYPES, 0), **expected}
    assert one(sequences, [6, 7, 8], 1) == full


def test_hops_longer_than_the_history_are_not_examined() -> None:
    sequences = [[8, 5, 6, 1]]  # d_1 = 8 is three positions before the target
    assert one(sequences, [7, 4, 8], 1)["substitutability"] == 3
    assert one(sequences, [4, 8], 1)["substitutability"] == 0
    assert one(sequences, [7, 4, 8], 1, hops=2)["substitutability"] == 0
    assert one(sequences, [], 1)["category"] == "uncategorized"


def test_shares_count_partition_and_overlapping_types() -> None:
    sequences = [[8, 5, 1], [3, 4]]
    rows = shares(label_instances(sequences, [[8], [9, 8], [3], [2]], [1, 1, 4, 1], hops=2), hops=2)
    count = {row["category"]: row["count"] for row in rows}
    assert list(count) == [
        *("memorization", "generalization", "uncategorized", "substitutability_2", "symmetry_1", "symmetry_2"),
        *("transitivity_1", "transitivity_2", "second_symmetry_1", "second_symmetry_2"),
    ]
    assert (count["memorization"], count["generalization"], count["uncategorized"]) == (1, 2, 1)
    assert (count["substitutability_2"], count["transitivity_1"]) == (1, 2)
    assert sum(row["share"] for row in rows[:3]) == pytest.approx(1)


def test_labels_do_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 60, size=rng.integers(0, 9)) for _ in range(40)]
    histories = [rng.integers(0, 60, size=rng.integers(0, 9)) for _ in range(200)]
    targets = rng.integers(0, 60, size=200)
    at_once = label_instances(sequences, histories, targets)
    monkeypatch.setattr(transitions_module, "_ENTRIES", 5)
    assert label_instances(sequences, histories, targets).equals(at_once)
    assert len(at_once["category"].unique()) == 3


def test_offsets_and_lists_are_the_same_sequences() -> None:
    lists = [[1, 2, 3], [], [2, 1]]
    flat = (np.array([1, 2, 3, 2, 1]), np.array([0, 3, 3, 5]))
    assert label_instances(flat, flat, [1, 1, 3]).equals(label_instances(lists, lists, [1, 1, 3]))


@pytest.mark.parametrize(
    ("sequences", "targets", "hops", "message"),
    [
        ([[1, 2]], [1, 2], 4, "1 histories but 2 targets"),
        ([[1, 2]], [1], 0, "hops=0"),
        ((np.arange(3), np.array([0, 2])), [1], 4, "rising offsets"),
    ],
)
def test_wrong_input_is_refused(sequences: Any, targets: list[int], hops: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_instances(sequences, sequences, targets, hops)


codes_of_items = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=12, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    codes_of_items,  # some items share a semantic ID
    st.lists(st.lists(st.integers(0, 11), max_size=7), max_size=5),
    st.lists(st.tuples(st.lists(st.integers(0, 11), max_size=7), st.integers(0, 11)), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_token_labels_equal_the_literal_definition(
    codes: list[tuple[int, ...]], sequences: list[Sequence], instances: list[tuple[Sequence, int]], hops: int
) -> None:
    expected = []
    for history, v in instances:
        memorized = [0]
        for n in range(1, 4):
            prefixes = [[codes[i][:n] for i in sequence] for sequence in sequences]
            p = {h: pairs_within(prefixes, h) for h in range(1, hops + 1)}  # type: ignore[arg-type]
            if any(
                (codes[history[-k]][:n], codes[v][:n]) in p[h]
                for h in range(1, hops + 1)
                for k in range(1, h + 1)
                if k <= len(history)
            ):
                memorized.append(n)
        expected.append(max(memorized))
    recent = last_items(ragged([history for history, _ in instances]), 4)
    train = ragged(sequences)
    found = label_tokens(np.array(codes), train, recent, np.array([v for _, v in instances]), hops)
    assert found.tolist() == expected


def test_instances_are_of_the_split_and_of_whole_histories(prepare: Any, data_path: Any) -> None:
    _, train, valid, test = prepare("TIGER", MAX_ITEM_LIST_LENGTH=2)
    lines = (data_path / "tiny" / "tiny.inter").read_text().splitlines()[1:]
    whole: dict[str, list[str]] = {}
    for line in lines:
        user, item, _ = line.split("\t")
        whole.setdefault(user, []).append(item)
    token = np.asarray(train._dataset.field2id_token["item_id"])
    for split, held_out in ((valid._dataset, 2), (test._dataset, 1)):
        instances = instances_of(split, 4)
        assert sorted(instances.users) == sorted(whole)
        for user, recent, target in zip(*instances, strict=True):
            history = whole[user][:-held_out]
            assert token[target] == whole[user][-held_out]
            assert token[recent[recent >= 0]].tolist() == history[::-1][:4]
    sequences = training_graph_sequences(train._dataset)
    parts = np.split(token[sequences.values], sequences.offsets[1:-1])
    assert sorted(map(tuple, parts)) == sorted(tuple(items[:-2]) for items in whole.values())


def test_pairs_of_many_items_are_told_apart(tmp_path: Any) -> None:
    """Their numbers, first * items + second, go beyond 32 bits, in which datasets keep items."""
    n_items = 69_000
    data = write_dataset(tmp_path / "data", [list(range(n_items)), [68_000, 68_001, 68_002, 68_003]])
    config = Config("SASRec", "tiny", config_dict={"data_path": str(data), "state": "WARNING"})
    train, _, test = create_history_dataset(config).build()
    sequences, instances = training_graph_sequences(train), instances_of(test, 2)
    labels = Labeller(Gaps(sequences, train.item_num, 2)).label(instances.recent, instances.targets)
    assert dict(zip(instances.users, labels["category"], strict=True)) == {"u0": "uncategorized", "u1": "memorization"}
    counts = support(sequences, instances.recent[:, 0], instances.targets, train.item_num)
    assert dict(zip(instances.users, counts.tolist(), strict=True)) == {"u0": 0, "u1": 1}
