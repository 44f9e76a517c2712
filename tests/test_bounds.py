"""Files that unfold, nest or are too wide are refused in a sentence, before they fill the memory."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from pyarrow import parquet

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, headers
from recbole_sid.data.convert import chunks
from recbole_sid.data.convert.conversion import convert_dataset, convert_options
from recbole_sid.decoding.trie import LARGEST_SIZE, MOST_LEVELS
from recbole_sid.errors import InputError
from recbole_sid.features.file import read_rows
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.ready_made import read_semantic_ids
from recbole_sid.util.item_tokens import LONGEST_TOKEN, token_array
from recbole_sid.util.names import check_dataset_name
from recbole_sid.util.reading import parse_json, parse_yaml, read_json, read_parquet, read_yaml

_CODES = np.array([[0, 1], [1, 0]])
_CONFIG = {"ITEM_ID_FIELD": "item_id", "field_separator": "\t", "seq_separator": " ", "feature_tokens": None}


def _header(shape: tuple[int, ...], dtype: str = "<i8") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _npz(path: str, members: dict[str, Any], method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write arrays, or bytes as they are, as an ``.npz`` file."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            if not isinstance(content, bytes):
                stream = io.BytesIO()
                np.save(stream, content)
                content = stream.getvalue()
            archive.writestr(f"{name}.npy", content)


def _members(**changes: Any) -> dict[str, Any]:
    own = {"codes": _CODES, "codebook_sizes": np.array([2, 2]), "item_tokens": np.array(["a", "b"])}
    return {**own, "recipe": np.array("{}"), **changes}


def _zeros(shape: tuple[int, ...], megabytes: int, path: str, name: str = "codes") -> None:
    """Write an ``.npz`` file of `_members` with `name` of zeros, without holding them."""
    _npz(path, {key: value for key, value in _members().items() if key != name})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as stream:
        stream.write(_header(shape))
        for _ in range(megabytes):
            stream.write(bytes(1 << 20))


def _limited(code: str) -> str:
    """Run `code` in a process of 4 GiB of address space; return its last line of errors."""
    limit = "import resource, torch, pandas, pyarrow; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
    done = subprocess.run([sys.executable, "-c", limit + code], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


def test_a_small_archive_that_unfolds_to_gigabytes_is_refused_in_bounded_memory() -> None:
    _zeros((1200 << 17,), 1200, "ids.npz", "tokenizer_centres")
    assert Path("ids.npz").stat().st_size < 3 << 20
    last = _limited("from recbole_sid.semantic_ids.artefact import SemanticIDs; SemanticIDs.load('ids.npz')")
    assert last.startswith("recbole_sid.errors.InputError: 'ids.npz' of ")
    assert "made to fill the memory" in last
    with pytest.raises(InputError, match="made to fill the memory"):
        read_rows("ids.npz", "tokenizer_centres", _CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": _header((10**12, 2))}, "its header speaks of"),
        ({"codes": _header((2, 2))}, "its header speaks of"),
        ({"codes": _header((-2, -2)) + bytes(32)}, "its header speaks of"),
        ({"codes": np.zeros((2, 20_000), dtype=np.int8)}, "20,000 levels"),
        ({"codes": np.zeros(2, dtype=int)}, "not \\[items, levels\\]"),
        ({"codebook_sizes": np.array([2, 10**9])}, "codebook_sizes"),
        ({"codebook_sizes": np.array([2, 0])}, "codebook_sizes"),
        ({"codebook_sizes": np.zeros(10**6, dtype=int)}, "codebook_sizes have shape"),
        ({"item_tokens": np.array(["a", "b" * 5000])}, "over 4,096 bytes"),
        ({"item_tokens": _header((2,), "<U1") + np.array([0xD800, 65], "<u4").tobytes()}, "lone surrogate"),
        ({"item_tokens": _header((2,), "<U1") + np.array([0x7FFFFFFF, 65], "<u4").tobytes()}, "lone surrogate"),
        ({"recipe": np.array('{"a": ' + "[" * 100_000)}, "nests too deeply"),
        ({"recipe": np.array('{"a": "\\ud800"}')}, "lone surrogate"),
        ({"recipe": np.array(["{}"] * 3)}, "its recipe"),
        (
            {"trie_start_0": np.array([0, 2]), "trie_code_0": np.array([0, 1]), "trie_start_1": np.array([0, 1, 2])}
            | {"trie_code_1": np.array([1, 0]), "trie_start_2": np.array([0, 1, 2**40]), "trie_item": np.array([0, 1])},
            "its trie is damaged",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
def test_semantic_ids_that_are_too_large_are_refused(changes: dict[str, Any], message: str) -> None:
    _npz("ids.npz", _members(**changes))
    with pytest.raises(InputError, match=message):
        SemanticIDs.load("ids.npz")


def test_archives_that_numpy_does_not_write_are_refused() -> None:
    _npz("ids.npz", _members(), zipfile.ZIP_BZIP2)
    with pytest.raises(InputError, match="neither numpy nor torch"):
        SemanticIDs.load("ids.npz")


def test_the_bounds_themselves_are_allowed() -> None:
    sizes = (LARGEST_SIZE, *([1] * (MOST_LEVELS - 1)))
    codes = np.zeros((1, MOST_LEVELS), dtype=int)
    made = SemanticIDs(codes, sizes, ["x" * LONGEST_TOKEN])
    made.save("ids.npz")
    assert SemanticIDs.load("ids.npz").fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.json", json.dumps({"a": [0] * 20_000, "b": [1]}), "20,000 levels"),
        ("x.csv", "item_id," + ",".join(f"c{i}" for i in range(20_000)) + "\n", "20,000 levels"),
        ("x.json", json.dumps({"a": [0], "b" * 5_000_000: [1]}), "over 4,096 bytes"),
        ("x.csv", "item_id,c1\n" + "b" * 5_000_000 + ",1\n", "over 4,096 bytes"),
        ("x.json", '{"a": ' + "[" * 100_000, "nests too deeply"),
        ("x.json", '{"\\ud800": [1]}', "lone surrogate"),
        ("x.json", json.dumps({"a": ["<a_1>"], "b": ["<a_" + "1" * 10**6 + ">"]}), "has the code"),
    ],
    ids=["levels", "columns", "long key", "long cell", "deep", "surrogate", "long word"],
)
def test_files_of_others_are_bounded(file: str, content: str, message: str) -> None:
    Path(file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_semantic_ids(file)


def test_names_of_numbered_items_are_bounded() -> None:
    Path("x.json").write_text('{"0": [1]}', encoding="utf-8")
    Path("names.txt").write_text("n" * 10_000, encoding="utf-8")
    with pytest.raises(InputError, match="over 4,096 bytes"):
        read_semantic_ids("x.json", numbering="names.txt")


def test_a_number_that_poses_as_many_is_refused() -> None:
    torch.save(torch.zeros(1, dtype=torch.int8).expand(4, 10**9), "x.pt")
    assert Path("x.pt").stat().st_size < 10_000
    with pytest.raises(InputError, match="one tensor"):
        read_semantic_ids("x.pt")
    with pytest.raises(InputError, match="numbers of shape"):
        read_rows("x.pt", None, _CONFIG)


def test_torch_archives_are_bounded() -> None:
    torch.save(torch.zeros(2, 4, dtype=torch.int64), "own.pt")
    with zipfile.ZipFile("own.pt") as own, zipfile.ZipFile("x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in own.namelist():
            archive.writestr(name, own.read(name))
        with archive.open("own/data/1", "w") as stream:
            for _ in range(1200):
                stream.write(bytes(1 << 20))
    with pytest.raises(InputError, match="made to fill the memory"):
        read_semantic_ids("x.pt")


def test_arrays_whose_header_exceeds_the_file_are_refused() -> None:
    Path("x.npy").write_bytes(_header((10**12, 4)))
    with pytest.raises(InputError, match="its header speaks of"):
        read_rows("x.npy", None, _CONFIG)
    Path("x.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match=r"not a \.safetensors array"):
        read_rows("x.safetensors", None, _CONFIG)


def test_parquet_that_unfolds_is_refused() -> None:
    rows = 150_000_000  # a run of equal numbers is stored as one
    with parquet.ParquetWriter("x.parquet", pa.schema([("item_id", pa.int64())])) as writer:
        for _ in range(10):
            writer.write_table(pa.table({"item_id": np.zeros(rows // 10, dtype=np.int64)}))
    assert Path("x.parquet").stat().st_size < 1 << 20
    for read in (read_semantic_ids, read_parquet):
        with pytest.raises(InputError, match="made to fill the memory"):
            read("x.parquet")


def test_one_long_text_in_every_row_of_a_parquet_file_is_refused() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, dtype=np.int32)), pa.array(["x" * 10**6]))
    parquet.write_table(pa.table({"item_id": texts, "c": np.arange(2000)}), "x.parquet", store_schema=False)
    assert Path("x.parquet").stat().st_size < 3 << 20
    last = _limited("from recbole_sid.semantic_ids.ready_made import read_semantic_ids; read_semantic_ids('x.parquet')")
    assert "made to fill the memory" in last


def test_parquet_reads_as_pyarrow_does() -> None:
    table = pa.table(
        {
            "text": ["a", None, "b", "a"],
            "number": [1, 2, None, 4],
            "list": [[1, 2], [], None, [3]],
            "words": [["x"], ["y", "z"], [], None],
            "category": pa.array(["u", "v", "u", "v"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, "x.parquet", row_group_size=2)
    read, plain = read_parquet("x.parquet"), parquet.read_table("x.parquet")
    assert read.to_pydict() == plain.to_pydict() == table.to_pydict()
    assert read_parquet("x.parquet", ["number", "text"]).column_names == ["number", "text"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "nests too deeply"),
        ('{"a": ["\\ud800"]}', "lone surrogate"),
        ('{"\\uDC00\\uD800": 1}', "lone surrogate"),
        ("1" * 10_000, "no JSON"),
    ],
    ids=["half", "deep", "surrogate", "key", "number"],
)
def test_json_is_refused_in_a_sentence(text: str, message: str) -> None:
    Path("x.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_json("x.json")


def test_json_reads_whole_characters() -> None:
    assert parse_json('["\\ud83d\\ude00", "\\\\ud800"]', "it") == ["😀", "\\ud800"]
    with pytest.raises(InputError, match="There is no file"):
        read_json("none.json")
    Path("latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(InputError, match="UTF-8"):
        read_json("latin.json")


_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
_MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_LAUGHS, "unfolds by its aliases"),
        (_MERGES, "unfolds by its aliases"),
        ("a: &a [*a]", "unfolds by its aliases"),
        ("[" * 20_000, "nests too deeply"),
        ("a: [", "no valid YAML"),
        ("a: 2024-13-45", "no valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "no valid YAML"),
        ("# " + "x" * (1 << 20), "larger than"),
    ],
    ids=["laughs", "merges", "endless", "deep", "half", "date", "object", "large"],
)
def test_yaml_is_refused_in_a_sentence(text: str, message: str) -> None:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_yaml("x.yaml")


def test_honest_yaml_may_use_aliases() -> None:
    text = "common: &c {epochs: 3}\nmodels: {A: {<<: *c, seed: 1}, B: *c}\n"
    assert parse_yaml(text, "it") == yaml.safe_load(text)
    assert parse_yaml("", "it") is None


def test_item_tokens_are_bounded() -> None:
    assert token_array(["a", "üb", 3], "It").tolist() == ["a", "üb", "3"]
    with pytest.raises(InputError, match="over 4,096 bytes"):
        token_array(["a", "ü" * 2049], "It")
    with pytest.raises(InputError, match="lone surrogate"):
        token_array(["a", "\ud800"], "It")
    with pytest.raises(InputError, match="longest one's memory"):
        token_array(["x" * 4096, *["a"] * 600_000], "It")


def _convert(file: str, **changes: Any) -> Any:
    columns = {"user": "u", "item": "i", "time": "t"}
    return convert_dataset(convert_options({"interactions": [file], **columns, **changes}, "made", "out"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv.gz", "x" * 4_000_000), ("a.csv.gz", '"' + "x\n" * 2_000_000), ("a.jsonl.gz", "x" * 4_000_000)],
    ids=["line", "quotation", "json"],
)
def test_compressed_text_of_one_endless_row_is_refused(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_LARGEST_CHUNK", 1 << 20)
    Path(name).write_bytes(gzip.compress(b"u,i,t\n1,2," + text.encode()))
    with pytest.raises(InputError, match="has more than 1,048,576 bytes in a few rows"):
        _convert(name)
    assert not Path("out/made/made.inter").exists()


def test_the_bound_is_of_a_chunk_and_not_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_LARGEST_CHUNK", 1 << 20)
    rows = "".join(f"u{row},i{row % 7},{row}\n" for row in range(150_000))
    Path("a.csv").write_text("u,i,t\n" + rows, encoding="utf-8")
    assert Path("a.csv").stat().st_size > 2 << 20
    assert _convert("a.csv").interactions == 150_000
    lines = "".join(json.dumps({"u": f"u{row}", "i": "i", "t": row}) + "\n" for row in range(50_000))
    Path("a.jsonl").write_text(lines, encoding="utf-8")
    assert _convert("a.jsonl").interactions == 50_000


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"u": "a", "i": "x" * 5000, "t": 1}, "Line 2 of 'a.jsonl' has a i of over 4,096 characters"),
        ({"u": "a\ud800", "i": "x", "t": 1}, r"Line 2 of 'a.jsonl' .* has half a character"),
    ],
    ids=["long", "surrogate"],
)
def test_ids_that_no_reader_takes_are_not_written(row: dict[str, Any], message: str) -> None:
    lines = [json.dumps({"u": "a", "i": "b", "t": 0}), json.dumps(row)]
    Path("a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        _convert("a.jsonl")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\\b", "", " ", "a\nb", "a\0b", "x" * 300, 3, None])
def test_names_of_datasets_stay_in_their_folder(name: Any) -> None:
    with pytest.raises(InputError, match="dataset="):
        check_dataset_name(name)
    with pytest.raises(InputError, match="dataset="):
        convert_options({"interactions": ["a.csv"], "user": "u", "item": "i", "time": "t"}, name, "out")


def test_usual_names_of_datasets_are_allowed() -> None:
    for name in ("ml-100k", "Amazon_Beauty.5core", "日本語 2"):
        check_dataset_name(name)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("inter", "u0\t{}\t1600000099"),
        ("inter", "{}\ti0\t1600000099"),
        ("item", "{}\tred\tkind0"),
        ("item", "i99\tred {} blue\tkind0"),
        ("kg", "m1\t{}\tm2"),
        ("link", "{}\tm1"),
    ],
)
def test_a_long_id_is_refused_before_recbole_multiplies_it(data_path: Path, source: str, line: str) -> None:
    heads = {"kg": "head_id:token\trelation_id:token\ttail_id:token\n", "link": "item_id:token\tentity_id:token\n"}
    for name, head in heads.items():
        (data_path / "tiny" / f"tiny.{name}").write_text(head, encoding="utf-8")
    with (data_path / "tiny" / f"tiny.{source}").open("a", encoding="utf-8") as stream:
        stream.write(line.format("x" * 100_000) + "\n")
    settings = {"data_path": str(data_path), "use_gpu": False, "state": "ERROR"}
    model = "CKE" if source in heads else "BPR"
    if model == "BPR":
        settings["load_col"] = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    with pytest.raises(InputError, match="has a value of 100,000 characters in its field"):
        create_dataset(Config(model, "tiny", config_dict=settings))


def test_an_id_of_megabytes_is_refused_in_bounded_memory(data_path: Path) -> None:
    with (data_path / "tiny" / "tiny.inter").open("a", encoding="utf-8") as stream:
        stream.write(f"u0\t{'x' * 50_000_000}\t1600000099\n")
    settings = {"data_path": str(data_path), "use_gpu": False, "state": "ERROR"}
    last = _limited(
        "from recbole_sid.config import Config\nfrom recbole_sid.data import create_dataset\n"
        f"create_dataset(Config('BPR', 'tiny', config_dict={settings!r}))"
    )
    assert last.startswith("recbole_sid.errors.InputError: ")
    assert "field larger than field limit (131072)): shorten it" in last


def test_many_ids_as_wide_as_a_long_one_are_refused(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "LARGEST_ARRAY", 1 << 20)
    with (data_path / "tiny" / "tiny.inter").open("a", encoding="utf-8") as stream:
        stream.writelines(f"u0\tj{number}\t{1_600_000_100 + number}\n" for number in range(100))
    config = Config("BPR", "tiny", config_dict={"data_path": str(data_path), "use_gpu": False})
    create_dataset(config)
    with (data_path / "tiny" / "tiny.inter").open("a", encoding="utf-8") as stream:
        stream.write(f"u0\t{'j' * 4000}\t1600000999\n")
    with pytest.raises(InputError, match=r"has 131 texts of up to 4,000 characters in its field 'item_id'"):
        create_dataset(config)


def test_long_texts_that_are_not_loaded_do_not_matter(data_path: Path) -> None:
    with (data_path / "tiny" / "tiny.item").open("a", encoding="utf-8") as stream:
        stream.write(f"i99\t{'x' * 100_000}\tkind0\n")
    settings = {"data_path": str(data_path), "use_gpu": False, "load_col": {"inter": "*", "item": ["item_id", "kind"]}}
    assert create_dataset(Config("BPR", "tiny", config_dict=settings)).item_feat is not None
    many_words = " ".join(f"w{number}" for number in range(5000))
    with (data_path / "tiny" / "tiny.item").open("a", encoding="utf-8") as stream:
        stream.write(f"i98\t{many_words}\tkind0\n")
    settings["load_col"] = {"inter": "*", "item": ["item_id", "title"]}
    with pytest.raises(InputError, match="a value of 100,000 characters in its field 'title'"):
        create_dataset(Config("BPR", "tiny", config_dict=settings))


@pytest.mark.parametrize(
    ("source", "head", "message"),
    [
        ("kg", "\ufeffhead_id:token\trelation_id:token\ttail_id:token", "byte order mark"),
        ("kg", "head_id:token,relation_id:token,tail_id:token", "one column only by field_separator"),
        ("kg", "head:token\trelation_id:token\ttail_id:token", "has no field 'head_id': set HEAD_ENTITY_ID_FIELD"),
        ("kg", "head_id:tokens\trelation_id:token\ttail_id:token", "must be name:type"),
        ("link", "item_id:token\tentity:token", "has no field 'entity_id': set ENTITY_ID_FIELD"),
        ("link", "item_id\tentity_id:token", "must be name:type"),
    ],
)
def test_first_lines_of_knowledge_files_are_checked(data_path: Path, source: str, head: str, message: str) -> None:
    heads = {"kg": "head_id:token\trelation_id:token\ttail_id:token", "link": "item_id:token\tentity_id:token"}
    rows = {"kg": "m1\tr\tm2", "link": "i0\tm1"}
    for name, usual in heads.items():
        text = f"{head if name == source else usual}\n{rows[name]}\n"
        (data_path / "tiny" / f"tiny.{name}").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        create_dataset(Config("CKE", "tiny", config_dict={"data_path": str(data_path), "use_gpu": False}))
