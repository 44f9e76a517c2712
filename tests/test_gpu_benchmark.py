"""benchmarks/gpu.py on the CPU: every part, what is kept between runs, and what a run that is out of time leaves."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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
    assert found["tests"]["gpu"]["collected"] > 20
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
