"""Checkpoints that plain RecBole wrote: read as they are, without running what stands in them."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_sequences, write_dataset
from recbole.config import Config as RecBoleConfig
from scipy import sparse

from recbole_sid.compat import load_recbole_checkpoint
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.quick_start import load_data_and_model, run_model

SPLIT = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
RANKED = {"eval_args": SPLIT, "metrics": ["Recall", "NDCG"], "valid_metric": "NDCG@10"}
ITEMS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]}}
KNOWLEDGE = {
    "load_col": {
        "inter": ["user_id", "item_id", "timestamp"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
    },
    "embedding_size": 8,
    "n_memory": 4,
}


@pytest.fixture
def knowledge(tmp_path: Path) -> Path:
    """A dataset in which no user knows all items, with a knowledge graph."""
    root = write_dataset(tmp_path / "data", [items[:20] for items in random_sequences()])
    triples = "".join(f"e{i}\tr{i % 2}\tk{i % 3}\n" for i in range(30))
    links = "".join(f"i{i}\te{i}\n" for i in range(30))
    header = "head_id:token\trelation_id:token\ttail_id:token\n"
    (root / "tiny" / "tiny.kg").write_text(header + triples, encoding="utf-8")
    (root / "tiny" / "tiny.link").write_text("item_id:token\tentity_id:token\n" + links, encoding="utf-8")
    return root


def settings_of(model: str, root: Path) -> dict[str, Any]:
    own = {"RippleNet": KNOWLEDGE, "DIN": {**ITEMS, **RANKED}, "FDSA": {**ITEMS, "selected_features": ["kind"]}}
    quick = {"epochs": 1, "use_gpu": False, "show_progress": False, "state": "ERROR", "train_batch_size": 64}
    return {**quick, "data_path": str(root), **own.get(model, {})}


def write_as_recbole(file: Path, config: Config, model: Any, **further: Any) -> None:
    """Write what `Trainer._save_checkpoint` of RecBole 1.2.1 does: all as it is, with pickle."""
    plain = {key: value for key, value in config.plain().items() if key not in ("model", "dataset")}
    names = getattr(model, "other_parameter_name", [])
    content = {
        "config": RecBoleConfig(config["model"], config["dataset"], config_dict=plain),
        "epoch": 0,
        "state_dict": model.state_dict(),
        "other_parameter": {name: getattr(model, name) for name in names} | further,
    }
    torch.save(content, file, pickle_protocol=4)


@pytest.mark.parametrize(
    "model", ["EASE", "ItemKNN", "AsymKNN", "SLIMElastic", "Pop", "BPR", "RippleNet", "DIN", "FDSA", "SASRec"]
)
def test_what_plain_recbole_keeps_beside_weights_is_read(model: str, knowledge: Path) -> None:
    run = run_model(Config(model, "tiny", config_dict=settings_of(model, knowledge)), saved=False)
    file = Path("plain.pth")
    write_as_recbole(file, run.config, run.trainer.model)
    _, loaded, _, _, _, test_data = load_data_and_model(file)
    run.trainer.model = loaded
    assert run.trainer.evaluate(test_data, load_best_model=False) == run.test_result


def test_arrays_matrices_and_dictionaries_are_those_written(knowledge: Path) -> None:
    run = run_model(Config("Pop", "tiny", config_dict=settings_of("Pop", knowledge)), saved=False)
    dense = np.array([[0, 1.5, 0], [2, 0, 0]])
    arrays = [np.arange(6).reshape(2, 3), np.asfortranarray(dense), np.array(["a", "bc"]), np.zeros((0, 3), np.float32)]
    matrices = [kind(dense) for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.lil_matrix, np.matrix)]
    lists = defaultdict(list, {1: [np.ones(2)]})
    objects = np.array([None, [1, 2]], dtype=object)
    write_as_recbole(
        Path("a.pth"), run.config, run.trainer.model, arrays=arrays, matrices=matrices, lists=lists, objects=objects
    )
    found = load_recbole_checkpoint("a.pth")["other_parameter"]
    for ours, written in zip(found["arrays"], arrays, strict=True):
        assert (ours.dtype, ours.shape) == (written.dtype, written.shape)
        np.testing.assert_array_equal(ours, written)
    for ours, written in zip(found["matrices"], matrices, strict=True):
        assert type(ours) is type(written)
        np.testing.assert_array_equal(ours.todense() if sparse.issparse(ours) else ours, dense)
    assert found["lists"][1][0].tolist() == [1, 1]
    assert found["lists"][2] == []
    assert found["objects"].tolist() == [None, [1, 2]]


class Reduced:
    """Pickled as a call of `function` with `args`, and a `state` set on its outcome."""

    def __init__(self, function: Any, args: tuple[Any, ...], state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.reduced


_reconstruct = np.zeros(1).__reduce__()[0]
EMPTY = (np.ndarray, (0,), b"b")


def _matrix(**damage: Any) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(np.eye(3))
    for name, value in damage.items():
        object.__setattr__(matrix, name, value)
    return matrix


HOSTILE = {
    "call": Reduced(os.system, ("touch marker",)),
    "factory": Reduced(defaultdict, (os.system,)),
    "list": Reduced(list, ("abc",)),
    "class": Reduced(_reconstruct, (dict, (0,), b"b")),
    "shape": Reduced(_reconstruct, EMPTY, (1, (10**15,), np.dtype("f8"), False, b"12345678")),
    "overflow": Reduced(_reconstruct, EMPTY, (1, (2**33, 2**33), np.dtype("f8"), False, b"")),
    "objects": Reduced(_reconstruct, EMPTY, (1, (10**15,), np.dtype("O"), False, [1])),
    "indices": _matrix(indices=np.array([0, 1, 10**6], dtype=np.int32)),
    "indptr": _matrix(indptr=np.array([0, 10**6, 2, 3], dtype=np.int32)),
    "rows": _matrix(_shape=(10**12, 3)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_refused_and_run_nothing(name: str, knowledge: Path) -> None:
    config = Config("Pop", "tiny", config_dict=settings_of("Pop", knowledge))
    run = run_model(config, saved=False)
    write_as_recbole(Path("bad.pth"), run.config, run.trainer.model, bad=HOSTILE[name])
    with pytest.raises(InputError, match=r"'bad\.pth' is not a readable checkpoint of RecBole"):
        load_recbole_checkpoint("bad.pth")
    assert not Path("marker").exists()


@pytest.mark.parametrize("times", ["close", "far"])
@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_another_order_than_plain_recboles_is_said(
    model: str, times: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    write_dataset(root, [items[:20] for items in random_sequences()])
    file = root / "tiny" / "tiny.inter"
    if times == "close":  # seconds apart, later ones first: equal in float32
        head, *lines = file.read_text(encoding="utf-8").splitlines()
        file.write_text("\n".join([head, *reversed(lines)]) + "\n", encoding="utf-8")
    run = run_model(Config(model, "tiny", config_dict={**settings_of(model, root), "state": "WARNING"}))
    caplog.clear()
    load_data_and_model(run.trainer.saved_model_file)
    assert "written by RecBole itself" not in caplog.text
    write_as_recbole(Path("plain.pth"), run.config, run.trainer.model)
    load_data_and_model("plain.pth")
    assert caplog.text.count("was written by RecBole itself, which orders interactions") == (times == "close")
