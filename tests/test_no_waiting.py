"""Losses and rankings ask no device for values: run on torch's `meta` device, which has shapes but no values.

There `.item()`, `.tolist()`, `int(tensor)`, `.numpy()` and indexing by a boolean mask raise; on a GPU each of them
makes the host wait. Left out, as their shapes follow values: `item_candidates`, and semantic IDs of which many items
share one. Exact search asks once a batch, whether its wide beams have found all there is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from recbole_sid.checkpoint import hash_weights
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.batch import Batch, on_host
from recbole_sid.data.dataset import ROW_FIELD
from recbole_sid.decoding.exact import exact_search
from recbole_sid.evaluation.retrieved import Retrieved, hits_and_positives
from recbole_sid.memory import Numbers
from recbole_sid.model.supervision import OnlineSupervision
from recbole_sid.quick_start import make_trainer
from recbole_sid.registry import get_model
from recbole_sid.trainer.distill_cache import CachedSupervision

GENERATORS: list[tuple[str, dict[str, Any]]] = [
    ("TIGER", {}),
    ("TIGER", {"constrained": False}),
    ("TIGER", {"encoder_attention": "causal"}),
    ("CausalSID", {}),
    ("SIDMLPHybrid", {}),
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
    object.__setattr__(model, "teacher", on_meta(prepare, "TIGER")[0].eval())  # as a teacher_path would
    for stage in model.stages:
        model.start_stage(stage)
        model.train()
        loss = model.calculate_loss(batch)
        loss.backward()
        assert loss.shape == ()


@pytest.mark.parametrize("where", [None, "cache"])
def test_cached_supervision_is_looked_up_on_the_host(prepare: Callable[..., Any], where: str | None) -> None:
    train = prepare("SIDMLP")[1]
    model, teacher = (get_model(name)(prepare(name)[0], train._dataset).eval() for name in ("SIDMLP", "TIGER"))
    online = OnlineSupervision(model, model.history_encoder, teacher)
    supervision = CachedSupervision(online, train, torch.device("cpu"), Path(where) if where else None, False)
    expected = supervision(next(iter(train)))
    supervision.device = torch.device("meta")
    model.to("meta").train()
    batch = next(iter(train)).to("meta")
    found = supervision(batch)
    assert (found.states.shape, found.mask.shape) == (expected.states.shape, expected.mask.shape)
    assert [logits.shape for logits in found.logits] == [logits.shape for logits in expected.logits]
    model(batch, found).backward()


def test_row_numbers_of_a_batch_stay_on_the_host(prepare: Callable[..., Any]) -> None:
    _, train, valid, _ = prepare("SIDMLP")
    for batch in (next(iter(train)), next(iter(valid))[0]):
        fields = set(batch.columns)
        moved = batch.to("meta")
        assert isinstance(moved, Batch)
        assert {name for name in fields if moved[name].device.type == "cpu"} == {ROW_FIELD} & fields
        assert (set(moved.columns), len(moved)) == (fields, len(batch))
        alone = batch.to("meta", "item_id_list")
        assert {name for name in fields if alone[name].device.type == "meta"} == {"item_id_list"}
    assert ROW_FIELD in fields
    assert torch.equal(moved[ROW_FIELD], batch[ROW_FIELD])
    again = moved.to("meta")[slice(2)]
    assert again[ROW_FIELD].tolist() == batch[ROW_FIELD][:2].tolist()
    known = on_host(again, "item_id_list", "item_length")
    assert [values.tolist() for values in known] == [
        batch[name][:2].tolist() for name in ("item_id_list", "item_length")
    ]
    assert on_host(Interaction(batch.interaction), "item_length")[0].tolist() == batch["item_length"].tolist()


class NoWaits(TorchDispatchMode):
    """Fails at operations that have no values to ask for on `meta`, and wait for these on a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().split("::")[1].split(".")[0]
        there = any(value.is_meta for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor))
        assert not there or name not in ("isin", "_unique2", "unique_dim", "equal"), function
        return function(*args, **(kwargs or {}))


def test_operations_that_wait_are_found() -> None:
    values = torch.ones(3, device="meta")
    with NoWaits(), pytest.raises(AssertionError):
        torch.isin(values, values)


@pytest.mark.parametrize("memory", ["none", "transitions"])
@pytest.mark.parametrize(("name", "changes"), GENERATORS + STUDENTS)
def test_retrieved_items(prepare: Callable[..., Any], name: str, changes: dict[str, Any], memory: str) -> None:
    """The whole way of an evaluation: a batch moves to the device, and hits stay there."""
    config, train, valid, _ = prepare(name, memory=memory, **changes)
    model = get_model(name)(config, train._dataset).eval()
    if memory != "none":
        model.memory.learn(*train._dataset.training_sequences(), Numbers())
    assert model.remembers == (memory != "none")
    model.trie.leaves_of(torch.zeros(1, dtype=torch.int64))  # a table, made once from what is then on the device
    model.to("meta")
    batch, _, positive_u, positive_i = next(iter(valid))
    with NoWaits(), torch.no_grad():
        rows, items, scores = model.retrieve(batch.to("meta"))
        assert rows.shape == items.shape == scores.shape
        lists = Retrieved(rows, items, scores, (len(batch), model.n_items)).top_lists(5)
        assert hits_and_positives(lists, positive_u, positive_i, model.n_items).shape == (len(batch), 6)


@pytest.mark.parametrize(("name", "changes"), GENERATORS + STUDENTS)
def test_nothing_is_asked_before_the_end_of_an_epoch(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    """Of the trainer's own loop: batches to the device, losses, gradients, clipping and the optimizer's steps."""
    config, train, _, _ = prepare(name, **changes)
    trainer = make_trainer(config, train)
    if hasattr(trainer.model, "stages"):
        object.__setattr__(trainer.model, "teacher", on_meta(prepare, "TIGER")[0].eval())  # as a teacher_path would
    trainer.model.to("meta")
    trainer.device = torch.device("meta")
    with NoWaits():
        trainer.start_stage(trainer.stages()[0], train)
        done: list[int] = []
        monkeypatch.setattr(trainer.forecast, "batch_done", lambda: done.append(1))
        with pytest.raises((NotImplementedError, RuntimeError)):
            trainer._train_epoch(train, 0)
    assert len(done) == len(train) > 1


@pytest.mark.parametrize(("name", "changes"), GENERATORS + STUDENTS)
def test_exact_search_asks_only_whether_it_is_done(
    prepare: Callable[..., Any], name: str, changes: dict[str, Any]
) -> None:
    model, batch = on_meta(prepare, name, **changes)
    model.eval()
    asked: list[torch.Tensor] = []

    def done(proven: torch.Tensor) -> bool:
        asked.append(proven)
        return True

    k, n_users = 2, len(batch)
    with NoWaits(), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("recbole_sid.decoding.exact.bool", done, raising=False)
        leaves, scores = exact_search(model.scorer(model.encode(model.history_tokens(batch))), model.trie, k)
    assert k < model.trie.n_nodes(model.trie.n_levels)
    assert leaves.shape == scores.shape == (n_users, k)
    assert [values.shape for values in asked] == [()]


class NoCopies(TorchDispatchMode):
    """Fails where values of the host are copied to the device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [
            value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor) and value.dim()
        ]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) < 2, function
        assert not (devices == {"cpu"} and "copy" in str(function) and str(kwargs.get("device")) == "meta"), function
        return function(*args, **kwargs)


def test_copying_is_found() -> None:
    values = torch.ones(3)
    with NoCopies():
        for copy in (lambda: values.to("meta"), lambda: torch.ones(3, device="meta").copy_(values)):
            with pytest.raises(AssertionError):
                copy()


@pytest.mark.parametrize(("name", "changes"), GENERATORS + STUDENTS)
@pytest.mark.parametrize("decoding", ["beam", "full"])
def test_rankings_after_the_first_copy_nothing_to_the_device(
    prepare: Callable[..., Any], name: str, changes: dict[str, Any], decoding: str
) -> None:
    model, batch = on_meta(prepare, name, decoding=decoding, **changes)
    model.eval()
    with torch.no_grad():
        tokens = model.history_tokens(batch)
        model.rank(tokens)
        with NoCopies():
            model.rank(tokens)


@pytest.mark.parametrize("sid_model", ["TIGER", "SIDMLP"])
@pytest.mark.parametrize("fusion", ["adaptive", "fixed"])
def test_scores_of_an_ensemble(ensemble: Callable[..., Any], sid_model: str, fusion: str) -> None:
    """By the scores of both; candidates of `retrieve` follow values, as in all models."""
    config = ensemble(sid_model, fusion=fusion, candidates="scores")
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("AdaptiveEnsemble")(config, train._dataset).eval().to("meta")
    batch = next(iter(train)).to("meta")
    assert model.full_sort_predict(batch).shape == (len(batch) * model.n_items,)
    assert model.predict(batch).shape == (len(batch),)


@pytest.mark.parametrize(("name", "changes"), GENERATORS + STUDENTS)
@pytest.mark.parametrize("decoding", ["beam", "full"])
def test_rankings(prepare: Callable[..., Any], name: str, changes: dict[str, Any], decoding: str) -> None:
    model, batch = on_meta(prepare, name, decoding=decoding, **changes)
    model.eval()
    with torch.no_grad():
        for rows, part in model.ranked_together(batch):
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
