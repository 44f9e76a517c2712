"""Engines in torch: TIGER and CausalSID rank as in the package, without RecBole; damaged bundles are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OWN, SMALL
from test_engines import NUMBERS, check_parity, histories_of, stored

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.exporting.export import export_model
from recbole_sid.exporting.forms import Form, form_of
from recbole_sid.quick_start import load_data_and_model
from recbole_sid.registry import get_model
from recbole_sid.serving.bundle import Bundle
from recbole_sid.serving.engine import Histories, engine_named

PLAIN = {key: value for key, value in SMALL.items() if key not in OWN}

Made = tuple[Any, Any, Form]


@pytest.fixture
def make(prepare: Callable[..., Any]) -> Callable[..., Made]:
    """Return ``make(model, **changes) -> model, rows, form``: untrained."""

    def made(name: str, **changes: Any) -> Made:
        config, train, _, _ = prepare(name, **changes)
        torch.manual_seed(0)
        model = get_model(name)(config, train._dataset).eval()
        if model.memory is not None:
            model.memory.learn(*train._dataset.training_sequences(), NUMBERS)
            model.sharpness.fill_(0.7)
        rows = train._dataset[torch.arange(0, len(train._dataset), 3)]
        return model, rows, form_of(model, config, train._dataset)

    return made


def engine_of(form: Form) -> Any:
    return engine_named(form.engine).of(form.arrays, stored(form))


@pytest.mark.parametrize("name", ["TIGER", "CausalSID"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory": "transitions"},
        {"decoding": "exact", "memory": "transitions"},
        {"decoding": "full", "normaliser": "codes"},
        {"codebook_sizes": [4, 3, 2]},
    ],
    ids=str,
)
def test_generators(make: Callable[..., Made], name: str, changes: dict[str, Any]) -> None:
    model, rows, form = make(name, **changes)
    check_parity(model, rows, engine_of(form))


@pytest.mark.parametrize("name", ["TIGER", "CausalSID"])
@pytest.mark.parametrize("changes", [{"constrained": False}, {"collision": "keep", "memory": "transitions"}], ids=str)
def test_lists_of_beams_without_items_and_of_shared_ids(
    make: Callable[..., Made], name: str, changes: dict[str, Any]
) -> None:
    model, rows, form = make(name, **changes)
    engine, histories = engine_of(form), histories_of(model, rows)
    with torch.no_grad():
        row, items, scores = (part.numpy() for part in model.retrieve(rows))
    found, found_scores = engine.rank(histories, engine.beam_size)
    for user in range(len(rows)):
        own = np.sort(scores[row == user])[::-1][: engine.beam_size]
        there = found[user] > 0
        np.testing.assert_allclose(found_scores[user][there], own, atol=1e-4)
        certain = there & (found_scores[user] > own[-1] + 1e-4)  # which of those that tie with the last is open
        assert {*found[user][certain].tolist()} <= {*items[row == user].tolist()}


@pytest.mark.parametrize("name", ["TIGER", "CausalSID"])
def test_explanations_multiply_to_the_score(make: Callable[..., Made], name: str) -> None:
    model, rows, form = make(name, memory="transitions")
    engine, histories = engine_of(form), histories_of(model, rows)
    items = np.arange(len(rows)) % (engine.n_items - 1) + 1
    recall = model.recall(rows)
    masses = recall.mass_of(torch.arange(len(rows)), torch.from_numpy(items))
    n_remembered = 0
    for user, found in enumerate(engine.explain(histories, items)):
        p0 = np.prod([level["probability"] for level in found["levels"]])
        assert found["parts"]["semantic IDs"] == pytest.approx(p0, rel=1e-4)
        assert found["parts"]["memory"] == pytest.approx(float(masses[user]), abs=1e-6)
        expected = float(masses[user]) + float(recall.remaining[user]) * p0
        assert found["probability"] == pytest.approx(expected, rel=1e-4)
        assert found["score"] == pytest.approx(np.log(expected) + 0.7 * np.log(p0), abs=1e-4)
        assert [level["code"] for level in found["levels"]] == model.item_codes[items[user]].tolist()
        for level in found["levels"]:
            assert sum(p for _, p in level["siblings"]) == pytest.approx(1, abs=1e-4)  # fewer than ten have a child
        assert bool(found["remembered"]) == (float(masses[user]) > 0)
        n_remembered += len(found["remembered"])
    assert n_remembered


@pytest.mark.parametrize("name", ["TIGER", "CausalSID"])
def test_damaged_bundles_are_refused(make: Callable[..., Made], name: str) -> None:
    _, _, form = make(name, memory="transitions")
    weight = next(key for key in form.arrays if key.startswith("network.") and form.arrays[key].ndim == 2)
    wrong = [
        ({weight: form.arrays[weight][:-1]}, {}, "is float32"),
        ({"network.further": form.arrays[weight]}, {}, "knows? nothing of|know nothing of"),
        ({"trie.item": form.arrays["trie.item"] + 1000}, {}, "trie.item"),
        ({"trie.start_1": form.arrays["trie.start_1"][::-1].copy()}, {}, "trie.start_1"),
        ({"memory.successors": form.arrays["memory.successors"] + 1000}, {}, "do not fit"),
        ({}, {"d_model": 1 << 29}, "is float32|multiple"),
        ({}, {"d_model": "16"}, "d_model"),
        ({}, {"encoder_layers" if name == "TIGER" else "n_layers": 1 << 29}, "more than 256"),
        ({}, {"decoding": "evil"}, "decoding"),
    ]
    for arrays, settings, message in wrong:
        with pytest.raises(InputError, match=message):
            engine_named(form.engine).of({**form.arrays, **arrays}, {**stored(form), **settings})


def test_models_that_ask_who_the_user_is_are_refused(make: Callable[..., Made]) -> None:
    with pytest.raises(InputError, match="reads who the user is"):
        make("TIGER", n_user_tokens=3)


def test_without_torch_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(place: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("recbole_sid.serving.engine.imported", missing)
    with pytest.raises(InputError, match="in torch, which is not installed: pip install torch"):
        engine_named("tiger")


def test_engines_in_torch_know_no_recbole(make: Callable[..., Made], tmp_path: Path) -> None:
    model, rows, form = make("TIGER", memory="transitions")
    np.savez(tmp_path / "arrays.npz", **form.arrays)
    histories = histories_of(model, rows)
    np.savez(tmp_path / "histories.npz", items=histories.items[:3], lengths=histories.lengths[:3])
    expected = engine_of(form).rank(histories, 5)[0][:3].tolist()
    code = f"""
import sys, json
for name in ("recbole", "pandas", "ray", "faiss", "sklearn"):
    sys.modules[name] = None
import numpy as np
from recbole_sid.serving.engine import Histories, engine_named
arrays = dict(np.load("arrays.npz"))
engine = engine_named({form.engine!r}).of(arrays, json.loads({json.dumps(json.dumps(form.settings))}))
print(engine.rank(Histories(**np.load("histories.npz")), 5)[0].tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == expected


def test_recboles_models_score_by_a_graph(trained: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    bundle = Bundle.load(export_model(trained["SASRec"], tmp_path / "bundle"))
    _, model, _, _, _, test = load_data_and_model(trained["SASRec"])
    rows, engine = next(iter(test))[0], bundle.engine()
    histories = histories_of(model, rows)
    with torch.no_grad():
        expected = model.eval().full_sort_predict(rows).view(len(rows), -1).numpy()
    every = engine.all_scores(histories)
    np.testing.assert_allclose(every[:, 1:], expected[:, 1:], atol=1e-4)
    assert np.isneginf(every[:, 0]).all()
    items, scores = engine.rank(histories, 7)
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :7])
    np.testing.assert_array_equal(np.take_along_axis(every, items, axis=1), scores)
    np.testing.assert_array_equal(engine.scores(histories, np.array([3, 1])), every[:, [3, 1]])
    short = Histories(histories.items[:2, :1], np.array([1, 1]))
    assert engine.rank(short, 3)[0].shape == (2, 3)
    explained = engine.explain(short, np.array([4, 5]))
    softmax = torch.from_numpy(engine.all_scores(short)).softmax(1)
    assert explained[1]["probability"] == pytest.approx(float(softmax[1, 5]), rel=1e-4)
    whole, _ = engine.rank(short, 10_000)
    assert (np.sort(whole, axis=1) == np.arange(1, engine.n_items)).all()


def test_graphs_that_are_none_are_refused() -> None:
    pytest.importorskip("onnxruntime")
    settings = {"n_items": 5, "max_history": 3, "beam_size": 2}
    with pytest.raises(InputError, match="damaged"):
        engine_named("onnx_scores").of({"scores.onnx": np.zeros(9, np.uint8)}, settings)


def test_models_that_read_more_than_a_history_are_refused(data_path: Path) -> None:
    config = Config("FPMC", "tiny", config_dict={**PLAIN, "data_path": str(data_path)})
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("FPMC")(config, train._dataset)
    with pytest.raises(InputError, match="FPMC cannot be exported: it reads 'user_id' beside the history"):
        form_of(model, config, train._dataset)
