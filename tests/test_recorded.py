"""Checkpoints and results of others load no model, download nothing and unpickle nothing; semantic IDs are found."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SETTINGS

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.cli import main
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.features import sentence
from recbole_sid.quick_start import load_data_and_model, run_recbole_sid

MARKER = Path("marker")


class Evil:
    """Makes a folder in the working directory when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(MARKER),)


class Encoder:
    """Stands for a model of sentence-transformers."""

    def encode(self, texts: list[str], show_progress_bar: bool) -> np.ndarray:
        return np.array([[len(text), text.count("e"), text.count("r")] for text in texts], dtype=np.float32)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What sentence-transformers was asked to load."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(sentence, "load_encoder", lambda *args: asked.append(args) or Encoder())
    return asked


@pytest.fixture
def by_text(data_path: Path, loads: list[Any]) -> str:
    """The checkpoint of a TIGER whose semantic IDs are made by a text model on a hub."""
    settings = {**SETTINGS["TIGER"], "data_path": str(data_path), "epochs": 1, "features": ["text"]}
    settings |= {"text_model": "somebody/model", "text_fields": ["title", "kind"]}
    file = str(run_recbole_sid("TIGER", "tiny", config_dict=settings)["model_file"])
    loads.clear()
    return file


def test_semantic_ids_on_the_disk_are_found_by_their_fingerprint(by_text: str, loads: list[Any]) -> None:
    recorded = load_checkpoint(by_text)
    assert load_data_and_model(by_text)[1].semantic_ids.fingerprint == recorded["lineage"]["semantic IDs"]
    moved = {**recorded["config"], "checkpoint_dir": "elsewhere", "text_model": "somebody/other", "text_fields": ["x"]}
    save_checkpoint("saved/moved.pth", {**recorded, "config": moved})  # beside them, of whatever recipe
    found = load_data_and_model("saved/moved.pth")[1].semantic_ids
    assert found.fingerprint == recorded["lineage"]["semantic IDs"]
    assert not loads


def test_a_model_that_stands_in_a_checkpoint_is_not_loaded(by_text: str, loads: list[Any]) -> None:
    shutil.rmtree("saved/semantic_ids")
    shutil.rmtree("saved/features")
    with pytest.raises(InputError, match=r"text_model=somebody/model, which stands in the file only"):
        load_data_and_model(by_text)
    assert not loads
    expected = load_checkpoint(by_text)["lineage"]["semantic IDs"]
    model = load_data_and_model(by_text, {"text_model": "somebody/model"})[1]
    assert model.semantic_ids.fingerprint == expected
    assert len(loads) == 1
    assert not Path("saved/semantic_ids").exists()


def test_semantic_ids_of_a_named_file_load_no_model(by_text: str, loads: list[Any]) -> None:
    (file,) = Path("saved/semantic_ids").glob("*.npz")
    file.rename("ids.npz")
    assert load_data_and_model(by_text, {"semantic_ids_path": "ids.npz"})[1].semantic_ids
    recorded = load_checkpoint(by_text)
    gone = {**recorded["config"], "semantic_ids_path": "gone.npz"}
    save_checkpoint("gone.pth", {**recorded, "config": gone})
    with pytest.raises(InputError, match=r"no semantic-ID file at 'gone\.npz'"):
        load_data_and_model("gone.pth")
    Path("semantic_ids").mkdir()
    Path("ids.npz").rename("semantic_ids/tiny-any.npz")
    assert load_data_and_model("gone.pth")[1].semantic_ids
    assert not loads


def test_importing_a_student_loads_no_model_of_its_teacher(by_text: str, loads: list[Any], monkeypatch: Any) -> None:
    from recbole_sid.interop.import_weights import import_checkpoint

    shutil.rmtree("saved/semantic_ids")
    shutil.rmtree("saved/features")
    student = {"cross_attn.q_proj.weight": torch.zeros(16, 16), "ffn.0.weight": torch.zeros(32, 16)}
    student |= {"head1.0.weight": torch.zeros(16, 32), "head1.3.weight": torch.zeros(5, 16)}
    torch.save(student, "student.pth")
    with pytest.raises(InputError, match="which stands in the file only"):
        import_checkpoint("student.pth", "SIDMLP", settings={"teacher_path": by_text, "use_gpu": False})
    assert not loads


@pytest.mark.parametrize(
    ("features", "key"),
    [(["file"], "feature_file"), (["collaborative"], "collaborative_checkpoint"), (["text"], "text_model")],
)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_folders_and_devices_of_a_checkpoint_are_not_read(
    data_path: Path, features: list[str], key: str, kind: str
) -> None:
    settings = {**SETTINGS["TIGER"], "data_path": str(data_path), "epochs": 1}
    content = load_checkpoint(str(run_recbole_sid("TIGER", "tiny", config_dict=settings)["model_file"]))
    shutil.rmtree("saved")
    place = Path("place")
    place.mkdir() if kind == "folder" else os.mkfifo(place)
    config = {**content["config"], "features": features, "text_fields": ["title"], key: str(place)}
    save_checkpoint("theirs.pth", {**content, "config": config})
    with pytest.raises(InputError, match=f"{key}='place', as it stands in the file, is no file"):
        load_data_and_model("theirs.pth")


@pytest.mark.parametrize("model", ["TIGER", "BPR", "FM"])
@pytest.mark.parametrize("named", [False, True])
def test_saved_loaders_and_datasets_are_not_unpickled(data_path: Path, model: str, named: bool, tmp_path: Path) -> None:
    own = SETTINGS.get(model) or {"use_gpu": False, "train_batch_size": 32, "embedding_size": 8}
    settings = {**own, "data_path": str(data_path), "epochs": 1}
    if model == "FM":
        settings |= {
            "load_col": {"inter": ["user_id", "item_id"]},
            "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "mode": "labeled"},
        }
        settings |= {
            "metrics": ["AUC"],
            "valid_metric": "AUC",
            "threshold": {"timestamp": 3},
            "load_col": {"inter": "*"},
        }
    Path("theirs").mkdir()
    names = [f"tiny-for-{model}-dataloader.pth", "tiny-Dataset.pth", "tiny-SequentialDataset.pth"]
    names += ["tiny-HistoryDataset.pth"]
    for name in names:
        Path("theirs", name).write_bytes(pickle.dumps(Evil()))
    settings |= {"checkpoint_dir": "theirs"}
    if named:
        settings |= {"dataloaders_save_path": f"theirs/{names[0]}", "dataset_save_path": "theirs/tiny-Dataset.pth"}
    config = Config(model, "tiny", config_dict=settings)
    data_preparation(config, create_dataset(config))
    assert not MARKER.exists()


def test_arrays_of_objects_are_refused_where_recbole_unpickles_them(data_path: Path) -> None:
    np.save(data_path / "tiny" / "item_emb.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"is no \.npy array of numbers"):
        Config("LDiffRec", "tiny", config_dict={"data_path": str(data_path), "n_cate": 2, "use_gpu": False})
    assert not MARKER.exists()


def test_text_models_run_no_code_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / MARKER)!r})\n", encoding="utf-8")
    (folder / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "own.Module"}]', encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"modules with code of their own \(own\.Module\)"):
        sentence.load_encoder(str(folder), "cpu")
    assert not MARKER.exists()


def test_semantic_ids_that_name_a_model_do_not_make_it_be_downloaded(monkeypatch: Any) -> None:
    import sentence_transformers

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        sentence_transformers, "SentenceTransformer", lambda source, **how: asked.append(how) or Encoder()
    )
    config = {"text_model": None, "checkpoint_dir": None, "device": "cpu", "show_progress": False}
    state = {"text_model": np.asarray("somebody/model"), "model_identity": np.asarray("somebody/model")}
    sentence.SentenceEncoder(config).load_state(state).encode(["a"])
    sentence.SentenceEncoder({**config, "text_model": "somebody/model"}).load_state(state).encode(["a"])
    assert [(how["local_files_only"], how["trust_remote_code"]) for how in asked] == [(True, False), (False, False)]
    Path("folder").mkdir()
    with pytest.raises(InputError, match="name the folder in text_model"):
        sentence.SentenceEncoder(config).load_state({**state, "text_model": np.asarray("folder")})


WHOLE: dict[str, Any] = {"model": "TIGER", "config": {}, "lineage": {}, "state_dict": {}}


def test_a_stale_checksum_is_not_written(data_path: Path) -> None:
    save_checkpoint("one.pth", {**WHOLE, "checksum": "of something else"})
    assert load_checkpoint("one.pth") == {"format": "recbole_sid-checkpoint-1", **WHOLE}


def test_a_missing_checksum_is_said_once_a_file(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one.pth", "two.pth", "one.pth"):
        torch.save({"format": "recbole_sid-checkpoint-1", **WHOLE}, name)
        load_checkpoint(name)
    assert [record.message.split("'")[1] for record in caplog.records] == ["one.pth", "two.pth"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("eval_step", True), ("topk", [True]), ("topk", True), ("topk", [0]), ("metric_decimal_place", True)]
    + [(key, True) for key in ("epochs", "stopping_step", "learning_rate", "valid_metric", "weight_decay", "seed")],
)
def test_truth_is_no_number(data_path: Path, key: str, value: Any) -> None:
    settings = {**SETTINGS["TIGER"], "data_path": str(data_path), "valid_metric": "NDCG@1", key: value}
    with pytest.raises(InputError):
        Config("TIGER", "tiny", config_dict=settings)


@pytest.mark.parametrize("options", [{"retries": True}, {"cpus": True}, {"gpus": True}, {"samples": True}])
def test_truth_is_no_number_of_a_search(options: dict[str, Any]) -> None:
    from recbole_sid.tuning.search import Options, check_options

    with pytest.raises(InputError, match="must be a"):
        check_options(Options(**options))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=SASRec", "--benchmark_filename=[train,valid,test]"], "leave out benchmark_filename"),
        (["--model=BPR"], "name a sequential model"),
    ],
)
def test_semantic_ids_of_no_sequences_are_refused(
    data_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_path / "tiny"
    for part in ("train", "valid", "test"):
        shutil.copy(folder / "tiny.inter", folder / f"tiny.{part}.inter")
    assert main(["tokenize", "--dataset=tiny", f"--data_path={data_path}", "--use_gpu=False", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("split", ["{LS: valid_only}", "{RS: [0.7, 0.3, 0]}"])
def test_a_split_without_a_test_part_runs_and_is_not_compared(
    data_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset=tiny", f"--data_path={data_path}", "--use_gpu=False", "--epochs=1", "--show_progress=False"]
    words += [f"--eval_args={{split: {split}, order: TO, group_by: user, mode: full}}"]
    assert main(["run", "--model=BPR", *words]) == 0
    assert main(["compare", "--models=BPR", *words]) == 2
    assert "leaves no test part" in capsys.readouterr().err
