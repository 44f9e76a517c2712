"""Tokenizers, the collision rule, the semantic-ID artefact and what is said about its quality."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_sid.data import SemanticIDs
from recbole_sid.data.build import semantic_id_recipe, semantic_ids_file, semantic_ids_for
from recbole_sid.data.quality import collisions, level_rows
from recbole_sid.errors import InputError
from recbole_sid.tokenizer.base import Tokenizer
from recbole_sid.tokenizer.collisions import append_rank
from recbole_sid.tokenizer.rq_kmeans import ResidualKMeans
from recbole_sid.tokenizer.rq_vae import RQVAE

SHAPES = [(6,), (8, 3), (7, 3, 5, 2, 4)]
TRAIN = np.arange(0, 80, 2)


def features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(80, 6)).astype(np.float32)


def rq_kmeans(sizes: tuple[int, ...], seed: int = 0) -> ResidualKMeans:
    return ResidualKMeans(sizes, seed, iterations=5)


def rq_vae(sizes: tuple[int, ...], seed: int = 0, epochs: int = 3) -> RQVAE:
    return RQVAE(sizes, seed, hidden=(8,), dim=4, epochs=epochs, batch_size=16)


def codebooks(tokenizer: Any) -> list[np.ndarray]:
    if isinstance(tokenizer, ResidualKMeans):
        return tokenizer.codebooks_
    return [layer._codebook.embed[0].numpy() for layer in tokenizer.quantizer_.layers]


def learnt(tokenizer: Any) -> list[np.ndarray]:
    """Return everything that `fit` learnt."""
    if isinstance(tokenizer, ResidualKMeans):
        return codebooks(tokenizer)
    modules = (tokenizer.encoder_, tokenizer.decoder_, tokenizer.quantizer_)
    return [value.numpy() for module in modules for value in module.state_dict().values()]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


both = pytest.mark.parametrize("make", [rq_kmeans, rq_vae])


@both
@pytest.mark.parametrize("sizes", SHAPES)
def test_codes_are_the_residually_nearest_of_every_item(make: Callable[..., Tokenizer], sizes: tuple[int, ...]) -> None:
    tokenizer = make(sizes).fit(features(), TRAIN)
    codes = tokenizer.encode(features())
    assert codes.dtype == np.int64
    assert codes.shape == (80, len(sizes))
    residual = features()
    if isinstance(tokenizer, RQVAE):
        standardised = (residual - features()[TRAIN].mean(0)) / features()[TRAIN].std(ddof=1)
        residual = tokenizer.encoder_(torch.from_numpy(standardised)).detach().numpy()
    for level, codebook in enumerate(codebooks(tokenizer)):
        assert len(codebook) == sizes[level]
        nearest = [int(((row - codebook) ** 2).sum(1).argmin()) for row in residual]
        assert codes[:, level].tolist() == nearest
        residual = residual - codebook[nearest]


@both
def test_the_seed_decides(make: Callable[..., Tokenizer]) -> None:
    tokenizers = [make((8, 4), seed).fit(features(), TRAIN) for seed in (3, 3, 4)]
    assert same(learnt(tokenizers[0]), learnt(tokenizers[1]))
    assert not same(learnt(tokenizers[0]), learnt(tokenizers[2]))
    assert np.array_equal(tokenizers[0].encode(features()), tokenizers[1].encode(features()))


@both
def test_the_global_random_states_are_neither_read_nor_moved(make: Callable[..., Tokenizer]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make((8, 4)).fit(features(), TRAIN)
    first.encode(features())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(learnt(first), learnt(make((8, 4)).fit(features(), TRAIN)))


@both
def test_only_the_training_items_are_learnt_from(make: Callable[..., Tokenizer]) -> None:
    changed = features()
    changed[1::2] = 100 * features(seed=1)[1::2]
    first = make((8, 4)).fit(features(), TRAIN)
    assert same(learnt(first), learnt(make((8, 4)).fit(changed, TRAIN)))
    changed[0] += 1
    assert not same(learnt(first), learnt(make((8, 4)).fit(changed, TRAIN)))


@both
def test_fewer_items_than_codes_are_enough(make: Callable[..., Tokenizer]) -> None:
    codes = make((9, 4)).fit(features(), np.array([3, 5, 8])).encode(features())
    assert (codes >= 0).all()
    assert (codes < [9, 4]).all()


@both
@pytest.mark.parametrize("sizes", [(), (4, 0)])
def test_empty_codebooks_are_refused(make: Callable[..., Tokenizer], sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="codebook_sizes"):
        make(sizes)


def test_residual_k_means_reconstructs_better_with_every_level() -> None:
    errors = [float((features() ** 2).sum())]
    for n_levels in range(1, 6):
        tokenizer = rq_kmeans((8, 7, 6, 5, 4)[:n_levels]).fit(features(), np.arange(80))
        codes = tokenizer.encode(features())
        rebuilt = sum(book[codes[:, level]] for level, book in enumerate(tokenizer.codebooks_))
        errors.append(float(((features() - rebuilt) ** 2).sum()))
    assert all(after < 0.9 * before for before, after in pairwise(errors))


def test_residual_k_means_centroids_are_means_of_their_items() -> None:
    points = np.concatenate([features()[:20] / 100 + centre for centre in (-5, 0, 5)])
    tokenizer = ResidualKMeans((3,)).fit(points, np.arange(60))
    codes = tokenizer.encode(points)[:, 0]
    assert sorted(np.bincount(codes).tolist()) == [20, 20, 20]
    for code in range(3):
        np.testing.assert_allclose(tokenizer.codebooks_[0][code], points[codes == code].mean(0), atol=1e-5)


def test_rq_vae_learns_to_reconstruct_groups_of_items() -> None:
    group = np.arange(80) % 8
    points = features()[group] + features(seed=1) / 10
    tokenizer = RQVAE((8, 4), hidden=(16,), dim=4, epochs=60, batch_size=16, learning_rate=0.01)
    losses = tokenizer.fit(points, np.arange(80)).losses_
    codes = tokenizer.encode(points)
    assert len(losses) == 60
    assert losses[-1] < 0.2 * np.mean((points - points.mean(0)) ** 2)  # the error without any code
    one_code = [len(set(codes[group == number, 0].tolist())) == 1 for number in range(8)]
    assert sum(one_code) >= 6


@pytest.mark.parametrize("tokenizer", ["rq_kmeans", "rq_vae"])
def test_the_configured_tokenizer_makes_the_semantic_ids(prepare: Callable[..., Any], tokenizer: str) -> None:
    _, train, _, _ = prepare("TIGER", tokenizer=tokenizer, codebook_sizes=[4, 2], rank_size=30, rq_vae_epochs=2)
    semantic_ids = train._dataset.semantic_ids
    assert semantic_ids.codebook_sizes == (4, 2, 30)
    assert semantic_ids.recipe["tokenizer"] == tokenizer
    assert len(np.unique(semantic_ids.codes, axis=0)) == len(semantic_ids.codes) == 30


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=30))
@hypothesis_settings(deadline=None)
def test_rank_counts_equal_codes_in_row_order(rows: list[tuple[int, int]]) -> None:
    codes, sizes = append_rank(np.array(rows), (3, 2))
    ranks = [rows[:place].count(row) for place, row in enumerate(rows)]
    assert codes.tolist() == [[*row, rank] for row, rank in zip(rows, ranks, strict=True)]
    assert sizes == (3, 2, max(ranks) + 1)
    assert len(np.unique(codes, axis=0)) == len(rows)


def test_rank_size_is_the_size_of_the_rank_level() -> None:
    codes = np.array([[1], [0], [1], [1]])
    assert append_rank(codes, (2,), rank_size=7)[1] == (2, 7)
    assert append_rank(codes, (2,), rank_size=3)[1] == (2, 3)
    with pytest.raises(InputError, match="3 items share one semantic ID but rank_size=2"):
        append_rank(codes, (2,), rank_size=2)


def example() -> SemanticIDs:
    codes = np.array([[0, 1, 0], [0, 1, 1], [2, 0, 0], [2, 1, 0], [2, 0, 1], [2, 0, 2]])
    return SemanticIDs(codes, (3, 2, 3), [f"i{row}" for row in range(6)], {"collision": "rank", "seed": 7})


def test_semantic_ids_survive_saving_without_pickle(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "ids.npz"
    example().save(path)
    loaded = SemanticIDs.load(path)
    assert np.array_equal(loaded.codes, example().codes)
    assert loaded.codebook_sizes == (3, 2, 3)
    assert loaded.item_tokens.tolist() == example().item_tokens.tolist()
    assert loaded.recipe == {"collision": "rank", "seed": 7}
    assert loaded.fingerprint == example().fingerprint
    with np.load(path, allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    assert [file.name for file in path.parent.iterdir()] == ["ids.npz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.zeros(6, dtype=int)}, r"codes \[n_items, L\]"),
        ({"codes": np.zeros((6, 2), dtype=int)}, r"\(6, 2\) and 3 sizes"),
        ({"codes": np.zeros((6, 0), dtype=int), "codebook_sizes": ()}, "L >= 1"),
        ({"item_tokens": ["a", "b"]}, "6 rows for 2 item tokens"),
        ({"codes": np.zeros((0, 3), dtype=int), "item_tokens": []}, "0 rows"),
        ({"codes": np.tile([0, 2, 0], (6, 1))}, r"'i0' has code 2 at level 2, outside 0\.\.1"),
        ({"codes": np.array([[0, 0, 0]] * 5 + [[0, 0, -1]])}, "'i5' has code -1 at level 3"),
        ({"item_tokens": ["a", "b", "c", "a", "d", "e"]}, "an item twice"),
    ],
)
def test_impossible_semantic_ids_are_refused(changes: dict[str, Any], message: str) -> None:
    parts = {"codes": example().codes, "codebook_sizes": (3, 2, 3), "item_tokens": example().item_tokens}
    with pytest.raises(InputError, match=message):
        SemanticIDs(**{**parts, **changes})


def test_a_missing_semantic_id_file_is_named() -> None:
    with pytest.raises(InputError, match=r"no semantic-ID file at 'none\.npz'"):
        SemanticIDs.load("none.npz")


def write_array(path: Path) -> None:
    with open(path, "wb") as stream:
        np.save(stream, np.arange(3))


def write_pickle(path: Path) -> None:
    np.savez(path, codes=np.array([[{}]]), codebook_sizes=[1], item_tokens=["a"], recipe=np.asarray("{}"))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("codes", encoding="utf-8"),
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, codes=np.zeros((1, 1))),
        write_array,
        write_pickle,
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    write(tmp_path / "ids.npz")
    with pytest.raises(InputError, match=r"ids\.npz' is not a semantic-ID file"):
        SemanticIDs.load(tmp_path / "ids.npz")


def test_damaged_files_load_as_they_were_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "ids.npz"
    example().save(path)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert SemanticIDs.load(path).fingerprint == example().fingerprint
        except InputError:
            refused += 1
    assert refused > 20


def test_the_table_follows_the_asked_order_behind_padding() -> None:
    table = example().table(["i4", "i0", "i3"])
    assert table.tolist() == [[0, 0, 0], [2, 0, 1], [0, 1, 0], [2, 1, 0]]
    assert table.dtype == np.int64


def test_items_without_semantic_id_are_counted_and_one_is_named() -> None:
    with pytest.raises(InputError, match=r"2 of the dataset's 3 items have no semantic ID \(for example 'i9'\)"):
        example().table(["i9", "i0", "other"])


def test_every_part_of_the_identity_changes_the_fingerprint() -> None:
    ids = example()
    codes = ids.codes.copy()
    codes[3, 2] = 1
    others = [
        SemanticIDs(codes, ids.codebook_sizes, ids.item_tokens),
        SemanticIDs(ids.codes, (3, 2, 4), ids.item_tokens),
        SemanticIDs(ids.codes, ids.codebook_sizes, [*ids.item_tokens[:-1], "i7"]),
    ]
    assert len({ids.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert SemanticIDs(ids.codes, ids.codebook_sizes, ids.item_tokens).fingerprint == ids.fingerprint


def test_level_rows_by_hand() -> None:
    rows = level_rows(example())
    assert [(row["level"], row["used"], row["size"]) for row in rows] == [(1, 2, 3), (2, 2, 2), (3, 3, 3)]
    # Level 1: shares 2/6 and 4/6; level 2: 3/6 and 3/6; level 3: 3/6, 2/6 and 1/6.
    perplexities = [3 / 4 ** (1 / 3), 2.0, 2 ** (1 / 2) * 3 ** (1 / 3) * 6 ** (1 / 6)]
    assert [row["perplexity"] for row in rows] == pytest.approx(perplexities)
    # Prefixes: 2 of one code, 3 of two, 6 of three.
    assert [row["children_mean"] for row in rows] == pytest.approx([2.0, 3 / 2, 6 / 3])


def test_collisions_by_hand() -> None:
    # Before the rank: (0, 1) twice, (2, 0) three times, (2, 1) once.
    assert collisions(example()) == {"collided_items": 5, "groups": 2, "largest_group": 3}
    ids = example()
    unranked = SemanticIDs(ids.codes, ids.codebook_sizes, ids.item_tokens)
    assert collisions(unranked) == {"collided_items": 0, "groups": 0, "largest_group": 1}
    one_level = SemanticIDs(ids.codes[:, :1], (3,), ids.item_tokens, {"collision": "rank"})
    assert collisions(one_level) == {"collided_items": 6, "groups": 2, "largest_group": 4}


def test_semantic_ids_of_the_same_recipe_are_reused_and_of_another_are_not(prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("TIGER")
    dataset = train._dataset
    file = semantic_ids_file(config, semantic_id_recipe(config, dataset))
    marked = SemanticIDs(dataset.semantic_ids.codes[::-1], dataset.semantic_ids.codebook_sizes, dataset.item_tokens())
    marked.save(file)
    assert semantic_ids_for(config, dataset).fingerprint == marked.fingerprint
    config["seed"] += 1
    assert semantic_ids_for(config, dataset).fingerprint != marked.fingerprint
    config["semantic_ids_path"] = str(file)
    assert semantic_ids_for(config, dataset).fingerprint == marked.fingerprint


def test_semantic_ids_of_other_items_are_refused(prepare: Callable[..., Any], tmp_path: Path) -> None:
    example().save(tmp_path / "ids.npz")
    with pytest.raises(InputError, match="24 of the dataset's 30 items have no semantic ID"):
        prepare("TIGER", semantic_ids_path=str(tmp_path / "ids.npz"))


def test_other_texts_under_the_same_name_are_another_recipe(prepare: Callable[..., Any], data_path: Path) -> None:
    def recipe() -> dict[str, Any]:
        config, train, _, _ = prepare("TIGER", features=["text"], text_fields=["title"], text_dim=4)
        return semantic_id_recipe(config, train._dataset)

    before = recipe()
    assert recipe() == before
    items = data_path / "tiny" / "tiny.item"
    items.write_text(items.read_text(encoding="utf-8").replace("thing", "object"), encoding="utf-8")
    assert recipe() != before
