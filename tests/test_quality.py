"""The quality report: every number against one computed by hand or by brute force on twelve items."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_sid.cli import main
from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError
from recbole_sid.semantic_ids.quality import (
    co_occurrence_agreement,
    collisions,
    gini,
    group_sizes,
    level_rows,
    neighbourhood_agreement,
    prefix_entropies,
    warnings_of,
)
from recbole_sid.semantic_ids.report import report_text, report_with_dataset, sid_report, write_report

# Twelve items: first codes 6, 3, 3 times; of four codes at level 1, one is unused. The last level is the rank.
CODES = np.array(
    [
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 2],
        [0, 1, 0],
        [0, 1, 1],
        [0, 2, 0],
        [1, 0, 0],
        [1, 1, 0],
        [1, 2, 0],
        [3, 1, 0],
        [3, 1, 1],
        [3, 1, 2],
    ]
)


def ids(codes: np.ndarray = CODES, sizes: tuple[int, ...] = (4, 3, 3), **recipe: Any) -> SemanticIDs:
    return SemanticIDs(codes, sizes, np.array([f"i{item}" for item in range(len(codes))]), recipe)


def entropy(*counts: int) -> float:
    share = np.array(counts) / sum(counts)
    return float(-(share * np.log(share)).sum())


def test_level_rows_by_hand() -> None:
    rows = level_rows(ids())
    assert [(row["level"], row["used"], row["size"]) for row in rows] == [(1, 3, 4), (2, 3, 3), (3, 3, 3)]
    # Items per code: 6, 3, 0, 3; then 4, 6, 2; then, of the ranks, 7, 3, 2.
    levels = [(6, 3, 3), (4, 6, 2), (7, 3, 2)]
    assert [row["perplexity"] for row in rows] == pytest.approx([np.exp(entropy(*counts)) for counts in levels])
    ratios = [entropy(*counts) / np.log(size) for counts, size in zip(levels, (4, 3, 3), strict=True)]
    assert [row["entropy_ratio"] for row in rows] == pytest.approx(ratios)
    # Mean absolute difference of all ordered pairs, by twice the mean: (0, 3, 3, 6), (2, 4, 6), (2, 3, 7).
    assert [row["gini"] for row in rows] == pytest.approx([36 / (2 * 16 * 3), 16 / (2 * 9 * 4), 20 / (2 * 9 * 4)])
    # 3 prefixes of one code; 3 + 3 + 1 of two; 12 of three.
    assert [row["children_mean"] for row in rows] == pytest.approx([3, 7 / 3, 12 / 7])
    # Only children: none; (3, 1); (0, 2, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0).
    assert [row["only_child_share"] for row in rows] == pytest.approx([0, 1 / 7, 4 / 12])
    first, second, whole = entropy(6, 3, 3), entropy(3, 2, 1, 1, 1, 1, 3), np.log(12)
    information = [first / whole, (second - first) / whole, (whole - second) / whole]
    assert [row["information"] for row in rows] == pytest.approx(information)
    assert prefix_entropies(ids().trie) == pytest.approx([0, first, second, whole])


def test_gini_is_half_the_relative_mean_difference() -> None:
    counts = np.random.default_rng(0).integers(0, 50, 40)
    difference = np.abs(counts[:, None] - counts[None]).mean()
    assert gini(counts) == pytest.approx(difference / (2 * counts.mean()))
    assert gini(np.full(7, 3)) == 0
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)


@pytest.mark.parametrize("rule", ["rank", "ragged"])
def test_collisions_are_counted_without_the_level_that_tells_them_apart(rule: str) -> None:
    # (0, 0) and (3, 1) three times, (0, 1) twice.
    assert collisions(ids(collision=rule)) == {"collided_items": 8, "groups": 3, "largest_group": 3}
    assert sorted(group_sizes(ids(collision=rule)).tolist()) == [1, 1, 1, 1, 2, 3, 3]
    assert collisions(ids(collision="keep")) == {"collided_items": 0, "groups": 0, "largest_group": 1}


def test_collisions_that_left_no_trace_are_those_of_the_recipe() -> None:
    before = {"collided_items": 5, "groups": 2, "largest_group": 3}
    assert collisions(ids(collision="nearest", before_collision_rule=before)) == before


def test_items_that_share_a_semantic_id_are_collisions() -> None:
    kept = ids(CODES[:, :2], (4, 3), collision="keep")
    assert collisions(kept) == {"collided_items": 8, "groups": 3, "largest_group": 3}
    assert level_rows(kept)[1]["information"] == pytest.approx(1 - entropy(6, 3, 3) / entropy(3, 2, 1, 1, 1, 1, 3))


def test_a_level_of_one_code_and_a_single_item() -> None:
    (row,) = level_rows(ids(np.zeros((1, 1), int), (1,)))
    expected = {"level": 1, "used": 1, "size": 1, "perplexity": 1.0, "entropy_ratio": 1.0, "gini": 0.0}
    assert row == {**expected, "information": 0.0, "children_mean": 1.0, "only_child_share": 1.0}


@pytest.mark.parametrize("neighbours", [1, 3, 10, 30])
def test_neighbourhood_agreement_by_brute_force(neighbours: int) -> None:
    features = np.random.default_rng(3).normal(size=(12, 5)) * np.arange(1, 13)[:, None]
    found = neighbourhood_agreement(ids(collision="rank"), features, neighbours)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = [
        (item, other)
        for item in range(12)
        for other in sorted(set(range(12)) - {item}, key=lambda other: -(unit[item] @ unit[other]))[:neighbours]
    ]
    assert found.pairs == len(pairs)
    for depth in (1, 2):
        shared = np.mean([(CODES[a, :depth] == CODES[b, :depth]).all() for a, b in pairs])
        chance = np.mean([(CODES[a, :depth] == CODES[b, :depth]).all() for a, b in combinations(range(12), 2)])
        assert found.shared[depth - 1] == pytest.approx(shared)
        assert found.chance[depth - 1] == pytest.approx(chance)
    assert len(found.shared) == len(found.chance) == 2  # the rank says nothing of features


def test_equal_features_are_neighbours_of_each_other_and_not_of_themselves() -> None:
    codes = np.repeat(np.arange(3), 4)[:, None]
    found = neighbourhood_agreement(ids(codes, (3,)), np.eye(3)[codes[:, 0]], neighbours=3)
    assert found.pairs == 36
    assert found.shared == [1.0]
    assert found.chance == pytest.approx([3 * 4 * 3 / (12 * 11)])


def test_a_sample_of_a_large_catalogue_looks_for_neighbours_among_all() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (3000, 1))
    features = np.column_stack([codes * 2 - 1, 0.01 * rng.normal(size=(3000, 2))])
    found = neighbourhood_agreement(ids(codes, (2,)), features, neighbours=5, most_items=40)
    assert (found.pairs, found.shared) == (200, [1.0])


def test_co_occurrence_agreement_by_hand() -> None:
    # Sequences of item ids (row + 1): pairs (1,2) (2,4) (4,4: not counted) (4,7); (8,9); (10,1).
    items = np.array([1, 2, 4, 4, 7, 8, 9, 10, 1])
    found = co_occurrence_agreement(ids(), items, np.array([0, 5, 7, 9]))
    assert found.pairs == 5
    assert found.shared == pytest.approx([3 / 5])  # (1,2), (2,4), (8,9)
    # Left first codes 0, 0, 0, 1, 3; right 0, 0, 1, 1, 0.
    assert found.chance == pytest.approx([(3 * 3 + 1 * 2) / 25])


def test_co_occurrence_without_any_pair() -> None:
    assert co_occurrence_agreement(ids(), np.array([1, 2]), np.array([0, 1, 2])) == (0, [0.0], [0.0])


def test_warnings_in_words() -> None:
    good = ids(np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2), (8, 8), collision="keep")
    assert sid_report(good)["warnings"] == []
    collapsed = ids(np.column_stack([np.full(64, 3), good.codes]), (8, 8, 8), collision="keep")
    (sentence,) = sid_report(collapsed)["warnings"]
    assert sentence == "Level 1 has collapsed: its 8 codes are used as if there were 1.0 (1 occur)."
    few = ids(np.column_stack([np.arange(600) % 10, np.arange(600) // 10]), (256, 60))
    assert (
        "Level 1 has collapsed: its 256 codes are used as if there were 10.0 (10 occur)." in sid_report(few)["warnings"]
    )
    (sentence,) = sid_report(ids(collision="rank"))["warnings"]
    assert sentence.startswith("66.7% of the items share their codes with another before the collision rule")
    assert "in groups of up to 3" in sentence
    last = ids(np.column_stack([np.arange(100) // 50, np.arange(100)]), (2, 100))
    (sentence,) = sid_report(last)["warnings"]
    assert sentence == "The last level holds 85% of the information: the codes before say little."


@pytest.mark.parametrize(("collided", "warned"), [(5, False), (6, True)])
def test_five_per_cent_of_collisions_are_borne(collided: int, warned: bool) -> None:
    codes = np.arange(100)[:, None]
    counts = {"collided_items": collided, "groups": 2, "largest_group": 3}
    assert bool(warnings_of(ids(codes, (100,)), level_rows(ids(codes, (100,))), counts)) == warned


def test_the_report_is_json_text_and_picture() -> None:
    semantic_ids = ids(collision="rank", reconstruction_error=0.25)
    report = sid_report(semantic_ids)
    write_report(report, semantic_ids, "folder")
    assert json.loads(Path("folder/report.json").read_text()) == report
    assert list(report["rows"][0]) == (
        "level used size perplexity entropy_ratio gini information children_mean only_child_share".split()
    )
    assert (report["items"], report["collided_items"], report["groups"], report["largest_group"]) == (12, 8, 3, 3)
    assert report["collided_share"] == pytest.approx(8 / 12)
    text = Path("folder/report.md").read_text()
    assert report_text(report) in text
    assert "8 of them (66.7%) share their codes in 3 groups, the largest of 3" in text
    assert "Reconstruction error: 0.2500" in text
    assert "WARNING: 66.7%" in text
    assert Path("folder/report.png").read_bytes().startswith(b"\x89PNG")
    assert "12 items. Before the collision rule no two of them share their codes." in report_text(sid_report(ids()))


def test_a_dataset_adds_neighbours_and_co_occurrence_in_its_own_order(prepare: Callable[..., Any]) -> None:
    train = prepare("TIGER")[1]._dataset
    own = train.semantic_ids
    features = np.random.default_rng(0).normal(size=(30, 4))
    report = report_with_dataset(own, train, features, ["noise"])
    shuffled = np.random.default_rng(1).permutation(30)
    other = SemanticIDs(own.codes[shuffled], own.codebook_sizes, own.item_tokens[shuffled], own.recipe)
    assert report_with_dataset(other, train, features, ["noise"])["neighbourhood"] == report["neighbourhood"]
    near = neighbourhood_agreement(own, features)
    assert report["neighbourhood"] == {"features": ["noise"], **near._asdict()}
    items, offsets = train.training_sequences()
    code = own.codes[:, 0]
    pairs = [(a, b) for start, end in pairwise(offsets) for a, b in pairwise(items[start:end]) if a != b]
    assert report["co_occurrence"]["pairs"] == len(pairs)
    assert report["co_occurrence"]["shared"] == pytest.approx([np.mean([code[a - 1] == code[b - 1] for a, b in pairs])])
    assert "Nearest neighbours (noise) agree in the first code: " in report_text(report)
    with pytest.raises(InputError, match="20 of the dataset's 30 items have no semantic ID"):
        report_with_dataset(ids(own.codes[:10], own.codebook_sizes), train, features, ["noise"])


def test_tokenize_reports_on_what_it_makes(
    settings: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset=tiny", *(f"--{key}={value}" for key, value in settings("TIGER").items())]
    assert main(["tokenize", *words, "--output=ids.npz", "--report", "--json=result.json"]) == 0
    report = json.loads(Path("ids.npz.report/report.json").read_text())
    assert report["neighbourhood"]["features"] == ["collaborative"]
    assert {"co_occurrence", "reconstruction_error", "warnings", "collided_items"} < set(report)
    result = json.loads(Path("result.json").read_text())
    assert result["rows"] == report["rows"]
    assert result["neighbourhood"] == report["neighbourhood"]
    assert report_text(report) in capsys.readouterr().out
    assert main(["tokenize", *words, "--output=ids.npz", "--report=elsewhere"]) == 0
    assert json.loads(Path("elsewhere/report.json").read_text()) == report
    assert main(["report", "ids.npz", *words, "--output=again"]) == 0
    assert json.loads(Path("again/report.json").read_text()) == report


def test_report_of_a_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.json").write_text(json.dumps({f"i{item}": codes for item, codes in enumerate(CODES.tolist())}))
    assert main(["report", "x.json", "--json=result.json"]) == 0
    result = json.loads(Path("result.json").read_text())
    assert (result["collided_items"], result["groups"], result["largest_group"]) == (8, 3, 3)
    assert result["rows"] == level_rows(ids(sizes=(4, 3, 3)))
    assert Path("saved/reports/x.json/report.png").is_file()
    assert main(["report", "x.json", "--seed=3"]) == 2
    assert "report needs --dataset" in capsys.readouterr().err
