"""Optimizers in one kernel do what RecBole's do, and go on from each other's states."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from recbole_sid.trainer.optimizers import fused_optimizer, load_optimizer

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
RATE, DECAY = 0.01, 0.1


def _weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (3,))]


def _gradients() -> Iterator[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(6):
        yield [torch.randn(shape, generator=generator) for shape in ((7, 5), (3,))]


def _step(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], gradients: list[torch.Tensor]) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize("learner", ["adam", "AdamW"])
def test_one_kernel_takes_the_steps_of_torchs_plain_form(learner: str) -> None:
    own, other = _weights(), _weights()
    fused = fused_optimizer(learner, own, RATE, DECAY)
    assert fused is not None
    assert fused.param_groups[0]["fused"]
    plain = KINDS[learner.lower()](other, lr=RATE, weight_decay=DECAY, foreach=False)
    for gradients in _gradients():
        _step(fused, own, gradients)
        _step(plain, other, gradients)
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_one_kernel_goes_on_from_the_state_of_the_plain_form() -> None:
    """Last states that were written before are still resumed from."""
    own, other = _weights(), _weights()
    plain = torch.optim.AdamW(other, lr=RATE, weight_decay=DECAY, foreach=False)
    steps = list(_gradients())
    for gradients in steps[:3]:
        _step(plain, other, gradients)
    with torch.no_grad():
        for mine, theirs in zip(own, other, strict=True):
            mine.copy_(theirs)
    fused = fused_optimizer("adamw", own, RATE, DECAY)
    assert fused is not None
    load_optimizer(fused, copy.deepcopy(plain.state_dict()))  # which is no copy
    assert fused.param_groups[0]["fused"]
    for gradients in steps[3:]:
        _step(fused, own, gradients)
        _step(plain, other, gradients)
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_learners_without_such_a_form_are_left_to_recbole() -> None:
    assert fused_optimizer("sgd", _weights(), RATE, DECAY) is None
