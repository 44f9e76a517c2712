"""Shared fixtures: a tiny generated dataset, a working directory of its own for every test, prepared data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import opened

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.dataset import HistoryDataset
from recbole_sid.quick_start import run_recbole_sid
from recbole_sid.trainer.sid_trainer import SIDTrainer

N_USERS, N_ITEMS = 40, 30

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs write log/, log_tensorboard/ and saved/ here; RecBole's own Config reads no arguments of pytest's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pytest"])
    monkeypatch.setenv("RAY_worker_niceness", "0")  # at its own, 15, trials wait for all else that runs
    return tmp_path


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each model whose training starts."""
    started: list[str] = []
    start_stage = SIDTrainer.start_stage

    def noted(trainer: Any, stage: Any, data: Any) -> None:
        started.append(trainer.config["model"])
        start_stage(trainer, stage, data)

    monkeypatch.setattr(SIDTrainer, "start_stage", noted)
    return started


@pytest.fixture
def datasets_read(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return a set that holds the id of each dataset whose rows are read."""
    read: set[int] = set()
    look_up = HistoryDataset.__getitem__

    def counted_look_up(dataset: Any, *arguments: Any) -> Any:
        read.add(id(dataset))
        return look_up(dataset, *arguments)

    monkeypatch.setattr(HistoryDataset, "__getitem__", counted_look_up)
    return read


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser of a module's tests."""
    with opened() as browser:
        yield browser


def table_cells(text: str) -> list[list[str]]:
    """Return the rows of all Markdown tables in `text`, the headings too, as texts."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def write_dataset(folder: Path, sequences: list[list[int]], name: str = "tiny") -> Path:
    """Write ``folder/name/name.inter`` and ``.item`` for sequences of item numbers; return `folder`."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in enumerate(sequences):
        lines += [f"u{user}\ti{item}\t{1_600_000_000 + time}" for time, item in enumerate(items)]
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["red", "green", "blue", "round", "square", "tiny", "large"]
    lines = ["item_id:token\ttitle:token_seq\tkind:token"]
    n_items = max(max(items) for items in sequences) + 1
    lines += [f"i{i}\t{words[i % 7]} {words[i % 5]} thing\tkind{i % 3}" for i in range(n_items)]
    (target / f"{name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def random_sequences(seed: int = 0, n_users: int = N_USERS, n_items: int = N_ITEMS) -> list[list[int]]:
    """Return sequences of 4 to 12 items that tend to go up by one, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(n_users):
        items = [int(rng.integers(n_items))]
        for _ in range(int(rng.integers(3, 12))):
            follows = (items[-1] + 1) % n_items
            items.append(follows if rng.random() < 0.7 else int(rng.integers(n_items)))
        sequences.append(items)
    sequences[0] = [*range(n_items)]  # every item occurs
    return sequences


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", random_sequences())


# Small enough for a test, with levels of different sizes.
SMALL = {
    "use_gpu": False,
    "show_progress": False,
    "state": "WARNING",
    "codebook_sizes": [5, 3],
    "collaborative_dim": 8,
    "beam_size": 10,
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_batch_size": 32,
    "epochs": 2,
}
SMALL_TIGER = {
    "d_model": 16,
    "d_ff": 32,
    "n_heads": 2,
    "d_kv": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "warmup_steps": 10,
}
SMALL_CAUSAL = {"d_model": 16, "d_ff": 32, "n_heads": 2, "n_layers": 2, "warmup_steps": 10, "train_batch_size": 8}
SMALL_STUDENT = {
    "teacher_config": {**SMALL_TIGER, "epochs": 2, "train_batch_size": 32},
    "attention_heads": 2,
    "attention_dim": 16,
    "ffn_size": 32,
    "head_hidden": 16,
}
SMALL_ENCODER = {"encoder_layers": 1, "encoder_ffn_size": 16, "encoder_epochs": 2, "joint_epochs": 1}
SMALL_HYBRID = {
    "d_model": 16,
    "attention_heads": 2,
    "attention_dim": 16,
    "ffn_size": 32,
    "head_hidden": 16,
    "schedule_epochs": 3,
}
SASREC = {"n_layers": 1, "hidden_size": 16, "inner_size": 16, "n_heads": 2}
OWN = ("codebook_sizes", "collaborative_dim")  # of SMALL, keys that RecBole's models do not have
SETTINGS: dict[str, dict[str, Any]] = {
    "TIGER": {**SMALL, **SMALL_TIGER},
    "CausalSID": {**SMALL, **SMALL_CAUSAL},
    "SIDMLP": {**SMALL, **SMALL_STUDENT},
    "SIDMLPHybrid": {**SMALL, **SMALL_HYBRID},
    "SIDMLPPlusPlus": {**SMALL, **SMALL_STUDENT, **SMALL_ENCODER},
}


@pytest.fixture
def settings(data_path: Path) -> Callable[..., dict[str, Any]]:
    """Return ``settings(model, **changes)``: small settings of one of our models on the tiny dataset."""

    def make(model: str, **changes: Any) -> dict[str, Any]:
        return {**SETTINGS[model], "data_path": str(data_path), **changes}

    return make


@pytest.fixture
def prepare(settings: Callable[..., dict[str, Any]]) -> Callable[..., tuple[Config, Any, Any, Any]]:
    """Return ``prepare(model, **changes) -> config, train, valid, test`` loaders on the tiny dataset."""

    def make(model: str, **changes: Any) -> tuple[Config, Any, Any, Any]:
        config = Config(model, "tiny", config_dict=settings(model, **changes))
        return config, *data_preparation(config, create_dataset(config))

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a SASRec, a TransitionMemory, a TIGER and a SIDMLP on the tiny dataset, and the data folder."""
    folder = tmp_path_factory.mktemp("ensemble")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {"data_path": str(write_dataset(folder / "data", random_sequences())), **_train(folder)}


def _train(folder: Path) -> dict[str, str]:
    common = {"data_path": str(folder / "data"), "checkpoint_dir": str(folder / "saved")}
    plain = {key: value for key, value in SMALL.items() if key not in OWN}
    files = {"SASRec": run_recbole_sid("SASRec", "tiny", config_dict={**plain, **SASREC, **common})["model_file"]}
    own = {"TransitionMemory": {**plain, "pseudo_counts": 3}, **SETTINGS}
    for model in ("TransitionMemory", "TIGER", "SIDMLP"):
        result = run_recbole_sid(model, "tiny", config_dict={**own[model], **common})
        files[model] = str(result["model_file"])
    return files


@pytest.fixture(scope="session")
def transition_bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of TransitionMemory on the tiny dataset, of other numbers; processes load them quickly."""
    from recbole_sid.exporting.export import export_model

    folder = tmp_path_factory.mktemp("transitions")
    plain = {key: value for key, value in SMALL.items() if key not in OWN}
    numbers = {"hops": 2, "hop_decay": 0.5, "window": 3, "window_decay": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        common = {**plain, **numbers, "data_path": str(write_dataset(folder / "data", random_sequences()))}
        files = [
            run_recbole_sid("TransitionMemory", "tiny", config_dict={**common, "pseudo_counts": count})["model_file"]
            for count in (0.5, 500.0)
        ]
        first, second = (export_model(file, folder / f"bundle-{number}") for number, file in enumerate(files))
    return first, second


@pytest.fixture
def quick_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Ray Serve's proxy time to start on a busy machine."""
    for what in ("READY", "HEALTH"):
        monkeypatch.setenv(f"RAY_SERVE_PROXY_{what}_CHECK_TIMEOUT_S", "120")


@pytest.fixture
def ensemble(trained: dict[str, str]) -> Callable[..., Config]:
    """Return ``ensemble(sid_model, id_model, **changes)``: the configuration of an ensemble of the trained models."""

    def make(sid_model: str = "TIGER", id_model: str = "SASRec", **changes: Any) -> Config:
        settings = {key: value for key, value in SMALL.items() if key not in (*OWN, "epochs", "train_batch_size")}
        paths = {"id_model_path": trained[id_model], "sid_model_path": trained[sid_model]}
        settings |= {"data_path": trained["data_path"], **paths, **changes}
        return Config("AdaptiveEnsemble", "tiny", config_dict=settings)

    return make
