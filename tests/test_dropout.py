"""Dropout from random bits does what torch's does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from recbole_sid.nn.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_scale_and_gradient(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(400, 501, requires_grad=True)
    y = Dropout(rate)(x)
    kept = y != 0
    assert (~kept).float().mean() == pytest.approx(rate, abs=0.005)
    # As often in each row and column: neighbours come from one random word.
    assert ((~kept).float().mean(0) - rate).abs().max() < 6 * (rate * (1 - rate) / 400) ** 0.5
    assert_close(y[kept], x[kept] / (1 - rate), rtol=1e-4, atol=0)
    y.sum().backward()
    assert x.grad is not None
    assert_close(x.grad, kept / (1 - rate), rtol=1e-4, atol=0)


def test_what_is_dropped_is_independent_of_its_neighbours() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(1 << 18)) != 0).float() - 0.5
    for step in range(1, 9):
        assert abs((kept[step:] * kept[:-step]).mean()) < 0.003  # six standard errors of products of +-1/2


def test_the_seed_decides() -> None:
    x = torch.ones(7, 3)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(Dropout(0.5)(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_ends_are_torchs(rate: float) -> None:
    x = torch.rand(5, 4)
    assert torch.equal(Dropout(rate)(x), nn.Dropout(rate)(x))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert Dropout(0.5)(x[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match="dropout probability"):
        Dropout(1.5)


def test_half_precision_stays() -> None:
    y = Dropout(0.25)(torch.ones(1000, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert set(y.unique().tolist()) == {0.0, 1.3359375}
