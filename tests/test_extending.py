"""docs/extending.md: what each kind of addition costs, and that its worked example works as the table says."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from conftest import OWN, SASREC, SMALL, SMALL_STUDENT, SMALL_TIGER, table_cells

from recbole_sid import cli, decoding, registry
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.decoding.full import full_search
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import read_per_user
from recbole_sid.identity import data_hash
from recbole_sid.quick_start import load_data_and_model, run_recbole_sid
from recbole_sid.semantic_ids.build import semantic_ids_for
from recbole_sid.semantic_ids.ready_made import read_semantic_ids, write_semantic_ids

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "extending"
GRU = {"d_model": 16, "epochs": 1, "train_batch_size": 32}


class Example(NamedTuple):
    """A row of the table."""

    kind: str
    file: str
    registration: str
    settings: str
    lines: int


def documented() -> list[Example]:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    rows = [row for row in table_cells(text) if len(row) == 5 and row[-1].isdigit()]
    bare = [[re.sub(r"\[(.*)\]\(.*\)|`(.*)`", r"\1\2", cell) for cell in row] for row in rows]
    return [Example(*row[:4], int(row[4])) for row in bare]


BY_KIND = {example.kind: example for example in documented()}


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return ``add(kind)``, which registers the example of a kind by the line of the table, and returns its name."""
    registries = {**vars(registry), "DECODERS": decoding.DECODERS, "COMMANDS": cli.COMMANDS}
    monkeypatch.syspath_prepend(EXAMPLES)

    def register(kind: str) -> str:
        found = re.fullmatch(r'([A-Z]+)\["(\w+)"\] = (.+)', BY_KIND[kind].registration)
        assert found is not None
        value: Any = found[3].strip('"')
        if value == found[3]:
            module, _, attribute = value.partition(".")
            value = getattr(importlib.import_module(module), attribute)
        monkeypatch.setitem(registries[found[1]], found[2], value)
        return found[2]

    return register


def install(folder: Path, **entries: list[str]) -> str:
    """Put the examples into `folder` as pip would, with entry points by group; return the folder."""
    metadata = folder / "mine-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    parts = ["\n".join([f"[recbole_sid.{group}]", *lines]) for group, lines in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join(parts), encoding="utf-8")
    for file in EXAMPLES.glob("*.py"):
        (folder / file.name).write_bytes(file.read_bytes())
    return str(folder.resolve())


def test_every_kind_has_one_example_and_every_example_its_row() -> None:
    assert len(BY_KIND) == len(documented()) == 9
    assert sorted(example.file for example in documented()) == sorted(file.name for file in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("example", documented(), ids=lambda example: example.file)
def test_the_counted_cost_is_the_true_one(example: Example) -> None:
    text = (EXAMPLES / example.file).read_text(encoding="utf-8")
    assert len(text.splitlines()) == example.lines
    tree = ast.parse(text)
    imports = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {file.stem for file in EXAMPLES.glob("*.py")}
    assert not names & {module.partition(".")[0] for module in imports}  # one file
    assert "registry" not in text.replace("formats.registered", "")  # it registers nothing else by itself
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    settings = [node.name for node in classes if any("Settings" in ast.unparse(base) for base in node.bases)]
    assert settings == ([] if example.settings == "none" else [example.settings])


def test_tokenizer(add: Callable[..., str], prepare: Callable[..., Any]) -> None:
    name = add("tokenizer")
    found = {}
    for cuts in ("even", "wide"):
        config, train, _, _ = prepare("TIGER", tokenizer=name, axis_cuts=cuts)
        semantic_ids = semantic_ids_for(config, train._dataset)
        assert semantic_ids.codebook_sizes[:2] == (5, 3)
        found[cuts] = semantic_ids.table(train._dataset.item_tokens())
    assert not np.array_equal(found["even"], found["wide"])  # the key is part of the lineage
    counts = np.bincount(found["even"][1:, 0], minlength=5)
    assert counts.min() >= 3  # of 30 items
    with pytest.raises(InputError, match=r"axis_cuts='x' .* one of even, wide"):
        prepare("TIGER", tokenizer=name, axis_cuts="x")
    with pytest.raises(InputError, match="give axis_cuts fewer levels"):
        prepare("TIGER", tokenizer=name, codebook_sizes=[2] * 9)


def test_feature_with_a_file(add: Callable[..., str], prepare: Callable[..., Any], tmp_path: Path) -> None:
    name, file = add("feature with a file"), tmp_path / "prices.csv"

    def codes(factor: int, place: Path = file) -> tuple[np.ndarray, str]:
        place.write_text("\n".join(f"i{number},{number * factor % 31}" for number in range(30)), encoding="utf-8")
        config, train, _, _ = prepare("TIGER", features=[name], price_file=str(place))
        return semantic_ids_for(config, train._dataset).table(train._dataset.item_tokens()), data_hash(config)

    first, of_first = codes(1)
    other, of_other = codes(7)
    assert not np.array_equal(first, other)
    assert of_first != of_other
    again, of_again = codes(1, tmp_path / "moved.csv")  # what the file holds counts, not where it lies
    assert np.array_equal(first, again)
    assert of_again == of_first
    file.write_text("i0,1", encoding="utf-8")
    with pytest.raises(InputError, match=r"has no price of 29 items \(for example 'i"):
        prepare("TIGER", features=[name], price_file=str(file))
    with pytest.raises(InputError, match="needs price_file"):
        prepare("TIGER", features=[name])


def test_teacher_and_a_student_of_it(add: Callable[..., str], data_path: Path) -> None:
    name = add("teacher")
    common = {**SMALL, "data_path": str(data_path)}
    taught = run_recbole_sid(name, "tiny", config_dict={**common, **GRU})
    _, model, *_ = load_data_and_model(taught["model_file"])
    assert type(model).__name__ == name
    settings = {**common, **SMALL_STUDENT, "epochs": 1, "teacher_model": name, "teacher_config": GRU}
    student = run_recbole_sid("SIDMLP", "tiny", config_dict=settings)
    assert student["teacher_file"] == taught["model_file"]  # reused, as it is the same run
    assert student["test_result"]["ndcg@10"] >= 0
    with pytest.raises(InputError, match="input_dropout=1 must be a number of at least 0 and below 1"):
        Config(name, "tiny", config_dict={"input_dropout": 1})


def test_a_teachers_scorer_says_what_it_teaches(add: Callable[..., str], prepare: Callable[..., Any]) -> None:
    for kind, settings in (("teacher", GRU), ("student", {})):
        config = prepare("SIDMLP" if kind == "student" else "TIGER")[0]
        given = {**SMALL, **settings, "data_path": str(Path(config["data_path"]).parent)}
        if kind == "student":
            given |= {"teacher_config": SMALL_STUDENT["teacher_config"]}
        config = Config(add(kind), "tiny", config_dict=given)
        _check_scores(config)


def _check_scores(config: Config) -> None:
    """The scores of all items by prefixes equal those of their true codes, read in one go."""
    train, _, test = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train._dataset).eval()
    interaction = next(iter(test))[0]
    table = model.full_sort_predict(interaction).view(len(interaction), -1)
    for item in (1, 7, 30):
        interaction.interaction[model.ITEM_ID] = torch.full((len(interaction),), item)
        torch.testing.assert_close(model.predict(interaction), table[:, item], rtol=1e-4, atol=1e-5)


def test_student(add: Callable[..., str], data_path: Path) -> None:
    name = add("student")
    settings = {**SMALL, "data_path": str(data_path), "teacher_config": SMALL_STUDENT["teacher_config"]}
    result = run_recbole_sid(name, "tiny", config_dict=settings)
    _, model, *_ = load_data_and_model(result["model_file"])
    assert model.prefix_weight == 1.0
    assert result["parameters"] > 0
    other = Config(name, "tiny", config_dict={**settings, "prefix_weight": 0.5})
    assert other.fingerprint() != Config(name, "tiny", config_dict=settings).fingerprint()


def test_decoder_of_a_student_and_of_tiger(add: Callable[..., str], trained: dict[str, str]) -> None:
    name = add("decoder")
    for file in (trained["TIGER"], trained["SIDMLP"]):
        changes = {"decoding": name, "constrained": True} if "TIGER" in Path(file).name else {"decoding": name}
        config, model, _, _, _, test = load_data_and_model(file, changes)
        assert config["decoding"] == name
        tokens = model.history_tokens(next(iter(test))[0])
        with torch.no_grad():
            leaves, scores = model.rank(tokens)
            true_leaves, true_scores = full_search(model.scorer(model.encode(tokens)), model.trie, 10, "children")
        torch.testing.assert_close(scores, true_scores, rtol=1e-4, atol=1e-5)
        apart = (true_scores.diff(dim=1).abs() > 1e-4).all(1)  # of equal scores, either may be first
        assert apart.any()
        assert torch.equal(leaves[apart], true_leaves[apart])


def test_metric_and_breakdown_in_the_tables_of_compare(
    add: Callable[..., str], data_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, by = add("metric"), add("breakdown")
    monkeypatch.syspath_prepend(install(Path("site"), metrics=["RBP = rank_biased:RankBiased"]))  # for its processes
    plain = {key: value for key, value in SMALL.items() if key not in OWN}
    plan = {
        "dataset": "tiny",
        "settings": {"data_path": str(data_path), "metrics": ["NDCG", name], "topk": [5, 10], "rbp_persistence": 0.5},
        "models": {"SASRec": {**plain, **SASREC}, "TIGER": {**SMALL, **SMALL_TIGER}},
    }
    Path("plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    assert cli.main(["compare", "--plan=plan.yaml", "--output=out"]) == 0
    heading, *rows = table_cells(capsys.readouterr().out)
    assert "rbp@5" in heading
    assert "rbp@10" in heading
    found = {row[0]: dict(zip(heading, row, strict=True)) for row in rows if len(row) == len(heading)}
    for model in ("SASRec", "TIGER"):
        file = next(Path("out/runs").glob(f"{model}-*/per_user.parquet"))
        ranks = read_per_user(file)["rank"].to_numpy()
        expected = np.where((ranks > 0) & (ranks <= 10), 0.5 * 0.5 ** (ranks - 1.0), 0).mean()
        assert float(found[model]["rbp@10"]) == pytest.approx(expected, abs=1e-4)

    breakdown = [row for row in rows if row[0] == by]
    assert [row[1:3] for row in breakdown] == [["7 Sunday", "40"]]  # 1,600,000,000 is 13 September 2020


def test_metrics_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.METRICS, "Recall", "recbole.evaluator.metrics:Recall")
    Config("Pop", "tiny")  # the same one
    monkeypatch.setitem(registry.METRICS, "Recall", "recbole_sid.util.files:replacing")
    with pytest.raises(InputError, match="metric 'Recall' is RecBole's"):
        Config("Pop", "tiny")
    monkeypatch.delitem(registry.METRICS, "Recall")
    monkeypatch.setitem(registry.METRICS, "Mine", "recbole_sid.util.files:replacing")
    with pytest.raises(InputError, match="metric 'Mine' must be a subclass of RecBole's"):
        Config("Pop", "tiny")


def test_command(add: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    name = add("command")
    Path("ids.json").write_text('{"a": [0, 1], "b": [1, 1], "c": [0, 2]}', encoding="utf-8")
    assert cli.main(["--help"]) == 0
    assert f"\n    {name} " in capsys.readouterr().out
    assert cli.main([name, "--help"]) == 0
    assert "--levels" in capsys.readouterr().out
    assert cli.main([name, "ids.json", "--item=a"]) == 0
    assert capsys.readouterr().out.splitlines() == ["a 0 1", "c 0 2"]
    assert cli.main([name, "ids.json", "--item=a", "--levels=2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["a 0 1"]
    assert cli.main([name, "ids.json", "--item=d"]) == 2
    assert "--item=d has no semantic ID" in capsys.readouterr().err


def test_format(add: Callable[..., str]) -> None:
    add("format of semantic IDs")
    Path("ids.json").write_text('{"a": [0, 1], "b": [1, 1]}', encoding="utf-8")
    write_semantic_ids(read_semantic_ids("ids.json"), "x.sid.txt")
    assert Path("x.sid.txt").read_text(encoding="utf-8") == "a;0;1\nb;1;1\n"
    assert read_semantic_ids("x.sid.txt", ["b", "a"]).codes.tolist() == [[1, 1], [0, 1]]


def test_a_package_of_ones_own_needs_no_change_here(data_path: Path, tmp_path: Path) -> None:
    entries = {
        "models": ["GRUTeacher = gru_teacher:GRUTeacher", "TIGER = gru_teacher:GRUTeacher"],
        "commands": ["find = find_items:FIND"],
        "decoders": ["margin = margin_search:margin_search"],
    }
    installed = install(tmp_path / "site", **entries)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        paths = {**os.environ, "PYTHONPATH": f"{installed}:{ROOT}"}
        command = [sys.executable, "-m", "recbole_sid", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=paths, check=False)

    listed = run("--help")
    assert "\n    find " in listed.stdout
    assert "mine has a 'TIGER' among its models: that name is taken." in listed.stderr
    keys = run("run", "--model=GRUTeacher", "--help").stdout
    assert "--input_dropout=0.1" in keys
    assert "--beam_size=50" in keys
    settings = {**SMALL, **GRU, "data_path": str(data_path), "decoding": "margin"}
    words = [f"--{key}={value}" for key, value in settings.items()]
    done = run("run", "--model=GRUTeacher", "--dataset=tiny", *words)
    assert done.returncode == 0, done.stderr
    assert "GRUTeacher" in done.stdout


def test_what_cannot_be_imported_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TOKENIZERS, "lost", "no_such_module:Tokenizer")
    with pytest.raises(
        InputError, match=r"tokenizer 'lost' \(no_such_module:Tokenizer\) cannot be imported \(ModuleNot"
    ):
        Config("TIGER", "tiny", config_dict={"tokenizer": "lost"})
