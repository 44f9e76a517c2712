"""Converting releases to atomic files: the written files line by line, what is refused, and that RecBole loads them."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import table_cells

from recbole_sid.cli import main
from recbole_sid.config import Config
from recbole_sid.data import create_dataset
from recbole_sid.data.convert import chunks
from recbole_sid.data.convert.conversion import PUBLISHED, clean_text, convert_dataset, convert_options

HEADER = "user_id,parent_asin,rating,timestamp,history"


def release(folder: Path, name: str = "Toys", n_users: int = 6, seed: int = 0) -> dict[str, list[tuple[str, str, int]]]:
    """Write train, valid and test files of Amazon's layout; every second pair of interactions has the same time.

    Returns the interactions of each user in their order.
    """
    rng = np.random.default_rng(seed)
    lines: dict[str, list[str]] = {"train": [HEADER], "valid": [HEADER], "test": [HEADER]}
    sequences: dict[str, list[tuple[str, str, int]]] = {}
    for number in range(n_users):
        user, history = f"U{9 - number}", [f"B00{item:02d}" for item in rng.permutation(12)[: rng.integers(5, 9)]]
        times = [1_600_000_000_123 + 1000 * (place // 2) for place in range(len(history))]
        sequences[user] = [(user, item, time) for item, time in zip(history, times, strict=True)]
        for place, (item, time) in enumerate(zip(history, times, strict=True)):
            split = {len(history) - 1: "test", len(history) - 2: "valid"}.get(place, "train")
            lines[split].append(f"{user},{item},{float(place % 5 + 1)},{time},{' '.join(history[:place])}")
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in lines.items():
        (folder / f"{name}.{split}.csv").write_text("\n".join(content) + "\n", encoding="utf-8")
    return sequences


def metadata(folder: Path, items: list[str], name: str = "Toys") -> Path:
    """Write metadata of `items` and of others, in Amazon's layout, compressed."""
    path = folder / f"meta_{name}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        for number, item in enumerate(["OTHER", *items, items[0]]):
            row = {
                "main_category": "Toys",
                "title": f'"Big"\tbox\n{number}' if number % 2 else f"Small box {number}",
                "features": [] if number % 3 == 0 else ["soft  and\nround", "red"],
                "description": ["A toy.", 'For 1/2" screws'],
                "price": None if number % 2 else 9.99,
                "images": [{"thumb": "http://x"}],
                "categories": ["Toys", "Boxes"],
                "details": {"Brand": "None"},
                "parent_asin": item,
            }
            stream.write(json.dumps(row) + "\n")
    return path


def read(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def amazon(folder: Path, **changes: Any) -> list[str]:
    words = {"source": "amazon2023", "interactions": folder / "Toys", "dataset": "Toys", "output": "out", **changes}
    return ["convert", *(f"--{key}={value}" for key, value in words.items())]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 3)


def test_amazons_release_becomes_atomic_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequences = release(tmp_path)
    items = sorted({item for sequence in sequences.values() for _, item, _ in sequence})
    named = [item for item in items if item != items[3]]
    assert main([*amazon(tmp_path), f"--items={metadata(tmp_path, named)}", "--json=counts.json"]) == 0
    inter = read(Path("out/Toys/Toys.inter"))
    assert inter[0] == ["user_id:token", "item_id:token", "timestamp:float", "rating:float"]
    for user, sequence in sequences.items():
        rows = [(row[0], row[1], int(row[2])) for row in inter if row[0] == user]
        assert rows == sequence
        assert [float(row[3]) for row in inter if row[0] == user] == [place % 5 + 1 for place in range(len(sequence))]
    texts = {row[0]: row[1:] for row in read(Path("out/Toys/Toys.item"))}
    assert texts.pop("item_id:token") == [
        "title:token_seq", "features:token_seq", "categories:token_seq", "description:token_seq",
    ]  # fmt: skip
    assert sorted(texts) == items
    assert texts[items[3]] == [""] * 4
    description = 'A toy. For 1/2" screws'
    assert texts[named[0]] == ["'Big\" box 1", "soft and round red", "Toys Boxes", description]
    assert texts[named[1]] == ["Small box 2", "soft and round red", "Toys Boxes", description]
    assert texts[named[2]] == ["'Big\" box 3", "", "Toys Boxes", description]
    result = json.loads(Path("counts.json").read_text(encoding="utf-8"))
    n_rows = sum(map(len, sequences.values()))
    assert result["rows"] == [{"counts": "converted", "users": 6, "items": len(items), "interactions": n_rows}]
    assert result["items_without_text"] == 1
    output = capsys.readouterr().out
    assert table_cells(output)[-1] == ["converted", "6", str(len(items)), str(n_rows)]
    assert "1 items have no row in the item file" in output


def test_recbole_loads_the_result_and_splits_as_the_release_did(tmp_path: Path) -> None:
    sequences = release(tmp_path)
    items = sorted({item for sequence in sequences.values() for _, item, _ in sequence})
    assert main([*amazon(tmp_path), f"--items={metadata(tmp_path, items)}"]) == 0
    settings = {
        "data_path": "out",
        "use_gpu": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"], "item": ["item_id", "title", "features"]},
    }
    config = Config("SASRec", "Toys", config_dict=settings)
    dataset = create_dataset(config)
    title = dataset.field2id_token["title"]
    number = dataset.token2id("item_id", items[0])
    splits = dataset.build()
    assert (dataset.user_num - 1, dataset.item_num - 1) == (6, len(items))
    row = np.flatnonzero(dataset.item_feat["item_id"].numpy() == number)[0]
    assert [title[word] for word in dataset.item_feat["title"][row] if word] == ["'Big\"", "box", "1"]
    for split, place in zip(splits[1:], (-2, -1), strict=True):
        targets = {
            dataset.id2token("user_id", user): dataset.id2token("item_id", item)
            for user, item in zip(
                split.inter_feat["user_id"].tolist(), split.inter_feat["item_id"].tolist(), strict=True
            )
        }
        assert targets == {user: sequence[place][1] for user, sequence in sequences.items()}


def test_published_counts_stand_below_the_converted_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release(tmp_path)
    assert main(amazon(tmp_path, dataset="Video_Games")) == 0
    cells = table_cells(capsys.readouterr().out)
    assert cells[-1] == ["published (5-core)", "94,762", "25,612", "814,586"]
    assert PUBLISHED["Musical_Instruments"] == (57_439, 24_587, 511_836)
    assert not Path("out/Video_Games/Video_Games.item").exists()


FRAME = pd.DataFrame(
    {
        "buyer": [3, 1, 3, 2],
        "product": ["p1", "p2", "p2", "p1"],
        "when": ["2020-01-01", "2020-01-01T00:01:00", "2019-12-31T23:59:59.5", "1970-01-02"],
    }
)
SECONDS = [1577836800, 1577836860, 1577836799.5, 86400]


def written(path: Path, **changes: Any) -> list[tuple[str, str, float]]:
    """Convert a file of the columns of FRAME, and return the rows written."""
    given = {"interactions": str(path), "user": "buyer", "item": "product", "time": "when", "show_progress": False}
    result = convert_dataset(convert_options({**given, **changes}, "shop", "out"))
    assert (result.users, result.items, result.interactions) == (3, 2, 4)
    rows = read(Path("out/shop/shop.inter"))
    assert rows[0] == ["user_id:token", "item_id:token", "timestamp:float"]
    return [(user, item, float(time)) for user, item, time in rows[1:]]


def expected() -> list[tuple[str, str, float]]:
    return list(zip(FRAME["buyer"].astype(str), FRAME["product"], SECONDS, strict=True))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_named_columns_of_every_kind_of_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        FRAME.to_parquet(path)
    elif "jsonl" in name:
        FRAME.to_json(path, orient="records", lines=True)
    else:
        FRAME.to_csv(path, sep="\t" if "tsv" in name else ",", index=False)
    assert written(path) == expected()


def test_a_separator_and_dates_of_parquet(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", sep=";", index=False)
    assert written(tmp_path / "a.csv", separator=";") == expected()
    FRAME.assign(when=pd.to_datetime(FRAME["when"], format="ISO8601")).to_parquet(tmp_path / "a.parquet")
    assert written(tmp_path / "a.parquet") == expected()


def test_float_ids_with_whole_values_are_written_as_whole_numbers(tmp_path: Path) -> None:
    FRAME.assign(buyer=FRAME["buyer"].astype(float)).to_parquet(tmp_path / "a.parquet")
    assert written(tmp_path / "a.parquet") == expected()


def test_the_first_row_of_an_item_counts_even_in_a_later_chunk(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    lines = ["product,name,note", *(f"p{number % 2 + 1},name {number},x" for number in range(8))]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    written(tmp_path / "a.csv", items=str(tmp_path / "items.csv"), item_fields=["note", "name"])
    assert read(Path("out/shop/shop.item")) == [
        ["item_id:token", "note:token_seq", "name:token_seq"],
        ["p1", "x", "name 0"],
        ["p2", "x", "name 1"],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\tb\r\n c  d", "a b c d"),
        (["x", ["y", None], 3], "x y 3"),
        (np.array(["x", "y z"], dtype=object), "x y z"),
        ({"Brand": "Q", "Size": ["1", 2]}, "Brand Q Size 1 2"),
        (None, ""),
        (float("nan"), ""),
        ([], ""),
        ('"Quoted" text', "'Quoted\" text"),
        ('12" pan', '12" pan'),
        (2.5, "2.5"),
    ],
)
def test_clean_text(value: Any, text: str) -> None:
    assert clean_text(value) == text


GOOD = "u1,i1,1,10,\nu2,i2,1,11,\nu3,i3,2,12,\nu4,i4,3,13,\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD + "u5,i5,1,soon,\n", r"Line 6 of '.*train\.csv' \('soon'\) has a timestamp that is no number"),
        (GOOD + ",i5,1,10,\n", r"Line 6 of '.*train\.csv' \(''\) has no user_id"),
        (GOOD + "u5,,1,10,\n", r"Line 6 of '.*train\.csv' \(''\) has no parent_asin"),
        (GOOD + "u5,i5,,10,\n", r"Line 6 of '.*train\.csv' \(''\) has a rating that is no number"),
        (GOOD + "u5,i5,1,inf,\n", r"Line 6 of '.*train\.csv' \('inf'\) has a timestamp that is no number"),
        (
            GOOD + "u5,i\t5,1,10,\n",
            r"Line 6 of '.*train\.csv' \('i\\t5'\) has a tab, line break or quote in parent_asin",
        ),
        (GOOD + "u5,i5,1,10,,more\n", r"train\.csv' cannot be read .* in line 6, saw 6"),
        ("u5,i5,1,10,,more\n", r"train\.csv' cannot be read .*Length of header or names does not match"),
        (GOOD + '"u5,i5,1,10,\n', r"train\.csv' cannot be read after 3 rows, in rows 4 to 6"),
        (GOOD + "null,i5,1,10,\n", "An id in column 'user_id' is 'null', which RecBole reads as a missing value"),
        (GOOD + "u5,NA,1,10,\n", "An id in column 'parent_asin' is 'NA'"),
        ("", "There is no interaction in"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, message: str
) -> None:
    (tmp_path / "train.csv").write_text(f"{HEADER}\n{rows}", encoding="utf-8")
    Path("out/Toys").mkdir(parents=True)
    Path("out/Toys/Toys.inter").write_text("as it was", encoding="utf-8")
    assert main(amazon(tmp_path, interactions=tmp_path / "train.csv")) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert [file.name for file in Path("out/Toys").iterdir()] == ["Toys.inter"]
    assert Path("out/Toys/Toys.inter").read_text(encoding="utf-8") == "as it was"


def test_a_bad_row_of_the_item_file_leaves_the_old_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequences = release(tmp_path)
    items = sorted({item for sequence in sequences.values() for _, item, _ in sequence})
    path = metadata(tmp_path, items)
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    (tmp_path / "meta.jsonl").write_text("\n".join([*lines[:4], lines[4][:50], *lines[5:]]), encoding="utf-8")
    assert main([*amazon(tmp_path), f"--items={tmp_path / 'meta.jsonl'}"]) == 2
    assert "meta.jsonl' cannot be read after 3 rows, in rows 4 to 6" in capsys.readouterr().err
    assert list(Path("out/Toys").iterdir()) == []
    path.write_bytes(path.read_bytes()[:-40])
    assert main([*amazon(tmp_path), f"--items={path}"]) == 2
    assert "meta_Toys.jsonl.gz' cannot be read after" in capsys.readouterr().err
    assert list(Path("out/Toys").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user=user_id"], "convert needs --interactions"),
        (["--interactions=a.csv", "--item=i", "--time=t"], "convert needs --user"),
        (["--source=amazon2032", "--interactions=a.csv"], "Unknown source 'amazon2032' .did you mean 'amazon2023'"),
        (["--source=amazon2023", "--interactions=a.csv"], "convert needs --dataset=NAME"),
        (["--source=amazon2023", "--interactions=x", "--dataset=d"], r"neither a file 'x' nor 'x\.train\.csv'"),
        (["--itens=a"], "convert has no option --itens .did you mean 'items'"),
        (["--user=u", "--item=i", "--time=t", "--interactions=x.csv", "--dataset=d"], r"There is no file 'x\.csv'"),
        (["--user=u", "--item=i", "--time=t", "--interactions=x.csv", "--dataset=d", "--items=y"], "--item_fields"),
        (["--user=u", "--item=i", "--time=t", "--interactions=a.doc", "--dataset=d"], "kind that cannot be read"),
        (["--user=u", "--item=j", "--time=t", "--interactions=a.csv", "--dataset=d"], "no column 'j'; it has u, i, t"),
        (["--user=u", "--item=i", "--time=t", "--interactions=a.csv", "--dataset=d", "--items=a.csv",
          "--item_fields=[tt]"], "no column 'tt'.*it has u, i, t"),
        (["--user=u", "--item=i", "--time=t", "--interactions=a.csv", "--dataset=d", "--items=a.csv",
          "--item_fields=['a:b']"], "The column 'a:b' cannot be a field"),
        (["--model=TIGER"], "convert takes no --model"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    Path("a.csv").write_text("u,i,t\nx,y,1\n", encoding="utf-8")
    Path("a.doc").write_text("u,i,t\nx,y,1\n", encoding="utf-8")
    assert main(["convert", *words]) == 2
    assert re.search(message, capsys.readouterr().err)
