"""The code in README.md and docs/ runs as it stands there, in order, on data small enough for seconds."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import recbole
from conftest import SASREC, SETTINGS, SMALL
from documentation import LANGUAGES, PAGES, ROOT, Block, blocks, run_block

import recbole_sid.api
from recbole_sid.comparison.runner import run_job_quietly, run_jobs
from recbole_sid.config import Config
from recbole_sid.quick_start import run_recbole_sid
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.serving.bundle import Bundle

N_USERS, N_LAST = 40, 8
NAMED = {"items": ("B00A", "B00B", "B00C", "B00X", "A", "B"), "users": ("u1", "u2")}  # what the pages speak of
KEPT = {"items": ("50", "181"), "users": ("196",)}
TEXTS = {"features": ["text"], "text_fields": ["title"], "text_dim": 4, "rank_size": 30}
TRAINED = {"SIDMLPHybrid": {**TEXTS, "memory": "transitions"}, "TIGER": {}, "SASRec": {}}
SHORT = {"epochs": 1, "encoder_epochs": 1, "joint_epochs": 1, "distill_cache": "none", "compiled": False}
EXAMPLES = sorted((ROOT / "examples" / "notebooks").glob("*.py"))


def of_language(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in LANGUAGES]


RUN = {page.relative_to(ROOT).as_posix(): page for page in PAGES if any(not b.why_not for b in of_language(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_block_says_what_it_is(page: Path) -> None:
    """Blocks of commands and of Python are fenced and named, so that none is passed over by the test below."""
    assert [block.line for block in blocks(page) if not block.language] == []
    lines = page.read_text(encoding="utf-8").splitlines()
    starts = ("recbole-sid ", "python ", "pip ", "from ", "import ")
    assert [line for line in lines if line.startswith("    ") and line.strip().startswith(starts)] == []
    assert [block.line for block in blocks(page) if block.why_not and block.language not in LANGUAGES] == []


def named(tokens: pd.Series, kind: str) -> pd.Series:
    """Return tokens of which some frequent ones have the names that the pages use."""
    frequent = [token for token in tokens.value_counts().index if token not in KEPT[kind]]
    return tokens.replace(dict(zip(frequent, NAMED[kind], strict=False)))


def write_data(folder: Path) -> None:
    """Write a part of ml-100k under its own name, and under the others that the pages use."""
    shipped = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    rows = pd.read_csv(shipped, sep="\t", dtype=str)
    rows.columns = [column.partition(":")[0] for column in rows.columns]
    users = [*KEPT["users"], *(user for user in rows.user_id.unique() if user not in KEPT["users"])][:N_USERS]
    rows = rows[rows.user_id.isin(users)].sort_values("timestamp", key=lambda times: times.astype(float))
    rows = rows[rows.item_id.isin(rows.item_id.value_counts().index[:80])].groupby("user_id").tail(N_LAST)
    rows["user_id"], rows["item_id"] = named(rows.user_id, "users"), named(rows.item_id, "items")
    assert set(KEPT["items"]) | set(NAMED["items"]) <= set(rows.item_id)
    rows.columns = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    items = pd.DataFrame({"item_id:token": sorted(set(rows["item_id:token"]))})
    words = np.array(["red", "green", "blue", "round", "square", "tiny", "large"])
    number = np.arange(len(items))
    texts = pd.Series(words[number % 7]) + " " + pd.Series(words[number % 5]) + " thing"
    for field in ("title", "movie_title", "class"):
        items[f"{field}:token_seq"] = texts
    for name in ("dataset/ml-100k", "DIR/NAME", "DIR/beauty"):
        target = folder / name
        target.mkdir(parents=True)
        rows.to_csv(target / f"{target.name}.inter", sep="\t", index=False)
        items.to_csv(target / f"{target.name}.item", sep="\t", index=False)


def quickened(patch: pytest.MonkeyPatch) -> None:
    """Make the defaults of every model small, below what a page sets, and let compare train in this process."""
    load = Config._load_internal_config_dict

    def small(config: Config, model: str, model_class: type, dataset: str) -> None:
        load(config, model, model_class, dataset)
        own = {**SMALL, **SASREC, **SETTINGS.get(model, {}), **SHORT}
        defaults = config.internal_config_dict
        defaults.update({key: value for key, value in own.items() if key in defaults or key in ("use_gpu", "state")})

    patch.setattr(Config, "_load_internal_config_dict", small)
    patch.setattr(recbole_sid.api, "run_jobs", partial(run_jobs, execute=run_job_quietly))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, checkpoints and the other files that the pages name."""
    folder = tmp_path_factory.mktemp("pages")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quickened(patch)
        for model, changes in TRAINED.items():
            result = run_recbole_sid(model, "ml-100k", config_dict=changes)
            if model == "SIDMLPHybrid":
                shutil.copy(str(result["model_file"]), "saved/FILE.pth")
        found = next(Path("saved/semantic_ids").glob("*.npz"))
        ids = SemanticIDs.load(found)
        for copied in ("saved/semantic_ids/FILE.npz", "FILE.npz"):
            shutil.copy(found, copied)
    by_item = dict(zip(ids.item_tokens.tolist(), ids.codes.tolist(), strict=True))
    write_files(folder, {"FILE.json": json.dumps(by_item)})
    return folder


def write_files(folder: Path, more: dict[str, str]) -> None:
    histories = pd.DataFrame({"user": ["u"], "items": [["50", "181"]]})
    (folder / "histories").mkdir()
    histories.to_parquet(folder / "histories" / "part.parquet")
    bought = pd.DataFrame({"customer": ["a", "a"], "sku": ["x", "y"], "bought_at": ["2023-01-01", "2023-02-01"]})
    for year in (2023, 2024):
        bought.to_parquet(folder / f"{year}.parquet")
    files = {
        "my.yaml": "learning_rate: 0.002\n",
        "new.csv": "item_id,title\nnew,red thing\n",
        "users.jsonl": '{"user": "u", "items": ["50", "181"]}\n',
        "users.csv": "user,items\nu,50 181\n",
        "in_stock.txt": "B00A\nB00B\n",
        "products.csv": "sku,name,brand\nx,pen,us\ny,ink,us\n",
        **more,
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is prepared, as the current folder."""
    folder = tmp_path / "page"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    quickened(monkeypatch)
    return folder


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_the_page_runs(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "docs/serving.md":
        pytest.importorskip("numba")
    sequences = [np.array([1, 2, 3]), np.array([2, 3, 4])]
    names: dict[str, Any] = {"train_sequences": sequences, "histories": sequences, "targets": np.array([4, 1])}
    for block in of_language(RUN[name]):
        if not block.why_not:
            run_block(block, names)
    if name == "docs/serving.md":
        assert Bundle.load("again").identity == Bundle.load("later").identity
        for made in ("lists.jsonl", "lists.parquet", "lists.csv", "lists/part.parquet"):
            assert Path(made).is_file()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_example_runs(file: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_example_is_a_notebook(file: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    notebook = jupytext.read(file)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.cells[0].cell_type == "markdown"  # not the head, unread
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            compile(cell.source, file.name, "exec")
    again = jupytext.reads(jupytext.writes(notebook, fmt="ipynb"), fmt="ipynb")
    assert [cell.source for cell in again.cells] == [cell.source for cell in notebook.cells]


def test_the_page_of_examples_names_them_all() -> None:
    assert len(EXAMPLES) == 5
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    for file in EXAMPLES:
        assert f"(../examples/notebooks/{file.name})" in text
        cells = file.read_text(encoding="utf-8").split("\n# %%")[1:]  # jupytext's percent format
        assert {cell.startswith(" [markdown]") for cell in cells} == {True, False}


def test_the_figures_of_the_concepts_are_drawn(tmp_path: Path) -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "figures" / "draw.py"))
    drawn["main"](tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {file.name for file in (ROOT / "docs" / "figures").glob("*.svg")}
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "concepts").glob("*.md")]
    assert names == {name for page in pages for name in re.findall(r"\(\.\./figures/(\w+\.svg)\)", page)}
