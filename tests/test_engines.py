"""Engines of bundles against the models that they were made of, and against brute force."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OWN, SMALL

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.exporting.forms import Form, form_of
from recbole_sid.fast.compiled.arrays import filled_up, in_panels
from recbole_sid.fast.compiled_scorer import is_usable
from recbole_sid.memory import Numbers
from recbole_sid.registry import get_model
from recbole_sid.serving.engine import Histories, engine_named

pytest.importorskip("numba")
from recbole_sid.fast.compiled import decoders
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.products import affine
from recbole_sid.serving.engines import code_ranking

pytestmark = pytest.mark.skipif(not is_usable(), reason="numba does not work")

NUMBERS = Numbers(hops=2, hop_decay=0.5, window=3, window_decay=0.4, pseudo_counts=0.7)
Made = tuple[Any, Any, Any]  # the model, rows of the data, its engine


@pytest.fixture
def make(prepare: Callable[..., Any]) -> Callable[..., Made]:
    """Return ``make(model, **changes) -> model, rows, engine``: untrained, with weights that say something."""

    def made(name: str, **changes: Any) -> Made:
        config, train, _, _ = prepare(name, **changes)
        torch.manual_seed(0)
        model = get_model(name)(config, train._dataset).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # fresh layers hardly change what they are given
                parameter.add_(torch.randn_like(parameter) * 0.2)
        if model.memory is not None:
            model.memory.learn(*train._dataset.training_sequences(), NUMBERS)
            model.sharpness.fill_(0.7)
        rows = train._dataset[torch.arange(0, len(train._dataset), 3)]
        form = form_of(model, config, train._dataset)
        return model, rows, engine_named(form.engine).of(form.arrays, stored(form))

    return made


def stored(form: Form) -> dict[str, Any]:
    """Return the settings of a form as a bundle gives them back."""
    return json.loads(json.dumps(form.settings))


def histories_of(model: Any, rows: Any) -> Histories:
    return Histories(rows[model.ITEM_SEQ].numpy(), rows[model.ITEM_SEQ_LEN].numpy())


def check_parity(model: Any, rows: Any, engine: Any) -> None:
    """The engine ranks as the model does; what it says of all items and of some is what the model says of all."""
    histories = histories_of(model, rows)
    assert {1, engine.max_history} <= {*histories.lengths.tolist()}
    with torch.no_grad():
        of_all = model.full_sort_predict(rows).view(len(rows), -1).numpy()
        row, items, scores = (part.numpy() for part in model.retrieve(rows))
    found, found_scores = engine.rank(histories, engine.beam_size)
    every = engine.all_scores(histories)
    assert found.dtype == np.int64
    assert found_scores.dtype == every.dtype == np.float32
    assert every.shape == (len(rows), engine.n_items)
    for user in range(len(rows)):
        mine, its_scores = found[user][found[user] > 0], found_scores[user][found[user] > 0]
        order = np.lexsort((items[row == user], -scores[row == user]))[: engine.beam_size]
        np.testing.assert_allclose(its_scores, scores[row == user][order], atol=1e-4)
        np.testing.assert_allclose(its_scores, of_all[user][mine], atol=1e-4)
        assert len({*mine.tolist()}) == len(mine)
        certain = its_scores > its_scores[-1] + 1e-4  # which of those that tie with the last are left out is open
        assert {*mine[certain].tolist()} <= {*items[row == user].tolist()}
        assert not found[user][len(mine) :].any()
        assert np.isneginf(found_scores[user][len(mine) :]).all()
        assert ((np.diff(its_scores) < 0) | (np.diff(mine) > 0)).all()
    finite = np.isfinite(of_all)
    finite[:, 0] = False
    np.testing.assert_array_equal(np.isfinite(every), finite)
    np.testing.assert_allclose(every[finite], of_all[finite], atol=1e-4, rtol=1e-5)
    some = np.array([7, 3, 3, engine.n_items - 1])
    np.testing.assert_allclose(engine.scores(histories, some), every[:, some], atol=1e-4)
    # As wide as the catalogue, the list is that of all scores.
    whole, whole_scores = engine.rank(histories, engine.n_items + 5)
    assert whole.shape == (len(rows), engine.n_items - 1)
    expected = -np.sort(-every[:, 1:], axis=1)
    np.testing.assert_allclose(whole_scores, expected, atol=1e-4)
    # One by one as all together, and cut to fewer.
    alone = [engine.rank(Histories(*(part[user : user + 1] for part in histories)), 3) for user in range(5)]
    np.testing.assert_allclose(np.concatenate([scores for _, scores in alone]), found_scores[:5, :3], atol=1e-5)


HEADS: list[dict[str, Any]] = [{}, {"sid_heads": False}, {"item_head": False}]


@pytest.mark.parametrize("decoding", ["beam", "exact", "full"])
@pytest.mark.parametrize("memory", ["none", "transitions"])
@pytest.mark.parametrize("changes", HEADS, ids=str)
def test_hybrids(make: Callable[..., Made], changes: dict[str, Any], memory: str, decoding: str) -> None:
    check_parity(*make("SIDMLPHybrid", memory=memory, decoding=decoding, **changes))


@pytest.mark.parametrize("decoding", ["beam", "exact", "full"])
@pytest.mark.parametrize("memory", ["none", "transitions"])
@pytest.mark.parametrize("changes", [{"item_candidates": 2}, {"item_candidates": 4}, {"item_candidates": 30}], ids=str)
def test_hybrids_whose_items_are_found_by_an_index(
    make: Callable[..., Made], changes: dict[str, Any], memory: str, decoding: str
) -> None:
    check_parity(*make("SIDMLPHybrid", memory=memory, decoding=decoding, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"item_mixing": "attention"},
        {"item_layers": 1},
        {"query_per_level": True, "memory": "transitions"},
        {"query_from_last": True, "query_per_level": True, "decoding": "exact"},
    ],
    ids=str,
)
def test_students_that_read_items(make: Callable[..., Made], changes: dict[str, Any]) -> None:
    check_parity(*make("SIDMLPPlusPlus", **{"encoder": "item", "item_layers": 2, **changes}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("SIDMLP", {}),
        ("SIDMLP", {"memory": "transitions", "query_from_last": True}),
        ("SIDMLPPlusPlus", {"query_per_level": True}),
        ("SIDMLPPlusPlus", {"encoder_positions": "end", "encoder_mixing": "weighted", "decoding": "exact"}),
    ],
)
def test_students_that_read_tokens(make: Callable[..., Made], name: str, changes: dict[str, Any]) -> None:
    check_parity(*make(name, **changes))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_head_without_a_share_is_left_out(make: Callable[..., Made], share: float) -> None:
    model, rows, _ = make("SIDMLPHybrid", memory="transitions")
    model.shares.copy_(torch.tensor([share, 1 - share]))
    form = form_of(model, None, None)
    assert (form.settings["item_head"], form.settings["sid_heads"]) == (share > 0, share < 1)
    check_parity(model, rows, engine_named(form.engine).of(form.arrays, stored(form)))


def test_transitions(data_path: Path) -> None:
    plain = {key: value for key, value in SMALL.items() if key not in OWN}
    config = Config("TransitionMemory", "tiny", config_dict={**plain, "data_path": str(data_path)})
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("TransitionMemory")(config, train._dataset).eval()
    model.learn(train._dataset, NUMBERS)
    form = form_of(model, config, train._dataset)
    rows = train._dataset[torch.arange(0, len(train._dataset), 3)]
    engine = engine_named(form.engine).of(form.arrays, stored(form))
    check_parity(model, rows, engine)
    histories = histories_of(model, rows)
    for user, found in enumerate(engine.explain(histories, engine.rank(histories, 1)[0][:, 0])):
        assert found["score"] == pytest.approx(engine.rank(histories, 1)[1][user, 0], abs=1e-5)


@pytest.mark.parametrize("changes", [{"memory": "transitions"}, *HEADS], ids=str)
def test_explanations_add_up(make: Callable[..., Made], changes: dict[str, Any]) -> None:
    model, rows, engine = make("SIDMLPHybrid", **changes)
    histories = histories_of(model, rows)
    items = engine.rank(histories, 4)[0][:, 2]
    scores = engine.all_scores(histories)
    recall = model.recall(rows)
    for user, (item, found) in enumerate(zip(items.tolist(), engine.explain(histories, items), strict=True)):
        assert found["score"] == pytest.approx(float(scores[user, item]), abs=1e-4)
        parts = found["parts"]
        shares = dict(zip(model.parts, model.shares.tolist(), strict=True))
        p0 = sum(share * parts[name] for name, share in shares.items())
        if "semantic IDs" in parts:
            product = np.prod([level["probability"] for level in found["levels"]])
            assert parts["semantic IDs"] == pytest.approx(product, rel=1e-3)
            assert [level["code"] for level in found["levels"]] == model.item_codes[item].tolist()
            for level in found["levels"]:
                values = [p for _, p in level["siblings"]]
                assert values == sorted(values, reverse=True)
                assert sum(values) == pytest.approx(1, abs=1e-4)  # all of them: there are few
                assert [level["code"], level["probability"]] in level["siblings"]
        else:
            assert found["levels"] == []
        if recall is None:
            assert "memory" not in parts
            assert found["remembered"] == []
            assert found["probability"] == pytest.approx(p0, rel=1e-4)
            continue
        one = torch.tensor([user]), torch.tensor([item])
        assert parts["memory"] == pytest.approx(float(recall.mass_of(*one)[0]), abs=1e-6)
        assert found["probability"] == pytest.approx(parts["memory"] + float(recall.remaining[user]) * p0, rel=1e-4)
        counts = model.memory.table.counts
        recent = histories.items[user, : histories.lengths[user]][::-1][: NUMBERS.window].tolist()
        assert found["remembered"] == list(dict.fromkeys(before for before in recent if counts[before, item] > 0))


def test_items_without_successors_are_histories_too(make: Callable[..., Made]) -> None:
    model, _, engine = make("SIDMLPHybrid", memory="transitions")
    known = np.flatnonzero(np.diff(model.memory.starts.numpy()))
    unknown = sorted({*range(1, engine.n_items)} - {*known.tolist()})[:1] or [1]
    history = Histories(np.array([[unknown[0], 0]]), np.array([1]))
    assert engine.rank(history, 3)[0].all()


def test_wrong_numbers_are_refused(make: Callable[..., Made]) -> None:
    _, _, engine = make("SIDMLPHybrid")
    for item in (-1, engine.n_items):
        with pytest.raises(InputError, match=r"^Items are numbered from 1 to 30 here\.$"):
            engine.rank(Histories(np.array([[item]]), np.array([1])), 3)
        with pytest.raises(InputError, match="numbered"):
            engine.scores(Histories(np.array([[1]]), np.array([1])), np.array([item]))


def test_parts_and_threads_change_nothing(make: Callable[..., Made]) -> None:
    model, rows, engine = make("SIDMLPHybrid", memory="transitions")
    histories = Histories(*(np.tile(part, (6, 1)[: part.ndim]) for part in histories_of(model, rows)))
    assert len(histories.items) > 64
    expected = engine.rank(histories, 5), engine.all_scores(histories)
    engine.n_threads = 2
    for mine, theirs in zip(engine.rank(histories, 5), expected[0], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    np.testing.assert_allclose(engine.all_scores(histories), expected[1], atol=1e-4)
    # Columns of other kinds of arrays are those of a wider batch.
    some = Histories(histories.items[::2], histories.lengths[::2].astype(np.int32))
    np.testing.assert_array_equal(engine.rank(some, 5)[0], expected[0][0][::2])


def test_the_loop_that_is_looked_for_is_one_that_ranks(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is never compiled, and would be missed with every bundle that is loaded."""
    engine: Any = engine_named(form.engine).of(form.arrays, stored(form))
    loop, called = engine._main_loop(), []
    for module in (code_ranking, decoders):
        for name, value in list(vars(module).items()):
            if value is loop:
                monkeypatch.setattr(module, name, lambda *given: (called.append(1), loop(*given))[1])
    engine.rank(Histories(np.ones((1, 1), np.int64), np.ones(1, np.int64)), 3)
    assert called


def test_it_is_said_that_loops_have_to_be_compiled(
    form: Form, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_named(form.engine)
    engine.of(form.arrays, stored(form)).prepare()
    assert "compiled" not in caplog.text
    for loop in ("search_codes", "beam_of_mixture", "search_with_candidates", "search_beams", "best_of"):
        monkeypatch.setattr(code_ranking, loop, jit(lambda x: x))  # one that never was
    engine.of(form.arrays, stored(form))
    assert caplog.text.count("The first answer takes a minute: its loops have to be compiled") == 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 11])
@pytest.mark.parametrize(("k", "m"), [(1, 1), (16, 63), (7, 64), (128, 65), (24, 200)])
def test_products_in_panels(n: int, k: int, m: int) -> None:
    rng = np.random.default_rng(n)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, k), (m, k), (m,)))
    out = np.full((n + 1, m), np.nan, np.float32)
    affine(x, in_panels(weight), filled_up(bias), out[:n])
    np.testing.assert_allclose(out[:n], x @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert np.isnan(out[n]).all()  # what lies behind is left alone


def test_weights_that_are_no_numbers_are_refused(make: Callable[..., Made]) -> None:
    model, rows, _ = make("SIDMLPHybrid")
    with torch.no_grad():
        model.decoder.heads[0][0].weight.fill_(torch.nan)
    form = form_of(model, None, None)
    with pytest.raises(InputError, match="not finite"):
        engine_named(form.engine).of(form.arrays, stored(form)).rank(histories_of(model, rows), 3)


@pytest.fixture
def form(make: Callable[..., Made]) -> Form:
    model, _, _ = make("SIDMLPHybrid", memory="transitions")
    return form_of(model, None, None)


def spoilt(form: Form) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield arrays with one of them spoilt, each in every way that its values allow."""
    for name, value in form.arrays.items():
        yield name, {key: kept for key, kept in form.arrays.items() if key != name}
        yield name, {**form.arrays, name: value.astype(np.float16)}
        yield name, {**form.arrays, name: value[None]}
        if value.ndim > 1 or name.split(".")[0] not in ("heads", "item_head", "memory"):
            yield name, {**form.arrays, name: value[..., :-1]}
        if np.issubdtype(value.dtype, np.integer) and not name.startswith("heads.weight"):
            large = value.copy()
            large.flat[-1] += 1 << 20
            yield name, {**form.arrays, name: large}
            small = value.copy()
            small.flat[len(small.flat) // 2] = -5
            yield name, {**form.arrays, name: small}


def test_every_array_is_checked(form: Form) -> None:
    engine = engine_named(form.engine)
    engine.of(form.arrays, stored(form))
    unnoticed = []
    for name, arrays in spoilt(form):
        try:
            engine.of(arrays, stored(form))
        except InputError as error:
            said = str(error)
        else:
            said = ""
        if not (said.startswith("The bundle") and name.split(".")[0] in said):
            unnoticed.append((name, arrays.get(name)))
    assert unnoticed == []


def test_what_stands_nowhere_in_the_trie_stands_nowhere(form: Form) -> None:
    """Compiled loops would read wherever it says: an item that is not there at the first level has no others."""
    nodes = form.arrays["places.nodes"].copy()
    assert (nodes[0] == -1).all()
    for place in (0, 1 << 20, -(1 << 20)):
        nodes[0, -1] = place
        with pytest.raises(InputError, match=r"places\.nodes"):
            engine_named(form.engine).of({**form.arrays, "places.nodes": nodes}, stored(form))


def test_every_setting_is_checked(form: Form) -> None:
    engine, settings = engine_named(form.engine), stored(form)
    for key in settings:
        for value in (None, "x", -1, 1 << 40, [], {}, 1.5):
            if value == settings[key] or (key in ("memory_pseudo_counts", "memory_sharpness") and value == 1.5):
                continue
            with pytest.raises(InputError, match="bundle"):
                engine.of(form.arrays, {**settings, key: value})


def test_arrays_may_be_read_only(form: Form, tmp_path: Path) -> None:
    """As of a memory map; no loop is compiled a second time for them."""
    from recbole_sid.fast.compiled import search

    engine, history = engine_named(form.engine), Histories(np.array([[3, 4]]), np.array([2]))
    expected = engine.of(form.arrays, stored(form)).rank(history, 5)
    compiled = len(search.search_beams.signatures)
    mapped = {}
    for number, (name, value) in enumerate(form.arrays.items()):
        np.save(tmp_path / f"{number}.npy", value)
        mapped[name] = np.load(tmp_path / f"{number}.npy", mmap_mode="r")
    found = engine.of(mapped, stored(form)).rank(history, 5)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(search.search_beams.signatures) == compiled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normaliser": "codes"}, "normaliser=codes"),
        ({"head_layers": 2}, "head_layers"),
    ],
)
def test_what_has_no_form_is_refused(make: Callable[..., Made], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("SIDMLPHybrid", **changes)


BLOCKED = """
import json, sys
import numpy as np
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
from recbole_sid.serving.engine import Histories, engine_named
arrays = dict(np.load("arrays.npz", allow_pickle=False))
settings = json.load(open("settings.json"))
engine = engine_named({engine!r}).of(arrays, settings)
items, _ = engine.rank(Histories(np.array([[3, 4]]), np.array([2])), 5)
print(json.dumps(items.tolist()))
engine.explain(Histories(np.array([[3, 4]]), np.array([2])), items[:, 0])
engine.scores(Histories(np.array([[3, 4]]), np.array([2])), items[0])
"""


def run_blocked(form: Form, folder: Path, *more: str) -> list[list[int]]:
    np.savez(folder / "arrays.npz", **form.arrays)
    (folder / "settings.json").write_text(json.dumps(form.settings), encoding="utf-8")
    blocked = {"torch", "recbole", "pandas", "scipy", "ray", "sklearn", "faiss", "transformers", "pyarrow", *more}
    script = BLOCKED.format(blocked=blocked, engine=form.engine)
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_nothing_but_numpy_and_numba_is_needed(form: Form, tmp_path: Path) -> None:
    history = Histories(np.array([[3, 4]]), np.array([2]))
    expected, _ = engine_named(form.engine).of(form.arrays, stored(form)).rank(history, 5)
    assert run_blocked(form, tmp_path) == expected.tolist()


def test_without_numba_it_is_said_what_to_install(form: Form, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"InputError: .* pip install \"recbole-sid\[fast\]\""):
        run_blocked(form, tmp_path, "numba")
