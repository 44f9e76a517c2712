"""Atomic files read by Arrow, text and Parquet, against RecBole's own reader."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import recbole
from pyarrow import parquet
from recbole.data.dataset import Dataset

from recbole_sid.config import Config
from recbole_sid.data import atomic_dataset, create_dataset
from recbole_sid.data.atomic_dataset import AtomicDataset, TokenNumbers, read_csv
from recbole_sid.errors import InputError
from recbole_sid.features.text import item_texts
from recbole_sid.identity import data_hash
from recbole_sid.util import atomic_files

INTER = "user_id:token\titem_id:token\ttimestamp:float\trating:float\ttags:token_seq\tplace:float_seq"
ITEM = "item_id:token\ttitle:token_seq\tkind:token\tprice:float"
ROWS = [
    "u2\ti5\t1600000000\t4.5\tred blue\t0.5 1.25",
    "u1\ti5\t1600000003.25\t-2\tblue\t3",
    "u2\ti1\t1600000001\t0.123456789012345\t\t",
    "é1\tNA\t9007199254740991\t1\tgreen  red\t1 2 3",
    "u1\t日本\t5\t\tred\t0.1",
    "u2\ti1\t17\t3\tnull\t0.25",
]
ITEMS = ["i5\tthe red thing\tk1\t3.5", "i7\tanother\t\t", "i1\tthing\tk0\t2", "i5\tagain\tk2\t1"]
AS: dict[str, Any] = {
    "token": lambda text, words: text,
    "float": lambda text, words: float(text),
    "token_seq": lambda text, words: words,
    "float_seq": lambda text, words: list(map(float, words)),
}
EVERY = {"inter": "*", "item": "*"}


def write(folder: Path, rows: list[str] = ROWS, items: list[str] | None = ITEMS, end: str = "\n") -> Path:
    (folder / "tiny").mkdir(parents=True, exist_ok=True)
    for source, head, lines in (("inter", INTER, rows), ("item", ITEM, items)):
        if lines is not None:
            text = end.join([head, *lines]) + end
            (folder / "tiny" / f"tiny.{source}").write_bytes(text.encode())
    return folder


def config(folder: Path, model: str = "BPR", **settings: Any) -> Config:
    order = {"eval_args": {"order": "RO"}} if model == "BPR" else {}
    return Config(
        model,
        "tiny",
        config_dict={
            "data_path": str(folder),
            "use_gpu": False,
            "load_col": EVERY,
            "state": "ERROR",
            **order,
            **settings,
        },
    )


def same(ours: Any, theirs: Any) -> None:
    """Check that two datasets have the same properties, tokens, numbers and values."""
    for name in ("field2type", "field2source", "field2seqlen", "field2bucketnum"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.field2id_token.keys() == theirs.field2id_token.keys()
    for field, tokens in theirs.field2id_token.items():
        assert ours.field2id_token[field].tolist() == tokens.tolist(), field
        assert dict(ours.field2token_id[field]) == {
            str(key): value for key, value in theirs.field2token_id[field].items()
        }
    for feat in theirs.feat_name_list:
        mine, its = (getattr(dataset, feat) for dataset in (ours, theirs))
        mine, its = ours._dataframe_to_interaction(mine), theirs._dataframe_to_interaction(its)
        assert list(mine.interaction) == list(its.interaction)
        for field, values in its.interaction.items():
            np.testing.assert_array_equal(mine[field].numpy(), values.numpy(), err_msg=field)
            assert mine[field].dtype == values.dtype


def both(settings: Config) -> tuple[Any, Any]:
    """Return the dataset as we read it, by Arrow, and as RecBole does."""
    with mock.patch.object(atomic_dataset, "read_text_columns", wraps=atomic_files.read_text_columns) as reader:
        ours = create_dataset(settings)
    assert reader.called
    return ours, Dataset(settings)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"load_col": {"inter": ["user_id", "item_id", "rating"], "item": "*"}},
        {"load_col": None, "unload_col": {"inter": ["tags"]}},
        {"seq_len": {"tags": 1, "place": 2, "title": 2}},
        {"alias_of_item_id": ["kind"]},
        {"rm_dup_inter": "first"},
        {"val_interval": {"rating": "[1,inf)", "item_id": ["i5", "i1", "NA"]}},
        {"filter_inter_by_user_or_item": False},
        {"user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[1,2]"},
        {"threshold": {"rating": 2}},
        {"normalize_all": True},
    ],
)
def test_tables_and_numbers_are_recboles(tmp_path: Path, changes: dict[str, Any], end: str) -> None:
    same(*both(config(write(tmp_path, end=end), **changes)))


def test_other_separators(tmp_path: Path) -> None:
    write(tmp_path)
    for file in (tmp_path / "tiny").iterdir():
        file.write_text(file.read_text(encoding="utf-8").replace(" ", "+").replace("\t", "|"), encoding="utf-8")
    same(*both(config(tmp_path, field_separator="|", seq_separator="+")))


def test_ml_100k() -> None:
    folder = Path(recbole.__file__).parent / "dataset_example"
    settings = {"data_path": str(folder), "use_gpu": False, "load_col": {"inter": "*", "item": "*", "user": "*"}}
    ours, theirs = both(Config("BPR", "ml-100k", config_dict={**settings, "eval_args": {"order": "RO"}}))
    same(ours, theirs)


@pytest.mark.parametrize(
    "row",
    [
        'u9\t"i9"\t1\t1\tred\t1',
        'u9\t"i\t9"\t1\t1\tred\t1',
        "u9\ti9\t1\t1e-5\tred\t1",
        "u9\ti9\t1\t0.12345678901234567\tred\t1",
        "u9\ti9\tinf\t 1\tred\t1",
        "u9\ti9\t1",
        "",
        "u9\ti9\t9007199254740993\t1_0\tred\t1",
    ],
)
def test_what_parsers_may_read_in_other_ways_is_left_to_pandas(tmp_path: Path, row: str) -> None:
    path = str(write(tmp_path, [*ROWS, row]) / "tiny" / "tiny.inter")
    names = INTER.split("\t")
    types = {name: np.float64 if name.endswith(":float") else str for name in names}
    assert row == "" or read_csv(path, usecols=names, dtype=types, delimiter="\t", encoding="utf-8") is None
    same(*both(config(tmp_path)))


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_pandas(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(500) * 10.0 ** rng.integers(-3, 5, 500)
    texts = [f"{value:.{rng.integers(0, 9)}f}" for value in values]
    path = tmp_path / "a.inter"
    path.write_text("a:token\tb:float\n" + "".join(f"x\t{text}\n" for text in texts))
    options: dict[str, Any] = {"usecols": ["a:token", "b:float"], "dtype": {"a:token": str, "b:float": np.float64}}
    ours = read_csv(str(path), delimiter="\t", encoding="utf-8", **options)
    theirs = pd.read_csv(path, delimiter="\t", engine="python", **options)
    assert ours is not None
    np.testing.assert_array_equal(ours["b:float"], theirs["b:float"])


@pytest.mark.parametrize("number", ["0x1F", "0X1F"])
def test_no_number_to_recbole_is_none_to_us(tmp_path: Path, number: str) -> None:
    (tmp_path / "tiny").mkdir()
    rows = ["user_id:token\titem_id:token\tprice:float", "u1\ti1\t1", f"u1\ti2\t{number}"]
    (tmp_path / "tiny" / "tiny.inter").write_text("\n".join(rows) + "\n")
    with pytest.raises(ValueError, match="Unable to convert column price:float"):
        Dataset(config(tmp_path))
    with pytest.raises(InputError, match=r"RecBole cannot read .*Unable to convert column price:float"):
        create_dataset(config(tmp_path))


@pytest.mark.parametrize("content", ["u9\ti9\tmuch\t1\tred\t1\n", "\xff\n"])
def test_damage_is_one_sentence(tmp_path: Path, content: str) -> None:
    with (write(tmp_path) / "tiny" / "tiny.inter").open("a", encoding="latin-1") as stream:
        stream.write(content)
    with pytest.raises(InputError, match=r"RecBole cannot read dataset 'tiny'|is not text in encoding"):
        create_dataset(config(tmp_path))


def as_parquet(folder: Path, typed: bool, lists: bool = True) -> None:
    """Turn the text files of `write` into Parquet ones, with or without types in the names of their columns, sequences
    as lists or as the texts that they are.
    """
    for source, head in (("inter", INTER), ("item", ITEM)):
        file = folder / "tiny" / f"tiny.{source}"
        columns = {name: [] for name in head.split("\t")}
        for line in file.read_text(encoding="utf-8").splitlines()[1:]:
            for name, text in zip(columns, line.split("\t"), strict=True):
                kind = name.split(":")[1]
                words = [word for word in text.split(" ") if word and text not in ("NA", "null")]
                none = text in ("", "NA", "null")
                if none and not words:
                    columns[name].append(None)
                else:
                    columns[name].append(AS[kind](text, words) if lists or not kind.endswith("_seq") else text)
        table = pa.table({name if typed else name.split(":")[0]: values for name, values in columns.items()})
        parquet.write_table(table, f"{file}.parquet", row_group_size=2)
        file.unlink()


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"load_col": None, "unload_col": {"inter": ["tags"]}}, {"seq_len": {"tags": 1}}]
)
def test_parquet_is_the_text(tmp_path: Path, changes: dict[str, Any], typed: bool) -> None:
    text, packed = write(tmp_path / "text"), write(tmp_path / "packed")
    as_parquet(packed, typed)
    same(create_dataset(config(packed, **changes)), Dataset(config(text, **changes)))


def test_sequences_of_parquet_may_be_texts(tmp_path: Path) -> None:
    text, packed = write(tmp_path / "text"), write(tmp_path / "packed")
    as_parquet(packed, typed=True, lists=False)
    same(create_dataset(config(packed)), Dataset(config(text)))
    settings = config(packed, text_fields=["title"]).final_config_dict
    assert item_texts(settings, np.array(["i7", "i5"])) == ["another", "the red thing"]
    tags = {"load_col": {"inter": ["user_id", "item_id", "tags"]}}
    lengths = [create_dataset(config(packed, seq_separator=by, **tags)).field2seqlen["tags"] for by in " +"]
    assert lengths == [2, 1]
    inter = packed / "tiny" / "tiny.inter.parquet"
    table = parquet.read_table(inter)
    wrong = table.set_column(5, "place:float_seq", pa.array(["1 x"] * len(table)))
    parquet.write_table(wrong, inter)
    with pytest.raises(InputError, match=r"The column 'place:float_seq' of .* is no float_seq"):
        create_dataset(config(packed))


@pytest.mark.parametrize(("n_rows", "length"), [(200_000, 100_000), (200_000, 2_000)])
def test_a_text_that_stands_in_many_rows_fills_no_memory(tmp_path: Path, n_rows: int, length: int) -> None:
    """Stored once in a megabyte: written out, or split, it is gigabytes."""
    (tmp_path / "tiny").mkdir()
    tags = pa.DictionaryArray.from_arrays(np.zeros(n_rows, dtype=np.int32), pa.array(["a " * (length // 2)]))
    ids = pa.array(np.arange(n_rows) % 50)
    file = tmp_path / "tiny" / "tiny.inter.parquet"
    parquet.write_table(pa.table({"user_id": ids, "item_id": ids, "tags:token_seq": tags}), file)
    with pytest.raises(InputError, match=r"tiny\.inter\.parquet' of .* bytes unfolds to .* made to fill the memory"):
        create_dataset(config(tmp_path))


def test_parquet_of_whole_numbers_and_times(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    moments = pa.array([1_600_000_000_500_000, 1_600_000_001_000_000], pa.timestamp("us"))
    table = pa.table({"user_id": [10, 2], "item_id": pa.array([7, 7], pa.int32()), "timestamp": moments})
    parquet.write_table(table, tmp_path / "tiny" / "tiny.inter.parquet")
    dataset = create_dataset(config(tmp_path, load_col={"inter": ["user_id", "item_id", "timestamp"]}))
    assert dataset.field2id_token["user_id"].tolist() == ["[PAD]", "10", "2"]
    assert dataset.field2id_token["item_id"].tolist() == ["[PAD]", "7"]
    assert dataset.inter_feat["timestamp"].tolist() == [1_600_000_000.5, 1_600_000_001]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id:id": ["a"], "item_id": ["b"]}, "must be name or name:type"),
        ({"user_id": ["a"], "user_id:token": ["a"], "item_id": ["b"]}, "has the field 'user_id' twice"),
        ({"user_id": [1.5], "item_id": ["b"]}, "holds double, which is no token"),
        ({"user_id": ["a"], "item_id": [b"\xff"]}, "holds .*, which is no token"),
        ({"user_id": ["a"], "item_id": ["b"], "x:float": ["c"]}, "holds .*, which is no float"),
        ({"user_id": ["a"], "item_id": ["b"], "x": [{"c": 1}]}, "is of type struct"),
        ({"user_id": ["a"], "item_id": ["b" * 5000]}, "has a value of 5,000 characters in its field 'item_id'"),
        ({"user_id": ["a"], "item": ["b"]}, "has no field 'item_id': set ITEM_ID_FIELD"),
    ],
)
def test_wrong_parquet_is_one_sentence(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    (tmp_path / "tiny").mkdir()
    parquet.write_table(pa.table(columns), tmp_path / "tiny" / "tiny.inter.parquet")
    with pytest.raises(InputError, match=message):
        create_dataset(config(tmp_path))


ODD = {
    "struct": pa.array([{"c": 1}] * 2),
    "date32": pa.array([0, 1], pa.date32()),
    "decimal128": pa.array([1, 2], pa.decimal128(9, 2)),
    "binary": pa.array([b"\xff"] * 2),
    "fixed_size_list": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float64(), 2)),
    "list<element: struct": pa.array([[{"c": 1}]] * 2),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_columns_of_parquet_are_refused_where_they_are_wanted(tmp_path: Path, kind: str) -> None:
    (tmp_path / "tiny").mkdir()
    table = {"item_id": ["x", "y"], "odd": ODD[kind]}
    for source, texts in (("inter", {"user_id": ["a", "b"]}), ("item", {"title": ["X", "Y"]})):
        parquet.write_table(pa.table({**table, **texts}), tmp_path / "tiny" / f"tiny.{source}.parquet")
    few = config(tmp_path, load_col={"inter": ["user_id", "item_id"], "item": ["item_id", "title"]})
    assert create_dataset(few).item_feat["title"].tolist()[1:] == [1, 2]
    left_out = config(tmp_path, load_col=None, unload_col={"inter": ["odd"], "item": ["odd"], "user": []})
    assert create_dataset(left_out).item_feat["title"].tolist()[1:] == [1, 2]
    tokens = np.array(["y", "x"])
    assert item_texts({**few.final_config_dict, "text_item_field": None, "text_fields": "title"}, tokens) == ["Y", "X"]
    refused = rf"The column 'odd' of .* is of type {kind}.*: a field is text, a number, a time, or a list"
    with pytest.raises(InputError, match=refused):
        create_dataset(config(tmp_path))
    with pytest.raises(InputError, match=refused):
        item_texts({**few.final_config_dict, "text_item_field": None, "text_fields": ["title", "odd"]}, tokens)


@pytest.mark.parametrize("kind", ["token_seq", "float_seq"])
def test_no_rows_are_no_lists(kind: str) -> None:
    dataset = SimpleNamespace(config={"seq_len": None}, field2seqlen={})
    values = pa.chunked_array([], pa.list_(pa.string() if kind == "token_seq" else pa.float64()))
    found = AtomicDataset._sequences(dataset, values, "tiny.item.parquet", atomic_files.Column("x", "x", kind))
    assert (len(found), dataset.field2seqlen) == (0, {"x": 0})


def test_damaged_and_doubled_parquet(tmp_path: Path) -> None:
    text, packed = (write(tmp_path) / "tiny" / "tiny.inter"), tmp_path / "tiny" / "tiny.inter.parquet"
    packed.write_bytes(b"PAR1 no PAR1")
    with pytest.raises(InputError, match=r"has both 'tiny\.inter' and"):
        create_dataset(config(tmp_path))
    text.unlink()
    with pytest.raises(InputError, match="is no readable Parquet file"):
        create_dataset(config(tmp_path))


def test_runs_are_named_by_what_parquet_holds(tmp_path: Path) -> None:
    as_parquet(write(tmp_path), typed=True)
    before = data_hash(config(tmp_path))
    table = parquet.read_table(tmp_path / "tiny" / "tiny.inter.parquet")
    parquet.write_table(table.slice(1), tmp_path / "tiny" / "tiny.inter.parquet")
    assert data_hash(config(tmp_path)) != before


def test_other_classes_of_recbole_read_so_too(tmp_path: Path) -> None:
    dataset = create_dataset(config(write(tmp_path), benchmark_filename=None))
    assert isinstance(dataset, AtomicDataset)
    assert type(dataset).__name__ == "Dataset"


def test_numbers_of_tokens_are_a_dictionary() -> None:
    numbers = TokenNumbers(np.array(["[PAD]", "a", "b"]))
    assert (numbers["b"], len(numbers), "c" in numbers, list(numbers)) == (2, 3, False, ["[PAD]", "a", "b"])
    numbers["c"] = 3
    del numbers["a"]
    assert dict(numbers) == {"[PAD]": 0, "b": 2, "c": 3}
