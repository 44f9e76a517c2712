"""``recbole-sid recommend``: the same lists from every form of file, in batches, and what it refuses, by its line."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bundles import MANIFEST
from pyarrow import parquet

from recbole_sid.cli import main
from recbole_sid.exporting.card import model_card
from recbole_sid.exporting.export import export_model
from recbole_sid.serving import Recommender, answering, history_files
from recbole_sid.serving.bundle import HISTORIES, ITEMS, WEIGHTS
from recbole_sid.serving.bundle_files import write_bundle
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.engine import ENGINES
from recbole_sid.serving.histories import KnownUsers

N = 30
KNOWN = {"ann": [1, 2], "Bob, jr.": [3], "zoë": [4, 5, 6]}
USERS = {
    "ann": ["i1", "i2", "i3"],
    "Bob, jr.": ["i7"],
    'a "b"': ["no", "i4", "nope"],
    "zoë": ["i5", "i6", "i7", "i8", "i9", "i10", "i11"],
    "77": ["unknown"],
    "6": ["i2", "i1"],
    "8": ["i12"],
}


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setitem(ENGINES, "brute", "brute_engine:BruteEngine")
    monkeypatch.setattr(answering, "BATCH", 3)
    users = KnownUsers.of(list(KNOWN), np.array([0, 2, 3, 6]), np.array([1, 2, 3, 4, 5, 6]))
    catalogue = Catalogue.of([f"i{item}" for item in range(1, N + 1)], np.arange(N))
    arrays = {WEIGHTS: {"none": np.zeros(1)}, ITEMS: catalogue.arrays(), HISTORIES: users.arrays()}
    about = {**MANIFEST, "engine": "brute", "settings": {"n_items": N + 1}, "n_items": N + 1, "fields": []}
    write_bundle(tmp_path / "bundle", about, arrays, {}, model_card)
    return str(tmp_path / "bundle")


def write_histories(path: str, users: dict[str, list[str]], form: str = "") -> str:
    """Write histories in the form of the suffix."""
    if path.endswith(".jsonl"):
        lines = [json.dumps({"user": user, "items": items}) for user, items in users.items()]
        Path(path).write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    elif path.endswith(".parquet"):
        kind = pa.large_list(pa.string()) if form == "large" else pa.list_(pa.string())
        columns = {"user": pa.array(users), "items": pa.array(users.values(), kind)}
        parquet.write_table(pa.table({"more": list(range(len(users))), **columns}), path, row_group_size=2)
    else:
        with open(path, "w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(
                {"lists": ["user_id", "items"], "rows": ["item", "user"], "times": ["user", "item", "time"]}[form]
            )
            for user, items in users.items():
                if form == "lists":
                    rows.writerow([user, " ".join(items)])
                elif form == "rows":
                    rows.writerows([item, user] for item in items)
                else:
                    timed = [[user, item, 1e9 + time / 4] for time, item in enumerate(items)]
                    rows.writerows(timed[::-1])
    return path


def read_lists(path: str) -> Iterator[tuple[str, list[str], list[float]]]:
    """Yield user, items and scores of a file of lists."""
    if path.endswith(".jsonl"):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row["user"], row["items"], row["scores"]
    elif path.endswith(".parquet"):
        for row in parquet.read_table(path).to_pylist():
            yield row["user"], row["items"], row["scores"]
    else:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        users = dict.fromkeys(row["user"] for row in rows)
        for user in users:
            of_user = [row for row in rows if row["user"] == user]
            assert [int(row["rank"]) for row in of_user] == list(range(1, len(of_user) + 1))
            yield user, [row["item"] for row in of_user], [float(row["score"]) for row in of_user]


def check(found: Any, wanted: Any, users: list[str]) -> None:
    rows = list(found)
    assert [row[0] for row in rows] == users
    assert [row[1] for row in rows] == wanted.lists()
    for (_, _, scores), of_row in zip(rows, wanted.scores, strict=True):
        np.testing.assert_allclose(scores, of_row[: len(scores)], rtol=1e-6)


@pytest.mark.parametrize(
    ("histories", "form"),
    [
        ("h.jsonl", ""),
        ("h.parquet", ""),
        ("h.parquet", "large"),
        ("h.csv", "lists"),
        ("h.csv", "rows"),
        ("h.csv", "times"),
    ],
)
@pytest.mark.parametrize("output", ["out.jsonl", "out.csv", "out.parquet"])
def test_every_form_gives_the_same_lists(
    bundle: str, histories: str, form: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_histories(histories, USERS, form)
    assert main(["recommend", bundle, f"--histories={file}", "--k=4", f"--output={output}"]) == 0
    ours = Recommender.load(bundle)
    check(read_lists(output), ours.recommend(list(USERS.values()), 4), list(USERS))
    assert "7 users, of whom 1 have no known item and got the most popular; 3 unknown items" in capsys.readouterr().out


def test_what_is_asked_for_is_passed_on(bundle: str) -> None:
    file = write_histories("h.jsonl", USERS)
    Path("stock.txt").write_text("i3\ni4\n\ni5\nno\n i6 \n", encoding="utf-8")
    Path("bought.txt").write_text("i3\ni9\n", encoding="utf-8")
    ours, histories = Recommender.load(bundle), list(USERS.values())
    asked = [("none", None), ("bought.txt", ["i3", "i9"]), ("seen", "seen")]
    for word, exclude in asked:
        words = [f"--exclude={word}", "--items=stock.txt", "--output=out.jsonl"]
        assert main(["recommend", bundle, f"--histories={file}", *words]) == 0
        check(read_lists("out.jsonl"), ours.recommend(histories, 20, exclude, ["i3", "i4", "i5", "i6"]), list(USERS))
    words = ["recommend", bundle, f"--histories={file}", "--output=out2.jsonl", "--on-unknown=error"]
    assert main(words) == 2
    assert not Path("out2.jsonl").exists()


def test_known_users_of_the_bundle(bundle: str) -> None:
    assert main(["recommend", bundle, "--users", "--k=5", "--output=all.csv"]) == 0
    wanted = Recommender.load(bundle).recommend([[f"i{item}" for item in items] for items in KNOWN.values()], 5)
    check(read_lists("all.csv"), wanted, list(KNOWN))
    Path("some.txt").write_text("zoë\nann\n", encoding="utf-8")
    assert main(["recommend", bundle, "--users=some.txt", "--k=5", "--output=some.csv"]) == 0
    assert [row[0] for row in read_lists("some.csv")] == ["zoë", "ann"]


def test_ids_that_are_whole_numbers_are_texts(bundle: str) -> None:
    Path("h.jsonl").write_text('{"user_id": 5, "items": [1, "i2"]}\n', encoding="utf-8")
    assert main(["recommend", bundle, "--histories=h.jsonl", "--output=out.jsonl"]) == 0
    assert next(read_lists("out.jsonl"))[0] == "5"
    parquet.write_table(pa.table({"user": [5], "items": [[1, 2]]}), "h.parquet")
    assert main(["recommend", bundle, "--histories=h.parquet", "--output=out.csv"]) == 0
    assert next(read_lists("out.csv"))[0] == "5"


GOOD = '{"user": "a", "items": ["i1"]}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.jsonl", GOOD + '{"user": "b"}\n', "Line 2 of 'h.jsonl' has no list \"items\""),
        ("h.jsonl", GOOD + '{"user": "b", "items": "i1"}\n', "Line 2 of 'h.jsonl' has no list"),
        ("h.jsonl", GOOD + "\n" + '{"user": "b", "items": ["i1", null]}\n', "Line 3 of 'h.jsonl' has the id null"),
        ("h.jsonl", '{"items": ["i1"]}\n', "Line 1 of 'h.jsonl' has the id null"),
        ("h.jsonl", '{"user": "b", "items": [1.5]}\n', "Line 1 of 'h.jsonl' has the id 1.5, which is no text"),
        ("h.jsonl", '{"user": true, "items": []}\n', "Line 1 of 'h.jsonl' has the id true"),
        ("h.jsonl", GOOD * 4 + "{broken\n", "Line 5 of 'h.jsonl' is no JSON"),
        ("h.jsonl", "[1]\n", "Line 1 of 'h.jsonl' is no object"),
        ("h.jsonl", "[" * 100_000 + "\n", "Line 1 of 'h.jsonl' is no JSON"),
        ("h.jsonl", '{"user": "\\ud800", "items": []}\n', "Line 1 of 'h.jsonl' has an id with half a character"),
        ("h.jsonl", "", "There is no history to recommend for"),
        ("h.csv", "user,items\na,i1\nb\n", "Line 3 of 'h.csv' has 1 fields and the first line 2"),
        ("h.csv", "user,item\na,i1\nb,i2\na,i3\n", "Line 4 of 'h.csv' is of the user 'a', whose rows ended before"),
        ("h.csv", "user,item,time\na,i1,1\na,i2,x\n", "Line 3 of 'h.csv' has the time 'x', which is no number"),
        ("h.csv", "user,item,time\na,i1,nan\n", "Line 2 of 'h.csv' has the time 'nan'"),
        ("h.csv", "user,title\na,i1\n", "'h.csv' has the columns user, title: it needs user and items"),
        ("h.csv", "user,item,items\na,i1,i2\n", "it needs user and items, or user and item"),
        ("h.csv", "", "'h.csv' has the columns \\(none\\)"),
        ("h.csv", 'user,items\na,"i1\n', "Line 2 of 'h.csv' is no CSV"),
        ("h.parquet", "no Parquet", "'h.parquet' is no Parquet file that can be read"),
        ("h.txt", "a", "'h.txt' is of a kind that holds no histories: give .jsonl, .csv, .parquet"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(
    bundle: str, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(content, encoding="utf-8")
    before = set(Path().iterdir())
    assert main(["recommend", bundle, f"--histories={name}", "--output=out.jsonl"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"user": ["a", None], "items": [["i1"], []]}, "Row 2 of 'h.parquet' has no user"),
        ({"user": ["a", "b", "c", "d"], "items": [["i1"], [], [], None]}, "Row 4 of 'h.parquet' has no items"),
        ({"user": list("abcd"), "items": [["i1"], [], ["i1", None], []]}, "Row 3 of 'h.parquet' has a missing id"),
        ({"user": ["a"], "items": ["i1 i2"]}, "'h.parquet' has items of the type string: they must be lists"),
        ({"user": ["a"], "items": [[1.5]]}, "'h.parquet' has ids of the type double in items"),
        ({"user": [True], "items": [["i1"]]}, "'h.parquet' has ids of the type bool in user"),
        ({"who": ["a"], "items": [["i1"]]}, "'h.parquet' has the columns who, items: it needs user"),
    ],
)
def test_bad_rows_of_parquet(
    bundle: str, table: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet.write_table(pa.table(table), "h.parquet")
    assert main(["recommend", bundle, "--histories=h.parquet", "--output=out.jsonl"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("name", ["h.jsonl", "h.csv", "h.parquet"])
def test_batches_are_of_bounded_size(
    bundle: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(history_files, "LONGEST_HISTORY", 7)
    file = write_histories(name, USERS, "rows")
    batches = list(history_files.read_histories(file, 100))
    assert [user for batch in batches for user in batch.users] == list(USERS)
    assert [list(batch.histories.ids) for batch in batches] == [
        [item for user in batch.users for item in USERS[user]] for batch in batches
    ]
    sizes = [len(batch.histories.ids) for batch in batches]
    assert len(sizes) > 1
    assert max(sizes) < 2 * 7
    write_histories(name, {"a": ["i1"], "b": [f"i{item}" for item in range(1, 10)]}, "rows")
    if name != "h.jsonl":  # there a line is bounded
        assert main(["recommend", bundle, f"--histories={name}", "--output=out.jsonl"]) == 2
        assert "over 7 items" in capsys.readouterr().err


def test_lines_and_ids_are_of_bounded_length(
    bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet.write_table(pa.table({"user": ["a"], "items": [["i1", "i" * 5000]]}), "h.parquet")
    assert main(["recommend", bundle, "--histories=h.parquet", "--output=out.jsonl"]) == 2
    assert "'h.parquet' has an id of over 4,096 bytes in items" in capsys.readouterr().err
    monkeypatch.setattr(history_files, "LONGEST_LINE", 20)
    for name in ("h.jsonl", "h.csv"):
        write_histories(name, USERS, "lists")
        assert main(["recommend", bundle, f"--histories={name}", "--output=out.jsonl"]) == 2
        assert "has over 20 characters" in capsys.readouterr().err


def test_long_lists_are_answered_for_fewer_users_at_a_time(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, wish = Recommender.load(bundle), answering.Wish(k=10**9)
    assert answering.batch_size(ours, answering.Wish(k=2)) == 3
    monkeypatch.setattr(answering, "_LISTED", 2 * N)
    assert answering.batch_size(ours, wish) == 1
    file = write_histories("h.jsonl", USERS)
    assert main(["recommend", bundle, f"--histories={file}", "--k=1000000000", "--output=out.jsonl"]) == 0
    check(read_lists("out.jsonl"), ours.recommend(list(USERS.values()), N), list(USERS))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--histories=h.jsonl"], "recommend needs --output=FILE"),
        (["--output=o.csv"], "recommend needs either --histories=FILE or --users"),
        (["--output=o.csv", "--users", "--histories=h.jsonl"], "recommend needs either --histories=FILE or --users"),
        (["--output=o.txt", "--histories=h.jsonl"], "'o.txt' is of a kind that is not written"),
        (["--output=o.csv", "--histories="], "'' is of a kind that holds no histories"),
        (["--output=o.csv", "--histories=gone.jsonl"], "There is no file 'gone.jsonl'"),
        (["--output=o.csv", "--histories=h.jsonl", "--k=0"], "--k: invalid whole number of at least 1 value: '0'"),
        (["--output=o.csv", "--histories=h.jsonl", "--items=gone.txt"], "'gone.txt' cannot be read"),
        (["--output=o.csv", "--histories=h.jsonl", "--items=empty.txt"], "'empty.txt' holds no ids"),
        (["--output=o.csv", "--histories=h.jsonl", "--exclude=sen"], "'sen' cannot be read"),
        (["--output=o.csv", "--histories=h.jsonl", "--data_path=data"], "A bundle takes no configuration"),
        (["--output=o.csv", "--histories=h.jsonl", "--on_unknown=stop"], "on_unknown='stop' must be one of"),
    ],
)
def test_a_wrong_command_line_is_refused(
    bundle: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("h.jsonl").write_text(GOOD, encoding="utf-8")
    Path("empty.txt").write_text("\n", encoding="utf-8")
    assert main(["recommend", bundle, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_source_that_is_not_there_is_told_before_anything_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "gone", "--histories=h.jsonl", "--output=o.csv"]) == 2
    assert "There is no bundle or checkpoint at 'gone'" in capsys.readouterr().err


def test_a_long_history_in_a_row_of_csv(bundle: str) -> None:
    Path("h.csv").write_text("user,items\na," + "unknown " * 20_000 + "i1\n", encoding="utf-8")
    assert main(["recommend", bundle, "--histories=h.csv", "--k=5", "--output=out.csv"]) == 0
    check(read_lists("out.csv"), Recommender.load(bundle).recommend([["i1"]], 5), ["a"])


def test_a_checkpoint_answers_as_its_bundle_does(trained: dict[str, str]) -> None:
    bundle = export_model(trained["TransitionMemory"], "bundle", histories=True)
    histories = write_histories("h.jsonl", {"u1": ["i1", "i2"], "x": ["i29"], "y": []})
    for source in (str(bundle), trained["TransitionMemory"]):
        assert main(["recommend", source, f"--histories={histories}", "--output=lists.csv"]) == 0
        assert main(["recommend", source, "--users", "--output=known.csv"]) == 0
        found = [list(read_lists(name)) for name in ("lists.csv", "known.csv")]
        if source == str(bundle):
            wanted = found
    for ours, theirs in zip(found, wanted, strict=True):
        assert [row[:2] for row in ours] == [row[:2] for row in theirs]


BLOCKED = ("recbole", "pandas", "ray", "torch", "scipy", "sklearn", "faiss", "pyarrow", "transformers", "matplotlib")
ALONE = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Missing())
from recbole_sid.serving import Recommender
recommender = Recommender.load(sys.argv[1])
found = recommender.recommend([["i1", "i2"], ["i7"], []], k=5)
print(found.lists())
print(recommender.recommend_users(["u1"], k=3).to_dicts()[0]["how"])
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set({BLOCKED!r})))
"""


@pytest.mark.parametrize("model", ["TransitionMemory", "SIDMLP"])
def test_it_works_where_recbole_and_torch_cannot_be_imported(trained: dict[str, str], model: str) -> None:
    bundle = export_model(trained[model], "bundle", histories=True)
    done = subprocess.run([sys.executable, "-c", ALONE, str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lists, how, imported = done.stdout.splitlines()
    assert lists == str(Recommender.load(bundle).recommend([["i1", "i2"], ["i7"], []], k=5).lists())
    assert (how, imported) == ("model", "[]")
