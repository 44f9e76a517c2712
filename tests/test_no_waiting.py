"""Losses and rankings ask no device for values: run on torch's `meta` device, which has shapes but no values.

There `.item()`, `.tolist()`, `int(tensor)`, `.numpy()` and indexing by a boolean mask raise; on a GPU each of them
makes the host wait. Left out, as their shapes follow values: exact search, which bounds how many prefixes it opens, and
`Trie.expand_leaves`, by which `retrieve` gives as many items as the leaves have (once a batch, after `rank`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from recbole_sid.checkpoint import hash_weights
from recbole_sid.model.supervision import OnlineSupervision
from recbole_sid.registry import get_model

GENERATORS: list[tuple[str, dict[str, Any]]] = [
    ("TIGER", {}),
    ("TIGER", {"constrained": False}),
    ("CausalSID", {}),
]
STUDENTS: list[tuple[str, dict[str, Any]]] = [
    ("SIDMLP", {}),
    ("SIDMLPPlusPlus", {}),
    ("SIDMLPPlusPlus", {"encoder_positions": "end", "encoder_mixing": "weighted"}),
    ("SIDMLPPlusPlus", {"encoder": "item"}),
]


def on_meta(prepare: Callable[..., Any], name: str, **changes: Any) -> tuple[Any, Any]:
    """Return a model and a training batch without values."""
    config, train, _, _ = prepare(name, **changes)
    model = get_model(name)(config, train._dataset).to("meta")
    return model, next(iter(train)).to("meta")


def test_asking_for_values_is_found() -> None:
    values = torch.ones(3, device="meta")
    for ask in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, lambda x: int(x[0]), lambda x: x[x > 0]):
        with pytest.raises((NotImplementedError, RuntimeError, TypeError)):
            ask(values)


@pytest.mark.parametrize(("name", "changes"), GENERATORS)
def test_losses_of_generators(prepare: Callable[..., Any], name: str, changes: dict[str, Any]) -> None:
    model, batch = on_meta(prepare, name, **changes)
    loss = model.train().calculate_loss(batch)
    loss.backward()
    assert loss.shape == ()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize(("name", "changes"), STUDENTS)
def test_losses_of_students(prepare: Callable[..., Any], name: str, changes: dict[str, Any]) -> None:
    model, batch = on_meta(prepare, name, **changes)
    teacher = on_meta(prepare, "TIGER")[0].eval()
    for stage in model.stages:
        model.start_stage(stage)
        model.train()
        encoder = teacher.history_encoder if stage == "encoder" else model.history_encoder
        model.supervision = OnlineSupervision(
            model, encoder if stage in ("encoder", "decoder") else None, None if stage == "encoder" else teacher
        )
        loss = model.calculate_loss(batch)
        loss.backward()
        assert loss.shape == ()


@pytest.mark.parametrize(("name", "changes"), GENERATORS + STUDENTS)
@pytest.mark.parametrize("decoding", ["beam", "full"])
def test_rankings(prepare: Callable[..., Any], name: str, changes: dict[str, Any], decoding: str) -> None:
    model, batch = on_meta(prepare, name, decoding=decoding, **changes)
    model.eval()
    with torch.no_grad():
        for rows, part in model.parts(batch):
            leaves, scores = model.rank(model.history_tokens(part))
            n_rows = len(batch) if rows is None else len(rows)
            assert leaves.shape == scores.shape
            assert len(leaves) == n_rows
            model.check_finite(leaves)


@pytest.mark.parametrize(("name", "changes"), GENERATORS + STUDENTS)
def test_scores_of_all_items(prepare: Callable[..., Any], name: str, changes: dict[str, Any]) -> None:
    model, batch = on_meta(prepare, name, **changes)
    assert model.scores_every_item
    assert model.eval().full_sort_predict(batch).shape == (len(batch) * model.n_items,)
    with torch.no_grad():
        assert model.predict(batch).shape == (len(batch),)


def test_weights_of_any_precision_are_hashed() -> None:
    layers = [torch.nn.Linear(3, 2, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert len({hash_weights(layer) for layer in layers}) == 2
