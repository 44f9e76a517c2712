"""Two processes that train one model find what one finds: losses, best epochs, metrics, lists; one of them writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import group_work
import pytest
import torch
from conftest import OWN, SETTINGS, SMALL_TIGER, random_sequences, write_dataset

from recbole_sid.config import Config
from recbole_sid.data.batch import Batch, portion_of
from recbole_sid.data.shares import SharedBatches
from recbole_sid.distributed.group import Group
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Processes
from recbole_sid.errors import InputError
from recbole_sid.evaluation.parts import part_of
from recbole_sid.tuning.search import Options, make_plan
from recbole_sid.tuning.space import read_space
from recbole_sid.tuning.trial import SCORE

TWO = Processes(2, 2)
_PLAIN = {key: value for key, value in SETTINGS["TIGER"].items() if key not in {*SMALL_TIGER, *OWN, "beam_size"}}
_STAGES = ["encoder", "decoder", "joint"]
# Batches that do not divide evenly, and short last ones of a single row.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "TIGER": ("TIGER", {**SETTINGS["TIGER"], "train_batch_size": 33, "eval_batch_size": 7}),
    "steps": ("TIGER", {**SETTINGS["TIGER"], "accumulation_steps": 3, "clip_grad_norm": {"max_norm": 0.5}}),
    "bf16": ("TIGER", {**SETTINGS["TIGER"], "enable_amp": True}),
    "windows": ("TIGER", {**SETTINGS["TIGER"], "encoder_attention": "causal", "train_batch_size": 9}),
    "CausalSID": ("CausalSID", {**SETTINGS["CausalSID"], "train_batch_size": 13}),
    "SIDMLP": ("SIDMLP", {**SETTINGS["SIDMLP"], "memory": "transitions", "distill_cache": "memory"}),
    "SIDMLPPlusPlus": (
        "SIDMLPPlusPlus",
        {**SETTINGS["SIDMLPPlusPlus"], "distill_stages": _STAGES, "distill_cache": "disk"},
    ),
    "hybrid": ("SIDMLPHybrid", {**SETTINGS["SIDMLPHybrid"], "memory": "transitions"}),
    "memory": ("TransitionMemory", _PLAIN),
    "captured": ("TIGER", {**SETTINGS["TIGER"], "capture_training": True, "weight_decay": 0.1}),
}
NO_DROPOUT = {"dropout_prob": 0.0, "epochs": 3}
WITH_DROPOUT = {**SETTINGS["TIGER"], "dropout_prob": 0.3, "epochs": 3}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What two processes found, and what one does, of all that this file asks."""
    folder = tmp_path_factory.mktemp("parallel")
    data = str(write_dataset(folder / "data", random_sequences()))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch("sys.argv", ["pytest"]), mock.patch.dict(os.environ, {"RAY_worker_niceness": "0"}):
            works = [
                ("train_each", [_in_folder(RUNS, data, folder / "two")]),
                ("interrupt_and_resume", ["TIGER", {**WITH_DROPOUT, "data_path": data}, str(folder)]),
            ]
            begun = {**SETTINGS["TIGER"], **NO_DROPOUT, "data_path": data, "checkpoint_dir": str(folder / "begun")}
            group_work.interrupted("TIGER", begun, 2)
            works += [
                ("train_and_tell", ["TIGER", {**begun, "resume": True}]),
                ("train_trial_of", [_search(data, folder / "trial-two")]),
                ("gradients", [False]),
                ("gradients", [True]),
            ]
            two, resumed, more, trial, *gradients = launch(group_work.do_all, [works], TWO)
            one = group_work.train_each(_in_folder(RUNS, data, folder / "one"))
            whole = group_work.train_and_tell("TIGER", {**begun, "checkpoint_dir": str(folder / "whole-one")})
            alone = group_work.train_trial_of(_search(data, folder / "trial-one"))
            told = {"more": more, "whole": whole, "trials": (trial, alone), "gradients": gradients}
            yield {"one": one, "two": two, "resumed": resumed, "folder": folder, "data": data, **told}
    finally:
        os.chdir(before)


def _search(data: str, folder: Path) -> Any:
    """Return the plan of a search over a student whose trials have a teacher and a cache in common."""
    own = {**SETTINGS["SIDMLP"], "dropout_prob": 0.0, "data_path": data, "checkpoint_dir": str(folder)}
    own["teacher_config"] = {**own["teacher_config"], "dropout_prob": 0.0}
    space = folder.with_suffix(".yaml")
    space.write_text("learning_rate: {choice: [0.01]}\n", encoding="utf-8")
    return make_plan(Config("SIDMLP", "tiny", config_dict=own), read_space(space), Options())


def _in_folder(runs: dict[str, Any], data: str, folder: Path) -> dict[str, Any]:
    return {
        name: (model, {**settings, "data_path": data, "checkpoint_dir": str(folder)})
        for name, (model, settings) in runs.items()
    }


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_are_as_one(found: Any, run: str) -> None:
    one, two = found["one"][run], found["two"][run]
    close = 5e-3 if run == "bf16" else 1e-5
    assert bool(one["n_captured"]) == bool(two["n_captured"]) == (run == "captured")
    assert one["is mixed"] == two["is mixed"] == (run == "bf16")
    assert len(one["losses"]) == len(two["losses"])
    assert two["losses"] == pytest.approx(one["losses"], abs=close)
    assert two["chosen"] == one["chosen"]
    assert len(set(two["weights"])) == 1
    if run == "bf16":  # lists whose scores are as close as its rounding may change places
        for split, metrics in one["measured"].items():
            assert two["measured"][split] == pytest.approx(metrics, abs=0.05)
        return
    assert two["best"] == one["best"]
    assert two["measured"] == one["measured"]
    assert two["users"] == one["users"]


def test_main_process_writes_alone(found: Any) -> None:
    """The same files as of one process, no last states, and one log for each training."""
    one, two = (
        # A cache is named by the weights, which differ by rounding.
        sorted(re.sub("[0-9a-f]{16}", "", path.name) for path in (found["folder"] / name).rglob("*"))
        for name in ("one", "two")
    )
    assert two == one
    assert not [name for name in two if ".last." in name]
    logs = [path for path in (found["folder"] / "log_tensorboard").rglob("*") if path.is_file()]
    assert not [path for path in logs if path.parent.name.startswith("model-")], "of a process without a log"


def test_resumed_by_as_many_to_the_bit(found: Any) -> None:
    resumed = found["resumed"]
    assert resumed["epochs"] == [2]
    assert len({*resumed["whole"], *resumed["resumed"]}) == 1


def test_resumed_by_one(found: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The state that two processes left goes on in one, from the epoch's start, and says what differs."""
    settings = {**WITH_DROPOUT, "data_path": found["data"], "checkpoint_dir": str(found["folder"] / "left")}
    run = group_work._run("TIGER", {**settings, "resume": True})
    assert list(run.trainer.train_loss_dict) == [2]
    assert "began in 2 processes and goes on in 1" in caplog.text


def test_captured_gradients_are_summed_as_others_are(found: Any) -> None:
    """A weight that no process uses has none, so that it does not decay; one that some use has their sum."""
    plain, captured = found["gradients"]
    assert captured == plain
    values = torch.arange(4) + torch.tensor([[1.0], [2.0]])  # of each process, in its first batch
    weights = group_work.ThreeWeights()
    assert plain[0] == pytest.approx((6 * (values[0] * weights.first + values[1]) / 2).tolist())
    assert plain[1] == pytest.approx((6 * values[0] * weights.all / 2).tolist())
    assert plain[2] is None


def test_resumed_by_more(found: Any) -> None:
    """The state that one process left goes on in two, which find what one would have found."""
    more, whole = found["more"], found["whole"]
    assert list(more["losses"]) == [2]
    assert more["losses"][2] == pytest.approx(whole["losses"][2], abs=1e-5)
    assert len(set(more["weights"])) == 1
    assert more["measured"] == whole["measured"]


def test_trial_of_two_processes_is_that_of_one(found: Any) -> None:
    two, one = found["trials"]
    assert [values["epoch"] for values in two] == [values["epoch"] for values in one] == [1, 2]
    assert [values[SCORE] for values in two] == pytest.approx([values[SCORE] for values in one], abs=1e-5)


def test_loss_that_is_not_finite_ends_all_in_one_sentence(data_path: Path, settings: Any) -> None:
    given = settings("TIGER", learning_rate=1e30, learner="sgd", warmup_steps=0)
    with pytest.raises(InputError, match=r"^The loss of TIGER is no longer finite: lower learning_rate"):
        launch(group_work.train_each, [{"TIGER": ("TIGER", given)}], TWO)


@pytest.mark.parametrize("n_rows", [7, 5, 2, 1])
def test_shares_are_the_batch(n_rows: int) -> None:
    lengths = torch.arange(20) % 4
    index = list(range(20))[3 : 3 + n_rows]
    shares = [
        SharedBatches(lambda rows: Batch({"row": torch.tensor(rows)}), lengths, Group(rank, 3))(index)
        for rank in range(3)
    ]
    counted = [share["row"][: portion_of(share).own.rows].tolist() for share in shares]
    assert sorted(row for rows in counted for row in rows) == index
    assert all(len(share) >= 1 for share in shares)
    assert max(map(len, counted)) - min(map(len, counted)) <= 1
    for portion in map(portion_of, shares):
        assert portion.whole == (n_rows, int(lengths[index].sum()))
    assert sum(portion_of(share).own.items for share in shares) == int(lengths[index].sum())


@pytest.mark.parametrize("n_rows", [10, 2])
def test_parts_are_the_split(n_rows: int) -> None:
    class Loader:
        sample_size = n_rows
        batch_sampler = mock.Mock(sampler=range(n_rows))

    rows = []
    for rank in range(3):
        with part_of(Loader, Group(rank, 3)):
            rows += list(Loader.batch_sampler.sampler)
        assert list(Loader.batch_sampler.sampler) == list(range(n_rows))
    assert rows == list(range(n_rows))
