"""benchmarks/gpu.py on the CPU: every part, what is kept between runs, and what a run that is out of time leaves."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FACTS = {"device": "cpu", "quick": True, "processor": "one", "versions": "torch 2"}
MEASURED: dict[str, Any] = {"tokens/s": 1.0, "ms a step": 1.0, "epoch minutes": 1.0, "peak MB": 0, "real data": True}
FILE = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu() -> ModuleType:
    spec = spec_from_file_location("gpu_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(gpu: ModuleType, out: Path, parts: str, budget: float = 600) -> dict[str, Any]:
    gpu.main(["--device=cpu", "--quick", f"--parts={parts}", f"--out={out}", f"--budget={budget}"])
    return json.loads((out / "gpu.json").read_text())


def test_every_part_runs_and_nothing_is_done_twice(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(gpu, tmp_path, "tests,decoding,training,beauty")
    assert len(found["tests"]["tests/test_gpu.py"]["collected"]) > 20
    assert {row["name"] for row in found["decoding"]["batch 4"]["rows"]} == set(gpu.QUICK_ROWS)
    assert set(found["training"]) == {"beauty TIGER fp32", "beauty CausalSID fp32"}
    assert all(row["tokens/s"] > 0 and not row["real data"] for row in found["training"].values())
    assert [row["state"] for row in found["beauty"].values()] == ["finished"] * 3
    for name in ("run_bench", "training_rate", "run_recbole_sid"):
        monkeypatch.setattr(gpu, name, None)
    monkeypatch.setattr(gpu.subprocess, "run", None)
    assert run(gpu, tmp_path, "tests,decoding,training,beauty") == found
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {heading}" in page for heading in ("Tests", "Decoding", "Training", "TIGER and its students"))
    assert "beauty TIGER fp32 (synthetic, of its shape)" in page


def test_what_does_not_fit_is_left_for_the_next_run(gpu: ModuleType, tmp_path: Path) -> None:
    found = run(gpu, tmp_path, "decoding,training,beauty", budget=0)
    assert set(found) == {"facts", "beauty"}
    state = found["beauty"]["TIGER"]
    assert state["state"].startswith("1 of 2 epochs in ")
    assert "test" not in state
    found = run(gpu, tmp_path, "beauty", budget=0)  # the second and last epoch is taken from there, and is not cut
    assert found["beauty"]["TIGER"]["state"] == "finished"


def test_wrong_parts_and_missing_gpus_are_refused(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    for arguments, message in (
        (["--parts=test"], "--parts knows no test: choose of tests, decoding, training, beauty"),
        ([], "--device=cuda needs a GPU that this torch can use"),
    ):
        with pytest.raises(SystemExit):
            gpu.main([*arguments, f"--out={tmp_path}"])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("fact", "value"), [("device", "cuda"), ("quick", False), ("processor", "another")])
def test_results_of_something_else_are_not_mixed(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], fact: str, value: object
) -> None:
    gpu.Results(tmp_path, FACTS | {fact: value}).add("training", "one", MEASURED)
    before = (tmp_path / "gpu.json").read_bytes()
    kept = gpu.Results(tmp_path, FACTS | {fact: value})
    assert ("training", "one") in kept
    with pytest.raises(SystemExit):
        run(gpu, tmp_path, "decoding")
    assert f"holds results of {fact}={value}, and these would be of {fact}=" in capsys.readouterr().err
    assert (tmp_path / "gpu.json").read_bytes() == before


TESTS = """
import os, pathlib, pytest

@pytest.mark.gpu
@pytest.mark.parametrize("name", ["good", "bad one", "last"])
def test_it(name):
    here = pathlib.Path(__file__).with_suffix("")
    with open(f"{here}.ran", "a") as stream:
        stream.write(name + "\\n")
    mended = pathlib.Path(f"{here}.mended").exists()
    if name == "bad one" and not mended:
        FAULT

def test_without_a_gpu():
    raise ValueError
"""


def test_only_what_passed_is_done(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file has a failure, in the other pytest is cut; the next time they go on with what had not passed."""
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    folder = tmp_path / "tests"
    folder.mkdir()
    for name, fault in (("cut", "os._exit(9)"), ("failing", 'raise KeyError("a fault")')):
        (folder / f"test_{name}.py").write_text(TESTS.replace("FAULT", fault))
    (folder / "test_other.py").write_text("def test_other():\n    raise ValueError\n")
    options = gpu.Options(("tests",), gpu.torch.device("cuda"), None, tmp_path, 1e3, False)

    def tests() -> dict[str, Any]:
        results = gpu.Results(tmp_path, FACTS)
        gpu.tests(options, results, gpu.Clock(600))
        return json.loads((tmp_path / "gpu.json").read_text())["tests"]

    found = tests()
    names = [f"tests/test_{file}.py::test_it[{name}]" for file in ("cut", "failing") for name in ("good", "last")]
    assert list(found) == ["tests/test_cut.py", "tests/test_failing.py"]
    assert found["tests/test_cut.py"]["passed"] == names[:1]
    assert not found["tests/test_cut.py"]["finished"]
    assert found["tests/test_failing.py"]["passed"] == names[2:]
    bad = "tests/test_failing.py::test_it[bad one]"
    assert found["tests/test_failing.py"]["failed"] == {bad: "KeyError: 'a fault'"}
    assert f"- {bad}: KeyError: 'a fault'" in (tmp_path / "gpu.md").read_text()
    for name in ("cut", "failing"):
        (folder / f"test_{name}.mended").touch()
    found = tests()
    assert all(row["finished"] and not row["failed"] and len(row["passed"]) == 3 for row in found.values())
    assert (folder / "test_failing.ran").read_text().split("\n") == ["good", "bad one", "last", "bad one", ""]
    assert (folder / "test_cut.ran").read_text().split("\n") == ["good", "bad one", "bad one", "last", ""]
    monkeypatch.setattr(gpu.subprocess, "run", None)
    assert tests() == found


def test_no_time_left_leaves_the_files(gpu: ModuleType, tmp_path: Path) -> None:
    results = gpu.Results(tmp_path, FACTS)
    gpu.tests(gpu.Options(("tests",), gpu.torch.device("cuda"), None, tmp_path, 0, False), results, gpu.Clock(0))
    assert "tests" not in results.content
    assert "tests/test_gpu.py" in gpu.test_files()
