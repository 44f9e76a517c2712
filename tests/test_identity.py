"""Which runs are the same: by their settings, by what their files hold, by the version; wherever the files lie."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, SMALL_STUDENT, SMALL_TIGER, random_sequences, write_dataset

import recbole_sid.comparison.job as job_module
import recbole_sid.config as config_module
import recbole_sid.util.hashing as hashing
from recbole_sid.checkpoint import check_lineage, hash_weights, load_checkpoint, save_checkpoint
from recbole_sid.comparison.job import make_jobs, run_job, stored
from recbole_sid.comparison.plan import make_plan
from recbole_sid.comparison.runner import run_jobs
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.identity import data_hash
from recbole_sid.quick_start import load_data_and_model, run_model
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.util.hashing import content_hash, is_same_hash

POP = {"use_gpu": False, "show_progress": False, "state": "ERROR", "epochs": 1}
QUICK = {**{key: SMALL[key] for key in ("codebook_sizes", "collaborative_dim")}, **POP}
SASREC = {"model": "SASRec", "n_layers": 1, "n_heads": 1, "hidden_size": 8, "inner_size": 8}


def silent(line: str) -> None:
    pass


def quiet_run(job: Any) -> dict[str, Any]:
    return run_job(job)


def write_ids(file: Path, seed: int) -> Path:
    codes = np.random.default_rng(seed).permutation(40)[:30]
    ids = SemanticIDs(np.stack([codes // 8, codes % 8], 1), (5, 8), np.array([f"i{item}" for item in range(30)]), {})
    ids.save(file)
    return file


def test_files_of_one_name_in_two_folders_are_two_runs(data_path: Path, tmp_path: Path) -> None:
    files = {name: str(write_ids(tmp_path / name / "ids.npz", seed)) for name, seed in (("a", 0), ("b", 1))}
    models = {name: {"model": "TIGER", **SMALL_TIGER, "semantic_ids_path": file} for name, file in files.items()}
    plan = make_plan("tiny", models, [1], settings={**QUICK, "data_path": str(data_path), "epochs": 3})
    jobs = make_jobs(plan, tmp_path / "runs")
    results = [outcome.result for outcome in run_jobs(jobs, quiet_run, silent)]
    assert len({job.folder for job in jobs}) == len({result["model_file"] for result in results if result}) == 2
    scores = [result["evaluations"]["constrained"]["metrics"] for result in results if result]
    assert scores[0] != scores[1]
    weights = [load_checkpoint(result["model_file"])["state_dict"] for result in results if result]
    assert any(not torch.equal(first, second) for first, second in zip(*(w.values() for w in weights), strict=True))


def test_the_same_content_elsewhere_is_the_same_run(data_path: Path, tmp_path: Path) -> None:
    here, there = (write_ids(tmp_path / name, 0) for name in ("ids.npz", "other/renamed.npz"))
    there.write_bytes(here.read_bytes())
    moved = write_dataset(tmp_path / "moved", random_sequences())

    def name(data: Path, ids: Path) -> str:
        settings = {**SMALL, **SMALL_TIGER, "data_path": str(data), "semantic_ids_path": str(ids)}
        return Config("TIGER", "tiny", config_dict=settings).run_name()

    assert name(data_path, here) == name(moved, there)
    there.write_bytes(here.read_bytes() + b"\0")
    assert name(data_path, here) != name(moved, there)


@pytest.mark.parametrize("ending", ["kg", "link", "net", "user", "valid.inter", "extra"])
def test_a_changed_file_of_the_data_is_not_reused(ending: str, data_path: Path, tmp_path: Path) -> None:
    file = data_path / "tiny" / f"tiny.{ending}"
    file.write_text("head_id:token\n1\n", encoding="utf-8")
    settings = {**POP, "data_path": str(data_path), "additional_feat_suffix": ["extra"]}
    plan = make_plan("tiny", {"Pop": {}}, [1], (), settings)
    (job,) = make_jobs(plan, tmp_path / "runs")
    before = job.config().fingerprint()
    file.write_text("head_id:token\n2\n", encoding="utf-8")
    (changed,) = make_jobs(plan, tmp_path / "runs")
    assert changed.folder != job.folder
    assert changed.data != job.data
    assert changed.config().fingerprint() != before
    file.write_text("head_id:token\n1\n", encoding="utf-8")
    assert make_jobs(plan, tmp_path / "runs")[0].folder == job.folder


def test_compare_trains_again_what_read_another_kg(data_path: Path, tmp_path: Path) -> None:
    file = data_path / "tiny" / "tiny.kg"
    plan = make_plan("tiny", {"Pop": {}}, [1], (), {**POP, "data_path": str(data_path)})
    executed: list[str] = []

    def execute(job: Any) -> dict[str, Any]:
        executed.append(job.folder)
        return run_job(job)

    for content in ("1\n", "1\n", "2\n"):
        file.write_text(content, encoding="utf-8")
        run_jobs(make_jobs(plan, tmp_path / "runs"), execute, silent)
    assert len(executed) == len(set(executed)) == 2


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ({"Pop": {}, "again": {"model": "Pop"}}, "Pop and again"),
        ({"Pop": {}, "batch": {"model": "Pop", "eval_batch_size": 7}}, "Pop and batch"),
        ({"T": {"model": "TIGER"}, "U": {"model": "TIGER", "evaluate": {"": {"constrained": False}}}}, "T and U"),
        ({"TIGER": {}, "SIDMLP": {}, "again": {"model": "SIDMLP", "teacher": "TIGER"}}, "SIDMLP and again"),
    ],
)
def test_entries_that_are_the_same_run_are_refused(
    models: dict[str, Any], names: str, data_path: Path, tmp_path: Path
) -> None:
    plan = make_plan("tiny", models, [1, 2], (), {**QUICK, "data_path": str(data_path)})
    with pytest.raises(InputError, match=f"^{names} are the same run: nothing that decides the result differs"):
        make_jobs(plan, tmp_path / "runs")


def test_students_of_different_teachers_and_evaluations_of_one_run_go_on(data_path: Path, tmp_path: Path) -> None:
    models = {
        "TIGER": {"evaluate": {"": {"constrained": False}, "constrained": {"constrained": True}}},
        "wide": {"model": "TIGER", "d_ff": 64},
        "SIDMLP": {"teacher": "TIGER"},
        "of-wide": {"model": "SIDMLP", "teacher": "wide"},
    }
    plan = make_plan("tiny", models, [1, 2], (), {**QUICK, "data_path": str(data_path)})
    jobs = make_jobs(plan, tmp_path / "runs")
    assert len({job.folder for job in jobs}) == 8
    assert [job.folder for job in make_jobs(plan, tmp_path / "runs")] == [job.folder for job in jobs]


def test_a_run_has_one_name_in_its_folder_and_its_checkpoint(data_path: Path, tmp_path: Path) -> None:
    students = {key: value for key, value in SMALL_STUDENT.items() if key != "teacher_config"}
    models = {"SASRec": SASREC, "TIGER": SMALL_TIGER, "SIDMLP": students, "AdaptiveEnsemble": {}}
    settings = {**QUICK, "data_path": str(data_path), "MAX_ITEM_LIST_LENGTH": 6}
    plan = make_plan("tiny", models, [1], (), settings)
    jobs = make_jobs(plan, tmp_path / "runs")
    outcomes = run_jobs(jobs, quiet_run, silent)
    assert [outcome.failure for outcome in outcomes] == [None] * 4
    for job, outcome in zip(jobs, outcomes, strict=True):
        result = outcome.result
        assert result is not None
        assert re.fullmatch(rf"{job.entry.model}-tiny-{result['fingerprint']}", Path(job.folder).name)
        assert Path(result["model_file"]).name == f"{Path(job.folder).name}.pth"
        assert len(result["fingerprint"]) == len(result["data"]) == 16
    again = make_jobs(plan, tmp_path / "runs")
    assert [job.folder for job in again] == [job.folder for job in jobs]  # with the teacher's file there
    assert all(stored(job) for job in again)


def test_a_run_is_named_by_what_it_was_asked_for(settings: Callable[..., dict[str, Any]]) -> None:
    config = Config("SIDMLP", "tiny", config_dict=settings("SIDMLP", epochs=1))
    asked = config.fingerprint()
    first = run_model(config)
    assert config["teacher_path"]
    assert Path(first.trainer.saved_model_file).name == f"SIDMLP-tiny-{asked}.pth"
    other = Config("TIGER", "tiny", config_dict=settings("TIGER", epochs=1))
    name = other.run_name()
    other["learning_rate"] = 0.5  # by a script, before it runs it
    assert Path(run_model(other).trainer.saved_model_file).name not in (f"{name}.pth", first.trainer.saved_model_file)


def test_a_file_that_changes_during_a_comparison_stops_its_run(data_path: Path, tmp_path: Path) -> None:
    plan = make_plan("tiny", {"Pop": {}}, [1], (), {**POP, "data_path": str(data_path)})
    jobs = make_jobs(plan, tmp_path / "runs")
    with (data_path / "tiny" / "tiny.inter").open("a", encoding="utf-8") as file:
        file.write("u0\ti1\t1700000000\n")
    (outcome,) = run_jobs(jobs, quiet_run, silent)
    assert outcome.failure == "A file that it reads has changed since the comparison began: start the comparison again."
    assert not Path(jobs[0].folder).exists()


def test_a_finished_run_of_another_version_is_named_and_run_again(
    data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("tiny", {"Pop": {}}, [1], (), {**POP, "data_path": str(data_path)})
    lines: list[str] = []
    with monkeypatch.context() as earlier:
        earlier.setattr(config_module, "__version__", "0.0.9")
        earlier.setattr(job_module, "__version__", "0.0.9")
        (old,) = make_jobs(plan, tmp_path / "runs")
        run_jobs([old], quiet_run, lines.append)
        assert stored(old) is not None
    assert not any("version" in line for line in lines)
    (new,) = make_jobs(plan, tmp_path / "runs")
    assert new.folder != old.folder
    assert stored(new) is None
    lines.clear()
    (outcome,) = run_jobs([new], quiet_run, lines.append)
    now = job_module.__version__
    assert lines[0].endswith(f"the run in {old.folder} is of version 0.0.9: running again with {now}")
    assert outcome.result is not None
    assert outcome.result["version"] == now
    lines.clear()
    run_jobs([new], quiet_run, lines.append)
    assert lines == [f"[1/1] Pop, seed 1: reused from {new.folder}"]
    other = make_plan("tiny", {"Pop": {"learning_rate": 0.5}}, [1], (), {**POP, "data_path": str(data_path)})
    run_jobs(make_jobs(other, tmp_path / "runs"), quiet_run, lines.append)
    assert not any("version" in line for line in lines)

    file = Path(new.folder) / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "version": "0.0.9"}), encoding="utf-8")
    assert stored(new) is None


def test_worker_counts_where_it_changes_the_result(data_path: Path) -> None:
    def name(model: str, worker: int) -> str:
        return Config(model, "tiny", config_dict={"data_path": str(data_path), "worker": worker}).run_name()

    assert name("BPR", 0) != name("BPR", 1)  # each worker draws its own negatives
    assert name("TIGER", 0) == name("TIGER", 1)


def test_pretrained_weights_of_recboles_models_count_by_content(data_path: Path, tmp_path: Path) -> None:
    def name(file: Path) -> str:
        settings = {"data_path": str(data_path), "mf_pretrain_path": str(file)}
        return Config("NeuMF", "tiny", config_dict=settings).run_name()

    files = [tmp_path / folder / "weights.pth" for folder in ("a", "b", "c")]
    for file, value in zip(files, (1.0, 2.0, 1.0), strict=True):
        file.parent.mkdir()
        torch.save({"weight": torch.tensor([value])}, file)
    assert name(files[0]) != name(files[1])
    assert name(files[0]) == name(files[2])


def test_files_of_features_count_by_content(data_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "features.npy"

    def found(seed: int) -> tuple[str, str]:
        np.save(file, np.random.default_rng(seed).random((30, 4)))
        settings = {"data_path": str(data_path), "features": ["file"], "feature_file": str(file)}
        config = Config("TIGER", "tiny", config_dict=settings)
        return config.fingerprint(), data_hash(config)

    assert found(0) == found(0)
    assert found(0)[0] != found(1)[0]
    assert found(0)[1] != found(1)[1]


def test_a_search_is_named_by_content(data_path: Path, tmp_path: Path) -> None:
    from recbole_sid.tuning.search import Options, make_plan
    from recbole_sid.tuning.space import read_space

    space_file = tmp_path / "space.yaml"
    space_file.write_text("learning_rate: {choice: [0.001, 0.002]}\n", encoding="utf-8")

    def folder(ids: Path) -> str:
        settings = {**SMALL, **SMALL_TIGER, "data_path": str(data_path), "semantic_ids_path": str(ids)}
        config = Config("TIGER", "tiny", config_dict=settings)
        return Path(make_plan(config, read_space(space_file), Options()).folder).name

    ids = [write_ids(tmp_path / name / "ids.npz", seed) for name, seed in (("a", 0), ("b", 1), ("c", 0))]
    assert folder(ids[0]) == folder(ids[2]) != folder(ids[1])
    assert re.fullmatch("TIGER-tiny-[0-9a-f]{16}", folder(ids[0]))


# Hashes of version 0.1, written out.
def earlier_tokens(tokens: np.ndarray) -> str:
    return hashlib.sha256("\n".join(tokens.tolist()).encode()).hexdigest()[:8]


def earlier_semantic_ids(ids: SemanticIDs, n_items: int) -> str:
    digest = hashlib.sha256(ids.codes[:n_items].tobytes())
    digest.update(json.dumps(ids.codebook_sizes).encode())
    digest.update(earlier_tokens(ids.item_tokens[:n_items]).encode())
    if ids.popularity is not None:
        digest.update(ids.popularity[:n_items].tobytes())
    return digest.hexdigest()[:8]


def earlier_weights(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:8]


@pytest.mark.parametrize("popularity", [None, np.arange(30)], ids=["unique", "shared"])
def test_hashes_begin_with_those_of_version_0_1(popularity: np.ndarray | None, tmp_path: Path) -> None:
    plain = SemanticIDs.load(write_ids(tmp_path / "ids.npz", 0))
    recipe = {"extended_at": [20, 25]}
    ids = SemanticIDs(plain.codes, plain.codebook_sizes, plain.item_tokens, recipe, popularity)
    assert ids.fingerprint[:8] == earlier_semantic_ids(ids, 30)
    assert [one[:8] for one in ids.extends] == [earlier_semantic_ids(ids, n_items) for n_items in (20, 25)]
    renamed = SemanticIDs(plain.codes, plain.codebook_sizes, np.char.add(plain.item_tokens, "x"), recipe, popularity)
    assert len({ids.fingerprint[8:], renamed.fingerprint[8:], *(one[8:] for one in ids.extends)}) == 4
    module = torch.nn.Linear(3, 2)
    assert hash_weights(module)[:8] == earlier_weights(module)
    assert {len(one) for one in (ids.fingerprint, *ids.extends, hash_weights(module))} == {16}


def test_a_checkpoint_of_version_0_1_loads(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run = run_model(Config("SIDMLP", "tiny", config_dict=settings("SIDMLP", epochs=1)))
    dataset, ids = run.test_data._dataset, run.trainer.model.semantic_ids
    content = load_checkpoint(run.trainer.saved_model_file)
    earlier = {
        "dataset": "tiny",
        "item tokens": earlier_tokens(dataset.item_tokens()),
        "semantic IDs": earlier_semantic_ids(ids, 30),
        "teacher": earlier_weights(run.trainer.model.teacher),
    }
    assert {key: value[:8] for key, value in content["lineage"].items()} == {**earlier, "dataset": "tiny"}
    save_checkpoint(tmp_path / "old.pth", {**content, "lineage": earlier})
    _, model, *_ = load_data_and_model(tmp_path / "old.pth")
    state = run.trainer.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    further = run_model(
        Config("SIDMLP", "tiny", config_dict=settings("SIDMLP", epochs=1, student_path=str(tmp_path / "old.pth")))
    )
    assert further.train_s > 0
    save_checkpoint(tmp_path / "other.pth", {**content, "lineage": {**earlier, "semantic IDs": "0" * 8}})
    with pytest.raises(InputError, match="was trained with semantic IDs 00000000 but this run has semantic IDs"):
        load_data_and_model(tmp_path / "other.pth")
    extended = {**content["lineage"], "semantic IDs": "2" * 16, "item tokens": "3" * 16}
    with pytest.raises(InputError, match="was trained with item tokens"):
        check_lineage("old.pth", earlier, extended)
    check_lineage("old.pth", earlier, {**extended, "extended semantic IDs": f"{'1' * 16} {ids.fingerprint}"})


def test_only_hashes_are_compared_by_their_beginning() -> None:
    full = "0123456789abcdef"
    assert is_same_hash(full, full)
    assert is_same_hash("01234567", full)
    assert not is_same_hash("01234568", full)
    assert not is_same_hash("0123", full)
    assert not is_same_hash(full, "01234567")
    assert not is_same_hash(None, full)
    assert not is_same_hash("amazon23", "amazon23-reviews")
    with pytest.raises(InputError, match="trained with dataset 20240101 but this run has dataset 2024010120240202"):
        check_lineage("a.pth", {"dataset": "20240101"}, {"dataset": "2024010120240202"})


def test_a_large_file_is_hashed_once_and_in_blocks(tmp_path: Path) -> None:
    file = tmp_path / "large.inter"
    with file.open("wb") as stream:
        stream.truncate(1 << 26)
    expected = hashlib.sha256(bytes(1 << 26)).hexdigest()[:16]
    before = hashing._read.cache_info().misses
    tracemalloc.start()
    assert content_hash(file) == content_hash(str(file)) == expected
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23
    assert hashing._read.cache_info().misses == before + 1
    with file.open("r+b") as stream:
        stream.write(b"1")  # the size stays
    os.utime(file, ns=(1, 1))
    assert content_hash(file) != expected
    assert hashing._read.cache_info().misses == before + 2


def test_a_folder_is_known_by_names_and_contents(tmp_path: Path) -> None:
    def write(folder: str, files: dict[str, str]) -> str:
        for name, content in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return content_hash(tmp_path / folder)

    whole = write("a", {"x": "1", "sub/y": "2"})
    assert write("b", {"x": "1", "sub/y": "2"}) == whole
    assert write("c", {"x": "2", "sub/y": "1"}) != whole
    assert write("d", {"x": "1", "y": "2"}) != whole


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("1", encoding="utf-8")
    file.chmod(0)
    with pytest.raises(InputError, match="secret' cannot be read"):
        content_hash(file)
