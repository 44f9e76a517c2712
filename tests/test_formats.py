"""Semantic IDs in others' files: every format there and back, what is refused, and what a run makes of them."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_sid.cli import main
from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError
from recbole_sid.registry import FORMATS
from recbole_sid.semantic_ids.formats.code_table import ends_in_rank
from recbole_sid.semantic_ids.formats.registered import format_of
from recbole_sid.semantic_ids.ready_made import read_semantic_ids, write_semantic_ids

# The last level is a rank: 0, 1, 2 within (0, 1), and 0 elsewhere.
CODES = [[0, 1, 1], [3, 0, 0], [0, 1, 0], [2, 2, 0], [0, 1, 2]]
NAMES = ["B00", "NA", "007", "i 4", "é"]
NUMBERS = ["3", "0", "4", "1", "2"]
FILES = ["x.json", "x.index.json", "x.sem_ids", "x.pt", "x.csv", "x.tsv", "x.parquet", "x.npz"]


def ids(tokens: list[str] = NAMES) -> SemanticIDs:
    return SemanticIDs(np.array(CODES), (4, 3, 3), np.array(tokens), {})


def write_json(content: Any, name: str = "x.json") -> str:
    Path(name).write_text(json.dumps(content), encoding="utf-8")
    return name


def test_every_format_is_tried_here() -> None:
    assert {format_of(file) for file in FILES} == {*FORMATS, "npz"}


LINES = """
from recbole_sid.semantic_ids.formats.code_table import Format, code_table
import numpy as np

def read(path):
    rows = [line.split(";") for line in open(path, encoding="utf-8").read().splitlines()]
    return code_table(np.array([row[0] for row in rows]), np.array([row[1:] for row in rows], dtype=np.int64), path)

def write(semantic_ids, path):
    rows = zip(semantic_ids.item_tokens.tolist(), semantic_ids.codes.tolist(), strict=True)
    open(path, "w", encoding="utf-8").writelines(";".join([item, *map(str, codes)]) + "\\n" for item, codes in rows)

LINES = Format(read, write, (".lines.json",))
"""


def test_a_format_is_a_file_and_a_line_in_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_lines.py").write_text(LINES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FORMATS, "lines", "my_lines:LINES")
    write_semantic_ids(ids(), "x.lines.json")  # of two endings that fit, the longer one counts
    assert Path("x.lines.json").read_text(encoding="utf-8").startswith("B00;0;1;1\nNA;3;0;0\n")
    assert read_semantic_ids("x.lines.json", NAMES).codes.tolist() == CODES
    with pytest.raises(InputError, match=r"name the file .*\*\.lines\.json"):
        format_of("x.txt")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("tokens", [NAMES, NUMBERS], ids=["names", "numbers"])
def test_there_and_back(file: str, tokens: list[str]) -> None:
    written = write_semantic_ids(ids(tokens), file)
    numbering = written[1] if len(written) > 1 else None
    assert (numbering is not None) == (tokens is NAMES and file in ("x.index.json", "x.pt"))
    back = read_semantic_ids(file, tokens, numbering=numbering)
    assert back.codes.tolist() == CODES
    assert back.item_tokens.tolist() == tokens
    assert back.codebook_sizes == (4, 3, 3)
    assert back.fingerprint == ids(tokens).fingerprint


@pytest.mark.parametrize("file", FILES)
def test_rows_follow_the_dataset(file: str) -> None:
    write_semantic_ids(ids(NUMBERS), file)
    asked = ["1", "4", "0", "2", "3"]
    table = read_semantic_ids(file, asked).table(asked)
    assert table[1:].tolist() == [CODES[NUMBERS.index(token)] for token in asked]


def test_what_the_files_look_like() -> None:
    for file in ("x.json", "x.index.json", "x.sem_ids", "x.pt", "x.csv"):
        write_semantic_ids(ids(NUMBERS), file)
    content = {file: json.loads(Path(file).read_text()) for file in ("x.json", "x.index.json", "x.sem_ids")}
    assert content["x.json"]["3"] == [0, 1, 1]
    assert content["x.index.json"]["3"] == ["<a_0>", "<b_1>", "<c_1>"]
    assert content["x.sem_ids"]["3"] == [0, 1, 2]  # the rank counts from 1
    tensor = torch.load("x.pt", weights_only=True)
    assert tensor.shape == (3, 5)
    assert tensor[:, 3].tolist() == [0, 1, 1]
    assert Path("x.csv").read_text().splitlines()[:2] == ["item_id,code_1,code_2,code_3", "3,0,1,1"]


def test_numbered_items_are_named_by_a_file() -> None:
    torch.save(torch.tensor(CODES).T, "x.pt")
    Path("names.txt").write_text("a\nb\nc\nd\ne\n")
    back = read_semantic_ids("x.pt", ["e", "a"], numbering="names.txt")
    assert back.codes.tolist() == [CODES[4], CODES[0]]
    Path("names.txt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match=r"names\.txt' has 3 lines, none for 2 items of 'x\.pt' \(for example '3'\)"):
        read_semantic_ids("x.pt", ["a"], numbering="names.txt")
    Path("names.txt").write_text("a\nb\nc\nd\na\n")
    with pytest.raises(InputError, match="names an item twice"):
        read_semantic_ids("x.pt", ["a"], numbering="names.txt")


def test_a_table_may_have_any_column_names_and_number_types() -> None:
    pd.DataFrame({"asin": ["a", "b"], "l0": [1.0, 2.0], "l1": np.array([5, 6], np.int8)}).to_parquet("x.parquet")
    back = read_semantic_ids("x.parquet")
    assert (back.item_tokens.tolist(), back.codes.tolist()) == (["a", "b"], [[1, 5], [2, 6]])


RAGGED = {"a": [5, 6, 7], "b": [5, 6, 7, 2], "c": [5, 6, 7, 3], "d": [1, 2, 3]}


@pytest.mark.parametrize("file", ["x.json", "x.csv"])
def test_shorter_semantic_ids_are_filled_up_with_a_code_of_its_own(file: str, caplog: pytest.LogCaptureFixture) -> None:
    if file == "x.json":
        write_json(RAGGED)
    else:
        Path(file).write_text("item_id,a,b,c,d\na,5,6,7,\nb,5,6,7,2\nc,5,6,7,3\nd,1,2,3,\n")
    back = read_semantic_ids(file)
    assert back.codes.tolist() == [[5, 6, 7, 4], [5, 6, 7, 2], [5, 6, 7, 3], [1, 2, 3, 4]]
    assert back.codebook_sizes == (6, 7, 8, 5)
    assert back.recipe["padded_levels"] == [4]
    assert "2 of 4 semantic IDs in" in caplog.text
    assert "(4 at level 4)" in caplog.text
    assert read_semantic_ids(file, codebook_sizes=[8, 8, 8, 8]).codes[0].tolist() == [5, 6, 7, 8]


def test_codebook_sizes_are_inferred_or_given() -> None:
    write_json({"a": [0, 900], "b": [3, 7]})
    assert read_semantic_ids("x.json").codebook_sizes == (4, 901)
    assert read_semantic_ids("x.json", codebook_sizes=[16, 1024]).codebook_sizes == (16, 1024)
    with pytest.raises(InputError, match="has code 900 at level 2, where codebook_sizes says 256: codes count from 0"):
        read_semantic_ids("x.json", codebook_sizes=[256, 256])
    with pytest.raises(InputError, match=r"codebook_sizes=\[256\] names 1 levels, 'x\.json' has 2"):
        read_semantic_ids("x.json", codebook_sizes=[256])


def test_equal_codes_are_ranked_or_kept(caplog: pytest.LogCaptureFixture) -> None:
    write_json({"a": [1, 2], "b": [0, 0], "c": [1, 2], "d": [1, 2]})
    ranked = read_semantic_ids("x.json", ["b", "d", "a", "c"], collision="rank", rank_size=4)
    assert ranked.codes.tolist() == [[0, 0, 0], [1, 2, 0], [1, 2, 1], [1, 2, 2]]
    assert ranked.codebook_sizes == (2, 3, 4)
    assert "3 items in 'x.json' share their codes with another item: collision=rank tells them apart" in caplog.text
    kept = read_semantic_ids("x.json", ["b", "d", "a", "c"], collision="keep", popularity=np.array([9, 1, 3, 2]))
    assert kept.codes.tolist() == [[0, 0], [1, 2], [1, 2], [1, 2]]
    assert kept.trie.item.tolist() == [0, 2, 3, 1]  # within the leaf by popularity
    assert kept.recipe["before_collision_rule"] == {"collided_items": 3, "groups": 1, "largest_group": 3}
    with pytest.raises(InputError, match="ready-made semantic IDs lack: use collision=rank or"):
        read_semantic_ids("x.json", collision="nearest")


def test_unique_semantic_ids_get_no_further_level() -> None:
    write_json(dict(zip(NAMES, CODES, strict=True)))
    read = read_semantic_ids("x.json", collision="rank")
    assert read.codes.shape == (5, 3)
    assert read.recipe["collision"] == "rank"  # that is what their last level is


def test_both_directions_of_a_mismatch_are_counted_with_examples(caplog: pytest.LogCaptureFixture) -> None:
    write_json(dict(zip(NAMES, CODES, strict=True)))
    pattern = (
        r"2 of the dataset's 4 items have no semantic ID \(for example 'x1', 'x2'\), and "
        r"3 semantic IDs in 'x\.json' are of no item of the dataset \(for example '007', 'i 4', 'é'\): use semantic"
    )
    with pytest.raises(InputError, match=pattern):
        read_semantic_ids("x.json", ["B00", "x1", "NA", "x2"])
    assert read_semantic_ids("x.json", ["B00", "NA"]).codes.tolist() == CODES[:2]
    assert "3 semantic IDs in 'x.json' are of no item of the dataset" in caplog.text


def test_codes_without_their_item_do_not_count_as_collisions() -> None:
    write_json({"a": [1], "b": [2], "gone": [1]})
    assert read_semantic_ids("x.json", ["a", "b"], collision="rank").codes.tolist() == [[1], [2]]


WRONG: list[tuple[str, Any, str]] = [
    ("x.json", "[1, 2]", "one JSON object"),
    ("x.json", "{}", "at least one item"),
    ("x.json", "{", "is no JSON file"),
    ("x.json", '{"a": 3}', "a list of codes"),
    ("x.json", '{"a": []}', "without any code"),
    ("x.json", '{"a": [[1], [2]]}', "nests lists"),
    ("x.json", '{"a": [1, [2]]}', "nests lists"),
    ("x.json", '{"a": [1, {"b": 2}]}', "has an object among an item's codes"),
    ("x.json", '{"a": [1.5, 2]}', "no whole numbers"),
    ("x.json", '{"a": [true]}', "has true or false among its codes"),
    ("x.json", '{"a": [1, true], "b": [0, 2]}', "has true or false among its codes"),
    ("x.json", '{"a": [1, null]}', "has null among its codes"),
    ("x.json", '{"a": ["12", "3"]}', r'codes in quotes, as in "12": write numbers, as in \[12, 3, 7\]'),
    ("x.json", '{"a": [12, "3"]}', "has some codes in quotes and others not"),
    ("x.json", '{"a": [1], "b": [-2]}', "holds the code -2"),
    ("x.json", '{"a": [16777216]}', "holds the code 16777216, where levels have at most 16,777,216 codes"),
    ("x.json", '{"a": [18446744073709551615]}', "holds the code 18446744073709551615, where"),
    ("x.json", f'{{"a": [1{"0" * 40}]}}', f"holds the code 1{'0' * 40}, where"),
    ("x.json", f'{{"a": [1{"0" * 5000}]}}', "is no JSON file"),
    ("x.index.json", '{"a": ["<a_99999999999>"]}', "holds the code 99999999999, where"),
    ("x.json", '{"a": [1], "b": [2], "a": [3]}', "names 1 items twice .for example 'a'"),
    ("x.index.json", '{"0": ["<a_1>", "<c_2>"]}', "has '<c_2>' at level 2, where index files have <b_NUMBER>"),
    ("x.index.json", '{"0": ["<a_1>", "b2"]}', "has 'b2' at level 2"),
    ("x.sem_ids", '{"a": [1, 0], "b": [1, 1]}', "rank 0 in its last level"),
    ("x.sem_ids", '{"a": [1], "b": [1, 1]}', "different numbers of codes"),
    ("x.csv", "item_id,a,b\nx,1,\ny,,2\n", "an empty cell before an item's last code"),
    ("x.csv", "item_id,a,b\nx,1,red\n", "has 'red' in column 'b'"),
    ("x.csv", "item_id,a\nx,1.5\n", "has '1.5' in column 'a'"),
    ("x.csv", "item_id,a\nx,true\n", "has 'True' in column 'a'"),
    ("x.csv", "item_id,a,b\nx,1,true\ny,2,\n", "has 'True' in column 'b'"),
    ("x.csv", "item_id,a\nx,1e300\n", "holds the code 10+[0-9]*, where levels"),
    ("x.csv", "item_id\nx\n", "one column per level"),
    ("x.csv", "item_id,a\n", "holds no item"),
    ("x.csv", "item_id,a\nx,1\nx,2\n", "names 1 items twice"),
    ("x.parquet", "no parquet", "is no Parquet table"),
    ("x.pt", "no tensor", "no tensor that torch loads"),
    ("x.pt", torch.zeros(2, 3), "one tensor of whole numbers"),
    ("x.pt", {"weight": torch.zeros(2, 3)}, "--model=TIGER"),
    ("x.pt", torch.zeros(3, 2, dtype=torch.int64), r"shape \(3, 2\): it must be \[levels, items\]"),
    ("x.pt", torch.tensor([[0, 1, -1]]), "holds the code -1"),
    ("x.pt", torch.tensor([[0, 1, 1 << 24]]), "holds the code 16777216"),
    ("x.pt", torch.tensor([[True, False]]), "one tensor of whole numbers"),
    ("x.npz", "no archive", "is not a semantic-ID file"),
    ("x.txt", "?", "ending of 'x.txt' names no format"),
]


@pytest.mark.parametrize(("file", "content", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_damaged_files_are_refused(file: str, content: Any, message: str) -> None:
    if isinstance(content, str):
        Path(file).write_text(content, encoding="utf-8")
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=message):
        read_semantic_ids(file)


def test_the_largest_size_can_be_read() -> None:
    write_json({"a": [(1 << 24) - 1]})
    assert read_semantic_ids("x.json").codebook_sizes == (1 << 24,)
    with pytest.raises(InputError, match=r"codebook_sizes=\[16777217\] must be at most 16,777,216 each"):
        read_semantic_ids("x.json", codebook_sizes=[(1 << 24) + 1])


def test_advice_to_load_files_unsafely_is_not_passed_on() -> None:
    torch.save({"a": types.SimpleNamespace(x=1)}, "x.pt")
    np.savez("x.npz", codes=np.array([types.SimpleNamespace(x=1)], dtype=object))
    for file in ("x.pt", "x.npz"):
        with pytest.raises(InputError, match=f"'{file}' is .* holds Python objects, which can run code") as raised:
            read_semantic_ids(file)
        assert not re.search("weights_only|allow_pickle|unsafe|trust", str(raised.value))
        assert len(str(raised.value).splitlines()) == 1


def test_sizes_that_codes_do_not_show_are_named_on_export(caplog: pytest.LogCaptureFixture) -> None:
    write_semantic_ids(ids(), "exact.csv")
    assert "codebook sizes" not in caplog.text
    roomy = SemanticIDs(np.array(CODES), (4, 3, 50), np.array(NAMES), {})
    write_semantic_ids(roomy, "x.npz")
    assert "codebook sizes" not in caplog.text
    write_semantic_ids(roomy, "x.csv")
    assert "by its codes they are [4, 3, 3]: import it with --codebook_sizes=[4,3,50] to have" in caplog.text
    assert read_semantic_ids("x.csv", codebook_sizes=[4, 3, 50]).fingerprint == roomy.fingerprint


def test_item_numbers_that_are_taken_for_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    write_json({str(item): codes for item, codes in enumerate(CODES)})
    read_semantic_ids("x.json", NUMBERS)
    assert "'x.json' numbers its items 0 to 4, which are taken for the dataset's item tokens" in caplog.text
    caplog.clear()
    Path("names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    read_semantic_ids("x.json", NAMES, numbering="names.txt")
    write_json({str(item): codes for item, codes in enumerate(CODES, start=1)})
    read_semantic_ids("x.json", ["1", "2"])
    assert "numbers its items" not in caplog.text


def test_an_unknown_format_leaves_earlier_files_alone() -> None:
    numbered = SemanticIDs(np.array([[0, 1], [1, 0]]), (2, 2), np.array(["a", "b"]))
    files = write_semantic_ids(numbered, "x.pt")
    with pytest.raises(InputError, match="Unknown format 'tensors'"):
        write_semantic_ids(numbered, "x.pt", "tensors")
    assert [file.name for file in files if file.is_file()] == ["x.pt", "x.pt.items.txt"]


def test_what_a_format_cannot_hold_is_refused() -> None:
    plain = SemanticIDs(np.array([[0, 1], [1, 1]]), (2, 2), np.array(["a", "b"]))
    with pytest.raises(InputError, match="ends in a collision rank"):
        write_semantic_ids(plain, "x.sem_ids")
    with pytest.raises(InputError, match="27 levels are too many"):
        write_semantic_ids(SemanticIDs(np.zeros((1, 27), int), (1,) * 27, np.array(["a"])), "x.index.json")
    with pytest.raises(InputError, match=r"Unknown format 'jsn' \(did you mean 'json'"):
        write_semantic_ids(plain, "x.json", "jsn")
    with pytest.raises(InputError, match=r"Unknown format 'numpy'.*; known: csv, index, json, npz, parquet, sem_ids"):
        write_semantic_ids(plain, "x.json", "numpy")
    assert not list(Path().glob("x.*"))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (CODES, True),
        ([[0, 1], [0, 2]], False),
        ([[0, 0], [0, 0]], False),
        ([[0, 0], [1, 0]], True),
        ([[0], [1]], False),
    ],
)
def test_a_rank_level_is_recognised(codes: list[list[int]], expected: bool) -> None:
    assert ends_in_rank(np.array(codes)) is expected


@pytest.fixture
def catalogue() -> dict[str, list[int]]:
    """Codes of the tiny dataset's items, two pairs of which collide, and of one item that it does not have."""
    codes = {f"i{item}": [item % 5, item // 5] for item in range(31)}
    codes["i7"], codes["i11"] = codes["i6"], codes["i10"]
    return codes


@pytest.mark.parametrize("model", ["TIGER", "SIDMLP"])
def test_runs_take_files_of_others(
    prepare: Callable[..., Any], catalogue: dict[str, list[int]], caplog: pytest.LogCaptureFixture, model: str
) -> None:
    _, train, _, _ = prepare(model, semantic_ids_path=write_json(catalogue))
    semantic_ids = train._dataset.semantic_ids
    assert semantic_ids.codebook_sizes == (5, 6, 2)
    assert semantic_ids.item_tokens.tolist() == train._dataset.item_tokens().tolist()
    assert all(
        codes[:2] == catalogue[item]
        for item, codes in zip(semantic_ids.item_tokens, semantic_ids.codes.tolist(), strict=True)
    )
    assert "1 semantic IDs in 'x.json' are of no item of the dataset (for example 'i30')" in caplog.text
    assert "of the items share their codes with another before the collision rule" in caplog.text


def test_runs_refuse_files_that_leave_out_items(prepare: Callable[..., Any], catalogue: dict[str, list[int]]) -> None:
    del catalogue["i3"]
    with pytest.raises(
        InputError, match=r"1 of the dataset's 30 items have no semantic ID \(for example 'i3'\), and 1 "
    ):
        prepare("TIGER", semantic_ids_path=write_json(catalogue))


def add_interaction(data_path: Path, item: str) -> None:
    with open(data_path / "tiny" / "tiny.inter", "a", encoding="utf-8") as stream:
        stream.write(f"u3\t{item}\t{1_700_000_000}\n")


def test_runs_say_that_a_file_was_made_from_other_interactions(
    prepare: Callable[..., Any], data_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare("TIGER")[1]._dataset.semantic_ids.save("x.npz")
    prepare("TIGER", semantic_ids_path="x.npz")
    assert "training part" not in caplog.text
    add_interaction(data_path, "i5")
    prepare("TIGER", semantic_ids_path="x.npz")
    assert "'x.npz' was made from another training part" in caplog.text


def test_runs_say_which_settings_a_file_decides(
    prepare: Callable[..., Any], catalogue: dict[str, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    prepare("TIGER", rank_size=20)[1]._dataset.semantic_ids.save("x.npz")
    for same in ({"rank_size": 20}, {"codebook_sizes": [5, 3, 20]}, {"codebook_sizes": [256, 256, 256]}):
        prepare("TIGER", semantic_ids_path="x.npz", **same)
    assert "no effect" not in caplog.text
    prepare("TIGER", semantic_ids_path="x.npz", codebook_sizes=[7, 7], collision="keep", rank_size=30)
    for key, given, own in (
        ("codebook_sizes", [7, 7], [5, 3, 20]),
        ("collision", "keep", "rank"),
        ("rank_size", 30, 20),
    ):
        assert f"{key}={given} has no effect: 'x.npz' has its own, {own}" in caplog.text
    caplog.clear()
    prepare("TIGER", semantic_ids_path=write_json(catalogue), codebook_sizes=[5, 6], rank_size=4)
    assert "no effect" not in caplog.text
    prepare("TIGER", semantic_ids_path="x.json", codebook_sizes=[9, 9])
    assert "codebook_sizes=[9, 9] has no effect: 'x.json' has its own, [5, 6, 2]" in caplog.text


def test_import_and_export_commands(
    data_path: Path, catalogue: dict[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--dataset=tiny", f"--data_path={data_path}", "--use_gpu=False", "--state=ERROR"]
    Path("names.txt").write_text("".join(f"i{item}\n" for item in range(31)))
    words = {str(item): [f"<a_{a}>", f"<b_{b}>"] for item, (a, b) in enumerate(catalogue.values())}
    write_json(words, "x.index.json")
    assert main(["import", "x.index.json", *common]) == 2
    assert "30 of the dataset's 30 items have no semantic ID" in capsys.readouterr().err
    assert main(["import", "x.index.json", "--numbering=names.txt", "--output=x.npz", *common]) == 0
    read = SemanticIDs.load("x.npz")
    assert (read.recipe["dataset"], read.recipe["format"], read.n_levels) == ("tiny", "index", 3)
    assert f"Written: x.npz ({read.fingerprint})" in capsys.readouterr().out
    assert main(["export", "x.index.json", "--numbering=names.txt", "--output=named.json"]) == 0
    assert json.loads(Path("named.json").read_text()) == {f"i{item}": list(catalogue[f"i{item}"]) for item in range(31)}
    assert main(["export", "x.npz", "--output=out/x.sem_ids"]) == 0
    exported = json.loads(Path("out/x.sem_ids").read_text())
    assert exported["i6"][2] + exported["i7"][2] == 3  # ranks 1 and 2
    assert exported["i8"] == [*catalogue["i8"], 1]
    assert main(["import", "out/x.sem_ids", "--output=y.npz", "--codebook_sizes=[8, 8, 8]", *common]) == 0
    again = SemanticIDs.load("y.npz")
    assert (again.codes == read.codes).all()
    assert again.codebook_sizes == (8, 8, 8)
    assert again.recipe["rank_from"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "x.npz"], "needs --output"),
        (["export", "x.npz", "--output=y.json", "--seed=1"], "export has no option --seed"),
        (["export", "--output=y.json"], "export needs a file"),
        (["export", "none.npz", "--output=y.json"], "no semantic-ID file at 'none.npz'"),
        (["import", "none.json", "--dataset=none"], "There is no dataset folder"),
        (["tokenize", "--dataset=none", "--semantic_ids_path=x.npz"], "tokenize makes semantic IDs and semantic_ids"),
    ],
)
def test_commands_end_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("y.json").exists()


def test_our_own_file_of_another_dataset_or_catalogue_is_refused(tmp_path: Path) -> None:
    made = SemanticIDs(np.array([[0, 1], [1, 0]]), (2, 2), np.array(["a", "b"]), {"dataset": "first"})
    made.save(tmp_path / "made.npz")
    with pytest.raises(InputError, match="were made for dataset 'first' and this is 'second'"):
        read_semantic_ids(tmp_path / "made.npz", ["a", "b"], dataset="second")
    with pytest.raises(InputError, match="1 of the dataset's 3 items have no semantic ID"):
        read_semantic_ids(tmp_path / "made.npz", ["a", "b", "c"], dataset="first")
    assert read_semantic_ids(tmp_path / "made.npz", ["b", "a"], dataset="first").codes.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_row_numbers_that_pandas_writes_are_no_level(ending: str, caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"item_id": list("abcd"), "c1": [0, 1, 0, 1], "c2": [0, 0, 1, 1]})
    frame.index = pd.Index(range(len(frame)), dtype="int64")
    if ending == "csv":
        frame.to_csv("x.csv")
    else:
        frame.insert(1, "Unnamed: 0", range(len(frame)))
        frame.to_parquet("x.parquet", index=True)
    read = read_semantic_ids(f"x.{ending}")
    assert read.codes.tolist() == frame[["c1", "c2"]].to_numpy().tolist()
    assert "a column without a name that counts the rows: it is left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (",item,c1\n0,a,1\n1,b,2\n", "none called item_id"),
        (",c1,c2\na,1,1\nb,2,1\n", "none called item_id"),
        ("Unnamed: 0,c1\n0,1\n1,2\n", "none called item_id"),
        ("item_id,,c1\na,7,1\nb,8,2\n", "does not count the rows"),
        ("item_id,c1,\na,1,\nb,2,\n", "does not count the rows"),
        (",item_id\n0,a\n1,b\n", "one column per level"),
    ],
)
def test_columns_without_a_name_are_no_levels(content: str, message: str) -> None:
    Path("x.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_semantic_ids("x.csv")


def test_an_index_of_item_ids_in_parquet_is_the_column_of_items() -> None:
    frame = pd.DataFrame({"c1": [0, 1], "c2": [1, 1]}, index=pd.Index(["a", "b"], name="item_id"))
    frame.to_parquet("x.parquet")
    assert read_semantic_ids("x.parquet").item_tokens.tolist() == ["a", "b"]
    frame.rename_axis(None).to_parquet("y.parquet")
    with pytest.raises(InputError, match="none called item_id"):
        read_semantic_ids("y.parquet")


def test_a_level_that_numbers_the_items_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"item_id": [f"i{row}" for row in range(20)], "row": range(20), "c1": [0, 1] * 10})
    frame.to_csv("x.csv", index=False)
    read_semantic_ids("x.csv")
    assert "another code at level 1" in caplog.text
    assert "at level 2" not in caplog.text
