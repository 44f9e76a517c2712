"""Whole runs from a configuration, for our models and RecBole's, and loading them again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import SETTINGS, SMALL, SMALL_STUDENT, SMALL_TIGER, random_sequences, write_dataset
from recbole.config import Config as RecBoleConfig
from recbole.data import create_dataset as recbole_create_dataset
from recbole.data import data_preparation as recbole_data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_seed

from recbole_sid.comparison.main_job import run_main_job
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.quick_start import count_parameters, load_data_and_model, run_model, run_recbole_sid
from recbole_sid.registry import get_model, get_trainer

METRICS = {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
RECBOLE = {"SASRec": {"n_layers": 1, "hidden_size": 16, "inner_size": 16}, "BPR": {"embedding_size": 8}, "Pop": {}}


@pytest.fixture
def make_settings(settings: Callable[..., dict[str, Any]], data_path: Path) -> Callable[..., dict[str, Any]]:
    """Return ``make_settings(model, **changes)`` for our models and RecBole's."""

    def make(model: str, **changes: Any) -> dict[str, Any]:
        if model in SETTINGS:
            return settings(model, **changes)
        common = {key: SMALL[key] for key in ("use_gpu", "show_progress", "state", "epochs")}
        common["data_path"] = str(data_path)
        return {**common, **RECBOLE[model], **changes}

    return make


def scores(model: Any, loader: Any) -> torch.Tensor:
    """Scores of all users of a test loader, [n_users, n_items]."""
    model.eval()
    with torch.no_grad():
        parts = [model.full_sort_predict(batch[0]).view(-1, model.n_items) for batch in loader]
    return torch.cat(parts)


@pytest.mark.parametrize("model", [*SETTINGS, *RECBOLE])
def test_result_has_recboles_keys_and_ours(make_settings: Callable[..., dict[str, Any]], model: str) -> None:
    result = run_recbole_sid(model, "tiny", config_dict=make_settings(model))
    assert result["valid_score_bigger"] is True
    assert set(result["best_valid_result"]) == set(result["test_result"]) == METRICS
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"]
    assert all(0 <= value <= 1 for value in result["test_result"].values())
    assert Path(result["model_file"]).is_file()
    assert (result["teacher_file"] is not None) == (model in ("SIDMLP", "SIDMLPPlusPlus"))
    assert result["parameters"] == count_parameters(load_data_and_model(result["model_file"])[1])


@pytest.mark.parametrize("model", ["SASRec", "BPR", "Pop"])
def test_recboles_models_compute_what_they_compute_in_recbole(
    make_settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["program"])
    run = run_model(Config(model, "tiny", config_dict=make_settings(model)))
    config = RecBoleConfig(model, "tiny", config_dict=run.config.plain())
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = recbole_data_preparation(config, recbole_create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = get_trainer(config)(config, get_model(model)(config, train._dataset))
    assert (run.best_valid_score, run.best_valid_result) == trainer.fit(train, valid, verbose=False)
    assert run.test_result == trainer.evaluate(test)
    assert torch.equal(scores(run.trainer.model, run.test_data), scores(trainer.model, test))


def test_unsaved_run_leaves_no_file(make_settings: Callable[..., dict[str, Any]]) -> None:
    result = run_recbole_sid("TIGER", "tiny", config_dict=make_settings("TIGER"), saved=False)
    assert result["model_file"] is None
    assert list(Path("saved").glob("*.pth")) == []


def test_run_without_a_test_split(make_settings: Callable[..., dict[str, Any]]) -> None:
    split = {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user", "mode": "full"}
    result = run_recbole_sid("TIGER", "tiny", config_dict=make_settings("TIGER", eval_args=split))
    assert result["test_result"] is None
    assert set(result["best_valid_result"]) == METRICS


def test_configuration_may_come_from_a_file(make_settings: Callable[..., dict[str, Any]]) -> None:
    settings = make_settings("TIGER")
    Path("run.yaml").write_text(yaml.safe_dump({"model": "TIGER", "dataset": "tiny", **settings}), encoding="utf-8")
    from_file = run_recbole_sid(config_file_list=["run.yaml"])
    assert from_file["test_result"] == run_recbole_sid("TIGER", "tiny", config_dict=settings)["test_result"]


@pytest.mark.parametrize("model", [*SETTINGS, *RECBOLE])
def test_loaded_model_predicts_as_the_trained(make_settings: Callable[..., dict[str, Any]], model: str) -> None:
    run = run_model(Config(model, "tiny", config_dict=make_settings(model)))
    if run.config["teacher_path"]:
        Path(run.config["teacher_path"]).unlink()  # a student's checkpoint does without
    config, loaded, dataset, train, valid, test = load_data_and_model(run.trainer.saved_model_file)
    assert type(loaded) is type(run.trainer.model)
    assert config["model"] == model
    assert dataset.item_num == loaded.n_items
    wanted = scores(run.trainer.model, run.test_data)
    assert wanted.isfinite().any()
    assert torch.equal(scores(loaded, test), wanted)
    assert len(train._dataset) > len(valid._dataset) == len(test._dataset)
    assert get_trainer(config)(config, loaded).evaluate(test, False) == run.test_result


def test_checkpoint_that_recbole_wrote_is_loaded_with_the_split_it_was_trained_on(
    data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RecBole's defaults split at random; another split would test on what was trained."""
    monkeypatch.setattr(sys, "argv", ["program"])
    settings = {"data_path": str(data_path), "epochs": 1, "state": "ERROR", "gpu_id": "", "repeatable": True}
    config = RecBoleConfig("BPR", "tiny", config_dict={**settings, "load_col": {"inter": ["user_id", "item_id"]}})
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = recbole_data_preparation(config, recbole_create_dataset(config))
    trainer = Trainer(config, get_model("BPR")(config, train._dataset))
    trainer.fit(train, valid, verbose=False)
    _, model, _, loaded_train, _, loaded_test = load_data_and_model(trainer.saved_model_file)
    assert torch.equal(scores(model, loaded_test), scores(trainer.model, test))
    for ours, theirs in ((loaded_train, train), (loaded_test, test)):
        assert torch.equal(ours._dataset.inter_feat["item_id"], theirs._dataset.inter_feat["item_id"])


def test_checkpoint_whose_data_changed_is_named_or_refused(
    make_settings: Callable[..., dict[str, Any]], data_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = run_recbole_sid("TIGER", "tiny", config_dict=make_settings("TIGER"))["model_file"]
    write_dataset(data_path, [items[:-1] for items in random_sequences()])
    with caplog.at_level("WARNING"):
        load_data_and_model(file)  # the semantic IDs that it was trained with are there
    assert "was made from another training part" in caplog.text
    shutil.rmtree("saved/semantic_ids")
    with pytest.raises(InputError, match=r"was trained with semantic IDs \w{16} but this run has semantic IDs \w{16}"):
        load_data_and_model(file)
    write_dataset(data_path, [*random_sequences(), list(range(40))])
    with pytest.raises(InputError, match="was trained with item tokens"):
        load_data_and_model(file)


@pytest.mark.parametrize("content", [None, b"", b"text", {"state_dict": {}}, [1, 2]], ids=str)
def test_unreadable_checkpoint_is_refused(content: Any) -> None:
    if isinstance(content, bytes):
        Path("model.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, "model.pth")
    with pytest.raises(InputError, match=r"no checkpoint at 'model\.pth'|'model\.pth' is not a readable checkpoint"):
        load_data_and_model("model.pth")


# --- The main job -----------------------------------------------------------------------------------------------------


def plan(data_path: Path, **changes: Any) -> str:
    """Write a quick-start file for the tiny dataset; return its name."""
    student = {key: value for key, value in SMALL_STUDENT.items() if key != "teacher_config"}
    content = {
        "dataset": "tiny",
        "settings": {**SMALL, "data_path": str(data_path), "epochs": 1},
        "models": {
            "Pop": None,
            "SASRec": RECBOLE["SASRec"],
            "TIGER": SMALL_TIGER,
            "SIDMLP": student,
            "SIDMLPPlusPlus": {**student, "encoder_layers": 1, "encoder_ffn_size": 16, "encoder_epochs": 1},
        },
        **changes,
    }
    Path("plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return "plan.yaml"


def test_main_job_compares_five_models(data_path: Path) -> None:
    lines: list[str] = []
    rows = run_main_job(plan(data_path), report=lines.append)
    names = ["Pop", "SASRec", "TIGER", "TIGER-constrained", "SIDMLP", "SIDMLPPlusPlus"]
    keys = ["model", *sorted(METRICS, key=lambda name: (name[0] == "n", int(name.split("@")[1])))]
    keys += ["users_per_s", "parameters", "share_of_teacher", "wall_s"]
    assert [row["model"] for row in rows] == names
    assert all(list(row) == keys for row in rows)
    assert all(0 <= row[metric] <= 1 for row in rows for metric in METRICS)
    assert all(row["users_per_s"] > 0 for row in rows)
    by_name = {row["model"]: row for row in rows}
    assert by_name["TIGER"]["parameters"] == by_name["TIGER-constrained"]["parameters"]
    teacher = by_name["TIGER-constrained"]["ndcg@10"]
    for name in names:
        share = by_name[name]["ndcg@10"] / teacher if name.startswith("SIDMLP") else None
        assert by_name[name]["share_of_teacher"] == share
    assert len(lines) >= 5
    assert sorted(path.name.split("-")[0] for path in Path("saved").glob("[ST]*.pth")) == sorted(
        ["SASRec", "TIGER", "SIDMLP", "SIDMLPPlusPlus"]
    )


def test_main_job_rows_are_those_of_single_runs(data_path: Path) -> None:
    rows = run_main_job(plan(data_path, models={"TIGER": SMALL_TIGER}), report=lambda line: None)
    settings = {**SMALL, **SMALL_TIGER, "data_path": str(data_path), "epochs": 1, "checkpoint_dir": "other"}
    results = []
    for row, constrained in zip(rows, (False, True), strict=True):
        run = run_recbole_sid("TIGER", "tiny", config_dict={**settings, "constrained": constrained})
        results.append(dict(run["test_result"]))
        assert {metric: row[metric] for metric in METRICS} == results[-1]
    assert results[0] != results[1]


def test_main_job_overrides_hold_for_all_models(data_path: Path) -> None:
    file = plan(data_path, models={"Pop": None, "TIGER": SMALL_TIGER})
    run_main_job(file, {"checkpoint_dir": "elsewhere", "seed": 7}, report=lambda line: None)
    assert len(list(Path("elsewhere").glob("*.pth"))) == 2
    assert not Path("saved").exists()


def test_main_job_file_must_be_complete(data_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan 'none\.yaml' does not exist"):
        run_main_job("none.yaml")
    for changes in ({"models": None}, {"dataset": None}):
        with pytest.raises(InputError, match="must name dataset and models"):
            run_main_job(plan(data_path, **changes))
    Path("list.yaml").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(InputError, match="must name dataset and models"):
        run_main_job("list.yaml")


def test_an_entry_may_name_its_model(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    common = {key: value for key, value in settings("TIGER").items() if key in SMALL or key == "data_path"}
    tiger = {key: value for key, value in SMALL_TIGER.items() if key != "epochs"}
    student = {**{key: value for key, value in SMALL_STUDENT.items() if key != "teacher_config"}}
    plan = {
        "dataset": "tiny",
        "settings": common,
        "models": {
            "TIGER": tiger,
            "SIDMLPPlusPlus-item": {
                **student,
                "model": "SIDMLPPlusPlus",
                "encoder": "item",
                "item_layers": 1,
                "item_ffn_size": 8,
            },
        },
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    rows = run_main_job(tmp_path / "plan.yaml", report=lambda _: None)
    assert [row["model"] for row in rows] == ["TIGER", "TIGER-constrained", "SIDMLPPlusPlus-item"]
    assert rows[-1]["share_of_teacher"] == pytest.approx(rows[-1]["ndcg@10"] / rows[1]["ndcg@10"])


@pytest.mark.parametrize(("model", "asked"), [("SASRecF", "class"), ("FM", "label")])
def test_field_that_a_model_needs_and_the_data_has_not_is_named(model: str, asked: str, data_path: Path) -> None:
    settings = {"data_path": str(data_path), "use_gpu": False, "show_progress": False, "state": "WARNING", "epochs": 1}
    with pytest.raises(InputError, match=f"{model} asks for '{asked}', which is no field of the data"):
        run_recbole_sid(model, "tiny", config_dict=settings)
