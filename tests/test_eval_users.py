"""Evaluation on a sample of users: the same targets, histories and ranks as these users have among all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_sequences, write_dataset

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError


def loaders(folder: Path, model: str, **changes: Any) -> tuple[Any, Any, Any]:
    settings = {"data_path": str(folder), "use_gpu": False, "state": "ERROR", **changes}
    config = Config(model, "tiny", config_dict=settings)
    return data_preparation(config, create_dataset(config))


def targets(loader: Any) -> dict[int, list[int]]:
    rows = loader._dataset.inter_feat
    found: dict[int, list[int]] = {}
    for user, item in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True):
        found.setdefault(user, []).append(item)
    return found


@pytest.mark.parametrize("model", ["SASRec", "Pop"])
@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.5, 0.2, 0.3]}])
def test_targets_are_those_of_some_users(data_path: Path, model: str, split: dict[str, Any]) -> None:
    split = {"eval_args": {"split": split, "order": "TO", "group_by": "user", "mode": "full"}}
    whole = loaders(data_path, model, **split)
    some = loaders(data_path, model, eval_users={"valid": 5, "test": 9}, **split)
    other_seed = loaders(data_path, model, eval_users=9, eval_users_seed=1, seed=7, **split)
    same_users = loaders(data_path, model, eval_users=9, seed=7, **split)
    assert targets(some[0]) == targets(whole[0])
    valid, test = targets(some[1]), targets(some[2])
    assert (len(valid), len(test)) == (5, 9)
    assert valid.keys() <= test.keys()
    for mine, all_of_them in ((valid, targets(whole[1])), (test, targets(whole[2]))):
        assert mine == {user: all_of_them[user] for user in mine}
    assert targets(same_users[2]) == test != targets(other_seed[2])


def test_batches_of_a_general_model_leave_out_what_all_users_had(tmp_path: Path) -> None:
    sequences = random_sequences()
    data_path = write_dataset(tmp_path / "data", [sequences[0][:8], *sequences[1:]])
    order = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}
    order["repeatable"] = False
    seen = []
    for changes in ({}, {"eval_users": {"valid": 2, "test": 9}}):
        found: dict[int, tuple[list[int], list[int]]] = {}
        for users, (place, left_out), positive, items in loaders(data_path, "BPR", **order, **changes)[2]:
            for number, user in enumerate(users["user_id"].tolist()):
                known = sorted(left_out[place == number].tolist())
                found[user] = (known, items[torch.as_tensor(positive) == number].tolist())
        seen.append(found)
    assert len(seen[1]) == 9
    assert seen[1] == {user: seen[0][user] for user in seen[1]}


def test_all_users_where_there_are_no_more(data_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert targets(loaders(data_path, "Pop", eval_users=10_000)[2]) == targets(loaders(data_path, "Pop")[2])
    with caplog.at_level("INFO"):
        loaders(data_path, "Pop", eval_users={"test": 3}, state="INFO")
    assert "Test is measured on 3 of 40 users (eval_users)." in caplog.text
    assert "Validation is measured" not in caplog.text


@pytest.mark.parametrize("wrong", [0, -1, 1.5, {"valid": 0}, {"training": 3}, {"test": "all"}, [3]])
def test_what_is_no_number_of_users(data_path: Path, wrong: Any) -> None:
    with pytest.raises(InputError, match="eval_users"):
        loaders(data_path, "TIGER", eval_users=wrong)


def test_the_users_of_a_sample_are_not_the_first(data_path: Path) -> None:
    users = np.array(sorted(targets(loaders(data_path, "Pop", eval_users=20)[2])))
    assert users.max() > 30 > 10 > users.min()
