"""Training: repeatable, resumable after any interruption, selected on validation; distillation from a fixed teacher."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_sequences, write_dataset
from numpy.testing import assert_allclose
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer
from torch import nn
from torch.testing import assert_close

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.dataset import ROW_FIELD
from recbole_sid.data.histories import cut_histories
from recbole_sid.errors import InputError
from recbole_sid.model.supervision import OnlineSupervision
from recbole_sid.model.teacher import teacher_config
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.quick_start import Run, ensure_teacher, load_data_and_model, make_trainer, run_model
from recbole_sid.trainer.distill_cache import CachedSupervision
from recbole_sid.trainer.distillation import DistillationTrainer
from recbole_sid.trainer.schedule import learning_rate_schedule

OURS = ("TIGER", "SIDMLP", "SIDMLPPlusPlus")
N_USERS, N_ITEMS = 14, 12


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    """A dataset of three or four batches."""
    return write_dataset(tmp_path / "data", random_sequences(0, N_USERS, N_ITEMS))


@pytest.fixture
def configure(settings: Callable[..., dict[str, Any]]) -> Callable[..., Config]:
    """Return ``configure(model, **changes)``."""

    def make(model: str, **changes: Any) -> Config:
        return Config(model, changes.pop("dataset", "tiny"), config_dict=settings(model, **changes))

    return make


@pytest.fixture
def train(configure: Callable[..., Config]) -> Callable[..., Run]:
    """Return ``train(model, **changes)``: a whole run."""
    return lambda model, **changes: run_model(configure(model, **changes))


def make(config: Config) -> tuple[Any, Any, Any, Any]:
    """The trainer that `run_model` would use, before its `fit`, and the loaders."""
    loaders = data_preparation(config, create_dataset(config))
    ensure_teacher(config, loaders[0], loaders[1])
    return make_trainer(config, loaders[0]), *loaders


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(folder: str) -> set[str]:
    """The kinds of checkpoints in a folder: model names, with .last for unfinished ones."""
    return {path.name.split("-")[0] + (".last" if ".last." in path.name else "") for path in Path(folder).glob("*.pth")}


def raise_interrupt(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("model", OURS)
def test_same_seed_gives_the_same_weights_and_results(train: Callable[..., Run], model: str) -> None:
    one, two = (train(model, checkpoint_dir=folder) for folder in ("one", "two"))
    assert one.test_result == two.test_result
    assert one.best_valid_result == two.best_valid_result
    assert same_weights(weights(one.trainer.model), weights(two.trainer.model))
    other = train(model, checkpoint_dir="other", seed=7)
    assert not same_weights(weights(one.trainer.model), weights(other.trainer.model))


@pytest.mark.parametrize("model", OURS)
def test_checkpoints_load_without_pickle(train: Callable[..., Run], model: str) -> None:
    run = train(model)
    content = torch.load(run.trainer.saved_model_file, weights_only=True)
    assert same_weights(content["state_dict"], weights(run.trainer.model))
    assert content["best_valid_result"] == run.best_valid_result
    assert content["finished"]
    assert files("saved") == {model, "TIGER"}


# Which method of the trainer an interruption hits, and at which of its calls.
INTERRUPTIONS = [
    *(("TIGER", "validate", call) for call in (1, 2, 3)),
    *(("TIGER", "_save_last", call) for call in (1, 2, 3)),
    *(("SIDMLPPlusPlus", "validate", call) for call in (2, 3, 4, 5)),
    *(("SIDMLPPlusPlus", "_save_last", call) for call in (3, 4, 5, 7)),
    *(("SIDMLPPlusPlus", "start_stage", call) for call in (2, 3)),
    ("SIDMLP", "_save_checkpoint", 1),
]


BEYOND_THE_PAPER = {"encoder_positions": "end", "encoder_mixing": "weighted"}
LONG: dict[str, dict[str, Any]] = {
    "TIGER": {"epochs": 3},
    "SIDMLP": {},
    "SIDMLPPlusPlus": {"distill_stages": ["encoder", "decoder", "joint"], **BEYOND_THE_PAPER},
}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    """Outcomes of whole runs by model; the same in every test, because the data are."""
    return {}


def outcome(run: Run) -> tuple[Any, ...]:
    kinds = files(run.trainer.checkpoint_dir)
    return weights(run.trainer.model), run.best_valid_score, run.best_valid_result, run.test_result, kinds


@pytest.mark.parametrize(("model", "method", "call"), INTERRUPTIONS)
def test_resumed_training_equals_the_uninterrupted(
    configure: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, Any],
    model: str,
    method: str,
    call: int,
) -> None:
    if model not in uninterrupted:
        uninterrupted[model] = outcome(run_model(configure(model, checkpoint_dir="whole", **LONG[model])))

    trainer, train_data, valid_data, _ = make(configure(model, **LONG[model]))
    calls, original = [], getattr(trainer, method)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(trainer, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data)

    torch.manual_seed(999)
    np.random.seed(999)  # noqa: NPY002
    found = outcome(run_model(configure(model, resume=True, **LONG[model])))
    assert same_weights(found[0], uninterrupted[model][0])
    assert found[1:] == uninterrupted[model][1:]


def test_callback_may_interrupt(configure: Callable[..., Config]) -> None:
    trainer, train_data, valid_data, _ = make(configure("TIGER", epochs=3))
    seen = []

    def callback(epoch: int, score: float) -> None:
        seen.append((epoch, score))
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data, callback_fn=callback)
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert load_checkpoint(trainer.last_file)["epoch"] == 0
    again, train_data, valid_data, _ = make(configure("TIGER", epochs=3, resume=True))
    again.fit(train_data, valid_data, callback_fn=lambda epoch, score: seen.append((epoch, score)))
    assert [epoch for epoch, _ in seen] == [0, 1, 1, 2]
    assert seen[1] == seen[2]


@pytest.mark.parametrize("model", OURS)
def test_fresh_training_that_fails_at_once_leaves_nothing_old_to_resume_from(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, Any], model: str
) -> None:
    """An old state of other weights lies there, and a fresh training stops before and after its own first best."""
    if model not in uninterrupted:
        uninterrupted[model] = outcome(run_model(configure(model, checkpoint_dir="whole", **LONG[model])))
    for method in ("_save_last", "validate", "_train_epoch", "start_stage"):
        old, train_data, valid_data, _ = make(configure(model, **LONG[model]))
        with torch.no_grad():
            next(old.model.parameters()).add_(1)
        old.fit(train_data, valid_data)
        old._save_last(0, 0, False, train_data)
        fresh, train_data, valid_data, _ = make(configure(model, **LONG[model]))
        with monkeypatch.context() as patch:
            patch.setattr(fresh, method, raise_interrupt)
            with pytest.raises(KeyboardInterrupt):
                fresh.fit(train_data, valid_data)
        resumed, train_data, valid_data, _ = make(configure(model, resume=True, **LONG[model]))
        if method in ("_save_last", "start_stage"):  # nothing new was written: the old training is finished, and whole
            assert not resumed.last_file.exists()
            continue
        resumed.fit(train_data, valid_data)
        assert same_weights(weights(resumed.model), uninterrupted[model][0])


@pytest.mark.parametrize("change", ["other", "missing", "unnamed"])
def test_last_state_without_its_best_weights_is_refused(configure: Callable[..., Config], change: str) -> None:
    trainer, train_data, valid_data, _ = make(configure("TIGER", epochs=3))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data, callback_fn=lambda epoch, score: raise_interrupt() if epoch else None)
    file = trainer.saved_model_file if change != "unnamed" else trainer.last_file
    content = load_checkpoint(file)
    content.pop("checksum", None)
    if change == "other":
        next(iter(content["state_dict"].values())).add_(1)
        content["follows"] = "another"
    content.pop("best_weights", None)
    save_checkpoint(file, content)
    if change == "missing":
        os.unlink(file)
    with pytest.raises(
        InputError, match=r"last\.pth' continues a training whose best weights are not those in '.*delete"
    ):
        run_model(configure("TIGER", epochs=3, resume=True))


def test_weights_that_another_process_wrote_are_not_taken_for_the_best(configure: Callable[..., Config]) -> None:
    trainer, train_data, valid_data, _ = make(configure("TIGER"))

    def overwrite(epoch: int, score: float) -> None:
        content = load_checkpoint(trainer.saved_model_file)
        content.pop("checksum", None)
        next(iter(content["state_dict"].values())).add_(1)
        save_checkpoint(trainer.saved_model_file, content)

    with pytest.raises(InputError, match="does not hold the best weights of this training"):
        trainer.fit(train_data, valid_data, callback_fn=overwrite)


def test_resume_does_not_continue_a_stage_that_stopped_early(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder stage stops after its second epoch, because its error rises."""
    monkeypatch.setattr(DistillationTrainer, "state_error", lambda self, data: float(len(self.train_loss_dict)))
    changes = {"encoder_epochs": 6, "stopping_step": 0, "epochs": 1}
    whole = run_model(configure("SIDMLPPlusPlus", checkpoint_dir="whole", **changes))
    trainer, train_data, valid_data, _ = make(configure("SIDMLPPlusPlus", **changes))
    start_stage = trainer.start_stage
    monkeypatch.setattr(
        trainer,
        "start_stage",
        lambda stage, data: raise_interrupt() if trainer.train_loss_dict else start_stage(stage, data),
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data)
    assert list(trainer.train_loss_dict) == [0, 1]
    resumed = run_model(configure("SIDMLPPlusPlus", resume=True, **changes))
    assert list(resumed.trainer.train_loss_dict) == [0]
    assert same_weights(weights(whole.trainer.model), weights(resumed.trainer.model))


@pytest.mark.parametrize(("recorded", "there"), [(2, 1), (1, 2), (3, 0), (0, 0)])
def test_resume_on_a_machine_of_other_gpus(
    configure: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recorded: int,
    there: int,
) -> None:
    trainer, train_data, valid_data, _ = make(configure("TIGER", epochs=2))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data, callback_fn=lambda epoch, score: raise_interrupt() if epoch else None)
    content = load_checkpoint(trainer.last_file)
    content.pop("checksum", None)
    states = [torch.full((16,), number, dtype=torch.uint8) for number in range(recorded)]
    save_checkpoint(trainer.last_file, {**content, "cuda_rng": states})
    restored: dict[int, int] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, number: restored.update({number: int(state[0])}))
    resumed, train_data, valid_data, _ = make(configure("TIGER", epochs=2, resume=True))
    caplog.clear()
    resumed.fit(train_data, valid_data)
    assert restored == {number: number for number in range(min(recorded, there))}
    said = [record.getMessage() for record in caplog.records if "random numbers" in record.getMessage()]
    assert len(said) == (1 if recorded else 0)  # this one resumes on the CPU


@pytest.mark.parametrize(("dtype", "scaled"), [(torch.float16, True), (torch.bfloat16, False)])
def test_float16_has_its_gradients_scaled(
    configure: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dtype: torch.dtype,
    scaled: bool,
) -> None:
    """Without being asked to: its smallest gradients would be zero."""
    monkeypatch.setattr("recbole_sid.trainer.sid_trainer.amp_dtype", lambda device: dtype)
    monkeypatch.setattr("recbole_sid.trainer.sid_trainer.cpu_has_fast_bfloat16", lambda: True)
    trainer, train_data, _, _ = make(configure("SIDMLP", enable_amp=True, epochs=1))
    assert trainer.scaler.is_enabled() == scaled
    assert ("enable_scaler is taken as True" in caplog.text) == scaled
    trainer.fit(train_data, None)
    assert np.isfinite(trainer.train_loss_dict[0])
    plain, _, _, _ = make(configure("SIDMLP", epochs=1))
    assert not plain.scaler.is_enabled()


def test_resume_checkpoint_asks_for_a_resume(configure: Callable[..., Config]) -> None:
    trainer, _, _, _ = make(configure("TIGER"))
    with pytest.raises(InputError, match=r"resumes from '.*\.last\.pth', not from 'other\.pth'"):
        trainer.resume_checkpoint("other.pth")
    trainer.resume_checkpoint(trainer.last_file)
    assert trainer.config["resume"]


@pytest.mark.parametrize("model", OURS)
def test_finished_training_is_reused(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    first = train(model)
    monkeypatch.setattr(type(first.trainer), "batch_loss", raise_interrupt)
    again = train(model, resume=True)
    assert again.test_result == first.test_result
    assert (again.best_valid_score, again.best_valid_result) == (first.best_valid_score, first.best_valid_result)
    assert same_weights(weights(again.trainer.model), weights(first.trainer.model))
    with pytest.raises(KeyboardInterrupt):
        train(model, resume=False)


def test_training_on_other_data_is_not_reused(train: Callable[..., Run], data_path: Path) -> None:
    first = train("TIGER")
    write_dataset(data_path, random_sequences(1, N_USERS, N_ITEMS))
    again = train("TIGER", resume=True)
    assert again.trainer.saved_model_file != first.trainer.saved_model_file
    assert list(again.trainer.train_loss_dict) == [0, 1]


def test_unfinished_training_on_other_data_is_refused(
    configure: Callable[..., Config], data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, train_data, valid_data, _ = make(configure("TIGER"))
    monkeypatch.setattr(trainer, "_read_best", raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data)
    write_dataset(data_path, random_sequences(1, N_USERS, N_ITEMS))
    config = configure("TIGER", resume=True)
    under_its_name = Path(config["checkpoint_dir"]) / f"{config.run_name()}.last.pth"
    assert trainer.last_file != under_its_name
    trainer.last_file.rename(under_its_name)  # whoever brings it over
    with pytest.raises(
        InputError, match=r"\.last\.pth' was trained with (item tokens|semantic IDs).* train anew, delete '"
    ):
        run_model(config)


def test_best_epoch_is_kept(configure: Callable[..., Config]) -> None:
    trainer, train_data, valid_data, _ = make(configure("TIGER", epochs=6, learning_rate=0.05))
    scores: list[float] = []
    best, result = trainer.fit(train_data, valid_data, callback_fn=lambda epoch, score: scores.append(score))
    assert best == max(scores) == result["ndcg@10"]
    assert np.argmax(scores[::-1]) > 0, "the last epoch is the best, which tells nothing"
    trainer.model.apply(lambda module: [parameter.data.zero_() for parameter in module.parameters()])
    assert trainer.evaluate(valid_data, load_best_model=True) == result
    assert scores[load_checkpoint(trainer.saved_model_file)["epoch"]] == best


@pytest.mark.parametrize(("metric", "scores"), [("NDCG@10", [3, 4, 2, 1, 9]), ("AveragePopularity@5", [3, 2, 4, 5, 1])])
def test_early_stopping(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, metric: str, scores: list[float]
) -> None:
    metrics = ["NDCG", "AveragePopularity"]
    config = configure("TIGER", epochs=5, stopping_step=1, valid_metric=metric, metrics=metrics)
    trainer, train_data, valid_data, _ = make(config)
    monkeypatch.setattr(trainer, "validate", lambda data: (float(scores[len(trainer.train_loss_dict) - 1]), {}))
    best, _ = trainer.fit(train_data, valid_data)
    assert len(trainer.train_loss_dict) == 4
    assert best == scores[1]
    assert trainer.best_epoch == 1


def test_validation_every_few_epochs(configure: Callable[..., Config]) -> None:
    seen: list[int] = []
    trainer, train_data, valid_data, _ = make(configure("TIGER", epochs=5, eval_step=2))
    trainer.fit(train_data, valid_data, callback_fn=lambda epoch, score: seen.append(epoch))
    assert seen == [1, 3, 4]  # the last one too


def test_freed_memory_is_released_after_every_epoch_and_validation(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    trainer, train_data, valid_data, _ = make(configure("TIGER", epochs=3))
    monkeypatch.setattr("recbole_sid.trainer.sid_trainer.release_free_memory", lambda: released.append(1))
    trainer.fit(train_data, valid_data)
    assert len(released) == 6


def test_freed_memory_is_released_after_every_cache(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    trainer, train_data, valid_data, _ = make(configure("SIDMLPPlusPlus", distill_cache="memory"))
    monkeypatch.setattr("recbole_sid.trainer.distillation.release_free_memory", lambda: released.append(1))
    trainer.fit(train_data, valid_data)
    assert len(released) == 2  # before each stage


def test_stage_shorter_than_eval_step_is_validated_at_its_end(train: Callable[..., Run]) -> None:
    run = train("SIDMLPPlusPlus", eval_step=2, encoder_epochs=1, epochs=2)
    assert run.best_valid_result["ndcg@10"] >= 0


def test_training_without_validation_keeps_the_last_epoch(configure: Callable[..., Config]) -> None:
    trainer, train_data, _, _ = make(configure("TIGER", epochs=3))
    trainer.fit(train_data)
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 2


def test_unsaved_training_writes_no_checkpoint(configure: Callable[..., Config]) -> None:
    run = run_model(configure("TIGER"), saved=False)
    assert set(run.test_result) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    assert files("saved") == set()


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    return model


EQUAL_STEPS = [("TIGER", 8), ("CausalSID", 3), ("SIDMLP", 8)]


@pytest.mark.parametrize(("model", "size"), EQUAL_STEPS)
def test_accumulated_batches_are_one_large_batch(configure: Callable[..., Config], model: str, size: int) -> None:
    """In the last step, too, which has fewer batches than the others, the last of them a short one."""
    found = []
    for batch, steps in ((size, 3), (3 * size, 1)):
        changes = {"shuffle": False, "train_batch_size": batch, "accumulation_steps": steps, "learner": "sgd"}
        trainer, train_data, _, _ = make(configure(model, epochs=2, warmup_steps=0, dropout_prob=0.0, **changes))
        without_dropout(trainer.model)
        trainer.fit(train_data, None)
        found.append((weights(trainer.model), trainer.train_loss_dict, trainer.scheduler.last_epoch))
        n_batches = len(train_data)
        if steps == 3:
            assert n_batches % 3
            n_rows = len(train_data.batch_sampler.sampler) if model == "CausalSID" else len(train_data._dataset)
            assert n_rows % batch
    ours, theirs = found
    assert ours[2] == theirs[2]
    assert list(ours[1].values()) == pytest.approx(list(theirs[1].values()), rel=1e-5)
    assert ours[1][1] != ours[1][0]
    for name, value in ours[0].items():
        assert_close(value, theirs[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("model", "size"), EQUAL_STEPS)
def test_every_row_weighs_the_same(configure: Callable[..., Config], model: str, size: int) -> None:
    """The gradients of an epoch's batches sum to that of all rows at once, times the number of full steps."""
    gradients = []
    for batch in (size, 100_000):
        trainer, train_data, _, _ = make(
            configure(model, train_batch_size=batch, dropout_prob=0.0, shuffle=batch == size)
        )
        without_dropout(trainer.model).double()
        if model == "SIDMLP":
            trainer.model.teacher.double()
        trainer.start_stage(trainer.stages()[0], train_data)
        trainer.model.train()
        total = 0.0
        for rows in train_data:
            loss = trainer.model(rows) * trainer.batch_weight(rows)
            loss.backward()
            total += loss.item()
        mean = [p.grad / trainer.epoch_weight for p in trainer.model.parameters() if p.grad is not None]
        gradients.append((mean, total / trainer.epoch_weight))
    assert gradients[0][1] == pytest.approx(gradients[1][1], rel=1e-6)
    for ours, theirs in zip(gradients[0][0], gradients[1][0], strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_reported_loss_is_the_mean_over_rows(configure: Callable[..., Config]) -> None:
    trainer, train_data, _, _ = make(configure("TIGER", learning_rate=1e-12, train_batch_size=16, dropout_prob=0.0))
    without_dropout(trainer.model)
    trainer.start_stage(trainer.stages()[0], train_data)
    rows = train_data._dataset[torch.arange(len(train_data._dataset))]
    assert len(rows) % 16
    assert trainer._train_epoch(train_data, 0) == pytest.approx(trainer.model.calculate_loss(rows).item(), rel=1e-5)


@pytest.mark.parametrize("model", OURS)
def test_weight_decay_without_norms_and_biases(configure: Callable[..., Config], model: str) -> None:
    """A step with a gradient of zero shows what decays."""
    for decays in (True, False):
        trainer, train_data, _, _ = make(configure(model, decay_norms_and_biases=decays, weight_decay=0.1))
        trainer.start_stage(trainer.stages()[0], train_data)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.fill_(1.0)
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()
        assert {parameter.dim() > 1 for parameter in trained} == {True, False}
        for parameter in trained:
            assert bool((parameter < 1).all()) == (decays or parameter.dim() > 1)


@pytest.mark.parametrize("changes", [{"accumulation_steps": 0}, {"decay_norms_and_biases": "no"}])
def test_wrong_values_of_the_loop_are_refused(configure: Callable[..., Config], changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))}=.* must be"):
        configure("TIGER", **changes)


def test_gradients_are_clipped(configure: Callable[..., Config]) -> None:
    changes = {"learner": "sgd", "weight_decay": 0.0, "warmup_steps": 0, "lr_scheduler": "constant", "epochs": 1}
    config = configure("TIGER", learning_rate=1.0, clip_grad_norm={"max_norm": 1e-3}, **changes)
    trainer, train_data, _, _ = make(config)
    before = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    trainer.fit(train_data, saved=False)
    moved = (torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]) - before).norm()
    assert 0 < moved <= 1.001e-3 * len(train_data)


def test_mixed_precision_trains_float32_weights(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_sid.trainer.sid_trainer.cpu_has_fast_bfloat16", lambda: True)
    run, exact = train("SIDMLP", enable_amp=True), train("SIDMLP")
    found, wanted = weights(run.trainer.model), weights(exact.trainer.model)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in found.values())
    assert not same_weights(found, wanted)
    for name, value in found.items():
        assert_close(value, wanted[name], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("model", ["TIGER", "SIDMLP"])
def test_loss_that_is_not_finite_is_refused(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    trainer, train_data, valid_data, _ = make(configure(model))
    loss = trainer.batch_loss
    monkeypatch.setattr(trainer, "batch_loss", lambda batch: loss(batch) * float("nan"))
    with pytest.raises(InputError, match=f"loss of {model}.* no longer finite: lower learning_rate"):
        trainer.fit(train_data, valid_data)


SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda share: 1,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: math.cos(math.pi * share / 2) ** 2,  # (1 + cos(pi x)) / 2 by the half-angle formula
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("warmup", "total"), [(0, 8), (4, 12), (5, 5), (10, 4)])
def test_learning_rates(name: str, warmup: int, total: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = learning_rate_schedule(optimizer, name, warmup, total)
    found = []
    for _ in range(total + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rising = [2 * (step + 1) / (warmup + 1) for step in range(warmup)]
    falling = [2 * SHAPES[name]((step - warmup) / max(1, total - warmup)) for step in range(warmup, total + 1)]
    assert found == pytest.approx((rising + falling)[: total + 1], abs=1e-12)


def test_schedule_ends_with_the_last_step_of_training(train: Callable[..., Run]) -> None:
    trainer = train("TIGER", warmup_steps=2, lr_scheduler="linear").trainer
    assert trainer.scheduler.last_epoch == 2 * len(make(trainer.config)[1])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


# --- Distillation -----------------------------------------------------------------------------------------------------


STAGES = [("SIDMLP", "decoder"), *(("SIDMLPPlusPlus", stage) for stage in ("encoder", "decoder", "joint"))]


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(("model", "stage"), STAGES)
def test_cached_supervision_is_the_online_one_in_half_precision(
    configure: Callable[..., Config], model: str, stage: str, where: str
) -> None:
    trainer, train_data, _, _ = make(configure(model))
    student, teacher = trainer.model.eval(), trainer.model.teacher
    encoder = {"encoder": teacher.history_encoder, "decoder": student.history_encoder}.get(stage)
    online = OnlineSupervision(student, encoder, None if stage == "encoder" else teacher)
    folder = Path("cache") if where == "disk" else None
    cached = CachedSupervision(online, train_data, torch.device("cpu"), folder, show_progress=False)
    n_rows = 0
    for batch in train_data:
        given, wanted = cached(batch), online(batch)
        n_rows += len(batch)
        assert torch.equal(given.mask, wanted.mask)
        assert_close(given.states[given.mask], wanted.states[given.mask].float(), rtol=1e-3, atol=1e-4)
        assert not given.states[~given.mask].any()
        assert len(given.logits) == (0 if stage == "encoder" else 3)
        for a, b in zip(given.logits, wanted.logits, strict=True):
            assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert n_rows == len(train_data._dataset)


CAUSAL_TEACHERS: dict[str, dict[str, Any]] = {
    "CausalSID": {
        "teacher_model": "CausalSID",
        "teacher_config": {"d_model": 16, "n_heads": 2, "n_layers": 1, "epochs": 1},
    },
    "TIGER": {"teacher_config": {"encoder_attention": "causal", "encoder_layers": 1, "decoder_layers": 1}},
}


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("teacher", CAUSAL_TEACHERS)
def test_prefixes_share_the_states_of_a_causal_encoder(
    configure: Callable[..., Config], teacher: str, where: str
) -> None:
    trainer, train_data, _, _ = make(configure("SIDMLP", MAX_ITEM_LIST_LENGTH=4, **CAUSAL_TEACHERS[teacher]))
    student = trainer.model.eval()
    online = OnlineSupervision(student, student.history_encoder, student.teacher)
    folder = Path("cache") if where == "disk" else None
    cached = CachedSupervision(online, train_data, torch.device("cpu"), folder, show_progress=False)
    begun: dict[
        tuple[int, ...], int
    ] = {}  # states but the last of the longest history that begins so, by its beginning
    n_rows = n_tokens = 0
    for batch in train_data:
        given, wanted = cached(batch), online(batch)
        assert_close(given.states[given.mask], wanted.states[given.mask].float(), rtol=2e-3, atol=2e-4)
        assert not given.states[~given.mask].any()
        for user, row, length in zip(batch["user_id"], batch[ROW_FIELD], batch["item_length"], strict=True):
            start = (int(user), int(train_data._dataset.history_start[row]))
            begun[start] = max(begun.get(start, 0), 1 + int(length) * 3)
            n_rows, n_tokens = n_rows + 1, n_tokens + 2 + int(length) * 3
    assert len(cached.states) == sum(begun.values()) + n_rows < n_tokens


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_training_from_the_cache_comes_close_to_training_online(train: Callable[..., Run], where: str) -> None:
    stages = ["encoder", "decoder", "joint"]
    losses = []
    for cache in ("none", where):
        trainer = train("SIDMLPPlusPlus", distill_cache=cache, checkpoint_dir=cache, distill_stages=stages).trainer
        losses.append([*trainer.train_loss_dict.values(), trainer.best_valid_score])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1] != losses[0]


def test_disk_cache_is_reused(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    first = train("SIDMLP", distill_cache="disk", distill_cache_dir="cache")
    assert len(os.listdir("cache")) == 1
    fill = CachedSupervision._fill
    monkeypatch.setattr(CachedSupervision, "_fill", raise_interrupt)
    again = train("SIDMLP", distill_cache="disk", distill_cache_dir="cache")
    assert again.test_result == first.test_result
    monkeypatch.setattr(CachedSupervision, "_fill", fill)
    train("SIDMLP", distill_cache="disk", distill_cache_dir="cache", teacher_config={"d_model": 8, "epochs": 1})
    assert len(os.listdir("cache")) == 2


def test_disk_cache_of_other_histories_is_not_reused(train: Callable[..., Run], tmp_path: Path) -> None:
    """Same items, lengths, semantic IDs and teacher; other items in the histories."""
    sequences = random_sequences(0, N_USERS, N_ITEMS)
    other = write_dataset(tmp_path / "other", [sequences[0], *(items[::-1] for items in sequences[1:])])
    cache = {"distill_cache": "disk", "distill_cache_dir": "cache"}
    first = train("SIDMLP", **cache)
    (semantic_ids,) = Path("saved", "semantic_ids").glob("*.npz")
    given = {"teacher_path": first.config["teacher_path"], "semantic_ids_path": str(semantic_ids)}
    train("SIDMLP", **cache, **given)
    assert len(os.listdir("cache")) == 1
    train("SIDMLP", **cache, **given, data_path=str(other))
    assert len(os.listdir("cache")) == 2


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "a bit flipped": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\xff"),
    "removed": lambda file: file.unlink(),
    "no manifest": lambda file: (file.parent / "manifest.json").unlink(),
    "odd manifest": lambda file: (file.parent / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["states", "logits"])
def test_damaged_disk_cache_is_refused(train: Callable[..., Run], file: str, damage: str) -> None:
    train("SIDMLP", distill_cache="disk", distill_cache_dir="cache", epochs=1)
    (folder,) = (path for path in Path("cache").iterdir() if path.is_dir())
    DAMAGES[damage](folder / f"{file}.npy")
    with pytest.raises(InputError, match=r"npy' of the distillation cache is damaged or .*delete the folder"):
        train("SIDMLP", distill_cache="disk", distill_cache_dir="cache", epochs=1)


def test_room_for_the_disk_cache_is_reserved_before_it_is_written(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device.*make room"):
        train("SIDMLP", distill_cache="disk", distill_cache_dir="cache", epochs=1)
    assert [path for path in Path("cache").iterdir() if path.is_dir()] == []


def test_reading_the_disk_cache_leaves_its_files_as_they_are(configure: Callable[..., Config]) -> None:
    trainer, train_data, _, _ = make(configure("SIDMLP"))
    online = OnlineSupervision(trainer.model.eval(), None, trainer.model.teacher)
    for _ in range(2):  # the second time its files are checked
        cached = CachedSupervision(online, train_data, torch.device("cpu"), Path("cache"), show_progress=False)
        cached.states.fill_(7)
        cached.logits.fill_(7)


@pytest.mark.parametrize("at", [1, 3])
def test_no_unfinished_cache_remains(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    config = configure("SIDMLP", distill_cache="disk", distill_cache_dir="cache")
    trainer, train_data, valid_data, _ = make(config)
    calls, level_logits = [], trainer.model.teacher.level_logits

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return level_logits(*args)

    monkeypatch.setattr(trainer.model.teacher, "level_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data)
    assert os.listdir("cache") == []


@pytest.mark.parametrize("model", ["SIDMLP", "SIDMLPPlusPlus"])
def test_teacher_does_not_change(configure: Callable[..., Config], model: str) -> None:
    stages = ["decoder"] if model == "SIDMLP" else ["encoder", "decoder", "joint"]
    trainer, train_data, valid_data, _ = make(configure(model, distill_stages=stages))
    teacher, file = trainer.model.teacher, trainer.config["teacher_path"]
    before, content = weights(teacher), Path(file).read_bytes()
    assert same_weights(before, load_checkpoint(file)["state_dict"])
    student = weights(trainer.model)
    trainer.fit(train_data, valid_data)
    assert same_weights(weights(teacher), before)
    assert Path(file).read_bytes() == content
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    changed = {
        name.split(".")[0] for name, value in weights(trainer.model).items() if not torch.equal(value, student[name])
    }
    assert changed == ({"decoder"} if model == "SIDMLP" else {"decoder", "history_encoder"})


def test_student_trains_its_teacher_first_and_reuses_it(
    train: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = train("SIDMLP")
    assert "training its teacher TIGER first" in caplog.text
    teacher = Path(first.config["teacher_path"])
    written = teacher.stat().st_mtime_ns
    caplog.clear()
    again = train("SIDMLP")
    assert f"reusing the TIGER in {teacher}" in caplog.text
    assert "training its teacher" not in caplog.text
    assert teacher.stat().st_mtime_ns == written
    assert again.test_result == first.test_result


def test_students_share_the_teacher_that_was_trained_alone(
    train: Callable[..., Run], configure: Callable[..., Config]
) -> None:
    tiger = train("TIGER")
    for model in ("SIDMLP", "SIDMLPPlusPlus"):
        config = configure(model)
        assert teacher_config(config).fingerprint() == tiger.config.fingerprint()
        assert train(model).config["teacher_path"] == tiger.trainer.saved_model_file
    trained_by_a_student = load_checkpoint(train("SIDMLP", checkpoint_dir="elsewhere").config["teacher_path"])
    alone = load_checkpoint(tiger.trainer.saved_model_file)
    assert same_weights(trained_by_a_student["state_dict"], alone["state_dict"])


def test_interrupted_teacher_is_continued(configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("SIDMLP")
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    with monkeypatch.context() as patch:
        patch.setattr("recbole_sid.trainer.sid_trainer.SIDTrainer._read_best", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure_teacher(config, train_data, valid_data)
    assert files("saved") == {"TIGER", "TIGER.last"}
    monkeypatch.setattr("recbole_sid.model.tiger.TIGER.calculate_loss", raise_interrupt)
    ensure_teacher(configure("SIDMLP", resume=True), train_data, valid_data)
    assert files("saved") == {"TIGER"}


def test_given_teacher_needs_no_settings(train: Callable[..., Run]) -> None:
    tiger = train("TIGER", d_model=12, checkpoint_dir="teachers")
    student = train("SIDMLP", teacher_path=tiger.trainer.saved_model_file, teacher_config={})
    assert student.trainer.model.teacher.d_model == 12
    assert files("saved") == {"SIDMLP"}


@pytest.fixture
def teacher_path(train: Callable[..., Run]) -> str:
    return train("TIGER", epochs=1, checkpoint_dir="teachers").trainer.saved_model_file


def test_teacher_of_another_dataset_is_refused(
    train: Callable[..., Run], tmp_path: Path, data_path: Path, teacher_path: str
) -> None:
    write_dataset(data_path, random_sequences(0, N_USERS, N_ITEMS), "other")
    with pytest.raises(InputError, match=r"TIGER.*was trained with dataset tiny but this run has dataset other"):
        train("SIDMLP", dataset="other", teacher_path=teacher_path)
    data = write_dataset(tmp_path / "more", [*random_sequences(0, N_USERS, N_ITEMS), list(range(40))])
    with pytest.raises(InputError, match=r"was trained with item tokens \w{16} but this run has item tokens \w{16}"):
        train("SIDMLP", data_path=str(data), teacher_path=teacher_path)


def test_teacher_of_other_semantic_ids_is_refused(train: Callable[..., Run], teacher_path: str) -> None:
    with pytest.raises(InputError, match=r"was trained with semantic IDs \w{16} but this run has semantic IDs \w{16}"):
        train("SIDMLP", codebook_sizes=[4, 4], teacher_path=teacher_path)


def test_student_cannot_be_a_teacher(train: Callable[..., Run]) -> None:
    student = train("SIDMLP", epochs=1)
    with pytest.raises(InputError, match="SIDMLP cannot be a teacher"):
        train("SIDMLP", teacher_path=student.trainer.saved_model_file)
    with pytest.raises(InputError, match="SASRec cannot be a teacher"):
        train("SIDMLP", teacher_model="SASRec", teacher_config={})


def test_checkpoint_of_another_model_is_refused(configure: Callable[..., Config], teacher_path: str) -> None:
    config = configure("SIDMLP", teacher_path=teacher_path, student_path=teacher_path)
    trainer, train_data, valid_data, test_data = make(config)
    with pytest.raises(InputError, match="holds a TIGER, not a SIDMLP"):
        trainer.fit(train_data, valid_data)
    with pytest.raises(InputError, match="holds a TIGER, not a SIDMLP"):
        trainer.evaluate(test_data, model_file=teacher_path)


def test_weights_of_another_shape_are_refused(train: Callable[..., Run], configure: Callable[..., Config]) -> None:
    small = train("TIGER", epochs=1, d_model=8)
    trainer, _, _, test_data = make(configure("TIGER"))
    with pytest.raises(InputError, match=r"do not fit TIGER as configured: .*size mismatch"):
        trainer.evaluate(test_data, model_file=small.trainer.saved_model_file)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "flipped", "other torch file"])
def test_unreadable_teacher_is_refused(train: Callable[..., Run], teacher_path: str, damage: str) -> None:
    file = Path(teacher_path)
    content = file.read_bytes()
    position = content.index(b"package_version")
    if damage == "missing":
        file.unlink()
    elif damage == "other torch file":
        torch.save({"state_dict": {}}, file)
    else:
        file.write_bytes(
            {
                "empty": b"",
                "cut": content[: len(content) // 2],
                "text": b"no checkpoint",
                "flipped": content[:position] + b"\xff" + content[position + 1 :],
            }[damage]
        )
    with pytest.raises(
        InputError, match=r"no checkpoint at|is damaged or no checkpoint|is no checkpoint of recbole_sid"
    ):
        train("SIDMLP", teacher_path=teacher_path)


def test_recboles_checkpoint_as_teacher_is_refused(train: Callable[..., Run], data_path: Path) -> None:
    run = run_model(Config("BPR", "tiny", config_dict={"data_path": str(data_path), "epochs": 1, "use_gpu": False}))
    assert type(run.trainer) is Trainer
    assert isinstance(run.trainer.model, BPR)
    with pytest.raises(InputError, match=r"BPR-.*is damaged or no checkpoint of recbole_sid"):
        train("SIDMLP", teacher_path=run.trainer.saved_model_file)


@pytest.mark.parametrize("form", [{}, BEYOND_THE_PAPER])
def test_stages_can_run_alone(train: Callable[..., Run], form: dict[str, str]) -> None:
    encoder = train("SIDMLPPlusPlus", distill_stages=["encoder"], **form)
    assert encoder.best_valid_result.keys() == {"state error"}
    assert all(value.any() for name, value in weights(encoder.trainer.model).items() if "log_weight" in name)
    file = encoder.trainer.saved_model_file
    decoder = train("SIDMLPPlusPlus", distill_stages="decoder", student_path=file, **form)
    assert decoder.trainer.saved_model_file != file
    assert decoder.best_valid_result["ndcg@10"] == decoder.best_valid_score
    trained, start = weights(decoder.trainer.model), weights(encoder.trainer.model)
    for name in start:
        assert torch.equal(trained[name], start[name]) == (not name.startswith("decoder.")), name


def test_a_student_keeps_its_own_copies_of_the_teacher(train: Callable[..., Run]) -> None:
    model = train("SIDMLP", epochs=1).trainer.model
    before, states = weights(model.teacher), weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert same_weights(weights(model.teacher), before)
    assert {name for name in states if name.startswith("history_encoder")}
    assert model.history_encoder.embedding is model.token_embedding  # copied together, they still share


def test_start_of_another_teachers_student_is_refused(train: Callable[..., Run]) -> None:
    start = train("SIDMLP", epochs=1).trainer.saved_model_file
    other = train("TIGER", checkpoint_dir="other", seed=5, **semantic_ids_of_the_first()).trainer
    before = weights(other.model)
    with pytest.raises(InputError, match=r"was trained with teacher \w+ but this run has teacher \w+"):
        train(
            "SIDMLP", epochs=1, teacher_path=other.saved_model_file, student_path=start, **semantic_ids_of_the_first()
        )
    assert same_weights(load_checkpoint(other.saved_model_file)["state_dict"], before)
    train("SIDMLP", epochs=1, student_path=start)


def semantic_ids_of_the_first() -> dict[str, Any]:
    return {"semantic_ids_path": str(next(Path("saved", "semantic_ids").glob("*.npz")))}


@pytest.mark.parametrize("key", ["encoder_positions", "attention_heads"])
def test_start_of_another_form_is_refused(train: Callable[..., Run], key: str) -> None:
    encoder = train("SIDMLPPlusPlus", distill_stages=["encoder"], **BEYOND_THE_PAPER, attention_heads=2)
    given = {**BEYOND_THE_PAPER, "attention_heads": 2, key: {"encoder_positions": "start"}.get(key, 1)}
    with pytest.raises(InputError, match=rf"was trained with {key}=\S+ but this run has {given[key]}: give the same"):
        train("SIDMLPPlusPlus", distill_stages=["decoder"], student_path=encoder.trainer.saved_model_file, **given)


def test_checkpoint_from_before_a_key_has_its_default(train: Callable[..., Run]) -> None:
    encoder = train("SIDMLPPlusPlus", distill_stages=["encoder"])
    content = torch.load(encoder.trainer.saved_model_file, weights_only=True)
    for key in BEYOND_THE_PAPER:
        del content["config"][key]
    del content["checksum"]  # such files have none
    torch.save(content, "old.pth")
    config, model, *_ = load_data_and_model("old.pth")
    assert (config["encoder_positions"], config["encoder_mixing"]) == ("start", "mean")
    assert same_weights(weights(model), content["state_dict"])
    train("SIDMLPPlusPlus", distill_stages=["decoder"], student_path="old.pth")
    with pytest.raises(InputError, match="was trained with encoder_positions=start but this run has end"):
        train("SIDMLPPlusPlus", distill_stages=["decoder"], student_path="old.pth", encoder_positions="end")


def test_wrong_settings_of_a_student_are_refused_before_its_teacher_is_trained(train: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match="encoder_mixing='max' must be one of mean, weighted"):
        train("SIDMLPPlusPlus", encoder_mixing="max")
    assert files("saved") == set()


@pytest.mark.parametrize(
    ("model", "stages", "known"),
    [
        ("SIDMLPPlusPlus", ["encode"], "encoder, decoder, joint"),
        ("SIDMLP", ["encoder", "decoder"], "decoder"),
        ("SIDMLPPlusPlus", ["direct"], "encoder, decoder, joint"),
    ],
)
def test_unknown_stage_is_refused(train: Callable[..., Run], model: str, stages: list[str], known: str) -> None:
    with pytest.raises(InputError, match=rf"distill_stages=.* is not possible for {model}: choose from {known}\."):
        train(model, distill_stages=stages)


def test_encoder_stage_reduces_the_error_of_the_states(configure: Callable[..., Config]) -> None:
    config = configure("SIDMLPPlusPlus", distill_stages=["encoder"], encoder_epochs=8, encoder_learning_rate=0.01)
    trainer, train_data, valid_data, _ = make(config)
    before = trainer.state_error(valid_data)
    score, result = trainer.fit(train_data, valid_data)
    assert result["state error"] < 0.8 * before
    assert trainer.state_error(valid_data) == pytest.approx(result["state error"])
    assert score == -result["state error"]


def test_encoder_of_tokens_starts_at_the_scale_of_the_teachers_states(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("SIDMLPPlusPlus", encoder_epochs=1, epochs=1)
    trainer, train_data, valid_data, _ = make(config)
    model = trainer.model
    monkeypatch.setattr(trainer, "_run_epoch", raise_interrupt)  # as it is before the first epoch
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_data, valid_data)
    states = []
    for batch in train_data:
        tokens = model.history_tokens(batch)
        states.append(model.teacher.history_encoder(tokens, tokens != PAD)[tokens != PAD].detach().numpy())
    norm = model.history_encoder.norm
    assert_allclose(norm.bias.detach().numpy(), np.concatenate(states).mean(0), rtol=1e-4, atol=1e-5)
    assert_allclose(norm.weight.detach().numpy(), np.concatenate(states).std(0), rtol=1e-4, atol=1e-5)


def test_encoder_of_tokens_that_was_given_is_left_as_it_is(train: Callable[..., Run]) -> None:
    first = train("SIDMLPPlusPlus", distill_stages=["encoder"]).trainer
    again = train(
        "SIDMLPPlusPlus",
        distill_stages=["encoder"],
        student_path=first.saved_model_file,
        encoder_learning_rate=1e-12,
        dropout_prob=0.0,
    ).trainer
    assert_close(again.model.history_encoder.norm.weight, first.model.history_encoder.norm.weight)


def test_state_error_is_the_mean_over_tokens(configure: Callable[..., Config]) -> None:
    trainer, _, valid_data, _ = make(configure("SIDMLPPlusPlus", eval_batch_size=7))
    model, squares, n_values = trainer.model.eval(), 0.0, 0
    for row in range(len(valid_data._dataset)):
        tokens = model.history_tokens(cut_histories(valid_data._dataset[[row]], "item_id_list", "item_length"))
        assert (tokens != PAD).all()
        with torch.no_grad():
            states = [
                encoder(tokens, tokens != PAD) for encoder in (model.history_encoder, model.teacher.history_encoder)
            ]
        squares += float((states[0] - states[1]).square().sum())
        n_values += states[0].numel()
    assert trainer.state_error(valid_data) == pytest.approx(squares / n_values, rel=1e-4)


def test_every_training_row_is_seen_once_an_epoch(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, train_data, _, _ = make(configure("TIGER", epochs=2))
    rows: list[int] = []
    loss = trainer.model.calculate_loss
    monkeypatch.setattr(
        trainer.model, "calculate_loss", lambda batch: (rows.extend(batch[ROW_FIELD].tolist()), loss(batch))[1]
    )
    trainer.fit(train_data, saved=False)
    n = len(train_data._dataset)
    expected = sorted(train_data._dataset.inter_feat[ROW_FIELD].tolist())
    assert [sorted(rows[:n]), sorted(rows[n:])] == [expected, expected]
    assert rows[:n] != rows[n:]


@pytest.mark.parametrize("stages", [["decoder"], ["joint"]])
def test_later_stage_of_an_untrained_encoder_is_refused(train: Callable[..., Run], stages: list[str]) -> None:
    with pytest.raises(InputError, match="would start from an untrained encoder"):
        train("SIDMLPPlusPlus", distill_stages=stages)


def test_joint_stage_has_to_beat_the_decoder_stage(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    one = train("SIDMLPPlusPlus", distill_stages=["encoder", "decoder"])
    validate = DistillationTrainer.validate

    def hopeless_when_joint(self: DistillationTrainer, valid_data: Any) -> tuple[float, Any]:
        return (0.0, {"ndcg@10": 0.0}) if self.stage.key == "joint" else validate(self, valid_data)

    monkeypatch.setattr(DistillationTrainer, "validate", hopeless_when_joint)
    both = train("SIDMLPPlusPlus", distill_stages=["encoder", "decoder", "joint"])
    assert both.best_valid_score == one.best_valid_score > 0
    assert both.best_valid_result == one.best_valid_result
    assert same_weights(weights(both.trainer.model), weights(one.trainer.model))


def test_finished_student_of_another_teacher_is_not_reused(train: Callable[..., Run]) -> None:
    file = train("TIGER").trainer.saved_model_file
    first = train("SIDMLP", teacher_path=file, resume=True)
    again = train("SIDMLP", teacher_path=file, resume=True)
    assert same_weights(weights(first.trainer.model), weights(again.trainer.model))
    content = load_checkpoint(file)  # another teacher of the same settings under the same name
    content["state_dict"] = {name: value + 0.01 for name, value in content["state_dict"].items()}
    save_checkpoint(file, content)
    other = train("SIDMLP", teacher_path=file, resume=True)
    assert other.trainer.saved_model_file != first.trainer.saved_model_file  # a teacher counts by its content
    assert not torch.equal(
        other.trainer.model.decoder.heads[0][0].weight, first.trainer.model.decoder.heads[0][0].weight
    )


def test_the_item_encoder_learns_directly_and_its_checkpoint_ranks_alike(train: Callable[..., Run]) -> None:
    settings = {"encoder": "item", "item_layers": 1, "item_ffn_size": 16, "epochs": 3}
    run = train("SIDMLPPlusPlus", **settings)
    assert [stage.key for stage in run.trainer.stages()] == ["direct"]
    losses = list(run.trainer.train_loss_dict.values())
    assert losses[-1] < losses[0]
    model = load_data_and_model(run.trainer.saved_model_file)[1]
    rows = next(iter(run.test_data))[0]
    for found, expected in zip(model.retrieve(rows), run.trainer.model.retrieve(rows), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_mixed_precision_is_left_out_where_it_would_be_emulated(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_bfloat16: bool
) -> None:
    monkeypatch.setattr("recbole_sid.trainer.sid_trainer.cpu_has_fast_bfloat16", lambda: has_bfloat16)
    seen: list[torch.dtype] = []
    forward = nn.Linear.forward

    def watched(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        result = forward(layer, x)
        if torch.is_grad_enabled():
            seen.append(result.dtype)
        return result

    monkeypatch.setattr(nn.Linear, "forward", watched)
    train("TIGER", epochs=1, enable_amp=True)
    assert set(seen) == {torch.bfloat16 if has_bfloat16 else torch.float32}
    assert ("no fast bf16" in caplog.text) == (not has_bfloat16)


class FakeWandb(types.ModuleType):
    """Records what would be sent."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.run: Any = None
        self.logged: list[dict[str, Any]] = []
        self.step_metrics: dict[str, str] = {}

    def init(self, **settings: Any) -> None:
        self.run = types.SimpleNamespace(summary={})

    def define_metric(self, name: str, step_metric: str) -> None:
        self.step_metrics[name] = step_metric

    def log(self, metrics: dict[str, Any], commit: bool = True) -> None:
        self.logged.append(metrics)


def test_wandb_that_cannot_log_is_refused_in_a_sentence(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoKey(FakeWandb):
        class Error(Exception):
            pass

        def init(self, **settings: Any) -> None:
            raise self.Error("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setitem(sys.modules, "wandb", NoKey())
    with pytest.raises(InputError, match=r"wandb cannot log \(Error: No API key .*run `wandb login`"):
        train("TIGER", log_wandb=True)


def test_every_epoch_of_every_stage_is_logged(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    fake, scalars = FakeWandb(), {}
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(
        "torch.utils.tensorboard.SummaryWriter.add_scalar",
        lambda self, name, value, step: scalars.__setitem__((name, step), value),
    )
    run = train("SIDMLPPlusPlus", log_wandb=True, encoder_epochs=2, epochs=3)
    found = {}
    for metrics in fake.logged:
        (epoch,) = (name for name in metrics if name.endswith("/epoch"))
        stage = epoch.removesuffix("/epoch")
        assert fake.step_metrics[f"{stage}/*"] == epoch
        for name, value in metrics.items():
            if name != epoch:
                found[name, metrics[epoch]] = value
    assert found == scalars
    epochs = {"TIGER": 2, "SIDMLPPlusPlus encoder": 2, "SIDMLPPlusPlus decoder": 3}
    for stage, n_epochs in epochs.items():
        metric = "state error" if stage.endswith("encoder") else "ndcg@10"
        for epoch in range(1, n_epochs + 1):
            assert {(f"{stage}/train/loss", epoch), (f"{stage}/valid/{metric}", epoch)} <= found.keys()
    assert {name.split("/")[0] for name, _ in found} == epochs.keys()
    best = max(found["SIDMLPPlusPlus decoder/valid/ndcg@10", epoch] for epoch in (1, 2, 3))
    assert best == run.best_valid_score
    assert found["SIDMLPPlusPlus decoder/train/loss", 3] == run.trainer.train_loss_dict[2]


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_wandb_that_is_missing_is_named(data_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="log_wandb needs the package wandb: `pip install wandb`"):
        Config(model, "tiny", config_dict={"data_path": str(data_path), "log_wandb": True})


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_cache_for_which_there_is_no_room_is_refused_before_it_is_made(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    trainer, train_data, _, _ = make(configure("SIDMLP"))
    online = OnlineSupervision(trainer.model.eval(), trainer.model.teacher.history_encoder, trainer.model.teacher)
    folder = Path("cache") if where == "disk" else None

    def cached() -> CachedSupervision:
        return CachedSupervision(online, train_data, torch.device("cpu"), folder, show_progress=False)

    made = cached()
    size = 2 * (made.states.numel() + made.logits.numel())
    shutil.rmtree("cache", ignore_errors=True)
    for free in (size - 1, size):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: types.SimpleNamespace(available=free))
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        if free == size:
            assert cached().states.shape == made.states.shape
            continue
        with pytest.raises(InputError, match=rf"distill_cache={where}: the .* of [\d,]+ histories takes"):
            cached()
        assert folder is None or [path for path in folder.iterdir() if path.is_dir()] == []
