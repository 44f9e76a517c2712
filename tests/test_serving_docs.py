"""The commands of docs/serving.md, one after another as they stand there; what they are about is tested elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from conftest import SETTINGS

import recbole_sid
from recbole_sid.cli import main
from recbole_sid.quick_start import run_recbole_sid
from recbole_sid.serving.bundle import Bundle

pytest.importorskip("numba")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TEXT = (Path(recbole_sid.__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the words of the commands that end by themselves."""
    lines = [line.strip() for line in TEXT.splitlines() if line.startswith("    recbole-sid ")]
    found = [shlex.split(line)[1:] for line in lines]
    return [words for words in found if words[0] != "serve"]


def test_the_commands_of_the_documentation_run(
    tmp_path: Path, data_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {"features": ["text"], "text_fields": ["title"], "text_dim": 4, "rank_size": 20, "epochs": 1}
    settings = {**SETTINGS["SIDMLPHybrid"], "data_path": data_path, **texts}
    file = str(run_recbole_sid("SIDMLPHybrid", "tiny", config_dict=settings)["model_file"])
    files = {
        "new.csv": "item_id,title\ni40,red thing\n",
        "users.jsonl": '{"user": "u", "items": ["i1", "i2"]}\n',
        "users.csv": "user,items\nu,i1 i2\n",
        "in_stock.txt": "i3\ni4\n",
    }
    for name, content in files.items():
        Path(name).write_text(content, encoding="utf-8")
    Path("histories").mkdir()
    parquet.write_table(pa.table({"user": ["u"], "items": [["i1"]]}), "histories/part.parquet")
    ran = [words[0] for words in commands()]
    assert set(ran) == {"export-model", "extend-bundle", "apply-delta", "recommend"}
    for words in commands():
        assert main([file if word == "saved/FILE.pth" else word for word in words]) == 0, (words, capsys.readouterr())
    assert Bundle.load("again").identity == Bundle.load("later").identity
    for made in ("lists.jsonl", "lists.parquet", "lists.csv", "lists/part.parquet", "graph/model.onnx"):
        assert Path(made).is_file()
