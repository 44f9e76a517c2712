"""Ranking graphs, ONNX and torch.export: the lists of the model that they were made of, for any batch and length."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.exporting import graph_files as files
from recbole_sid.exporting.agreement import RankedItems, compared, lists_of
from recbole_sid.exporting.export import export_model
from recbole_sid.exporting.graph import ByBoth, ranking_graph
from recbole_sid.memory import Numbers
from recbole_sid.registry import get_model
from recbole_sid.serving.recommender import Recommender

EXAMPLES = Path(__file__).parents[1] / "examples" / "onnx"
_NODE_PACKAGE = "1"

NUMBERS = Numbers(hops=2, hop_decay=0.5, window=3, window_decay=0.4, pseudo_counts=0.7)
THREE_LEVELS = {"codebook_sizes": [4, 3, 3]}
MEMORY = {"memory": "transitions"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SIDMLP": ("SIDMLP", {}),
    "a query for each level, codes": ("SIDMLP", {"query_per_level": True, "normaliser": "codes", **THREE_LEVELS}),
    "SIDMLP with memory": ("SIDMLP", {**MEMORY, **THREE_LEVELS}),
    "tokens": ("SIDMLPPlusPlus", {}),
    "tokens from the end": (
        "SIDMLPPlusPlus",
        {"encoder_positions": "end", "encoder_mixing": "weighted", "query_from_last": True},
    ),
    "items": ("SIDMLPPlusPlus", {"encoder": "item"}),
    "items, attention and memory": ("SIDMLPPlusPlus", {"encoder": "item", "item_mixing": "attention", **MEMORY}),
    "hybrid": ("SIDMLPHybrid", THREE_LEVELS),
    "hybrid with memory": ("SIDMLPHybrid", {**MEMORY, **THREE_LEVELS}),
    "hybrid with memory, codes": ("SIDMLPHybrid", {**MEMORY, **THREE_LEVELS, "normaliser": "codes"}),
    "item head alone": ("SIDMLPHybrid", {"sid_heads": False}),
    "item head and memory": ("SIDMLPHybrid", {"sid_heads": False, **MEMORY}),
    "level heads and memory": ("SIDMLPHybrid", {"item_head": False, **MEMORY}),
    "shared semantic IDs": ("SIDMLPHybrid", {"collision": "keep", "codebook_sizes": [3, 2], **MEMORY}),
    "shared semantic IDs, no memory": ("SIDMLP", {"collision": "keep", "codebook_sizes": [3, 2]}),
}


@pytest.fixture
def make(prepare: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Return ``make(model, **changes) -> model, test loader``: untrained, with weights that say something."""

    def made(name: str, **changes: Any) -> tuple[Any, Any]:
        config, train, _, test = prepare(name, beam_size=10, **changes)
        torch.manual_seed(0)
        model = get_model(name)(config, train._dataset).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        if model.memory is not None:
            model.memory.learn(*train._dataset.training_sequences(), NUMBERS)
            model.sharpness.fill_(0.7)
        return model, test

    return made


@torch.no_grad()
def check_lists(model: Any, test: Any, run: Callable[[torch.Tensor], Any]) -> None:
    """The lists of batches of one history and of many, short and long, are the model's own."""
    batch = next(iter(test))[0]
    histories = batch[model.ITEM_SEQ]
    found = compared(lists_of(model, batch), RankedItems(*run(histories)))
    assert found.alike == 1, found
    if len(model.trie.item) == model.trie.n_nodes(model.trie.n_levels):  # else many scores are equal
        assert found.identical > 0.9, found
    short = batch[batch[model.ITEM_SEQ_LEN] == batch[model.ITEM_SEQ_LEN].min()][:1]
    width = int(short[model.ITEM_SEQ_LEN])
    assert compared(lists_of(model, short), RankedItems(*run(short[model.ITEM_SEQ][:, :width].contiguous()))).alike == 1


@pytest.mark.parametrize("case", CASES)
def test_a_graph_ranks_as_its_model(make: Callable[..., Any], case: str) -> None:
    name, changes = CASES[case]
    model, test = make(name, **changes)
    n_walked = model.n_items if model.memory is not None else None
    check_lists(model, test, ranking_graph(model, n_walked))


@pytest.mark.parametrize(("case", "formats"), [("hybrid with memory", ["onnx", "pt2"]), ("SIDMLP", ["onnx"])])
def test_files_rank_as_their_model_for_any_batch_and_length(
    make: Callable[..., Any], case: str, formats: list[str]
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    name, changes = CASES[case]
    model, test = make(name, **changes)
    made = {file.name: file for file in files.graph_files(model, test, formats)}
    assert {file.agreement.alike for file in made.values()} == {1}
    check_lists(model, test, files.run_onnx(made["model.onnx"].content))
    if "pt2" in formats:
        check_lists(model, test, files.run_saved(made["model.pt2"].content))
    session = onnxruntime.InferenceSession(made["model.onnx"].content)
    assert [(i.name, i.type, len(i.shape)) for i in session.get_inputs()] == [("histories", "tensor(int64)", 2)]
    assert not any(isinstance(size, int) for size in session.get_inputs()[0].shape)
    assert [(o.name, o.type) for o in session.get_outputs()] == [
        ("items", "tensor(int64)"),
        ("scores", "tensor(float)"),
    ]
    about = session.get_modelmeta().custom_metadata_map
    assert about == {"model": name, "n_items": str(model.n_items), "max_history": "6", "k": "10"}


def test_what_does_not_rank_as_the_model_is_not_written(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, test = make("SIDMLPPlusPlus", encoder="item")

    def another(program: Any, graph: Any, name: str) -> Any:
        return b"", lambda histories: RankedItems(*(part.flip(0) for part in graph(histories)))

    monkeypatch.setitem(files.FORMATS, "pt2", another)
    with pytest.raises(InputError, match=r"model.pt2 gives .*% of \d+ histories the model's own list"):
        files.graph_files(model, test, ["pt2"])


def test_so_many_candidates_are_walked_as_it_takes(make: Callable[..., Any]) -> None:
    model, test = make("SIDMLPHybrid", **MEMORY, **THREE_LEVELS)
    batch = next(iter(test))[0]
    expected = lists_of(model, batch)
    graph = files.fitting_graph(model, [batch[model.ITEM_SEQ]], expected)
    assert isinstance(graph, ByBoth)
    assert compared(expected, RankedItems(*graph(batch[model.ITEM_SEQ]))).alike == 1
    one = ranking_graph(model, 1)
    assert compared(expected, RankedItems(*one(batch[model.ITEM_SEQ]))).alike < 1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("TIGER", {}, "TIGER has no graph"),
        ("SIDMLPPlusPlus", {"encoder": "item", "n_user_tokens": 3}, "reads who the user is"),
        ("SIDMLPHybrid", {"item_candidates": 2}, "item_candidates=2"),
    ],
)
def test_models_without_a_graph_are_refused(
    make: Callable[..., Any], name: str, changes: dict[str, Any], message: str
) -> None:
    model, _ = make(name, **changes)
    with pytest.raises(InputError, match=message):
        ranking_graph(model)


def ranked(*lists: dict[int, float]) -> RankedItems:
    """Return lists of items with their scores."""
    items = torch.tensor([list(one) for one in lists])
    return RankedItems(items, torch.tensor([list(one.values()) for one in lists]))


def test_lists_are_compared_but_for_ties() -> None:
    model = ranked({3: -1.0, 5: -2.0, 6: -2.00001}, {1: -1.0, 2: -2.0, 3: -3.0})
    assert compared(model, model)[:3] == (2, 1, 1)
    swapped = ranked({3: -1.0, 6: -2.0, 5: -2.00001}, {1: -1.0, 2: -2.0, 3: -3.0})
    assert compared(model, swapped)[:3] == (2, 0.5, 1)
    tied_at_the_end = ranked({3: -1.0, 5: -2.0, 7: -2.00002}, {1: -1.0, 2: -2.0, 3: -3.0})
    assert compared(model, tied_at_the_end)[1:3] == (0.5, 1)
    for other in (
        {3: -1.0, 5: -2.1, 6: -2.2},  # other scores
        {3: -1.0, 7: -1.5, 5: -2.0},  # an item that the model does not have there
        {5: -1.0, 3: -1.0, 6: -2.0},
        {3: -1.0, 5: -2.0, 0: -np.inf},  # an item less
    ):
        found = compared(model, ranked(other, {1: -1.0, 2: -2.0, 3: -3.0}))
        assert found.alike == 0.5, other
    lower = ranked({3: -1.0, 5: -2.5, 6: -2.6}, {1: -1.0, 2: -2.0, 3: -3.0})
    assert compared(model, lower).largest_difference == pytest.approx(0.6, abs=1e-3)
    with pytest.raises(InputError, match="no histories"):
        compared(RankedItems(*(part[:0] for part in model)), RankedItems(*(part[:0] for part in model)))


def test_the_examples_recommend_what_the_package_does(trained: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    bundle = export_model(trained["SIDMLP"], tmp_path / "bundle", formats=["onnx"])
    history = ["nothing", "i3", "i4", "i5"]
    lists = Recommender.load(bundle).recommend([history], k=5)
    expected = [[item, float(score)] for item, score in zip(lists.items[0], lists.scores[0], strict=True)]
    words = [str(bundle), *history]
    outputs = [printed([sys.executable, str(EXAMPLES / "recommend.py"), *words])]
    if shutil.which("node"):
        shutil.copy(EXAMPLES / "recommend.mjs", tmp_path)
        install = ["npm", "install", "--no-audit", "--no-fund", f"onnxruntime-node@{_NODE_PACKAGE}"]
        without_gpus = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
        if subprocess.run(install, cwd=tmp_path, capture_output=True, env=without_gpus, check=False).returncode == 0:
            outputs.append(printed(["node", str(tmp_path / "recommend.mjs"), *words]))
    for output in outputs:
        found = [line.split("\t") for line in output.splitlines()][:5]
        assert [item for item, _ in found] == [item for item, _ in expected]
        assert [float(score) for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-3)


def printed(command: list[str]) -> str:
    """Return what a command prints that ends well."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
