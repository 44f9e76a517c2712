"""Items that come after training: their semantic IDs, and models that recommend them without being trained again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_sid.config import Config
from recbole_sid.data import SemanticIDs, create_dataset, data_preparation
from recbole_sid.data.extend import extend, fitted_tokenizer
from recbole_sid.data.semantic_ids import EXTENDED_AT
from recbole_sid.errors import InputError
from recbole_sid.features import item_features
from recbole_sid.quick_start import load_data_and_model, run_recbole_sid
from recbole_sid.registry import COLLISIONS, TOKENIZERS

N_KNOWN, N_ALL = 30, 36
OURS = ["faiss_rq", "opq", "random", "rq_kmeans", "rq_kmeans_balanced", "rq_vae"]


@pytest.fixture
def vectors(tmp_path: Path) -> np.ndarray:
    """Features of the tiny dataset's items and of later ones, of which the first two are like items 0 and 7."""
    table = np.random.default_rng(0).normal(size=(N_ALL, 6)).astype(np.float32)
    table[N_KNOWN], table[N_KNOWN + 1], table[N_KNOWN + 2] = table[0], table[0], table[7]
    np.save(tmp_path / "vectors.npy", table)
    (tmp_path / "tokens.txt").write_text("\n".join(f"i{item}" for item in range(N_ALL)), encoding="utf-8")
    return table


FILE = {"features": ["file"], "feature_file": "vectors.npy", "feature_tokens": "tokens.txt"}


@pytest.fixture
def made(prepare: Callable[..., Any], vectors: np.ndarray) -> Callable[..., tuple[SemanticIDs, np.ndarray]]:
    """Return ``made(**changes) -> semantic IDs of the tiny dataset, features of all items i0, i1, ...``."""

    def make(**changes: Any) -> tuple[SemanticIDs, np.ndarray]:
        changes = {"codebook_sizes": [4, 16], "rank_size": 9, "rq_vae_epochs": 3, **FILE, **changes}
        config, train, _, _ = prepare("TIGER", **changes)
        known = item_features(config, train._dataset)
        rows = [int(token[1:]) for token in train._dataset.item_tokens()]
        scale = float((known / vectors[rows]).mean())
        np.testing.assert_allclose(known, vectors[rows] * scale, rtol=1e-4)
        return train._dataset.semantic_ids, vectors * np.float32(scale)

    return make


TOKENS = [f"i{item}" for item in range(N_ALL)]


def test_every_tokenizer_of_ours_is_tested() -> None:
    assert set(OURS) == set(TOKENIZERS) - {"file"}


@pytest.mark.parametrize("rule", sorted(COLLISIONS))
@pytest.mark.parametrize("tokenizer", OURS)
def test_new_items_join_and_old_ones_stay(made: Callable[..., Any], tokenizer: str, rule: str) -> None:
    old, features = made(tokenizer=tokenizer, collision=rule)
    extended = extend(old, features, TOKENS)
    assert np.array_equal(extended.codes[:N_KNOWN], old.codes)
    assert extended.item_tokens.tolist() == [*old.item_tokens.tolist(), *TOKENS[N_KNOWN:]]
    assert extended.codebook_sizes == old.codebook_sizes
    assert (len(np.unique(extended.codes, axis=0)) == N_ALL) == (rule != "keep")
    # But for the collision rule, what the fitted tokenizer says; all but the last level stays with every rule.
    assert np.array_equal(extended.codes[N_KNOWN:, :1], fitted_tokenizer(old).encode(features[N_KNOWN:])[:, :1])
    twin = old.codes[old.item_tokens.tolist().index("i0")]
    if tokenizer != "random":  # whose codes are hashes of every bit: the scale above is not exact
        assert np.array_equal(extended.codes[N_KNOWN, :1], twin[:1])
    if rule == "keep":
        assert np.array_equal(extended.codes[N_KNOWN], twin) or tokenizer == "random"
        assert np.array_equal(extended.codes[N_KNOWN], extended.codes[N_KNOWN + 1])
        assert extended.popularity is not None
        assert extended.popularity[N_KNOWN:].tolist() == [0] * 6
    leaves = extended.trie.find(torch.from_numpy(extended.codes))
    assert (leaves >= 0).all()


@pytest.mark.parametrize("rule", sorted(COLLISIONS))
def test_items_may_come_alone_and_in_several_steps(made: Callable[..., Any], rule: str, tmp_path: Path) -> None:
    old, features = made(collision=rule)
    first = extend(old, features[30:33], TOKENS[30:33])
    first.save(tmp_path / "first.npz")
    second = extend(SemanticIDs.load(tmp_path / "first.npz"), features[::-1], TOKENS[::-1])
    assert np.array_equal(second.codes[:33], first.codes)
    assert second.extends == (old.fingerprint, first.fingerprint)
    assert second.recipe[EXTENDED_AT] == [30, 33]
    assert old.extends == ()
    assert extend(second, features, TOKENS) is second
    second.save(tmp_path / "second.npz")
    loaded = SemanticIDs.load(tmp_path / "second.npz")
    assert loaded.extends == second.extends
    assert loaded.fingerprint == second.fingerprint


@pytest.mark.parametrize("tokenizer", [name for name in OURS if name != "random"])
def test_the_fitted_tokenizer_comes_back_with_the_file(
    made: Callable[..., Any], tokenizer: str, tmp_path: Path
) -> None:
    ids, features = made(tokenizer=tokenizer)
    ids.save(tmp_path / "ids.npz")
    with np.load(tmp_path / "ids.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    loaded = SemanticIDs.load(tmp_path / "ids.npz")
    rows = [int(token[1:]) for token in loaded.item_tokens]
    assert np.array_equal(fitted_tokenizer(loaded).encode(features[rows]), loaded.codes[:, :2])
    assert loaded.recipe["reconstruction_error"] == ids.recipe["reconstruction_error"]


def test_the_recorded_reconstruction_error_is_that_of_the_codes(made: Callable[..., Any]) -> None:
    for rule in ("rank", "nearest"):
        ids, features = made(collision=rule)
        known = features[[int(token[1:]) for token in ids.item_tokens]]
        rebuilt = fitted_tokenizer(ids).reconstruct(ids.codes)
        expected = ((known - rebuilt) ** 2).sum() / ((known - known.mean(0)) ** 2).sum()
        assert ids.recipe["reconstruction_error"] == pytest.approx(expected, rel=1e-4)
    assert made(tokenizer="random")[0].recipe["reconstruction_error"] is None


def test_what_cannot_be_extended_is_refused(made: Callable[..., Any]) -> None:
    ids, features = made()
    with pytest.raises(InputError, match="hold no fitted tokenizer"):
        extend(replace(ids, tokenizer_state={}), features, TOKENS)
    with pytest.raises(InputError, match=r"lack 'codebook_0' of their tokenizer 'rq_kmeans'"):
        extend(replace(ids, tokenizer_state={"codebook_1": np.zeros((2, 6))}), features, TOKENS)
    with pytest.raises(InputError, match="codes again from these features"):
        extend(ids, features[:, ::-1], TOKENS)
    with pytest.raises(InputError, match="cannot encode features of width 5"):
        extend(ids, features[:, :5], TOKENS)
    with pytest.raises(InputError, match="one row for each of the 36 item tokens"):
        extend(ids, features[:7], TOKENS)
    with pytest.raises(InputError, match="an item twice"):
        extend(ids, features, [*TOKENS[:-1], "i34"])
    features[31, 2] = np.nan
    with pytest.raises(InputError, match="of 1 items are not finite \\(for example 'i31'\\)"):
        extend(ids, features, TOKENS)


def test_a_rank_level_without_headroom_says_what_to_do(made: Callable[..., Any]) -> None:
    ids, features = made(rank_size=None)
    needed = ids.codebook_sizes[-1] + 1
    features[30 : 30 + needed] = features[0]
    with pytest.raises(InputError, match=rf"the rank level has {needed - 1}.*headroom"):
        extend(ids, features[: 30 + needed], TOKENS[: 30 + needed])


def add_later_item(data_path: Path) -> None:
    """Append i30 to the sequences of three users."""
    with open(data_path / "tiny" / "tiny.inter", "a", encoding="utf-8") as stream:
        stream.writelines(f"u{user}\ti30\t{1_700_000_000}\n" for user in (3, 4, 5))


@pytest.mark.parametrize("model", ["TIGER", "SIDMLP", "SIDMLPPlusPlus"])
def test_a_trained_model_recommends_a_later_item_at_once(
    made: Callable[..., Any], settings: Callable[..., Any], data_path: Path, model: str
) -> None:
    ids, features = made()
    ids.save("ids.npz")
    changes = {**FILE, "semantic_ids_path": "ids.npz", "epochs": 1, "beam_size": 40}
    model_file = run_recbole_sid(model, "tiny", config_dict=settings(model, **changes))["model_file"]
    weights = {name: value.clone() for name, value in load_data_and_model(model_file)[1].state_dict().items()}

    add_later_item(data_path)
    with pytest.raises(InputError, match=r"1 of the dataset's 31 items have no semantic ID \(for example 'i30'\)"):
        load_data_and_model(model_file)
    extend(ids, features[:31], TOKENS[:31]).save("ids.npz")
    _, loaded, dataset, _, _, test_data = load_data_and_model(model_file)

    state = loaded.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    item = dataset.token2id(dataset.iid_field, "i30")
    batch = next(iter(test_data))[0]
    rows, items, scores = loaded.retrieve(batch)
    found = scores[items == item]
    assert len(found) == len(batch)  # the beam is wider than the catalogue
    assert torch.isfinite(found).all()
    assert rows[items == item].tolist() == list(range(len(batch)))
    batch[loaded.ITEM_ID] = torch.full((len(batch),), item)
    torch.testing.assert_close(found, loaded.predict(batch), atol=1e-4, rtol=1e-4)


def test_only_a_true_extension_is_accepted(
    made: Callable[..., Any], settings: Callable[..., Any], data_path: Path
) -> None:
    ids, features = made()
    ids.save("ids.npz")
    changes = {**FILE, "semantic_ids_path": "ids.npz", "epochs": 1}
    model_file = run_recbole_sid("TIGER", "tiny", config_dict=settings("TIGER", **changes))["model_file"]
    add_later_item(data_path)
    extended = extend(ids, features[:31], TOKENS[:31])
    codes = extended.codes.copy()
    codes[4, 2] = 8
    for other in (
        replace(extended, codes=codes),
        replace(extended, codebook_sizes=(4, 16, 10)),
        replace(extended, item_tokens=np.array([*extended.item_tokens[1::-1], *extended.item_tokens[2:]])),
        replace(extended, recipe={**extended.recipe, EXTENDED_AT: [29]}),
    ):
        other.save("ids.npz")
        with pytest.raises(InputError, match="was trained with"):
            load_data_and_model(model_file)


def test_a_student_learns_from_a_teacher_of_the_items_before(
    made: Callable[..., Any], settings: Callable[..., Any], data_path: Path
) -> None:
    ids, features = made()
    ids.save("ids.npz")
    changes = {**FILE, "semantic_ids_path": "ids.npz", "epochs": 1}
    teacher = run_recbole_sid("TIGER", "tiny", config_dict=settings("TIGER", **changes))["model_file"]
    add_later_item(data_path)
    extend(ids, features[:31], TOKENS[:31]).save("ids.npz")
    changes["teacher_path"] = teacher
    result = run_recbole_sid("SIDMLP", "tiny", config_dict=settings("SIDMLP", **changes))
    assert result["teacher_file"] == teacher
    assert load_data_and_model(result["model_file"])[1].trie.n_nodes(3) == 31


def test_semantic_ids_of_another_dataset_are_refused_though_they_name_its_items(
    made: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    ids, _ = made()
    replace(ids, recipe={**ids.recipe, "dataset": "beauty"}).save("ids.npz")
    config = Config("TIGER", "tiny", config_dict=settings("TIGER", semantic_ids_path="ids.npz"))
    with pytest.raises(InputError, match="made for dataset 'beauty' and this is 'tiny'"):
        data_preparation(config, create_dataset(config))
