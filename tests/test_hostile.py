"""Files and strings from elsewhere run no code: each door is tried with a marker that must not appear."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, SMALL_TIGER
from recbole.utils import init_seed

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.cli import main
from recbole_sid.comparison.plan import read_plan
from recbole_sid.compat import load_recbole_checkpoint
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.features.file import read_rows
from recbole_sid.interop.weights import read_weights
from recbole_sid.model.tiger import TIGER
from recbole_sid.quick_start import load_data_and_model, run_recbole_sid
from recbole_sid.settings import recbole_checks
from recbole_sid.tuning.space import read_space

MARKER = Path("marker")


@pytest.fixture
def hostile(working_directory: Path) -> str:
    return f"__import__('pathlib').Path({str(working_directory / MARKER)!r}).touch()"


@pytest.fixture
def settings(data_path: Path) -> dict[str, Any]:
    return {**SMALL, **SMALL_TIGER, "data_path": str(data_path), "epochs": 1}


@pytest.fixture
def trained(settings: dict[str, Any]) -> str:
    return run_recbole_sid("TIGER", "tiny", config_dict=settings)["model_file"]


def test_strings_stay_strings(settings: dict[str, Any], hostile: str) -> None:
    given = {"checkpoint_dir": "2024/11/28", "feature_name": "key", "text_model": "2 + 2", "feature_file": hostile}
    config = Config("TIGER", "tiny", config_dict={**settings, **given})
    assert {key: config[key] for key in given} == given
    assert not MARKER.exists()


def test_property_file_runs_nothing(settings: dict[str, Any], hostile: str) -> None:
    Path("a.yaml").write_text(f"feature_file: {json.dumps(hostile)}\nlearning_rate: 1e-3\n", encoding="utf-8")
    config = Config("TIGER", "tiny", ["a.yaml"], settings)
    assert (config["feature_file"], config["learning_rate"]) == (hostile, 0.001)
    Path("b.yaml").write_text("epochs: !!python/object/apply:os.mkdir [marker]\n", encoding="utf-8")
    with pytest.raises(InputError, match="no valid YAML"):
        Config("TIGER", "tiny", ["b.yaml"], settings)
    assert not MARKER.exists()


def test_checkpoint_runs_nothing(trained: str, hostile: str) -> None:
    content = load_checkpoint(trained)
    for key in ("feature_file", "text_model", "id_model_path", "feature_name"):
        changed = {**content, "config": {**content["config"], key: hostile}}
        save_checkpoint("hostile.pth", changed)
        for use in (load_data_and_model, _teach(content["config"])):
            with contextlib.suppress(InputError):
                use("hostile.pth")
            assert not MARKER.exists(), (key, use)


def _teach(config: dict[str, Any]) -> Callable[[str], Any]:
    settings = {key: config[key] for key in (*SMALL, "data_path")}
    return lambda path: run_recbole_sid("SIDMLP", "tiny", config_dict={**settings, "epochs": 1, "teacher_path": path})


@pytest.mark.parametrize("key", ["epochs", "feature_file", "checkpoint_dir", "state", "gpu_id", "metrics"])
def test_command_line_runs_nothing(settings: dict[str, Any], hostile: str, key: str, capsys: Any) -> None:
    words = [f"--{name}={value}" for name, value in settings.items() if name != key]
    main(["run", "--model=Pop", "--dataset=tiny", *words, f"--{key}={hostile}"])
    assert not MARKER.exists()


def test_plans_and_spaces_run_nothing(data_path: Path, hostile: str) -> None:
    plan = {
        "dataset": "tiny",
        "settings": {"data_path": str(data_path), "feature_file": hostile},
        "models": {"Pop": {}},
    }
    Path("plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    read_plan("plan.yaml")
    Path("hyper.test").write_text(f"learning_rate choice [{hostile}]\n", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_space("hyper.test")
    assert not MARKER.exists()


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("plan: !!python/object/apply:os.mkdir [marker]", "no valid YAML"),
        ("plan: !!python/name:os.system", "no valid YAML"),
        ("plan: {dataset: tiny, models: {Pop: {}}, run: rm}", "key of a plan='run' must be one of"),
        ("plan: {dataset: tiny, models: {Pop: {_code: rm}}}", "'_code'"),
        ("run: rm", "key of a sheet='run' must be one of"),
    ],
)
def test_sheets_run_nothing(sheet: str, message: str, capsys: Any) -> None:
    head = ["format: recbole_sid comparison 1", "results: {Pop: {x: 0.1}}", "tolerance: {absolute: 0, relative: 0}"]
    lines = [*head, "data: {files: {}, runs: {}}", "machines: []", sheet]
    Path("sheet.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert main(["reproduce", "sheet.yaml"]) == 2
    assert message in capsys.readouterr().err
    assert not MARKER.exists()


def test_kd_dagfm_evaluates_no_setting(settings: dict[str, Any], hostile: str) -> None:
    with pytest.raises(InputError, match="must be the name of a network"):
        Config("KD_DAGFM", "ml-100k", config_dict={"teacher": hostile})
    assert not MARKER.exists()


class _Program(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.mark.parametrize("read", [load_recbole_checkpoint, load_checkpoint, read_weights, load_data_and_model])
def test_torchscript_is_refused_before_torch_sees_it(read: Callable[[str], Any], monkeypatch: Any) -> None:
    torch.jit.save(torch.jit.script(_Program()), "program.pth")
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: MARKER.touch())
    with pytest.raises(InputError, match="holds a program"):
        read("program.pth")
    assert not MARKER.exists()


def test_feature_file_with_a_program_is_refused() -> None:
    torch.jit.save(torch.jit.script(_Program()), "program.pt")
    with pytest.raises(InputError, match="holds a program"):
        read_rows("program.pt", None, {})


def test_pretrained_file_with_a_program_is_refused() -> None:
    torch.jit.save(torch.jit.script(_Program()), "program.pth")
    with pytest.raises(InputError, match="holds a program"):
        Config("NeuMF", "ml-100k", config_dict={"use_pretrain": True, "mf_pretrain_path": "program.pth"})


def test_tar_archives_are_refused() -> None:
    Path("storages").symlink_to(MARKER)
    with tarfile.open("old.pth", "w") as archive:
        archive.add("storages")
    for read in (load_recbole_checkpoint, load_checkpoint):
        with pytest.raises(InputError, match="tar archive"):
            read("old.pth")


def test_file_named_code_is_no_program(trained: str) -> None:
    content = torch.load(trained, weights_only=True)
    Path("code").mkdir()
    torch.save(content, "code/code.pth")
    assert any(name.startswith("code/") for name in zipfile.ZipFile("code/code.pth").namelist())
    assert load_checkpoint("code/code.pth")["model"] == "TIGER"


def _tree(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_loading_writes_nowhere(trained: str, tmp_path: Path) -> None:
    content = load_checkpoint(trained)
    elsewhere = tmp_path / "elsewhere"
    save_checkpoint("theirs.pth", {**content, "config": {**content["config"], "checkpoint_dir": str(elsewhere)}})
    before = _tree(tmp_path)
    _, model, *_ = load_data_and_model("theirs.pth")
    assert model.semantic_ids.fingerprint == content["lineage"]["semantic IDs"]  # built again
    assert _tree(tmp_path) == before
    load_data_and_model("theirs.pth", {"checkpoint_dir": "here"})
    assert [path.suffix for path in Path("here").rglob("*.npz")] == [".npz"]
    assert not elsewhere.exists()


def test_loading_downloads_nothing(trained: str, monkeypatch: Any) -> None:
    content = load_checkpoint(trained)
    changed = {**content["config"], "dataset": "ml-1m", "data_path": "nowhere"}
    save_checkpoint("theirs.pth", {**content, "config": changed})
    with pytest.raises(InputError, match="no dataset folder"):
        load_data_and_model("theirs.pth")
    assert not os.path.exists("nowhere")


def test_flipped_bits_are_found(trained: str) -> None:
    content = Path(trained).read_bytes()
    names = zipfile.ZipFile(trained).infolist()
    largest = max((entry for entry in names if "/data/" in entry.filename), key=lambda entry: entry.file_size)
    place = largest.header_offset + 200 + largest.file_size // 2  # amid its numbers
    damaged = content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
    Path("damaged.pth").write_bytes(damaged)
    with pytest.raises(InputError, match=r"'damaged\.pth' is damaged"):
        load_checkpoint("damaged.pth")


def test_changed_settings_are_found(trained: str) -> None:
    content = torch.load(trained, weights_only=True)
    content["best_valid_score"] = 0.99
    torch.save(content, "changed.pth")
    with pytest.raises(InputError, match="its checksum differs"):
        load_checkpoint("changed.pth")


def test_checkpoint_without_checksum_is_read_with_a_warning(trained: str, caplog: Any) -> None:
    content = torch.load(trained, weights_only=True)
    del content["checksum"]
    torch.save(content, "earlier.pth")
    assert load_checkpoint("earlier.pth")["model"] == "TIGER"
    assert "'earlier.pth' is of an earlier version and has no checksum" in caplog.text


@pytest.mark.parametrize("key", ["model", "config", "lineage", "state_dict"])
def test_checkpoint_with_odd_content_is_refused(trained: str, key: str) -> None:
    content = load_checkpoint(trained)
    for changed in ({**content, key: 3}, {name: value for name, value in content.items() if name != key}):
        save_checkpoint("odd.pth", changed)
        with pytest.raises(InputError, match=f"'odd.pth' is damaged: .* no usable {key}"):
            load_data_and_model("odd.pth")


@pytest.mark.parametrize("odd", ["text", torch.zeros(1, dtype=torch.complex64)])
def test_weights_that_are_no_real_numbers_are_refused(trained: str, odd: Any) -> None:
    content = load_checkpoint(trained)
    content["state_dict"][next(iter(content["state_dict"]))] = odd
    save_checkpoint("odd.pth", content)
    with pytest.raises(InputError, match=r"'odd\.pth' is damaged: its weight .* is no tensor of real numbers"):
        load_data_and_model("odd.pth")


def test_model_that_does_not_fit_into_the_memory_is_refused(trained: str, monkeypatch: Any) -> None:
    def allocate(*arguments: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 15360000000 bytes.")

    monkeypatch.setattr(TIGER, "__init__", allocate)
    with pytest.raises(InputError, match="TIGER as configured does not fit into the memory"):
        load_data_and_model(trained)


def test_nan_weights_name_the_file(trained: str) -> None:
    content = load_checkpoint(trained)
    next(iter(content["state_dict"].values())).view(-1)[0] = float("nan")
    save_checkpoint("nan.pth", content)
    with pytest.raises(InputError, match=r"weights in 'nan\.pth' are not all numbers"):
        load_data_and_model("nan.pth")


def test_evaluation_of_nan_weights_is_refused_on_every_device(settings: dict[str, Any], monkeypatch: Any) -> None:
    from recbole_sid.model.base import SIDRecommender
    from recbole_sid.quick_start import run_model

    init_seed(1, True)
    run = run_model(Config("TIGER", "tiny", config_dict=settings), saved=False)
    monkeypatch.setattr(SIDRecommender, "check_finite", lambda self, leaves: None)  # as where it would have to wait
    with torch.no_grad():
        next(run.trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="has weights that are not numbers"):
        run.trainer.evaluate(run.test_data, load_best_model=False)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("topk", [], "measures nothing"),
        ("metrics", [], "measures nothing"),
        ("seed", -1, "must be a whole number from 0"),
        ("seed", 2**32, "must be a whole number from 0"),
        ("clip_grad_norm", 1.0, "must be a dictionary"),
        ("clip_grad_norm", {"norm": 1.0}, "must be a dictionary"),
        ("clip_grad_norm", {}, "must be a dictionary"),
        ("eval_step", -1, "must be a whole number of at least 0"),
        ("metric_decimal_place", 2000, "must be at most 15"),
        ("metrics", 3, "metrics=3 must be names"),
        ("metrics", [3], "must be names"),
        ("valid_metric", 3, "valid_metric=3 must be names"),
        ("metric_decimal_place", -1, "must be a whole number of at least 0"),
        ("state", "LOUD", "must be one of debug"),
        ("resume", "maybe", "must be True or False"),
        ("show_progress", "no", "must be True or False"),
        ("user_inter_num_interval", "5", "must be an interval"),
        ("item_inter_num_interval", "[5,", "must be an interval"),
        ("user_inter_num_interval", "[9,5]", "must be an interval"),
        ("val_interval", {"timestamp": "above 5"}, "must be an interval"),
        ("val_interval", {"timestamp": 5}, "must be an interval"),
        ("val_interval", "[5,inf)", "must name fields"),
        ("gpu_id", "the first", "must be numbers of GPUs"),
        ("local_rank", 0, "Leave out local_rank=0"),
    ],
)
def test_values_that_mean_nothing_are_refused(settings: dict[str, Any], key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config("TIGER", "tiny", config_dict={**settings, key: value})


def test_gpu_that_is_asked_for_and_missing_is_said(settings: dict[str, Any], caplog: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for _ in range(2):
        Config("TIGER", "tiny", config_dict={**settings, "use_gpu": True, "gpu_id": "5"})
    assert [record.message for record in caplog.records] == [
        "torch finds no GPU 5 here: the CPU is used in spite of use_gpu=True."
    ]


def test_gpu_that_nobody_asked_for_is_not_missed_for_a_teacher(settings: dict[str, Any], caplog: Any) -> None:
    recbole_checks._warn_once.cache_clear()
    default = {key: value for key, value in settings.items() if key not in ("use_gpu", "gpu_id")}
    known = Config("SIDMLP", "tiny").known_keys()
    Config("SIDMLP", "tiny", config_dict={key: value for key, value in default.items() if key in known})
    assert "torch finds no GPU" not in caplog.text


def test_gpu_that_is_named_alone_and_missing_is_said(settings: dict[str, Any], caplog: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    given = {key: value for key, value in settings.items() if key != "use_gpu"}
    Config("TIGER", "tiny", config_dict=given)
    assert caplog.text == ""
    Config("TIGER", "tiny", config_dict={**given, "gpu_id": 6})
    assert "torch finds no GPU 6 here: the CPU is used" in caplog.text


def test_what_no_validation_means_is_said(settings: dict[str, Any], caplog: Any) -> None:
    Config("TIGER", "tiny", config_dict={**settings, "eval_step": 0})
    assert "eval_step=0: nothing is validated" in caplog.text


def test_filters_take_intervals_and_lists_of_tokens(settings: dict[str, Any]) -> None:
    given = {"timestamp": "[5,inf);(-1,2]", "user_id": ["u1", "u2"]}
    assert Config("TIGER", "tiny", config_dict={**settings, "val_interval": given})["val_interval"] == given


def test_no_stages_are_refused(settings: dict[str, Any]) -> None:
    shared = {key: value for key, value in settings.items() if key not in SMALL_TIGER}
    with pytest.raises(InputError, match=r"distill_stages=\[\] trains nothing"):
        Config("SIDMLP", "tiny", config_dict={**shared, "distill_stages": []})


def test_unknown_keys_of_a_teacher_are_refused_beside_its_path(settings: dict[str, Any]) -> None:
    shared = {key: value for key, value in settings.items() if key not in SMALL_TIGER}
    given = {"teacher_path": "any.pth", "teacher_config": {"d_modle": 16}}
    with pytest.raises(InputError, match=r"teacher_config has the unknown key 'd_modle' \(did you mean 'd_model'\?\)"):
        Config("SIDMLP", "tiny", config_dict={**shared, **given})
