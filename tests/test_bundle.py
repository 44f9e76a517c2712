"""Bundles: written, read, checked; item tokens, titles and known users found again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import MANIFEST, TOKENS, Follower, follower_table, make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from recbole_sid.errors import InputError
from recbole_sid.serving import engine
from recbole_sid.serving.bundle import CARD, HISTORIES, ITEMS, WEIGHTS, Bundle
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.tensors import arrays_in
from recbole_sid.serving.texts import Index, Texts


@pytest.fixture(autouse=True)
def follower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.ENGINES, "follower", "bundles:Follower")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_a_bundle_is_read_as_it_was_written(path: Path) -> None:
    bundle = Bundle.load(path)
    assert {key: bundle.manifest[key] for key in MANIFEST} == MANIFEST  # type: ignore[literal-required]
    arrays = bundle.arrays(WEIGHTS)
    np.testing.assert_array_equal(arrays["table"], follower_table(8))
    with pytest.raises(ValueError, match="read-only"):
        arrays["table"][0, 0] = 1
    for name in (WEIGHTS, ITEMS, HISTORIES):  # the library of the format is the reference
        expected = load_file(path / name)
        found = bundle.arrays(name)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(found[key], values)
            assert found[key].dtype == values.dtype
    assert bundle.content("further.bin").tobytes() == b"abc"
    assert Bundle.load(path).identity == bundle.identity
    assert sorted(file.name for file in path.iterdir()) == sorted([*bundle.manifest["files"], "bundle.json"])


def test_its_engine_ranks(path: Path) -> None:
    found = Bundle.load(path).engine()
    assert isinstance(found, Follower)
    items, scores = found.rank(Histories(np.array([[3, 4, 0]]), np.array([2])), 2)
    assert items.tolist() == [[5, 4]]
    assert scores.tolist() == [[0, -2]]


def test_items_and_their_titles(path: Path) -> None:
    catalogue = Bundle.load(path).catalogue
    assert catalogue.numbers([*TOKENS, "", "re", "red3", "красный", "\ud800"]).tolist() == [*range(1, 8), 0, 0, 0, 0, 0]
    assert catalogue.tokens(np.array([[3, 0], [7, 1]])) == ["зелёный", "", "r", "red"]
    assert catalogue.shown(np.array([4, 0]), "title") == ["The 黄", ""]
    assert catalogue.shown(np.array([4, 0]), "colour") == ["", ""]
    assert catalogue.popularity.tolist() == [0, 3, 9, 1, 9, 0, 2, 2]
    assert catalogue.popular.tolist() == [2, 4, 1, 6, 7, 3, 5]


def test_known_users(path: Path) -> None:
    users = Bundle.load(path).known_users
    numbers = users.numbers(["u2", "u1", "nobody"])
    assert numbers.tolist() == [2, 1, 0]
    histories = users.last(numbers, 2)
    assert histories.items.tolist() == [[7, 0], [2, 3], [0, 0]]
    assert histories.lengths.tolist() == [1, 2, 0]
    items, starts = users.all(numbers)
    assert (items.tolist(), starts.tolist()) == ([7, 1, 2, 3], [0, 1, 4, 4])
    assert users.tokens(numbers) == ["u2", "u1", ""]


def test_the_card_says_what_is_known(path: Path) -> None:
    text = (path / CARD).read_text(encoding="utf-8")
    for part in ("# Follower on tiny", "| ndcg@10 | 0.5000 |  |", "were not recorded", "last interaction tests", "ids"):
        assert part in text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), unique=True, max_size=200), st.data())
def test_the_index_is_a_dictionary(texts: list[str], data: Any) -> None:
    index, known = Index.of(texts), {text: number for number, text in enumerate(texts, 1)}
    asked = texts + data.draw(st.lists(st.text(max_size=6), max_size=20))
    assert index.numbers(asked).tolist() == [known.get(text, 0) for text in asked]
    again = Index.read(index.arrays("x"), "x", len(texts) + 1, "it")
    assert again.numbers(asked).tolist() == [known.get(text, 0) for text in asked]
    rows = np.array(data.draw(st.lists(st.integers(0, len(texts)), max_size=20)), dtype=np.int64)
    assert index.texts.take(rows).tolist() == [["", *texts][row] for row in rows]


def test_equal_hashes_take_the_next_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_sid.serving.texts.crc32", lambda encoded: 2**32 - 1)
    names = [f"i{number}" for number in range(50)]
    assert Index.of(names).numbers([*names, "j"]).tolist() == [*range(1, 51), 0]


def test_what_occurs_twice_has_no_number() -> None:
    with pytest.raises(ValueError, match="twice"):
        Index.of(["a", "b", "a"])


def test_a_bundle_loads_without_the_laboratory(path: Path) -> None:
    blocked = "recbole pandas ray faiss sklearn scipy torch pyarrow yaml safetensors matplotlib transformers".split()
    code = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
from recbole_sid.serving import Bundle
bundle = Bundle.load({str(path)!r})
shape = bundle.arrays("weights.safetensors")["table"].shape
print(bundle.catalogue.numbers(["red"])[0], bundle.known_users.n_users, shape)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[0] == "1 2 (8, 8)"


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        make_bundle(tmp_path / "bundle", settings={"scale": object()})
    assert list(tmp_path.iterdir()) == []
    make_bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match="exists already"):
        make_bundle(tmp_path / "bundle")


def test_a_card_of_a_training_on_everything_claims_no_metrics(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"metrics": {"validation": {}, "test": {}}}
    everything = {"dataset": "tiny", "eval_args": {"split": {"LS": "none"}}}
    path = make_bundle(tmp_path / "all", protocol=everything, sizes={"items_without_training": 3}, **nothing)
    text = (path / CARD).read_text(encoding="utf-8")
    assert "trained on all interactions" in text
    assert "3 items joined after training" in text
    assert "last interaction tests" not in text


def test_a_bundle_of_format_1_is_read() -> None:
    """Written by version 0.3.0, and never again: what later formats have to go on reading."""
    bundle = Bundle.load(Path(__file__).parent / "data" / "bundle_format_1")
    assert (bundle.manifest["format"], bundle.manifest["version"]) == (1, "0.3.0")
    assert bundle.catalogue.numbers(TOKENS).tolist() == [*range(1, 8)]
    assert bundle.catalogue.shown(np.array([1]), "title") == ["The red"]
    assert bundle.known_users.last(np.array([1]), 9).items.tolist() == [[1, 2, 3]]
    assert bundle.engine().rank(Histories(np.array([[3]]), np.array([1])), 1)[0].tolist() == [[4]]


def test_a_link_is_followed_once(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(path)
    bundle = Bundle.load(link)
    link.unlink()
    link.symlink_to(make_bundle(tmp_path / "next", sizes={}))
    assert bundle.path == path
    assert bundle.catalogue.numbers(["red"]).tolist() == [1]
    assert Bundle.load(link).identity != bundle.identity


@pytest.mark.parametrize("metrics", [{"validation": 1}, {"test": {"ndcg@10": "high"}}, []])
def test_metrics_are_numbers(path: Path, metrics: Any) -> None:
    with pytest.raises(InputError, match="its metrics is missing or wrong"):
        Bundle.load(changed(path, metrics=metrics))


def changed(path: Path, **changes: Any) -> Path:
    manifest = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    (path / "bundle.json").write_text(json.dumps({**manifest, **changes}), encoding="utf-8")
    return path


def test_a_later_format_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"of format 2, written by recbole-sid 9\.9, and this version reads up to 1"):
        Bundle.load(changed(path, format=2, version="9.9"))


def test_a_delta_is_no_whole_bundle(path: Path) -> None:
    with pytest.raises(InputError, match="is a delta, to a bundle 0123456789abcdef: make a whole one"):
        Bundle.load(changed(path, base="0123456789abcdef"))


@pytest.mark.parametrize("format_", [None, 0, -1, True, "1", 1.0])
def test_no_format_is_no_bundle(path: Path, format_: Any) -> None:
    with pytest.raises(InputError, match="no manifest of a bundle"):
        Bundle.load(changed(path, format=format_))


def test_no_manifest_is_no_bundle(tmp_path: Path) -> None:
    for name in (5, None, "a\0b"):
        with pytest.raises(InputError, match="is no name of a bundle"):
            Bundle.load(name)  # type: ignore[arg-type]
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=r"is no bundle \(it has no bundle.json\)"):
            Bundle.load(folder)


def test_damaged_missing_cut_and_swapped_files_are_refused(path: Path, tmp_path: Path) -> None:
    file = path / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"is damaged or of another bundle .its SHA-256"):
        Bundle.load(path)
    Bundle.load(path, verify=False)  # by its size alone this one is as it was
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match="cut short or of another bundle"):
        Bundle.load(path, verify=False)
    file.unlink()
    with pytest.raises(InputError, match="lacks its file"):
        Bundle.load(path)
    file.mkdir()
    with pytest.raises(InputError, match="is no file"):
        Bundle.load(path)
    file.rmdir()
    file.write_bytes(content)
    Bundle.load(path)
    changed(path, n_items=9)
    with pytest.raises(InputError, match=r"weights of 7 items and a manifest of 8"):
        Bundle.load(path).engine()
    with pytest.raises(InputError, match="texts 'tokens' are not 9"):
        _ = Bundle.load(path).catalogue


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "", "..", ".", "a\0b", "c:\\d", "bundle.json", "é"]
)
def test_a_name_never_leads_out(path: Path, name: str) -> None:
    with pytest.raises(InputError, match="file name"):
        Bundle.load(changed(path, files={name: {"bytes": 1, "sha256": "0" * 64}}))


def tensor_file(header: Any, body: bytes = b"\0" * 8, length: int | None = None) -> np.ndarray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return np.frombuffer((len(text) if length is None else length).to_bytes(8, "little") + text + body, np.uint8)


def entry(dtype: Any = "F32", shape: Any = (2,), place: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(0, np.uint8), "no possible length"),
        (tensor_file({}, length=2**63), "no possible length"),
        (tensor_file({}, length=11), "no possible length"),
        (tensor_file(b"\xff\xff"), "is no text"),
        (tensor_file(b"{]"), "no JSON"),
        (tensor_file(b"[" * 100_000), "nests too deeply|no JSON"),
        (tensor_file(b"[]"), "is no object"),
        (tensor_file(b'{"a": 1, "a": 2}'), "twice"),
        (tensor_file({"a": []}), "not described"),
        (tensor_file({"a": {**entry(), "more": 1}}), "not described"),
        (tensor_file({"a": entry("O")}), "type that is not read"),
        (tensor_file({"a": entry(["F32"])}), "type that is not read"),
        (tensor_file({"a": entry(shape=[-2])}), "no possible shape"),
        (tensor_file({"a": entry(shape=[True, 2])}), "no possible shape"),
        (tensor_file({"a": entry(shape=[2**62])}), "no possible shape"),
        (tensor_file({"a": entry(shape=[1] * 17)}), "no possible shape"),
        (tensor_file({"a": entry(shape=[2**61] * 16)}), "no possible shape"),
        (tensor_file({"a": entry(shape=[0, 2**61], place=[0, 0])}, b""), "no possible shape"),
        (tensor_file({"a": entry(place=[0, 8, 9])}), "no possible place"),
        (tensor_file({"a": entry(place=[0, "8"])}), "no possible place"),
        (tensor_file({"a": entry(place=[8, 0])}), "another size"),
        (tensor_file({"a": entry(place=[8, 16])}), "one behind the other"),
        (tensor_file({"a": entry(), "b": entry()}), "one behind the other"),
        (tensor_file({"a": entry(shape=[1], place=[0, 4])}), "one behind the other"),
        (tensor_file({"a": entry(shape=[1], place=[4, 8])}), "one behind the other"),
        (tensor_file({"a": entry("BOOL", [8])}, b"\0\1\2" + b"\0" * 5), "neither true nor false"),
    ],
)
def test_hostile_headers_are_refused(content: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        arrays_in(content, "it")


def test_arrays_of_all_types_and_odd_places() -> None:
    rng = np.random.default_rng(0)
    names = [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)] + ["f2", "f4", "f8"]
    arrays: dict[str, np.ndarray] = {
        name: (rng.random((3, 0 if name == "i4" else 5)) * 99).astype(name) for name in names
    }
    arrays |= {"bool": rng.random(7) > 0.5, "scalar": np.array(3.5)}
    found = arrays_in(np.frombuffer(save(arrays), np.uint8), "it")
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
        assert (found[name].dtype, found[name].shape, found[name].flags.aligned) == (values.dtype, values.shape, True)
    odd = arrays_in(tensor_file({"a": entry("U8", [1], [0, 1]), "b": entry("F64", [1], [1, 9])}, b"\7" * 9), "it")
    assert odd["b"].flags.aligned
    assert odd["b"].tobytes() == b"\7" * 8


def outcome(call: Callable[[], Any]) -> Any:
    """Return what `call` returns or refuses with; anything else that it raises is raised."""
    try:
        return call()
    except InputError as error:
        return error


CONTENT = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(5), "c": np.zeros(0, np.uint8)})


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 240), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 300))
def test_any_damage_of_a_header_ends_in_a_sentence(changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(CONTENT[: len(CONTENT) - max(0, cut - 200)])
    for place, value in changes:
        content[place % len(content)] = value
    found = outcome(lambda: arrays_in(np.frombuffer(bytes(content), np.uint8), "it"))
    if isinstance(found, InputError):
        assert "\n" not in str(found)
    else:
        assert sum(values.nbytes for values in found.values()) <= len(content)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_of_a_manifest_ends_in_a_sentence(tmp_path_factory: Any, changes: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    if not path.exists():
        make_bundle(path)
        (path / "as.json").write_bytes((path / "bundle.json").read_bytes())
    content = bytearray((path / "as.json").read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (path / "bundle.json").write_bytes(content)
    found = outcome(lambda: Bundle.load(path))
    found = outcome(lambda: (found.catalogue, found.known_users)) if isinstance(found, Bundle) else found
    assert not isinstance(found, InputError) or "\n" not in str(found)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([ITEMS, HISTORIES]), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3))
def test_hostile_items_and_users_end_in_a_sentence_or_stay_in_bounds(
    tmp_path_factory: Any, name: str, changes: list[tuple[int, int]]
) -> None:
    """Whoever makes a bundle makes its hashes too."""
    path = tmp_path_factory.getbasetemp() / "hostile"
    if not path.exists():
        make_bundle(path)
    good = (path / name).read_bytes()
    content = bytearray(good)
    for place, value in changes:
        content[place % len(content)] = value
    before = (path / "bundle.json").read_text(encoding="utf-8")
    known = json.loads(before)["files"]
    known[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    try:
        (path / name).write_bytes(content)
        found = outcome(lambda: use(Bundle.load(changed(path, files=known))))
        assert not isinstance(found, InputError) or "\n" not in str(found)
    finally:
        (path / name).write_bytes(good)
        (path / "bundle.json").write_text(before, encoding="utf-8")


def use(bundle: Bundle) -> None:
    """Ask for all that items and users can be asked for."""
    catalogue, users = bundle.catalogue, bundle.known_users
    numbers = catalogue.numbers([*TOKENS, "unknown"])
    catalogue.tokens(numbers)
    catalogue.shown(catalogue.popular, "title")
    assert (catalogue.popularity >= 0).all()
    of_users = users.numbers(["u1", "u2", "u3"])
    items, lengths = users.last(of_users, 10)
    assert (items >= 0).all()
    assert (items < catalogue.n_items).all()
    assert (lengths >= 0).all()
    users.all(of_users)
    users.tokens(of_users)


def test_an_index_of_something_else_is_refused() -> None:
    good = Index.of(["a", "b"]).arrays("x")
    texts, starts, slots = good["x.text"], good["x.starts"], good["x.slots"]
    full = np.ones_like(slots)
    for name, values in {
        "x.slots": [full, slots[:-1], slots.astype(float), slots * 9, -slots, slots[:, None]],
        "x.starts": [starts[:-1], starts + 1, starts[::-1], starts.astype(np.int32)],
        "x.text": [texts[:-1], texts.astype(np.int64)],
    }.items():
        for value in values:
            with pytest.raises(InputError, match="it is damaged"):
                Index.read({**good, name: value}, "x", 3, "it")
        with pytest.raises(InputError, match="it is damaged"):
            Index.read({key: value for key, value in good.items() if key != name}, "x", 3, "it")


def test_texts_that_are_no_utf8_are_marked() -> None:
    assert Texts(np.frombuffer(b"a\xff", np.uint8), np.array([0, 2])).tolist() == ["a�"]
