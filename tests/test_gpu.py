"""What runs on a GPU is what runs on the CPU: losses, gradients, rankings, graphs, caches, mixed precision, refusals.

Every test runs on the CPU too, which then takes all the ways of a GPU (`other_device`); `-m gpu` runs those of a GPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from other_device import DEVICES, OtherDevice, every_model
from torch.testing import assert_close

from recbole_sid.checkpoint import load_checkpoint
from recbole_sid.errors import InputError
from recbole_sid.memory import Numbers
from recbole_sid.quick_start import make_trainer, run_recbole_sid
from recbole_sid.registry import get_model
from recbole_sid.trainer.sid_trainer import SIDTrainer

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(params=DEVICES)
def other(request: pytest.FixtureRequest) -> OtherDevice:
    return OtherDevice(request.param)


@pytest.fixture
def built(prepare: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any]]:
    """Return ``built(name, **changes) -> model, train, test``: untrained, with teacher or memory as it needs."""

    def build(name: str, **changes: Any) -> tuple[Any, Any, Any]:
        config, train, _, test = prepare(name, **{"dropout_prob": 0.0, "decoding": "beam", **changes})
        torch.manual_seed(0)
        model = get_model(name)(config, train._dataset).eval()
        if hasattr(model, "stages"):
            settings = prepare("TIGER", dropout_prob=0.0)
            object.__setattr__(model, "teacher", get_model("TIGER")(settings[0], train._dataset).eval())
        if model.memory is not None:
            model.memory.learn(*train._dataset.training_sequences(), Numbers())
            model.sharpness.fill_(0.5)
        return model, train, test

    return build


def on(other: OtherDevice, model: Any) -> Any:
    """Return a copy of a model on the other device, with its teacher."""
    teacher = getattr(model, "teacher", None)
    moved = copy.deepcopy(model).to(other.device)
    if teacher is not None:
        object.__setattr__(moved, "teacher", copy.deepcopy(teacher).to(other.device))
    return moved


def table(model: Any, batch: Any) -> torch.Tensor:
    """Return what `retrieve` finds as scores [B, n_items], -100 for what it does not find."""
    rows, items, scores = (part.cpu() for part in model.retrieve(batch))
    found = torch.full((len(batch), model.n_items), -100.0)
    kept = scores > -torch.inf
    found[rows[kept], items[kept]] = scores[kept]
    return found


@every_model
def test_losses_and_gradients(
    other: OtherDevice, built: Callable[..., Any], name: str, changes: dict[str, Any]
) -> None:
    model, train, _ = built(name, **changes)
    batch = next(iter(train))
    moved = on(other, model)

    def learnt(model: Any, batch: Any) -> list[Any]:
        found = []
        for stage in getattr(model, "stages", (None,)):
            if stage is not None:
                model.start_stage(stage)
            model.zero_grad(set_to_none=True)
            loss = model(batch)
            loss.backward()
            gradients = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
            found += [loss.detach().cpu(), {key: gradient.cpu() for key, gradient in gradients.items()}]
        return found

    expected = learnt(model, batch)
    with other.entered():
        found = learnt(moved, batch.to(other.device))
    assert_close(found, expected, **CLOSE)


@every_model
@pytest.mark.parametrize("memory", ["none", "transitions"])
def test_rankings_and_graphs(
    other: OtherDevice, built: Callable[..., Any], name: str, changes: dict[str, Any], memory: str
) -> None:
    """Operation by operation and as graphs; after weights and settings changed; of batches of all sizes."""
    model, _, test = built(name, memory=memory, **changes)
    assert model.remembers == (memory != "none")
    moved = on(other, model)
    whole = next(iter(test))[0]

    def expect_alike(captures: int) -> None:
        before = other.n_captured
        for rows in (whole, whole, whole, whole[:3], whole[1:2]):
            expected = table(model, rows)
            with other.entered():
                assert_close(table(moved, rows.to(other.device)), expected, **CLOSE)
        assert other.n_captured - before == captures

    by_graphs = moved.found_by_shapes
    assert by_graphs
    expect_alike(1)
    model.beam_size = moved.beam_size = 6
    expect_alike(1)
    with torch.no_grad():
        for weights in (model.parameters(), moved.parameters()):
            for weight in weights:
                weight.mul_(1.1)
    expect_alike(1)
    moved.captured = False
    expect_alike(0)


@pytest.mark.parametrize("decoding", ["exact", "full"])
@pytest.mark.parametrize("name", ["TIGER", "CausalSID", "SIDMLP", "SIDMLPHybrid"])
def test_other_searches(other: OtherDevice, built: Callable[..., Any], name: str, decoding: str) -> None:
    model, _, test = built(name, decoding=decoding)
    moved = on(other, model)
    rows = next(iter(test))[0]
    expected, scores = table(model, rows), model.full_sort_predict(rows)
    with other.entered():
        there = rows.to(other.device)
        assert_close(table(moved, there), expected, **CLOSE)
        assert_close(moved.full_sort_predict(there).cpu(), scores, **CLOSE)


@pytest.mark.parametrize("name", ["TIGER", "SIDMLPPlusPlus", "SIDMLPHybrid"])
def test_weights_that_are_not_finite_are_refused(other: OtherDevice, prepare: Callable[..., Any], name: str) -> None:
    config, train, valid, _ = prepare(name, **other.settings)
    trainer = make_trainer(config, train)
    trainer.eval_collector.data_collect(train)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with other.entered(), pytest.raises(InputError, match="has weights that are not numbers"):
        trainer.evaluate(valid, load_best_model=False)


def test_a_loss_that_is_not_finite_ends_the_training(other: OtherDevice, prepare: Callable[..., Any]) -> None:
    changes = {"learning_rate": 1e30, "warmup_steps": 0, "clip_grad_norm": None, **other.settings}
    config, train, valid, _ = prepare("TIGER", **changes)
    with other.entered(), pytest.raises(InputError, match="no longer finite"):
        make_trainer(config, train).fit(train, valid, saved=False, verbose=False)


def trained(settings: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train and return the result, and the weights on the host."""
    result = run_recbole_sid(name, "tiny", config_dict=settings)
    return result, load_checkpoint(result["model_file"])["state_dict"]


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_students_learn_from_every_cache(
    other: OtherDevice, settings: Callable[..., dict[str, Any]], cache: str
) -> None:
    """Teacher, all stages, validation and test, as on the CPU but for rounding."""
    changes = {"distill_cache": cache, "epochs": 1, "encoder_epochs": 1, "dropout_prob": 0.0}
    run = settings("SIDMLPPlusPlus", encoder_dropout_prob=0.0, **changes)
    run["teacher_config"] = {**run["teacher_config"], "epochs": 1, "dropout_prob": 0.0}
    expected = trained({**run, "checkpoint_dir": "here"}, "SIDMLPPlusPlus")
    with other.entered():
        found = trained({**run, "checkpoint_dir": "there", **other.settings}, "SIDMLPPlusPlus")
    assert_close(found[1], expected[1], atol=2e-3, rtol=2e-2)
    assert found[0]["best_valid_score"] == pytest.approx(expected[0]["best_valid_score"], abs=0.1)


def epoch_losses(config: Any, train: Any, valid: Any) -> list[float]:
    trainer = make_trainer(config, train)
    trainer.fit(train, valid, saved=False, verbose=False)
    return list(trainer.train_loss_dict.values())


@pytest.mark.parametrize("name", ["TIGER", "CausalSID", "SIDMLPHybrid"])
def test_mixed_precision_learns_as_single(
    other: OtherDevice, prepare: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_sid.trainer.sid_trainer.cpu_has_fast_bfloat16", lambda: True)
    changes = {"dropout_prob": 0.0, **other.settings}
    with other.entered():
        found = [epoch_losses(*prepare(name, enable_amp=amp, **changes)[:3]) for amp in (False, True)]
    assert found[1] == pytest.approx(found[0], rel=0.03)
    assert found[1] != found[0]


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("TIGER", {}),
        ("CausalSID", {}),
        ("SIDMLP", {"distill_cache": "memory", "epochs": 4}),
        ("SIDMLPPlusPlus", {"distill_stages": ["encoder", "decoder", "joint"], "encoder_dropout_prob": 0.0}),
        ("SIDMLPHybrid", {"item_dropout_prob": 0.0, "input_dropout_prob": 0.0, "item_share": 0.35}),
    ],
)
def test_captured_training_learns_the_same(
    other: OtherDevice,
    prepare: Callable[..., Any],
    built: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
    amp: bool,
) -> None:
    monkeypatch.setattr("recbole_sid.trainer.sid_trainer.cpu_has_fast_bfloat16", lambda: True)
    found, captures = [], []
    with other.entered():
        for captured in (False, True):
            before = other.n_captured
            config, train, _, _ = prepare(
                name, **{"dropout_prob": 0.0, "epochs": 3, **changes, **other.settings}, enable_amp=amp,
                capture_training=captured,
            )  # fmt: skip
            trainer = make_trainer(config, train)
            if hasattr(trainer.model, "stages"):
                object.__setattr__(trainer.model, "teacher", on(other, built("TIGER")[0]))
            trainer.fit(train, None, saved=False, verbose=False)
            found.append(list(trainer.train_loss_dict.values()))
            captures.append(other.n_captured - before)
    assert captures[0] == 0
    assert 0 < captures[1] <= 16 * len(trainer.stages())
    assert found[1] == pytest.approx(found[0], rel=2e-2 if amp else 1e-3)


def test_codes_that_start_from_features(other: OtherDevice, prepare: Callable[..., Any]) -> None:
    def started(**changes: Any) -> torch.Tensor:
        config, train, _, _ = prepare("TIGER", code_init="features", **changes)
        model = make_trainer(config, train).model
        model.start_from_data(config, train._dataset)
        return model.token_embedding.weight.detach()

    expected = started()
    with other.entered():
        found = started(**other.settings)
    assert found.device.type == other.device.type
    assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


def test_an_interrupted_training_goes_on(
    other: OtherDevice, prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its random numbers: the losses of the epochs that follow are those of a training in one go."""

    def losses(folder: str, epochs: int, **changes: Any) -> list[float]:
        config, train, valid, _ = prepare(
            "TIGER", epochs=3, schedule_epochs=3, checkpoint_dir=folder, **other.settings, **changes
        )
        trainer = make_trainer(config, train)
        run = SIDTrainer._run_epoch

        def stopping(trainer: Any, epoch: int, *arguments: Any) -> bool:
            if epoch == epochs:
                raise KeyboardInterrupt
            return run(trainer, epoch, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SIDTrainer, "_run_epoch", stopping)
            with contextlib.suppress(KeyboardInterrupt):
                trainer.fit(train, valid, verbose=False)
        return list(trainer.train_loss_dict.values())

    with other.entered():
        whole = losses("whole", 3)
        parts = losses("parts", 1) + losses("parts", 3, resume=True)
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_model
def test_no_step_and_no_ranking_waits_for_the_gpu(
    prepare: Callable[..., Any], built: Callable[..., Any], name: str, changes: dict[str, Any]
) -> None:
    """By CUDA's own word (`test_no_waiting` finds what it can without a GPU): after a first batch, nothing waits."""
    config, train, _, test = prepare(name, use_gpu=True, **changes)
    trainer = make_trainer(config, train)
    if hasattr(trainer.model, "stages"):
        object.__setattr__(trainer.model, "teacher", built("TIGER")[0].to("cuda").eval())
    model = trainer.model
    trainer.start_stage(trainer.stages()[0], train)
    model.train()
    first, *others = list(train)[:3]
    for number, batch in enumerate((first, *others)):
        with waiting("default" if number == 0 else "error"):
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.scaler.scale(trainer.batch_loss(batch.to(trainer.device))).backward()
            trainer._step()
    model.eval()
    batches = [batch[0] for batch in test] * 3
    for number, batch in enumerate(batches):
        with waiting("default" if number < len(batches) - 1 else "error"):
            model.retrieve(batch.to("cuda"))


@contextlib.contextmanager
def waiting(mode: str) -> Iterator[None]:
    """Let torch raise an error within ("error") where the host waits for a GPU."""
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_optimizer_is_one_kernel(prepare: Callable[..., Any]) -> None:
    config, train, valid, _ = prepare("TIGER", use_gpu=True)
    trainer = make_trainer(config, train)
    trainer.fit(train, valid, saved=False, verbose=False)
    assert all(group["fused"] for group in trainer.optimizer.param_groups)
