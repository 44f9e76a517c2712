"""Splits found for all users at once, against RecBole's loops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction

from recbole_sid.data.splitting import split_rows


def by_recbole(users: np.ndarray, times: np.ndarray, split: dict[str, Any], group_by: str | None) -> list[list[int]]:
    """Return the rows of each part, by the methods of RecBole's Dataset on a table of their numbers."""
    dataset = Dataset.__new__(Dataset)
    table = {"user": torch.from_numpy(users), "time": torch.from_numpy(times), "row": torch.arange(len(users))}
    dataset.inter_feat = Interaction(table)
    dataset.uid_field, dataset.time_field, dataset.benchmark_filename_list = "user", "time", None
    dataset._change_feat_format = lambda: None
    dataset.logger = SimpleNamespace(debug=lambda *_: None)
    dataset.config = {"eval_args": {"order": "TO", "split": split, "group_by": group_by}, "unused_col": None}
    return [part.inter_feat["row"].tolist() for part in Dataset.build(dataset)]


@pytest.mark.parametrize(
    ("split", "group_by"),
    [
        ({"LS": "valid_and_test"}, "user"),
        ({"LS": "valid_only"}, "user"),
        ({"LS": "test_only"}, "user"),
        ({"RS": [0.8, 0.1, 0.1]}, "user"),
        ({"RS": [3, 0, 1]}, "user"),
        ({"RS": [0.7, 0.2, 0.1]}, None),
        ({"RS": [0.7, 0.2, 0.1]}, "none"),
        ({"TS": [0.6, 0.2, 0.2]}, "user"),
        ({"TS": [0.9, 0.1, 0.0]}, None),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_the_same_rows_in_the_same_order(split: dict[str, Any], group_by: str | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = np.repeat(rng.permutation(30) + 1, rng.integers(1, 12, 30))
    times = rng.integers(0, 20, len(users)).astype(np.float32)  # with ties in and between users
    order = np.lexsort([times, users])
    ours = split_rows(users[order], times[order], split, group_by)
    assert ours is not None
    assert [part.tolist() for part in ours] == by_recbole(users[order], times[order], split, group_by)


@pytest.mark.parametrize("split", [{"LS": "all"}, {"XS": [1, 1, 1]}, {"RS": 3}, {"RS": [1, 1, 1], "LS": "test_only"}])
def test_what_recbole_does_not_know(split: dict[str, Any]) -> None:
    assert split_rows(np.ones(3, dtype=np.int64), np.zeros(3, dtype=np.float32), split, "user") is None


def test_groups_that_recbole_does_not_know() -> None:
    assert split_rows(np.ones(3, dtype=np.int64), np.zeros(3, dtype=np.float32), {"RS": [1, 1, 1]}, "item") is None


def test_no_rows() -> None:
    parts = split_rows(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), {"LS": "valid_and_test"}, "user")
    assert parts is not None
    assert [len(part) for part in parts] == [0, 0, 0]
