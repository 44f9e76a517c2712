"""What students minimise, against the formulas written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from recbole_sid.nn.losses import distillation_loss, state_error

SIZES = (5, 3, 2)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def logits(rng: np.random.Generator, rows: int) -> list[torch.Tensor]:
    return [torch.from_numpy(rng.normal(size=(rows, size))).float() for size in SIZES]


@pytest.mark.parametrize(("alpha", "temperature"), [(0.7, 1.0), (0.3, 2.5), (1.0, 0.5), (0.0, 3.0)])
def test_distillation_loss_is_the_formula(alpha: float, temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = logits(rng, 4), logits(rng, 4)
    codes = torch.stack([torch.from_numpy(rng.integers(size, size=4)) for size in SIZES], dim=1)
    expected = 0.0
    for level, size in enumerate(SIZES):
        for row in range(4):
            own, taught = (part[level][row].double().numpy() for part in (student, teacher))
            p, q = softmax(taught / temperature), softmax(own / temperature)
            divergence = sum(p[code] * math.log(p[code] / q[code]) for code in range(size))
            cross_entropy = -math.log(softmax(own)[codes[row, level]])
            expected += alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy
    assert float(distillation_loss(student, teacher, codes, alpha, temperature)) == pytest.approx(expected / 4, 1e-5)


def test_a_student_that_says_what_its_teacher_says_has_no_divergence() -> None:
    same = logits(np.random.default_rng(1), 6)
    codes = torch.zeros(6, 3, dtype=torch.int64)
    assert float(distillation_loss(same, same, codes, alpha=1.0, temperature=1.7)) == pytest.approx(0.0, abs=1e-6)


def test_half_precision_counts_as_float32() -> None:
    rng = np.random.default_rng(2)
    half, teacher = [part.bfloat16() for part in logits(rng, 5)], logits(rng, 5)
    codes = torch.ones(5, 3, dtype=torch.int64)
    found = distillation_loss(half, teacher, codes, 0.5, 2.0).float()
    wanted = distillation_loss([part.float() for part in half], teacher, codes, 0.5, 2.0)
    assert_close(found, wanted)


def test_levels_must_be_as_many() -> None:
    given = logits(np.random.default_rng(3), 2)
    with pytest.raises(ValueError, match="zip"):
        distillation_loss(given, given[:2], torch.zeros(2, 3, dtype=torch.int64), 0.5, 1.0)


def test_state_error_counts_states_where_the_mask_is_true() -> None:
    states, target = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2)
    assert float(state_error(states, target, torch.tensor([[True, False]]))) == pytest.approx((1 + 4) / 2)
    assert float(state_error(states, target, torch.tensor([[True, True]]))) == pytest.approx((1 + 4 + 162) / 4)
