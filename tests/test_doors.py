"""Every door through which a file of others comes, with every kind of hostile file: a marker must not appear."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SETTINGS, SMALL, random_sequences, write_dataset

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.cli import main
from recbole_sid.comparison.job import make_jobs
from recbole_sid.comparison.plan import make_plan
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.interop.import_weights import import_checkpoint
from recbole_sid.quick_start import load_data_and_model, run_model, run_recbole_sid

MARKER = Path("marker")
SASREC = {"n_layers": 1, "hidden_size": 8, "inner_size": 8, "n_heads": 1}
Files = dict[str, str]


class Evil:
    """Makes the marker when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(MARKER),)


class Program(torch.nn.Module):
    """Something for TorchScript; that it is loaded is told by a stand-in for `torch.jit.load`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Data, and honest checkpoints of a TIGER and a SASRec, that stand beside the hostile file."""
    folder = tmp_path_factory.mktemp("own")
    data = str(write_dataset(folder / "data", random_sequences()))
    common = {"data_path": data, "checkpoint_dir": str(folder / "saved"), "epochs": 1}
    plain = {key: value for key, value in SMALL.items() if key not in ("codebook_sizes", "collaborative_dim")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiger = run_recbole_sid("TIGER", "tiny", config_dict={**SETTINGS["TIGER"], **common})["model_file"]
        sasrec = run_recbole_sid("SASRec", "tiny", config_dict={**plain, **SASREC, **common})["model_file"]
    return {"data_path": data, "TIGER": str(tiger), "SASRec": str(sasrec)}


# Kinds of hostile files


def _pickle(path: str, own: Files) -> None:
    Path(path).write_bytes(pickle.dumps(Evil()))


def _torch_pickle(path: str, own: Files) -> None:
    weights = {"shared.weight": torch.zeros(2, 2), "config": Evil(), "state_dict": Evil(), "format": Evil()}
    torch.save(weights, path)


def _old_torch_pickle(path: str, own: Files) -> None:
    torch.save({"state_dict": Evil()}, path, _use_new_zipfile_serialization=False)


def _program(path: str, own: Files) -> None:
    torch.jit.save(torch.jit.script(Program()), path)


def _tar(path: str, own: Files) -> None:
    Path("pickle").write_bytes(pickle.dumps(Evil()))
    with tarfile.open(path, "w") as archive:
        for name in ("pickle", "storages", "tensors", "sys_info"):
            archive.add("pickle", name)


def _arrays(path: str, own: Files) -> None:
    objects = np.array([Evil()], dtype=object)
    names = ("codes", "codebook_sizes", "item_tokens", "recipe", "embeddings")
    with open(path, "wb") as stream:
        np.savez(stream, allow_pickle=True, **dict.fromkeys(names, objects))


def _array(path: str, own: Files) -> None:
    with open(path, "wb") as stream:
        np.save(stream, np.array([[Evil()]], dtype=object), allow_pickle=True)


def _strings(path: str, own: Files) -> None:
    """Write a checkpoint of ours of which every setting that is a text is a program."""
    content = load_checkpoint(own["TIGER"])
    kept = ("model", "dataset", "data_path")
    texts = {key for key, value in content["config"].items() if isinstance(value, str) and key not in kept}
    save_checkpoint(path, {**content, "config": {**content["config"], **dict.fromkeys(texts, _code())}})


def _code() -> str:
    return f"__import__('os').mkdir({str(MARKER.absolute())!r})"


def _text(path: str, own: Files) -> None:
    Path(path).write_text(json.dumps({"item_id": _code(), _code(): [_code()]}), encoding="utf-8")


def _yaml(path: str, own: Files) -> None:
    Path(path).write_text(f"a: !!python/object/apply:os.mkdir [{MARKER}]\n", encoding="utf-8")


KINDS = (_pickle, _torch_pickle, _old_torch_pickle, _program, _tar, _arrays, _array, _strings, _text, _yaml)


# Doors


def _student(own: Files, **changes: Any) -> None:
    student = {key: value for key, value in SETTINGS["SIDMLP"].items() if key != "teacher_config"}
    paths = {"data_path": own["data_path"], "checkpoint_dir": "saved", "epochs": 1, "teacher_path": own["TIGER"]}
    run_model(Config("SIDMLP", "tiny", config_dict={**student, **paths, **changes}))


def _ensemble(own: Files, **changes: Any) -> None:
    paths = {"id_model_path": own["SASRec"], "sid_model_path": own["TIGER"], "data_path": own["data_path"]}
    kept = {key: value for key, value in SMALL.items() if key not in ("codebook_sizes", "collaborative_dim", "epochs")}
    run_model(Config("AdaptiveEnsemble", "tiny", config_dict={**kept, **paths, **changes}), saved=False)


def _tiger(own: Files, **changes: Any) -> None:
    settings = {**SETTINGS["TIGER"], "data_path": own["data_path"], "epochs": 1, **changes}
    run_model(Config("TIGER", "tiny", config_dict=settings), saved=False)


def _import(own: Files, path: str, **settings: Any) -> None:
    if "teacher_path" not in settings:
        settings["semantic_ids_path"] = str(next(Path(own["TIGER"]).parent.glob("semantic_ids/*.npz")))
    model = "SIDMLP" if "teacher_path" in settings else "TIGER"
    given = {"data_path": own["data_path"], "use_gpu": False, **settings}
    import_checkpoint(path, model, "tiny", settings=given)


def _import_encoder(own: Files, path: str) -> None:
    weights = {"cross_attn.q_proj.weight": torch.zeros(2, 2)}
    torch.save(weights, "decoder.pth")
    given = {"teacher_path": own["TIGER"], "use_gpu": False}
    import_checkpoint("decoder.pth", "SIDMLPPlusPlus", "tiny", settings=given, encoder_file=path)


def _command(*words: str) -> None:
    if main([*words, "--use_gpu=False"] if words[0] != "bench" else list(words)):
        raise InputError("refused")


def _result(own: Files, path: str, **changes: Any) -> None:
    """Put a result of a run, and beside it `path` as its checkpoint and results per user, and analyze it."""
    folder = Path("runs/one")
    folder.mkdir(parents=True)
    shutil.copy(path, folder / "per_user.parquet")
    evaluation = {"settings": {}, "metrics": {"ndcg@10": 0.5}, "users_per_s": 1.0, "per_user": "per_user.parquet"}
    result = {"name": "SASRec", "model": "SASRec", "dataset": "tiny", "seed": 1, "data": "", "model_file": path}
    result |= {"fingerprint": "", "teacher_file": None, "parameters": 1, "train_s": 1.0, "best_valid": {}}
    result |= {"peak_memory_mb": None, "device": "cpu", "version": "0.1.0"}
    settings = {"data_path": own["data_path"], "use_gpu": False}
    (folder / "result.json").write_text(
        json.dumps({**result, "settings": settings, "evaluations": {"": evaluation}, **changes})
    )
    _command("analyze", "--runs=runs", f"--data_path={own['data_path']}")


def _stored(own: Files, path: str) -> None:
    """Put `path` where compare keeps the result of a run, and compare."""
    words = ["compare", "--models=Pop", "--dataset=tiny", f"--data_path={own['data_path']}", "--state=ERROR"]
    settings = {"data_path": own["data_path"], "use_gpu": False, "state": "ERROR"}
    plan = make_plan("tiny", {"Pop": None}, [2020], overrides=settings)
    (job,) = make_jobs(plan, "saved/comparison/tiny/runs")
    Path(job.folder).mkdir(parents=True)
    shutil.copy(path, Path(job.folder) / "result.json")
    _command(*words)


Door = Callable[[Files, str], None]
CHECKPOINTS: dict[str, Door] = {
    "load_data_and_model": lambda own, path: load_data_and_model(path),  # type: ignore[dict-item, return-value]
    "teacher_path": lambda own, path: _student(own, teacher_path=path),
    "student_path": lambda own, path: _student(own, student_path=path),
    "sid_model_path": lambda own, path: _ensemble(own, sid_model_path=path),
    "id_model_path": lambda own, path: _ensemble(own, id_model_path=path),
    "import": _import,
    "import of a student": lambda own, path: _import(own, path, teacher_path=own["TIGER"]),
    "import beside a teacher": lambda own, path: _import(own, own["TIGER"], teacher_path=path),
    "import of an encoder": _import_encoder,
    "bench": lambda own, path: _command("bench", f"--checkpoint={path}", "--quick", "--seconds=1", "--rounds=1"),
    "collaborative_checkpoint": lambda own, path: _tiger(own, collaborative_checkpoint=path),
    "pretrained": lambda own, path: run_recbole_sid(  # type: ignore[dict-item, return-value]
        "NeuMF",
        "tiny",
        config_dict={
            **{"data_path": own["data_path"], "use_gpu": False, "use_pretrain": True},
            **{"mf_pretrain_path": path, "mlp_pretrain_path": path, "epochs": 1},
        },
    ),
}


def _try(door: Door, own: Files, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: MARKER.mkdir())
    with contextlib.suppress(InputError):
        door(own, path)
    assert not MARKER.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", CHECKPOINTS)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints(door: str, kind: Callable[[str, Files], None], own: Files, monkeypatch: Any) -> None:
    kind("theirs.pth", own)
    _try(CHECKPOINTS[door], own, "theirs.pth", monkeypatch)


FEATURES = (".npy", ".npz", ".pt", ".safetensors", ".parquet", ".emb")
SEMANTIC_IDS = (".npz", ".json", ".pt", ".csv", ".parquet", ".sem_ids")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_feature_files(kind: Callable[[str, Files], None], own: Files, monkeypatch: Any) -> None:
    for suffix in FEATURES:
        kind(f"theirs{suffix}", own)
        _try(lambda own, path: _tiger(own, features=["file"], feature_file=path), own, f"theirs{suffix}", monkeypatch)
    np.save("features.npy", np.zeros((30, 2)))
    files = {"features": ["file"], "feature_file": "features.npy"}
    _try(lambda own, path: _tiger(own, **files, feature_tokens=path), own, "theirs.pt", monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_semantic_id_files(kind: Callable[[str, Files], None], own: Files, monkeypatch: Any) -> None:
    for suffix in SEMANTIC_IDS:
        kind(f"theirs{suffix}", own)
        _try(lambda own, path: _tiger(own, semantic_ids_path=path), own, f"theirs{suffix}", monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", ["plan", "sheet", "config file", "result", "runs", "space"])
@pytest.mark.filterwarnings("ignore")
def test_plans_and_results(door: str, kind: Callable[[str, Files], None], own: Files, monkeypatch: Any) -> None:
    doors: dict[str, Door] = {
        "plan": lambda own, path: _command("compare", f"--plan={path}"),
        "sheet": lambda own, path: _command("reproduce", path),
        "config file": lambda own, path: _command("run", "--model=Pop", "--dataset=tiny", f"--config_files={path}"),
        "result": _stored,
        "runs": _result,
        "space": lambda own, path: _command("tune", "--model=Pop", "--dataset=tiny", f"--space={path}"),
    }
    kind("theirs.yaml", own)
    _try(doors[door], own, "theirs.yaml", monkeypatch)
