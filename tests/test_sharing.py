"""Processes that want the same semantic IDs at the same time: one builds, the others say that they wait."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from recbole_sid.cli import main
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.semantic_ids import build
from recbole_sid.util.files import locked

_PATIENCE = 30  # seconds after which a process goes on without the other


class Notes:
    """What has happened so far, in a file that processes share."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def add(self, event: str) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(event + "\n")

    def all(self) -> list[str]:
        return self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []

    def wait_for(self, beginning: str, count: int) -> None:
        """Return once `count` events begin so, or if patience is at an end."""
        end = time.monotonic() + _PATIENCE
        while sum(event.startswith(beginning) for event in self.all()) < count and time.monotonic() < end:
            time.sleep(0.02)


class _Waits(logging.Handler):
    """Notes a warning that this process waits."""

    def __init__(self, notes: Notes) -> None:
        super().__init__(logging.WARNING)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Waiting"):
            self.notes.add(record.getMessage())


def prepare_once(model: str, settings: dict[str, Any], file: str) -> None:
    """Prepare the data with another process that does so too; building ends only when the other one waits."""
    notes = Notes(file)
    original = build.build_semantic_ids

    def noted(*args: Any, **kwargs: Any) -> Any:
        notes.add("built")
        notes.wait_for("Waiting", 1)
        return original(*args, **kwargs)

    build.build_semantic_ids = noted
    logging.getLogger().addHandler(_Waits(notes))
    config = Config(model, "tiny", config_dict=settings)
    dataset = create_dataset(config)
    notes.add("ready")
    notes.wait_for("ready", 2)
    train, _, _ = data_preparation(config, dataset)
    notes.add(f"has {train._dataset.semantic_ids.fingerprint}")


def test_semantic_ids_are_built_once_by_processes_that_start_together(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """By those of different models too."""
    notes = Notes(str(tmp_path / "events"))
    given = {model: settings(model, checkpoint_dir=str(tmp_path / "saved")) for model in ("TIGER", "CausalSID")}
    processes = [
        get_context("spawn").Process(target=prepare_once, args=(model, own, str(notes.file)))
        for model, own in given.items()
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = notes.all()
    (file,) = (tmp_path / "saved" / "semantic_ids").glob("*.npz")
    assert [event for event in found if event.startswith(("built", "Waiting"))] == [
        "built",
        f"Waiting for another process, which is making '{file}'.",
    ]
    assert len({event for event in found if event.startswith("has ")}) == 1
    assert sum(event.startswith("has ") for event in found) == 2


def test_tokenize_takes_the_same_lock(
    settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unless it writes elsewhere."""
    taken: list[Path] = []

    def noted(path: Path) -> AbstractContextManager[None]:
        taken.append(path)
        return locked(path)

    monkeypatch.setattr("recbole_sid.api.locked", noted)
    words = ["--dataset=tiny", *(f"--{key}={value}" for key, value in settings("TIGER").items())]
    assert main(["tokenize", *words, "--output=ids.npz"]) == 0
    assert taken == []
    assert main(["tokenize", *words]) == 0
    (file,) = Path("saved", "semantic_ids").glob("*.npz")
    assert taken == [file]


def test_nothing_is_locked_where_nothing_is_kept_or_all_is_there(prepare: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "semantic_ids"
    config, train, _, _ = prepare("TIGER", checkpoint_dir=str(tmp_path / "saved"))
    for lock in folder.glob(".*.lock"):
        lock.unlink()
    build.semantic_ids_for(config, train._dataset)
    config["codebook_sizes"] = [4, 3]
    build.semantic_ids_for(config, train._dataset, keep=False)
    assert len(list(folder.iterdir())) == 1


def test_waiting_is_not_said_by_who_need_not_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with locked(tmp_path / "new" / "file"):
            assert (tmp_path / "new" / ".file.lock").exists()
    assert not caplog.records


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_lock_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to"), locked(tmp_path / "file"):
        pass


def test_a_lock_under_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"), locked(tmp_path / "file" / "other"):
        pass


def test_a_file_system_without_locks_lets_all_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with locked(tmp_path / "file"):
        pass
