"""Sheets of comparisons: written beside them, and run again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recbole_sid import __version__, compare
from recbole_sid.cli import main
from recbole_sid.comparison.sheet import read_sheet
from recbole_sid.errors import InputError


def changed(file: Path, **parts: Any) -> Path:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key, part in parts.items():
        content[key] = {**content[key], **part} if isinstance(part, dict) else part
    other = file.with_name("changed.yaml")
    other.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return other


def test_a_comparison_is_run_again_from_its_sheet(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path("own.yaml")
    own.write_text("hops: 2\n", encoding="utf-8")
    models = {"Pop": None, "memory": {"model": "TransitionMemory", "pseudo_counts": 3, "files": [str(own)]}}
    settings = {"use_gpu": False, "show_progress": False, "state": "WARNING", "data_path": str(data_path)}
    found = compare(models, "tiny", config_dict=settings, output="out", baseline="memory", report=lambda line: None)
    sheet = Path("out/comparison.yaml")
    assert sheet in found.files
    own.unlink()  # what it said stands in the sheet
    content = yaml.safe_load(sheet.read_text(encoding="utf-8"))
    assert content["plan"]["models"]["memory"]["hops"] == 2
    assert set(content["data"]["files"]) == {"tiny.inter", "tiny.item"}
    assert content["results"]["memory"]["ndcg@10"] == found.table["ndcg@10"][1]
    (machine,) = content["machines"]
    assert machine["versions"]["recbole"]
    assert machine["runs"] == ["Pop (seed 2020)", "memory (seed 2020)"]

    assert main(["reproduce", str(sheet), "--output=out"]) == 2
    assert "output=out holds the sheet" in capsys.readouterr().err
    results = {"Pop": {"ndcg@10": content["results"]["Pop"]["ndcg@10"] + 0.5}}
    wrong = changed(sheet, results=results)
    assert main(["reproduce", str(wrong), "--output=again"]) == 1
    told = capsys.readouterr().out
    assert "Not reproduced: 1 of" in told
    assert "| Pop" in told
    assert "were there from earlier" not in told
    assert "Other versions" not in told
    assert (Path("again") / "runs").is_dir()
    versions = {"versions": {"torch": "1.0", "unheard-of": "2"}}
    other = changed(sheet, recbole_sid="0.1", machines=[versions])
    assert main(["reproduce", str(other), "--output=again"]) == 0  # what is there is not run again
    told = capsys.readouterr().out
    assert "reused from again" in told
    assert f"recbole_sid {__version__} (in the sheet 0.1); torch {torch.__version__} (in the sheet 1.0)." in told
    assert "2 of 2 runs were there from earlier" in told
    assert "Reproduced: all" in told

    other = changed(sheet, data={"runs": {"memory": "0" * 16}})
    assert main(["reproduce", str(other), "--output=again"]) == 2
    assert "memory reads files of other content than in the sheet" in capsys.readouterr().err

    with (data_path / "tiny" / "tiny.item").open("a", encoding="utf-8") as stream:
        stream.write("i999\tnew thing\tkind1\n")
    assert main(["reproduce", str(sheet)]) == 2
    assert "'tiny.item' has other content than in the sheet" in capsys.readouterr().err


SHEETS = sorted((Path(__file__).parents[1] / "results").glob("*.yaml"))


@pytest.mark.parametrize("file", SHEETS, ids=[file.stem for file in SHEETS])
def test_figures_of_a_shipped_sheet_stand_on_its_page(file: Path) -> None:
    sheet = read_sheet(file)
    rows = {row for entry in sheet.plan.entries for row in entry.rows()}
    assert set(sheet.results) <= rows
    assert set(sheet.runs) == {entry.name for entry in sheet.plan.entries}
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"(^|[\s'\"])/\w", text)  # no path of the machine that wrote it
    of_page = file.stem if file.stem != "ml-100k-quick" else "ml-100k"
    page = next(page for page in file.parent.glob("*.md") if page.stem in (of_page, of_page.partition("-")[0]))
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    for row, metrics in sheet.results.items():
        shown = [f"{value:.4f}".lstrip("0") for value in metrics.values()]
        assert any(all(number in line for number in shown) for line in lines), row
        assert all(value > 0 for value in metrics.values())


def test_every_page_of_a_comparison_has_a_sheet_and_names_it() -> None:
    named = set()
    for page in SHEETS[0].parent.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        sheets = set(re.findall(r"reproduce results/([\w-]+)\.yaml", text))
        assert sheets or "recbole-sid compare --plan" not in text, page.name
        named |= sheets
    assert named == {file.stem for file in SHEETS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1", "is no sheet of a comparison"),
        ("[1]", "is no sheet of a comparison"),
        ("format: recbole_sid comparison 1", "must hold results"),
        ("{format: recbole_sid comparison 1, results: {Pop: {x: a}}}", "must hold results"),
        (
            "{format: recbole_sid comparison 1, results: {Pop: {x: .1}}, tolerance: {absolute: -1, relative: 0}}",
            "tolerance",
        ),
        (
            "{format: recbole_sid comparison 1, results: {P: {x: .1}}, tolerance: {absolute: 1, relative: 0}, "
            "data: {files: {}, runs: {}}, machines: [], plan: 3}",
            "must name dataset and models",
        ),
        ("{format: recbole_sid comparison 1, results: {}, shell: rm}", "key of a sheet='shell' must be one of"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sheet.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_sheet(file)
