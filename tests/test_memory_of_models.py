"""SID models with a memory: the mixture, its search, what is chosen after training, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import SETTINGS

from recbole_sid.errors import InputError
from recbole_sid.memory import Numbers
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_model, run_recbole_sid
from recbole_sid.registry import get_model

SET = {
    "memory": "transitions",
    "memory_hops": 2,
    "memory_hop_decay": 0.5,
    "memory_window": 3,
    "memory_window_decay": 0.5,
    "memory_pseudo_counts": 2.0,
    "memory_sharpness": 0.5,
}


def fitted(prepare: Callable[..., Any], model: str, **changes: Any) -> tuple[Any, Any]:
    config, train, valid, test = prepare(model, epochs=1, **changes)
    trainer = make_trainer(config, train)
    trainer.fit(train, valid, saved=False, verbose=False)
    return trainer.model.eval(), test


@pytest.mark.parametrize("decoding", ["exact", "full"])
@pytest.mark.parametrize("sharpness", [0.0, 0.5])
def test_the_search_finds_the_best_of_all(prepare: Callable[..., Any], decoding: str, sharpness: float) -> None:
    changes = {**SET, "memory_sharpness": sharpness, "decoding": decoding}
    model, test = fitted(prepare, "TIGER", **changes)
    interaction = next(iter(test))[0]
    every = model.full_sort_predict(interaction).view(len(interaction), -1)
    rows, items, scores = model.retrieve(interaction)
    for row in range(len(interaction)):
        mine = rows == row
        expected = every[row].topk(model.beam_size).values
        torch.testing.assert_close(scores[mine], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(every[row, items[mine]], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoding", ["beam", "exact"])
@pytest.mark.parametrize("model", ["SIDMLP", "SIDMLPPlusPlus"])
def test_compiled_loops_find_what_torch_finds(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, model: str, decoding: str
) -> None:
    config, train, _, test = prepare(model, decoding=decoding, compiled=True, **SET)
    trained = get_model(model)(config, train._dataset).eval()
    trained.memory.learn(*train._dataset.training_sequences(), Numbers(2, 0.5, 3, 0.5, 2.0))
    trained.sharpness.fill_(0.5)
    interaction = next(iter(test))[0]
    found = trained.retrieve(interaction)
    with monkeypatch.context() as patch:  # the compiled way does not look things up by scipy
        patch.setattr(type(trained.memory), "recall", None)
        assert torch.equal(trained.retrieve(interaction)[1], found[1])
    trained.compiled = False
    rows, items, scores = trained.retrieve(interaction)
    assert torch.equal(found[0], rows)
    torch.testing.assert_close(found[2], scores, rtol=1e-4, atol=1e-4)
    assert (found[1] == items).float().mean() > 0.95  # neighbours within rounding may swap
    with torch.no_grad():
        for weight in trained.decoder.heads.parameters():
            weight.fill_(torch.nan)
    trained.compiled = True
    with pytest.raises(InputError, match="not finite"):
        trained.retrieve(interaction)


def test_a_run_with_a_memory_takes_up_that_without(settings: Callable[..., Any]) -> None:
    plain = run_recbole_sid("TIGER", "tiny", config_dict=settings("TIGER"))
    from recbole_sid.config import Config

    config = Config("TIGER", "tiny", config_dict=settings("TIGER", memory="transitions", resume=True))
    run = run_model(config)
    assert run.trainer.model.memory.counts.numel()
    assert run.trainer.saved_model_file != plain["model_file"]
    assert run.trainer.train_loss_dict == {}
    loaded = load_data_and_model(run.trainer.saved_model_file)
    interaction = next(iter(loaded[-1]))[0]
    found, expected = loaded[1].retrieve(interaction), run.trainer.model.retrieve(interaction)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("model", ["CausalSID", "SIDMLP", "SIDMLPPlusPlus"])
def test_every_model_learns_its_memory(prepare: Callable[..., Any], settings: Callable[..., Any], model: str) -> None:
    run = run_recbole_sid(model, "tiny", config_dict=settings(model, epochs=1, memory="transitions"))
    loaded = load_data_and_model(run["model_file"])
    assert loaded[1].memory.counts.numel()
    assert set(SETTINGS) >= {model}
