"""Training on everything, ``eval_args.split: {LS: none}``: what is learnt from, what has to be set, what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SASREC, SETTINGS, SMALL, random_sequences, write_dataset

from recbole_sid.bench.data import Workload
from recbole_sid.checkpoint import load_checkpoint
from recbole_sid.cli import main
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.memory import Memory
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_model

ALL: dict[str, Any] = {"eval_args": {"split": {"LS": "none"}}}
NUMBERS = {"hops": 2, "hop_decay": 0.5, "window": 2, "window_decay": 0.5, "pseudo_counts": 2.0}
MEMORY = {
    "memory": "transitions",
    **{f"memory_{name}": value for name, value in NUMBERS.items()},
    "memory_text_weight": 0.0,
    "memory_sharpness": 0.5,
}
PLAIN = {key: value for key, value in SMALL.items() if key not in ("codebook_sizes", "collaborative_dim")}


def settings_of(model: str, data_path: Path, **changes: Any) -> dict[str, Any]:
    own = {"SASRec": {**PLAIN, **SASREC}, "TransitionMemory": {**PLAIN, **NUMBERS}, **SETTINGS}.get(model, PLAIN)
    return {**own, "data_path": str(data_path), **ALL, **changes}


def config_of(model: str, data_path: Path, **changes: Any) -> Config:
    return Config(model, "tiny", config_dict=settings_of(model, data_path, **changes))


@pytest.mark.parametrize("model", ["TIGER", "CausalSID", "SASRec", "BPR"])
def test_every_interaction_is_trained_on_and_no_other_part_has_one(tmp_path: Path, model: str) -> None:
    sequences = [*random_sequences(), [3], [5, 7]]  # lone ones, too
    data = write_dataset(tmp_path / "data", sequences)
    config = config_of(model, data)
    train, valid, test = data_preparation(config, create_dataset(config))
    assert len(valid) == len(test) == 0 == len(valid._dataset) == len(test._dataset)
    matrix = train._dataset.inter_matrix(form="csr")
    items = train._dataset.field2token_id["item_id"]
    users = train._dataset.field2token_id["user_id"]
    expected = np.zeros(matrix.shape)
    for user, sequence in enumerate(sequences):
        np.add.at(expected, (users[f"u{user}"], [items[f"i{item}"] for item in sequence]), 1)
    assert np.array_equal(matrix.toarray(), expected)
    if model != "BPR":  # one row for each item but the first of a user
        assert len(train._dataset) == sum(len(sequence) - 1 for sequence in sequences)
        learnt, offsets = train._dataset.training_sequences()
        found = sorted(learnt[start:end].tolist() for start, end in itertools.pairwise(offsets))
        assert found == sorted([items[f"i{item}"] for item in sequence] for sequence in sequences)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("TIGER", {}),
    ("CausalSID", MEMORY),
    ("SIDMLP", MEMORY),
    ("SIDMLPPlusPlus", {"encoder": "token", "distill_stages": ["encoder", "decoder", "joint"]}),
    ("SIDMLPPlusPlus", {"encoder": "item", **MEMORY}),
    ("SIDMLPHybrid", {**MEMORY, "item_share": 0.3}),
    ("TransitionMemory", {}),
    ("SASRec", {}),
]


@pytest.mark.parametrize(("model", "changes"), CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)])
def test_a_model_trains_its_fixed_epochs_and_its_checkpoint_loads(
    data_path: Path, model: str, changes: dict[str, Any]
) -> None:
    run = run_model(config_of(model, data_path, **changes))
    assert run.test_result is None
    assert not run.best_valid_result
    file = run.trainer.saved_model_file
    config, loaded, _, train, valid, test = load_data_and_model(file)
    assert config["eval_args"]["split"] == {"LS": "none"}
    assert len(valid) == len(test) == 0
    ours, theirs = run.trainer.model.state_dict(), loaded.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if model == "SASRec":
        return
    checkpoint = load_checkpoint(file)
    assert checkpoint["finished"]
    last = 0 if model == "TransitionMemory" else _last(config, model)
    assert checkpoint["epoch"] == last
    fixed = {key: value for key, value in {**MEMORY, **NUMBERS, **changes}.items() if key in loaded.chosen}
    assert loaded.chosen == pytest.approx(fixed)
    if "memory" in changes:
        numbers = train._dataset.field2token_id["item_id"]
        sequences = [[numbers[f"i{item}"] for item in sequence] for sequence in random_sequences()]
        memory = Memory(train._dataset.item_num, row_limit=loaded.memory.row_limit)
        memory.learn(np.concatenate(sequences), np.cumsum([0, *map(len, sequences)]), loaded.memory.numbers)
        assert torch.equal(memory.counts, loaded.memory.counts)
    trainer = make_trainer(config, train)
    for part in (valid, test):
        with pytest.raises(InputError, match=r"nothing to evaluate \w+ on: eval_args.split={'LS': 'none'}"):
            trainer.evaluate(part)


def _last(config: Config, model: str) -> int:
    return (config["joint_epochs"] if "joint" in (config["distill_stages"] or ()) else config["epochs"]) - 1


def test_a_students_teacher_is_trained_on_everything_too(data_path: Path) -> None:
    run = run_model(config_of("SIDMLP", data_path))
    teacher = load_checkpoint(run.config["teacher_path"])
    assert teacher["config"]["eval_args"]["split"] == {"LS": "none"}


def test_it_comes_to_the_weights_of_the_selected_run_on_that_runs_training_part(tmp_path: Path) -> None:
    sequences = [[*sequence, 0, 1] for sequence in random_sequences()]  # so that every item stays without the last two
    shortened = [sequence[:-2] for sequence in sequences]
    fixed = {"tokenizer": "random", "eval_step": 0}
    leave_last_out = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    selected = run_model(config_of("TIGER", write_dataset(tmp_path / "whole", sequences), **fixed, **leave_last_out))
    nightly = run_model(config_of("TIGER", write_dataset(tmp_path / "shortened", shortened), **fixed))
    ours, theirs = (run.trainer.model.state_dict() for run in (selected, nightly))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("model", "changes", "unset"),
    [
        ("SIDMLPHybrid", {}, "item_share"),
        (
            "SIDMLPHybrid",
            {"memory": "transitions", "memory_hops": 2},
            "memory_hop_decay, .*memory_sharpness, item_share",
        ),
        ("TIGER", {"memory": "transitions"}, "memory_hops, .*memory_sharpness"),
        ("TransitionMemory", {"window": None, "hops": None}, "hops, window"),
    ],
)
def test_what_would_be_chosen_on_validation_must_be_set(
    data_path: Path, model: str, changes: dict[str, Any], unset: str
) -> None:
    with pytest.raises(
        InputError, match=rf"no validation part on which {model} could choose {unset}: set each to what"
    ):
        config_of(model, data_path, **changes)


def test_one_head_has_no_share_to_set(data_path: Path) -> None:
    config_of("SIDMLPHybrid", data_path, item_head=False)


def test_an_ensemble_with_one_value_in_each_grid_chooses_nothing(data_path: Path) -> None:
    files = {
        "id_model_path": run_model(config_of("SASRec", data_path)).trainer.saved_model_file,
        "sid_model_path": run_model(config_of("TIGER", data_path)).trainer.saved_model_file,
    }
    plain = {key: value for key, value in PLAIN.items() if key not in ("epochs", "train_batch_size")}
    common = {**plain, "data_path": str(data_path), **ALL, **files, "fusion": "fixed"}
    with pytest.raises(InputError, match="could choose alpha_grid"):
        Config("AdaptiveEnsemble", "tiny", config_dict=common)
    run = run_model(Config("AdaptiveEnsemble", "tiny", config_dict={**common, "alpha_grid": [0.4]}))
    assert run.trainer.model.chosen == {"alpha": 0.4}
    assert load_data_and_model(run.trainer.saved_model_file)[1].chosen == {"alpha": 0.4}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("TIGER", {"eval_args": {"split": {"LS": "nothing"}, "order": "TO"}}, "must be one of valid_and_test"),
        ("BPR", {"eval_args": {"split": {"LS": "none"}, "order": "RO"}}, "in the order of time: leave out"),
        ("TIGER", {"eval_args": {"split": {"LS": "none"}, "order": "RO"}}, "name `order: TO`|in the order of time"),
        ("FM", {"eval_args": {"split": {"LS": "none"}, "mode": "labeled"}}, "neither a sequential nor a general model"),
    ],
)
def test_contradictions_are_refused(data_path: Path, model: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_of(model, data_path, **changes)


def test_compare_and_tune_refuse_it(data_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = "--eval_args={split: {LS: none}}"
    common = [f"--data_path={data_path}", "--dataset=tiny", split]
    assert main(["compare", "--models=SASRec,BPR", *common]) == 2
    assert "leaves no test part, on which models are compared" in capsys.readouterr().err
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: {loguniform: [0.001, 0.01]}\n")
    assert main(["tune", "--model=TIGER", f"--space={space}", *common]) == 2
    assert "A search needs validation and test" in capsys.readouterr().err


def test_the_command_says_what_it_did(data_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {key: value for key, value in settings_of("TIGER", data_path).items() if key != "eval_args"}
    words = [f"--{key}={value}" for key, value in keys.items()]
    command = ["run", "--model=TIGER", "--dataset=tiny", "--eval_args={split: {LS: none}}", "--json=r.json", *words]
    assert main(command) == 0
    (row,) = json.loads(Path("r.json").read_text())["rows"]
    assert row["parameters"] > 0
    assert row.keys().isdisjoint({"users_per_s", "ndcg@10"})


def test_a_model_that_has_seen_what_it_is_evaluated_on_is_warned_of(
    data_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = run_model(config_of("TIGER", data_path)).trainer.saved_model_file
    load_data_and_model(teacher)
    assert "has seen what is evaluated on here" not in " ".join(caplog.text.split())
    other = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    load_data_and_model(teacher, other)
    assert "has seen what is evaluated on here" in " ".join(caplog.text.split())


def test_its_checkpoint_is_benchmarked_on_the_histories_of_training(data_path: Path) -> None:
    file = run_model(config_of("SIDMLPHybrid", data_path, item_share=0.5)).trainer.saved_model_file
    workload = Workload.of_checkpoint(file, 10, torch.device("cpu"), 0)
    assert len(workload.batches("natural", 5, 1)[0]) == 5
