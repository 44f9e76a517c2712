"""Forms of weights are built once for the same weights, and anew after whatever writes them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from recbole_sid.fast.prepared import Prepared, Seen, weights_unchanged


def test_a_weight_at_the_address_of_the_last_one_is_seen() -> None:
    module = nn.Module()
    prepared = Prepared(lambda owner: float(owner.weight.sum())).eval()
    for value in range(8):
        # The memory of the last weight is free before the next is made, so an allocator likes to give it out again.
        module.weight = None
        module.weight = nn.Parameter(torch.full((1000,), float(value)))
        assert prepared.get(module) == 1000 * value


def owner_of_a_form() -> nn.Module:
    owner = nn.Linear(2, 2)
    owner.form = Prepared(lambda owner: object())
    return owner.eval()


def test_a_form_is_built_once_for_the_same_weights() -> None:
    owner = owner_of_a_form()
    form = owner.form.get(owner)
    assert owner.eval().form.get(owner) is form
    owner.form.forget()
    assert owner.form.get(owner) is not form


def step_with(name: str, **options: Any) -> Callable[[nn.Module], None]:
    def step(owner: nn.Module) -> None:
        optimizer = getattr(torch.optim, name)(owner.parameters(), lr=0.1, **options)
        owner(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    return step


def write_in_training(owner: nn.Module) -> None:
    owner.train()
    owner.weight.data.mul_(2)
    owner.eval()


def exchange_the_storage(owner: nn.Module) -> None:
    owner.weight.data = owner.weight.data * 2


WAYS_TO_WRITE = {
    "sgd": step_with("SGD"),
    "adamw": step_with("AdamW"),
    "fused sgd": step_with("SGD", fused=True),
    "fused adamw": step_with("AdamW", fused=True),
    "foreach adamw": step_with("AdamW", foreach=True),
    "in place": lambda owner: nn.init.ones_(owner.weight),
    "load_state_dict": lambda owner: owner.load_state_dict(nn.Linear(2, 2).state_dict()),
    "load_state_dict, assigned": lambda owner: owner.load_state_dict(nn.Linear(2, 2).state_dict(), assign=True),
    "vector_to_parameters": lambda owner: nn.utils.vector_to_parameters(torch.ones(6), owner.parameters()),
    "half": lambda owner: owner.half(),
    "there and back": lambda owner: owner.half().float(),
    ".data in training": write_in_training,
    ".data exchanged": exchange_the_storage,
    "another weight": lambda owner: setattr(owner, "weight", nn.Parameter(torch.ones(2, 2))),
    "no bias": lambda owner: setattr(owner, "bias", None),
}


@pytest.mark.parametrize("write", WAYS_TO_WRITE.values(), ids=WAYS_TO_WRITE.keys())
def test_whatever_writes_weights_makes_forms_anew(write: Callable[[nn.Module], Any]) -> None:
    owner = owner_of_a_form()
    form = owner.form.get(owner)
    write(owner)
    again = owner.form.get(owner)
    assert again is not form
    assert owner.form.get(owner) is again


def test_within_a_request_weights_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = nn.Sequential(owner_of_a_form(), owner_of_a_form()), owner_of_a_form()
    walks = []
    monkeypatch.setattr(Seen, "_add", lambda self, module, add=Seen._add: (walks.append(module), add(self, module)))
    with weights_unchanged(model), weights_unchanged(model[0]):
        forms = [owner.form.get(owner) for owner in model]
        assert walks.count(model) == 1
        assert all(walks.count(owner) == 1 for owner in model)
        other.form.get(other)  # no part of the model, so looked at by itself
        assert walks.count(other) == 1
    nn.init.ones_(model[0].weight)
    with weights_unchanged(model):
        assert model[0].form.get(model[0]) is not forms[0]
        assert model[1].form.get(model[1]) is forms[1]
    assert model[1].form.get(model[1]) is forms[1]


def test_in_training_mode_no_form_outlives_the_request() -> None:
    owner = owner_of_a_form().train()
    with weights_unchanged(owner):
        form = owner.form.get(owner)
        assert owner.form.get(owner) is form
    owner.weight.data.mul_(2)
    with weights_unchanged(owner):
        assert owner.form.get(owner) is not form


def test_forms_of_weights_that_torch_does_not_count_do_not_outlive_the_request() -> None:
    with torch.inference_mode():
        owner = owner_of_a_form()
        form = owner.form.get(owner)
        owner.weight.mul_(2)
        with weights_unchanged(owner):
            again = owner.form.get(owner)
            assert again is not form
            assert owner.form.get(owner) is again


def test_a_copy_of_an_owner_builds_its_own_form() -> None:
    owner = owner_of_a_form()
    form = owner.form.get(owner)
    twin = copy.deepcopy(owner)
    assert not twin.form.training
    assert twin.form.get(twin) is not form
    assert not list(twin.form.state_dict())
