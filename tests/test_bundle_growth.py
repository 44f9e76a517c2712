"""Items join a bundle without training; a later bundle travels as a delta."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import TOKENS, make_bundle
from conftest import SETTINGS, random_sequences, write_dataset

from recbole_sid.cli import main
from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError
from recbole_sid.exporting.export import export_model
from recbole_sid.exporting.extended import _GROW, extend_bundle
from recbole_sid.exporting.kept_ids import arrays_of, semantic_ids_in
from recbole_sid.exporting.new_items import read_new_items
from recbole_sid.quick_start import run_recbole_sid
from recbole_sid.semantic_ids.extend import extend
from recbole_sid.serving.bundle import CARD, SEMANTIC_IDS, WEIGHTS, Bundle
from recbole_sid.serving.delta import CHANGES, apply_delta, common_rows, write_delta
from recbole_sid.serving.engine import ENGINES, Histories

N_KNOWN, N_ALL = 30, 33
FILE = {"features": ["file"], "feature_file": "vectors.npy", "feature_tokens": "tokens.txt", "rank_size": 9}
NAMES = [f"i{item}" for item in range(N_ALL)]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A hybrid and a SIDMLP with memories, their bundles of 30 items, and those of the same weights with 33."""
    folder = tmp_path_factory.mktemp("grown")
    vectors = np.random.default_rng(0).normal(size=(N_ALL, 6)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    (folder / "tokens.txt").write_text("\n".join(NAMES), encoding="utf-8")
    found: dict[str, Any] = {"vectors": vectors, "folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = str(write_dataset(folder / "data", random_sequences()))
        common = {**FILE, "data_path": data, "epochs": 1, "semantic_ids_path": None, "checkpoint_dir": "saved"}
        for model, changes in {"SIDMLPHybrid": {}, "SIDMLP": {"memory": "transitions"}}.items():
            file = run_recbole_sid(model, "tiny", config_dict={**SETTINGS[model], **common, **changes})["model_file"]
            found[model] = export_model(str(file), folder / f"{model}-old", histories=True)
            found[f"{model} file"] = file
        ids_file = next(Path("saved/semantic_ids").glob("*.npz"))
        extend(SemanticIDs.load(ids_file), {"file": vectors}, NAMES).save("extended.npz")
        with open(folder / "data" / "tiny" / "tiny.inter", "a", encoding="utf-8") as stream:
            stream.writelines(f"new\ti{item}\t{1_700_000_000}\n" for item in (30, 31, 32, 1))
        for model in ("SIDMLPHybrid", "SIDMLP"):
            overrides = {"semantic_ids_path": "extended.npz"}
            found[f"{model} again"] = export_model(found[f"{model} file"], folder / f"{model}-new", overrides=overrides)
    return found


def scores_by_token(bundle: Bundle, histories: list[list[str]]) -> np.ndarray:
    """Return [B, N_ALL] scores of i0, i1, ..."""
    numbers = [bundle.catalogue.numbers(history) for history in histories]
    items = np.zeros((len(histories), max(map(len, histories))), np.int64)
    for row, of_row in enumerate(numbers):
        items[row, : len(of_row)] = of_row
    engine = bundle.engine()
    return engine.all_scores(Histories(items, np.array([len(row) for row in numbers])))[
        :, bundle.catalogue.numbers(NAMES)
    ]


HISTORIES = [["i1", "i2", "i3"], ["i7"], ["i4", "i30"], ["i31", "i32", "i0", "i29"]]


def test_the_hybrid_scores_new_items_as_the_package_does(grown: dict[str, Any], tmp_path: Path) -> None:
    old = Bundle.load(grown["SIDMLPHybrid"])
    made = extend_bundle(
        old.path, tmp_path / "later", NAMES, {"file": grown["vectors"]}, {"title": [f"A {x}" for x in NAMES]}
    )
    assert (made.n_new, made.left_out) == (3, [])
    later, expected = Bundle.load(made.path), Bundle.load(grown["SIDMLPHybrid again"])
    np.testing.assert_allclose(scores_by_token(later, HISTORIES), scores_by_token(expected, HISTORIES), atol=1e-4)
    arrays, wanted = later.arrays(WEIGHTS), expected.arrays(WEIGHTS)
    assert arrays.keys() == wanted.keys()
    for name, values in wanted.items():  # the package numbers the items as the bundle does here
        np.testing.assert_allclose(arrays[name], values, atol=1e-6, err_msg=name)
    catalogue = later.catalogue
    assert catalogue.numbers(["i30", "i31", "i32"]).tolist() == [31, 32, 33]
    assert catalogue.tokens(np.arange(1, 31)) == old.catalogue.tokens(np.arange(1, 31))
    assert catalogue.shown(np.array([1, 33]), "title") == [*old.catalogue.shown(np.array([1]), "title"), "A i32"]
    assert catalogue.popularity.tolist() == [*old.catalogue.popularity.tolist(), 0, 0, 0]
    assert later.known_users.n_users == old.known_users.n_users
    found, before = later.manifest, old.manifest
    assert found["fingerprints"]["semantic IDs"] == expected.manifest["fingerprints"]["semantic IDs"]
    assert found["fingerprints"]["extended bundle"] == old.identity
    assert (found["n_items"], found["metrics"]) == (34, before["metrics"])


def test_a_memory_has_nothing_of_new_items(grown: dict[str, Any], tmp_path: Path) -> None:
    """The package counts it anew on the data of now, so that its lists are compared without it."""
    later = Bundle.load(extend_bundle(grown["SIDMLP"], tmp_path / "later", NAMES, {"file": grown["vectors"]}).path)
    assert later.manifest["settings"]["memory"] is True
    engine = later.engine()
    assert np.isfinite(engine.all_scores(Histories(np.array([[33]]), np.array([1])))[0, 1:]).all()
    table = later.arrays(WEIGHTS)
    scores = engine.all_scores(Histories(np.array([[4, 33]]), np.array([2])))
    items, found = engine.rank(Histories(np.array([[4, 33]]), np.array([2])), 33)
    np.testing.assert_allclose(found[0], np.sort(scores[0, 1:])[::-1], atol=1e-4)
    np.testing.assert_allclose(found[0], scores[0, items[0]], atol=1e-4)
    assert (np.diff(table["memory.starts"])[31:] == 0).all()
    memoryless = Bundle.load(grown["SIDMLP again"])
    for name in ("trie.code", "trie.start"):
        np.testing.assert_array_equal(table[name], memoryless.arrays(WEIGHTS)[name])


def test_items_join_in_steps_by_the_command_and_travel_as_deltas(
    grown: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = str(grown["SIDMLPHybrid"])
    steps = [(30, 32), (32, 33)]
    here, there = old, old
    for number, (first, end) in enumerate(steps):
        lines = ["item_id,title", *(f"i{item},Title of {item}" for item in range(first, end))]
        (tmp_path / "new.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        np.save(tmp_path / "new.npy", grown["vectors"][first:end])
        target, delta, copy = (str(tmp_path / f"{name}{number}") for name in ("later", "delta", "copy"))
        words = ["extend-bundle", here, f"--items={tmp_path / 'new.csv'}", f"--vectors={tmp_path / 'new.npy'}"]
        assert main([*words, f"--output={target}", f"--delta={delta}"]) == 0
        assert f"{end - first} new items; {end} in all" in capsys.readouterr().out
        assert main(["apply-delta", delta, f"--base={there}", f"--output={copy}"]) == 0
        here, there = target, copy
        assert Bundle.load(here).identity == Bundle.load(there).identity
        for file in Path(here).iterdir():
            assert (Path(there) / file.name).read_bytes() == file.read_bytes()
            assert (Path(there) / file.name).stat().st_mode == file.stat().st_mode
        assert (Path(delta) / CHANGES).stat().st_size < (Path(target) / WEIGHTS).stat().st_size / 2
    at_once = extend_bundle(old, tmp_path / "at_once", NAMES, {"file": grown["vectors"]}).path
    np.testing.assert_array_equal(
        scores_by_token(Bundle.load(there), HISTORIES), scores_by_token(Bundle.load(at_once), HISTORIES)
    )
    assert Bundle.load(there).catalogue.shown(np.array([33]), "title") == ["Title of 32"]
    assert Bundle.load(there).manifest["sizes"]["items_without_training"] == 3


def test_what_cannot_be_extended_is_refused(grown: dict[str, Any], tmp_path: Path) -> None:
    old, vectors, target = grown["SIDMLPHybrid"], grown["vectors"], tmp_path / "later"
    with pytest.raises(InputError, match="knows all of these 30 items already"):
        extend_bundle(old, target, NAMES[:30], {"file": vectors[:30]})
    with pytest.raises(InputError, match="codes again from these features"):
        extend_bundle(old, target, NAMES, {"file": vectors[:, ::-1]})
    with pytest.raises(InputError, match=r"New items cannot join .* export the model again"):
        extend_bundle(make_bundle(tmp_path / "bundle"), target, NAMES, {"file": vectors})
    with pytest.raises(InputError, match="exists already"):
        extend_bundle(old, tmp_path / "bundle", NAMES, {"file": vectors})
    (tmp_path / "new.jsonl").write_text('{"item_id": "i31", "title": "x"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"New items cannot join .* export the model again"):
        read_new_items(tmp_path / "bundle", tmp_path / "new.jsonl")
    words = ["extend-bundle", str(old), f"--items={tmp_path / 'new.jsonl'}", f"--output={target}"]
    assert main(words) == 2
    np.save(tmp_path / "two.npy", vectors[:2])
    assert main([*words, f"--vectors={tmp_path / 'two.npy'}"]) == 2
    assert not target.exists()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Bundle, Bundle]:
    base, later = (make_bundle(tmp_path / name, sizes={"run": name}) for name in ("base", "later"))
    return Bundle.load(base), Bundle.load(later)


def test_a_delta_holds_only_what_differs(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    base, later = pair
    write_delta(base, later, tmp_path / "delta")
    names = sorted(file.name for file in (tmp_path / "delta").iterdir())
    assert set(names) <= {CARD, "bundle.json", CHANGES}
    made = apply_delta(tmp_path / "delta", base.path, tmp_path / "made")
    assert made.identity == later.identity
    assert made.catalogue.numbers(TOKENS).tolist() == [*range(1, 8)]


def test_a_delta_of_another_bundle_is_refused(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    base, later = pair
    write_delta(base, later, tmp_path / "delta")
    for call, message in {
        (tmp_path / "delta", later.path): "give it the bundle that it was made for",
        (base.path, base.path): "is a whole bundle and no delta",
    }.items():
        with pytest.raises(InputError, match=message):
            apply_delta(*call, tmp_path / "made")
    with pytest.raises(InputError, match="is a delta, to a bundle"):
        Bundle.load(tmp_path / "delta")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"later": None}, "its later is missing"),
        ({"later": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "file name '../x'"),
        ({"kept": {"a": 1}}, "its kept is missing"),
        ({"kept": {"a": {"b": -1}}}, "its kept is missing"),
        ({"later": {"weights.safetensors": {"bytes": 1, "sha256": "0" * 64}}}, "does not make the file"),
        ({"kept": {"weights.safetensors": {"table": 10**9}}}, "lacks rows"),
        ({"kept": {"weights.safetensors": {"other": 0}}}, "lacks rows"),
    ],
)
def test_a_damaged_delta_is_refused(
    pair: tuple[Bundle, Bundle], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    base, later = pair
    write_delta(base, later, tmp_path / "delta")
    file = tmp_path / "delta" / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        apply_delta(tmp_path / "delta", base.path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_rows_that_arrays_begin_with() -> None:
    table = np.arange(300_000, dtype=np.int32).reshape(-1, 3)
    longer = np.concatenate([table, table[:5]])
    assert common_rows(table, longer) == len(table)
    assert common_rows(longer, table) == len(table)
    for row in (0, 1, 65_535, 65_536, len(table) - 1):
        other = longer.copy()
        other[row, 1] += 1
        assert common_rows(table, other) == row
    assert (
        common_rows(table, table.astype(np.int64)) == common_rows(table, table[:, :2]) == common_rows(None, table) == 0
    )
    nan = np.array([np.nan, 1.0])
    assert common_rows(nan, nan.copy()) == 2


def test_semantic_ids_come_back_as_they_were() -> None:
    tokens, state = np.array(["a", "ß", "b"]), {"words": np.array([["x", "yé"]]), "table": np.ones((2, 2))}
    ids = SemanticIDs(
        np.eye(3, 2, dtype=int), (2, 2), tokens, {"a": [1]}, np.array([1, 2, 3]), state, {"n": np.array(3)}
    )
    for one in (ids, replace(ids, popularity=None)):
        found = semantic_ids_in(arrays_of(one), "it")
        assert found.fingerprint == one.fingerprint
        assert (found.recipe, found.item_tokens.tolist()) == (one.recipe, one.item_tokens.tolist())
        for name in ("tokenizer_state", "feature_state"):
            before, after = getattr(one, name), getattr(found, name)
            assert before.keys() == after.keys()
            for key, values in before.items():
                np.testing.assert_array_equal(after[key], values)
    for name in arrays_of(ids):
        if name != "popularity" and not name.startswith(("tokenizer", "features")):
            with pytest.raises(InputError, match="is damaged"):
                semantic_ids_in({key: value for key, value in arrays_of(ids).items() if key != name}, "it is damaged:")


def test_engines_that_grow_are_engines() -> None:
    assert set(_GROW) < set(ENGINES)


def test_semantic_ids_are_kept_where_they_can_give_codes(grown: dict[str, Any]) -> None:
    bundle = Bundle.load(grown["SIDMLP"])
    kept = semantic_ids_in(bundle.arrays(SEMANTIC_IDS), "it")
    assert kept.fingerprint == bundle.manifest["fingerprints"]["semantic IDs"]


def test_texts_of_new_items_join_by_the_command(
    tmp_path: Path, data_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"features": ["text"], "text_fields": ["title", "kind"], "text_dim": 4, "rank_size": 20, "epochs": 1}
    run = run_recbole_sid(
        "SIDMLPHybrid", "tiny", config_dict={**SETTINGS["SIDMLPHybrid"], "data_path": data_path, **texts}
    )
    old = export_model(str(run["model_file"]), tmp_path / "old")
    rows = [("i30", "red red thing", "kind0"), ("i0", "red red thing", "kind0"), ("i31", "blue tiny thing", "kind2")]
    lines = [json.dumps({"item_id": item, "title": title, "kind": kind}) for item, title, kind in rows]
    (tmp_path / "new.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["extend-bundle", str(old), f"--items={tmp_path / 'new.jsonl'}"]
    assert main([*words, f"--output={tmp_path / 'later'}"]) == 0
    assert "2 new items; 32 in all" in capsys.readouterr().out
    bundle = Bundle.load(tmp_path / "later")
    codes = semantic_ids_in(bundle.arrays(SEMANTIC_IDS), "it")
    place = {token: row for row, token in enumerate(codes.item_tokens.tolist())}
    assert codes.codes[place["i30"]][:-1].tolist() == codes.codes[place["i0"]][:-1].tolist()  # of the same text
    scores = scores_by_token(bundle, [["i1", "i30"]])
    assert np.isfinite(scores[0, :32]).all()
    assert bundle.catalogue.shown(bundle.catalogue.numbers(["i31"]), "title") == ["blue tiny thing"]
    for more, message in {"--vectors=v.npy": "leave the vectors out", "--items=none.csv": "There is no file"}.items():
        changed = [word for word in words if not word.startswith(more.split("=")[0])]
        assert main([*changed, more, f"--output={tmp_path / 'other'}"]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "new.csv").write_text("item_id,kind\ni40,kind1\n", encoding="utf-8")
    assert main(["extend-bundle", str(old), f"--items={tmp_path / 'new.csv'}", f"--output={tmp_path / 'other'}"]) == 2
    assert "title" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
