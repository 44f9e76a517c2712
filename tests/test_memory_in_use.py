"""SID models with a memory in what is built on models: comparisons, analyses, searches, imports, later items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SASREC, SETTINGS, SMALL, random_sequences, write_dataset

from recbole_sid.checkpoint import load_checkpoint, load_weights
from recbole_sid.comparison.job import make_jobs, run_job, stored
from recbole_sid.comparison.plan import make_plan
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import find_runs
from recbole_sid.features.alike import alike
from recbole_sid.generalization.analysis import analyze, label_split
from recbole_sid.interop.import_weights import import_checkpoint
from recbole_sid.memory import Numbers
from recbole_sid.model.later_items import weights_for
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_model, run_recbole_sid
from recbole_sid.semantic_ids.extend import extend_to_items
from recbole_sid.tuning.space import read_space
from recbole_sid.tuning.trial import SearchPlan, train_trial

ASKED = {"memory": "transitions"}
OWN = ("codebook_sizes", "collaborative_dim")
PLAIN = {key: value for key, value in SMALL.items() if key not in OWN}


def test_a_row_with_a_memory_trains_nothing_anew(data_path: Path, tmp_path: Path, trainings: list[str]) -> None:
    of_teacher, of_student = ({**SETTINGS[name], "data_path": str(data_path)} for name in ("TIGER", "SIDMLP"))
    del of_student["teacher_config"]
    models = {
        "SASRec": {**PLAIN, **SASREC, "data_path": str(data_path)},
        "TIGER": of_teacher,
        "TIGER + memory": {"model": "TIGER", **of_teacher, **ASKED},
        "SIDMLP": {**of_student, "teacher": "TIGER"},
        "SIDMLP + memory": {"model": "SIDMLP", **of_student, **ASKED, "teacher": "TIGER"},
        "AdaptiveEnsemble": {**PLAIN, "data_path": str(data_path), "sid_model": "SIDMLP + memory"},
    }
    for own in models.values():
        own.pop("epochs", None)
    ensemble = models["AdaptiveEnsemble"]
    ensemble.pop("train_batch_size")
    plan = make_plan("tiny", models, [1], (), {"epochs": 2})
    jobs = make_jobs(plan, tmp_path / "runs")
    results = {job.entry.name: run_job(job) for job in jobs}
    assert trainings == ["TIGER", "SIDMLP"]
    assert all(stored(job) is not None for job in jobs)
    for name in ("TIGER", "SIDMLP"):
        plain, remembering = (results[each] for each in (name, f"{name} + memory"))
        assert remembering["best_valid"]["ndcg@10"] > plain["best_valid"]["ndcg@10"]
        assert remembering["parameters"] == plain["parameters"]
        ours = load_checkpoint(remembering["model_file"])["state_dict"]
        theirs = load_checkpoint(plain["model_file"])["state_dict"]
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    _, fused, *_, test = load_data_and_model(results["AdaptiveEnsemble"]["model_file"])
    assert fused.sid_model.remembers
    alone = load_data_and_model(results["SIDMLP + memory"]["model_file"])[1]
    batch = next(iter(test))[0]
    torch.testing.assert_close(fused.sid_model.retrieve(batch)[2], alone.retrieve(batch)[2])

    found = analyze(
        label_split(Config("SASRec", "tiny", config_dict=models["SASRec"])), find_runs([str(tmp_path / "runs")])
    )
    named = {row["model"] for row in found.categories if "model" in row}
    assert {"TIGER + memory", "SIDMLP + memory"} <= {name.replace("-constrained", "") for name in named}


def test_an_override_gives_every_row_a_memory(data_path: Path, tmp_path: Path) -> None:
    models = {"SASRec": {**PLAIN, **SASREC}, "TIGER": SETTINGS["TIGER"]}
    plan = make_plan("tiny", models, [1], (), {"data_path": str(data_path)}, overrides=ASKED)
    with_memory = [job.config()["memory"] for job in make_jobs(plan, tmp_path / "runs")]
    assert with_memory == [None, "transitions"]


def test_a_search_reports_what_the_memory_adds(data_path: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("memory: {choice: [none, transitions]}\n", encoding="utf-8")
    space = read_space(tmp_path / "space.yaml")
    settings = {**SETTINGS["TIGER"], "data_path": str(data_path), "checkpoint_dir": str(tmp_path)}
    plan = SearchPlan("TIGER", "tiny", settings, space, {}, str(tmp_path / "search"), 1, 0)
    scores = []
    for memory, epochs in (("none", [1, 2]), ("transitions", [1, 2, 3])):
        reported: list[dict[str, Any]] = []
        result = train_trial(plan, {"memory": memory}, memory, reported.append)
        assert [each["epoch"] for each in reported] == epochs
        assert max(each["score"] for each in reported) == result["score"]
        scores.append(result["score"])
    assert scores[1] > scores[0]


def test_a_search_over_numbers_keeps_them(data_path: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("memory_hops: {choice: [2, 4]}\n", encoding="utf-8")
    settings = {**SETTINGS["TIGER"], **ASKED, "data_path": str(data_path), "checkpoint_dir": str(tmp_path)}
    plan = SearchPlan("TIGER", "tiny", settings, read_space(tmp_path / "space.yaml"), {}, str(tmp_path / "s"), 1, 0)
    result = train_trial(plan, {"memory_hops": 4}, "t", lambda reported: None)
    assert load_checkpoint(result["model_file"])["chosen"]["memory_hops"] == 4


def test_an_imported_model_gets_its_memory(settings: Callable[..., dict[str, Any]]) -> None:
    asked = {**ASKED, "memory_text_weight": 0}  # likeness goes by the keys of features, which are not those of then
    plain = run_recbole_sid("TIGER", "tiny", config_dict=settings("TIGER"))["model_file"]
    config, model, *_ = load_data_and_model(plain)
    torch.save(model.transformers_state_dict(), "t5.pt")
    ids = next(Path(config["checkpoint_dir"]).rglob("*.npz"))
    given = {**SMALL, **asked, "data_path": settings("TIGER")["data_path"], "semantic_ids_path": str(ids)}
    for key in (*OWN, "epochs", "train_batch_size"):
        given.pop(key)
    given["codebook_sizes"] = list(model.vocabulary.codebook_sizes)
    file = import_checkpoint("t5.pt", "TIGER", "tiny", settings=given)
    found = load_data_and_model(file)[1]
    assert found.remembers
    expected = run_model(Config("TIGER", "tiny", config_dict=settings("TIGER", **asked))).trainer.model
    assert found.chosen == expected.chosen


def test_new_items_are_remembered_from_the_data_as_it_is_now(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    sequences = random_sequences()
    vectors = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    np.save("vectors.npy", vectors[:30])
    Path("tokens.txt").write_text("\n".join(f"i{item}" for item in range(30)), encoding="utf-8")
    file = {"features": ["file"], "feature_file": "vectors.npy", "feature_tokens": "tokens.txt"}
    config = Config(
        "TIGER", "tiny", config_dict=settings("TIGER", **ASKED, **file, rank_size=40, memory_text_weight=2.0)
    )
    run = run_model(config)
    before = run.trainer.model
    ids = before.semantic_ids

    later = [[30, 31, *items] if user in (3, 4, 5) else items for user, items in enumerate(sequences)]
    write_dataset(tmp_path / "data", later)
    np.save("vectors.npy", vectors)
    Path("tokens.txt").write_text("\n".join(f"i{item}" for item in range(32)), encoding="utf-8")
    tokens = np.array([f"i{item}" for item in range(32)])
    extend_to_items(ids, config, tokens).save("ids.npz")
    overrides = {"semantic_ids_path": "ids.npz"}
    _, model, dataset, train, _, test = load_data_and_model(run.trainer.saved_model_file, overrides)
    assert model.n_items == before.n_items + 2
    assert model.chosen == before.chosen
    first, second = (dataset.token2id("item_id", token) for token in ("i30", "i31"))
    assert model.memory.numbers.text_weight > 0
    likeness = alike(vectors_of(dataset, vectors))
    weight = model.memory.numbers.text_weight
    assert model.memory.table.counts[first, second] == pytest.approx(3 + weight * likeness[first, second])
    expected = make_trainer(_with_path(config, "ids.npz"), train).model.memory
    expected.alike = model.memory.alike
    expected.learn(*train._dataset.training_sequences(), before.memory.numbers)
    assert (expected.table.counts != model.memory.table.counts).nnz == 0
    assert len(model.retrieve(next(iter(test))[0])[1])
    # Numbers that are none are left to be refused with the rest of the table.
    for damaged in (torch.zeros(2).double(), torch.zeros(()).double(), torch.ones(6, dtype=torch.complex64)):
        state = {**before.state_dict(), "memory.settings": damaged}
        found = weights_for(model, state, {}, config, train._dataset)
        assert found["memory.settings"] is damaged


def vectors_of(dataset: Any, vectors: np.ndarray) -> np.ndarray:
    """Return the rows of `vectors`, of i0, i1, ..., in the order of the dataset's items."""
    return vectors[[int(token[1:]) for token in dataset.field2id_token["item_id"][1:]]]


def _with_path(config: Config, path: str) -> Config:
    return Config("TIGER", "tiny", config_dict={**config.plain(), "semantic_ids_path": path})


def test_a_memory_of_other_items_is_refused(
    settings: Callable[..., dict[str, Any]], prepare: Callable[..., Any]
) -> None:
    config, train, *_ = prepare("TIGER", **ASKED)
    model = make_trainer(config, train).model
    state = model.state_dict()
    state["memory.starts"] = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="it is of 4 items, not of 31"):
        model.load_state_dict(state)
    with pytest.raises(InputError, match="fit TIGER as configured"):
        load_weights(model, state, "file")
    assert model.memory.numbers == Numbers()
