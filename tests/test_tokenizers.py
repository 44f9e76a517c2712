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

import recbole_sid
from recbole_sid.cli import main
from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError
from recbole_sid.features import collaborative
from recbole_sid.quick_start import run_recbole_sid
from recbole_sid.registry import TOKENIZERS
from recbole_sid.semantic_ids.artefact import EXTENDED_AT
from recbole_sid.semantic_ids.build import semantic_id_recipe, semantic_ids_file, semantic_ids_for
from recbole_sid.semantic_ids.quality import collisions, level_rows
from recbole_sid.tokenizer.base import Tokenizer, reconstruction_error
from recbole_sid.tokenizer.collisions import append_rank
from recbole_sid.tokenizer.faiss_rq import FaissResidualQuantizer
from recbole_sid.tokenizer.opq import OPQ
from recbole_sid.tokenizer.random_codes import RandomCodes
from recbole_sid.tokenizer.rq_kmeans import ResidualKMeans
from recbole_sid.tokenizer.rq_kmeans_balanced import BalancedResidualKMeans
from recbole_sid.tokenizer.rq_vae import RQVAE
from recbole_sid.util.item_tokens import hash_tokens

SHAPES = [(6,), (8, 3), (7, 3, 5, 2, 4)]
TRAIN = np.arange(0, 80, 2)


def features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(80, 6)).astype(np.float32)


def rq_kmeans(sizes: tuple[int, ...], seed: int = 0) -> ResidualKMeans:
    return ResidualKMeans(sizes, seed, iterations=5)


def rq_vae(sizes: tuple[int, ...], seed: int = 0, epochs: int = 3) -> RQVAE:
    return RQVAE(sizes, seed, hidden=(8,), dim=4, epochs=epochs, batch_size=16)


def balanced(sizes: tuple[int, ...], seed: int = 0) -> BalancedResidualKMeans:
    return BalancedResidualKMeans(sizes, seed, iterations=3)


def faiss_rq(sizes: tuple[int, ...], seed: int = 0) -> FaissResidualQuantizer:
    return FaissResidualQuantizer(sizes, seed)


MAKERS: dict[str, Callable[..., Tokenizer]] = {
    "rq_kmeans": rq_kmeans,
    "rq_kmeans_balanced": balanced,
    "rq_vae": rq_vae,
    "faiss_rq": faiss_rq,
    "opq": OPQ,
    "random": RandomCodes,
}
LEARNING = [name for name in MAKERS if name != "random"]


def test_every_registered_tokenizer_is_tested() -> None:
    assert set(MAKERS) == set(TOKENIZERS) - {"file"}


def makers(names: Any) -> Any:
    return pytest.mark.parametrize("make", [pytest.param(MAKERS[name], id=name) for name in names])


def learnt(tokenizer: Tokenizer) -> list[np.ndarray]:
    """Return everything that `fit` learnt."""
    return list(tokenizer.state().values())


def codebooks(tokenizer: Any) -> list[np.ndarray]:
    if isinstance(tokenizer, RQVAE):
        return [layer._codebook.embed[0].numpy() for layer in tokenizer.quantizer_.layers]
    return tokenizer.codebooks_


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@makers(MAKERS)
@pytest.mark.parametrize("sizes", [(8,), (8, 4), (4, 2, 8, 4)])
def test_codes_are_in_range_and_use_what_there_is(make: Callable[..., Tokenizer], sizes: tuple[int, ...]) -> None:
    codes = make(sizes).fit(features(), TRAIN).encode(features())
    assert codes.dtype == np.int64
    assert codes.shape == (80, len(sizes))
    assert (codes >= 0).all()
    assert (codes < sizes).all()
    assert all(len(np.unique(codes[:, level])) > sizes[level] / 2 for level in range(len(sizes)))


@makers(["rq_kmeans", "rq_vae"])
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


@makers(MAKERS)
def test_the_seed_decides(make: Callable[..., Tokenizer]) -> None:
    tokenizers = [make((8, 4), seed).fit(features(), TRAIN) for seed in (3, 3, 4)]
    assert same(learnt(tokenizers[0]), learnt(tokenizers[1]))
    assert not same(learnt(tokenizers[0]), learnt(tokenizers[2]))
    codes = [tokenizer.encode(features()) for tokenizer in tokenizers]
    assert np.array_equal(codes[0], codes[1])
    assert not np.array_equal(codes[0], codes[2])


@makers(MAKERS)
def test_an_item_has_its_codes_whatever_it_is_encoded_with(make: Callable[..., Tokenizer]) -> None:
    tokenizer = make((8, 4)).fit(features(), TRAIN)
    assert np.array_equal(tokenizer.encode(features())[30:43], tokenizer.encode(features()[30:43]))


@makers(MAKERS)
def test_a_tokenizer_is_what_its_state_says(make: Callable[..., Tokenizer]) -> None:
    fitted = make((8, 4, 2)).fit(features(), TRAIN)
    state = {name: np.array(values) for name, values in fitted.state().items()}
    assert all(values.dtype != object for values in state.values())
    loaded = make((8, 4, 2), seed=9).load_state(state)
    other = features(seed=1)
    codes = fitted.encode(other)
    assert np.array_equal(loaded.encode(other), codes)
    assert np.array_equal(loaded.distortions(other, codes), fitted.distortions(other, codes))
    if fitted.reconstruct(codes) is not None:
        assert np.array_equal(loaded.reconstruct(codes), fitted.reconstruct(codes))
    missing = dict(list(state.items())[1:])
    with pytest.raises(KeyError):
        make((8, 4, 2)).load_state(missing)


@makers(["rq_kmeans", "rq_kmeans_balanced", "faiss_rq", "opq"])
@pytest.mark.parametrize("sizes", [(8,), (8, 4)])
def test_distortions_are_what_another_last_code_changes(make: Callable[..., Any], sizes: tuple[int, ...]) -> None:
    tokenizer = make(sizes).fit(features(), TRAIN)
    codes = tokenizer.encode(features())
    distortions = tokenizer.distortions(features(), codes)
    assert distortions.shape == (80, sizes[-1])
    errors = []
    for code in range(sizes[-1]):
        changed = codes.copy()
        changed[:, -1] = code
        errors.append(((features() - tokenizer.reconstruct(changed)) ** 2).sum(1))
    expected = np.stack(errors, axis=1)
    np.testing.assert_allclose(distortions - distortions[:, :1], expected - expected[:, :1], atol=1e-4)


def test_distortions_of_an_rq_vae_are_those_of_its_latent_vectors() -> None:
    tokenizer = rq_vae((8, 4)).fit(features(), TRAIN)
    codes = tokenizer.encode(features())
    latents = tokenizer.encoder_((torch.from_numpy(features()) - tokenizer.mean_) / tokenizer.scale_).detach().numpy()
    first, last = codebooks(tokenizer)
    expected = ((latents - first[codes[:, 0]])[:, None] - last) ** 2
    np.testing.assert_allclose(tokenizer.distortions(features(), codes), expected.sum(2), rtol=1e-4, atol=1e-5)


@makers(LEARNING)
def test_further_levels_such_as_ranks_are_ignored_by_reconstruction(make: Callable[..., Any]) -> None:
    tokenizer = make((8, 4)).fit(features(), TRAIN)
    codes = tokenizer.encode(features())
    ranked = np.column_stack([codes, np.full(80, 99)])
    assert np.array_equal(tokenizer.reconstruct(ranked), tokenizer.reconstruct(codes))


@makers(MAKERS)
def test_the_global_random_states_are_neither_read_nor_moved(make: Callable[..., Tokenizer]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make((8, 4)).fit(features(), TRAIN)
    first.encode(features())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(learnt(first), learnt(make((8, 4)).fit(features(), TRAIN)))


@makers(LEARNING)
def test_only_the_training_items_are_learnt_from(make: Callable[..., Tokenizer]) -> None:
    changed = features()
    changed[1::2] = 100 * features(seed=1)[1::2]
    first = make((8, 4)).fit(features(), TRAIN)
    assert same(learnt(first), learnt(make((8, 4)).fit(changed, TRAIN)))
    changed[0] += 1
    assert not same(learnt(first), learnt(make((8, 4)).fit(changed, TRAIN)))


@makers([name for name in MAKERS if name != "faiss_rq"])
def test_fewer_items_than_codes_are_enough(make: Callable[..., Tokenizer]) -> None:
    tokenizer = make((9, 4)).fit(features(), np.array([3, 5, 8]))
    codes = tokenizer.encode(features())
    assert (codes >= 0).all()
    assert (codes < [9, 4]).all()
    unused = np.full_like(codes, 3)  # the collision rules may give codes that encoding never does
    assert tokenizer.distortions(features(), unused).shape == (80, 4)
    if tokenizer.reconstruct(codes) is not None:
        assert np.isfinite(tokenizer.reconstruct(unused)).all()


@makers(MAKERS)
@pytest.mark.parametrize("sizes", [(), (4, 0)])
def test_empty_codebooks_are_refused(make: Callable[..., Tokenizer], sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="codebook_sizes"):
        make(sizes)


@makers(["rq_kmeans", "rq_kmeans_balanced", "faiss_rq", "opq"])
def test_every_level_improves_the_reconstruction(make: Callable[..., Tokenizer]) -> None:
    errors = [float(((features() - features().mean(0)) ** 2).sum())]
    for n_levels in (1, 2, 3):
        tokenizer = make((8, 8, 8)[:n_levels]).fit(features(), np.arange(80))
        rebuilt = tokenizer.reconstruct(tokenizer.encode(features()))
        errors.append(float(((features() - rebuilt) ** 2).sum()))
    assert all(after < 0.9 * before for before, after in pairwise(errors))


def test_more_levels_improve_the_reconstruction_of_an_rq_vae() -> None:
    errors = []
    for sizes in ((4,), (4, 8, 8)):
        tokenizer = RQVAE(sizes, hidden=(16,), dim=6, epochs=80, batch_size=16, learning_rate=0.01)
        tokenizer.fit(features(), np.arange(80))
        errors.append(reconstruction_error(tokenizer, features(), tokenizer.encode(features())))
    assert errors[1] < 0.9 * errors[0] < 0.9


def test_the_reconstruction_error_by_hand() -> None:
    tokenizer = ResidualKMeans((2,)).load_state({"codebook_0": np.array([[0, 0], [4, 0]], dtype=np.float32)})
    points = np.array([[1, 0], [0, 1], [4, 2], [5, 0]], dtype=np.float32)
    codes = tokenizer.encode(points)
    assert codes[:, 0].tolist() == [0, 0, 1, 1]
    # Squared errors 1, 1, 4, 1; the mean is (2.5, 0.75), around it 2.25 + 6.25 + 2.25 + 6.25 and 2.75 in all.
    assert reconstruction_error(tokenizer, points, codes) == pytest.approx((7 / 4) / ((17 + 2.75) / 4))
    assert reconstruction_error(RandomCodes((2,)), points, codes) is None
    assert reconstruction_error(tokenizer, np.ones((4, 2), dtype=np.float32), codes) is None


def test_balanced_clusters_are_of_about_equal_size() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1200, 4)).astype(np.float32) * rng.exponential(size=(1200, 1)).astype(np.float32)
    largest = {}
    for cls in (ResidualKMeans, BalancedResidualKMeans):
        codes = cls((12, 6)).fit(points, np.arange(1200)).encode(points)
        largest[cls] = [np.bincount(codes[:, level]).max() * size / 1200 for level, size in enumerate((12, 6))]
    assert max(largest[ResidualKMeans]) > 1.8
    assert max(largest[BalancedResidualKMeans]) < 1.15


def test_a_balanced_code_is_the_nearest_at_its_price() -> None:
    tokenizer = balanced((8, 4)).fit(features(), TRAIN)
    codes, residual = tokenizer.encode(features()), features()
    for level in range(2):
        book, prices = tokenizer.codebooks_[level], tokenizer.prices_[level]
        cheapest = [int((((row - book) ** 2).sum(1) + prices).argmin()) for row in residual]
        assert codes[:, level].tolist() == cheapest
        residual = residual - book[cheapest]


def test_a_wide_beam_finds_the_best_codes_of_all() -> None:
    tokenizer = FaissResidualQuantizer((4, 2, 4), beam=32).fit(features(), TRAIN)
    every = np.stack(np.meshgrid(range(4), range(2), range(4), indexing="ij"), axis=-1).reshape(-1, 3)
    sums = sum(book[every[:, level]] for level, book in enumerate(tokenizer.codebooks_))
    best = [int(((row - sums) ** 2).sum(1).argmin()) for row in features()]
    assert np.array_equal(tokenizer.encode(features()), every[best])
    greedy = FaissResidualQuantizer((4, 2, 4), beam=1).load_state(tokenizer.state())
    assert not np.array_equal(greedy.encode(features()), every[best])


def test_fitting_all_codebooks_together_lowers_the_error() -> None:
    points = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    errors = []
    for refine in (False, True):
        tokenizer = FaissResidualQuantizer((8, 8, 8), refine=refine).fit(points, np.arange(400))
        errors.append(reconstruction_error(tokenizer, points, tokenizer.encode(points)))
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize("sizes", [(8, 6), (1,)])
def test_faiss_rq_says_that_sizes_are_powers_of_two(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"codebook_sizes has {sizes[-1]}: use powers of two"):
        FaissResidualQuantizer(sizes)


def test_faiss_rq_refuses_fewer_items_than_codes_and_no_beam() -> None:
    with pytest.raises(InputError, match="cannot learn 8 codes from the 3 items"):
        faiss_rq((8, 4)).fit(features(), np.array([3, 5, 8]))
    with pytest.raises(InputError, match="faiss_rq_beam=0"):
        FaissResidualQuantizer((8,), beam=0)


@pytest.mark.parametrize(("sizes", "width"), [((8, 4), 6), ((4, 3, 2, 5), 8)])
def test_opq_turns_features_and_cuts_them_in_parts(sizes: tuple[int, ...], width: int) -> None:
    tokenizer = OPQ(sizes).fit(features(), TRAIN)
    assert tokenizer.rotation_.shape == (width, 6)
    np.testing.assert_allclose(tokenizer.rotation_.T @ tokenizer.rotation_, np.eye(6), atol=1e-5)
    turned = (features() @ tokenizer.rotation_.T).reshape(80, len(sizes), -1)
    codes = tokenizer.encode(features())
    for level, book in enumerate(tokenizer.codebooks_):
        assert book.shape == (sizes[level], width // len(sizes))
        assert codes[:, level].tolist() == [int(((part - book) ** 2).sum(1).argmin()) for part in turned[:, level]]


def test_random_codes_are_uniform_and_blind_to_similarity() -> None:
    points = np.random.default_rng(0).normal(size=(4000, 6)).astype(np.float32)
    codes = RandomCodes((5, 4)).encode(points)
    counts = np.bincount(codes[:, 0] * 4 + codes[:, 1], minlength=20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    near = RandomCodes((5, 4)).encode(np.nextafter(points, np.float32(9)))
    assert abs((codes == near).mean(0) - [1 / 5, 1 / 4]).max() < 0.03
    assert np.array_equal(RandomCodes((5, 4)).encode(points[[7, 7]]), codes[[7, 7]])


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


@pytest.mark.parametrize(
    "options",
    [
        {"codebook": "gradient"},
        {"codebook": "gradient", "kmeans_init": False, "dead_code": 0},
        {"dead_code": 2.0, "rotation_trick": False},
        {"kmeans_init": False},
    ],
)
def test_every_way_of_learning_an_rq_vae_learns(options: dict[str, Any]) -> None:
    def error(epochs: int) -> float:
        tokenizer = RQVAE((8, 4), hidden=(16,), dim=4, epochs=epochs, batch_size=16, learning_rate=0.01, **options)
        tokenizer.fit(features(), np.arange(80))
        return reconstruction_error(tokenizer, features(), tokenizer.encode(features())) or 0.0

    assert error(60) < 0.8 * error(1)


def test_gradient_codebooks_move_by_the_optimizer_and_others_do_not() -> None:
    gradient = RQVAE((4,), hidden=(8,), dim=4, epochs=1, codebook="gradient").fit(features(), TRAIN)
    average = RQVAE((4,), hidden=(8,), dim=4, epochs=1, codebook="ema").fit(features(), TRAIN)
    assert [sum(p.numel() for p in t.quantizer_.parameters()) for t in (gradient, average)] == [16, 0]


def test_dead_codes_are_revived() -> None:
    points = np.repeat(features()[:4], 20, axis=0) + features() / 1000  # four clusters for sixteen codes
    used = []
    for dead_code in (0, 2.0):
        tokenizer = RQVAE(
            (16,), hidden=(8,), dim=4, epochs=30, batch_size=80, kmeans_init=False, dead_code=dead_code
        ).fit(points, np.arange(80))
        used.append(len(np.unique(tokenizer.encode(points))))
    assert used[1] > used[0]


def test_an_rq_vae_stops_when_it_no_longer_improves_and_keeps_the_best() -> None:
    patient = RQVAE((8,), hidden=(8,), dim=4, epochs=400, patience=5, batch_size=16, learning_rate=0.03)
    losses = patient.fit(features(), np.arange(80)).losses_
    assert len(losses) < 400
    assert np.argmin(losses) == len(losses) - 6
    best = RQVAE((8,), hidden=(8,), dim=4, epochs=len(losses) - 5, batch_size=16, learning_rate=0.03)
    assert same(learnt(best.fit(features(), np.arange(80))), learnt(patient))


def test_an_unknown_way_of_learning_codebooks_is_refused() -> None:
    with pytest.raises(InputError, match=r"rq_vae_codebook='gradients' \(did you mean 'gradient'\?\)"):
        RQVAE((4,), codebook="gradients")


@pytest.mark.parametrize("tokenizer", MAKERS)
def test_every_tokenizer_feeds_every_model(settings: Callable[..., dict[str, Any]], tokenizer: str) -> None:
    for model in ("TIGER", "SIDMLP", "SIDMLPPlusPlus"):
        changes: dict[str, Any] = {"epochs": 1, "codebook_sizes": [8, 4], "tokenizer": tokenizer, "rq_vae_epochs": 2}
        if model == "SIDMLPPlusPlus":
            changes |= {"encoder_epochs": 1}
        result = run_recbole_sid(model, "tiny", config_dict=settings(model, **changes))
        assert 0 < result["test_result"]["recall@10"] <= 1


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
    own = dataset.semantic_ids
    marked = SemanticIDs(own.codes[::-1], own.codebook_sizes, dataset.item_tokens(), own.recipe)
    marked.save(file)
    assert semantic_ids_for(config, dataset).fingerprint == marked.fingerprint
    config["seed"] += 1
    assert semantic_ids_for(config, dataset).fingerprint != marked.fingerprint
    config["semantic_ids_path"] = str(file)
    assert semantic_ids_for(config, dataset).fingerprint == marked.fingerprint


def test_the_log_says_what_differs_and_a_file_of_another_recipe_is_built_anew(
    prepare: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        config, train, _, _ = prepare("TIGER", state="INFO")
        dataset = train._dataset
        recipe = semantic_id_recipe(config, dataset)
        assert recipe.items() <= dataset.semantic_ids.recipe.items()
        assert "differs" not in caplog.text
        config["codebook_sizes"], config["seed"] = [4, 3], 7
        caplog.clear()
        other = semantic_ids_for(config, dataset)
        assert "because it differs from tiny-" in caplog.text
        assert "in codebook_sizes: [5, 3] -> [4, 3]; seed: 2020 -> 7" in caplog.text
        caplog.clear()
        assert semantic_ids_for(config, dataset).fingerprint == other.fingerprint
        assert "of the same recipe reused" in caplog.text
        file = semantic_ids_file(config, semantic_id_recipe(config, dataset))
        dataset.semantic_ids.save(file)  # under a name that promises another recipe
        caplog.clear()
        assert semantic_ids_for(config, dataset).fingerprint == other.fingerprint
        assert "built and written" in caplog.text


def extended_by(semantic_ids: SemanticIDs, item: str) -> SemanticIDs:
    """Return `semantic_ids` with one more item, of unused codes."""
    n_items = len(semantic_ids.codes)
    recipe = {**semantic_ids.recipe, EXTENDED_AT: [n_items]}
    tokens = np.array([*semantic_ids.item_tokens.tolist(), item])
    recipe["item_tokens"] = hash_tokens(tokens)
    codes = np.concatenate([semantic_ids.codes, semantic_ids.codes[:1]])
    return SemanticIDs(codes, semantic_ids.codebook_sizes, tokens, recipe)


def test_semantic_ids_that_were_extended_in_place_are_reused(
    prepare: Callable[..., Any], data_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, train, _, _ = prepare("TIGER")
    own = train._dataset.semantic_ids
    file = semantic_ids_file(config, semantic_id_recipe(config, train._dataset))

    def used(**changes: Any) -> str:
        return prepare("TIGER", **changes)[1]._dataset.semantic_ids.fingerprint

    extended = extended_by(own, "i30")
    extended.save(file)
    assert used() == extended.fingerprint
    assert used(seed=7) != extended.fingerprint
    assert used(state="INFO") == extended.fingerprint
    with open(data_path / "tiny" / "tiny.inter", "a", encoding="utf-8") as stream:
        stream.write("u3\ti30\t1700000000\n")  # now the dataset has the item, and another training part
    with caplog.at_level("INFO"):
        assert used(state="INFO") == extended.fingerprint
    assert f"Semantic IDs {extended.fingerprint}, since extended by later items, reused from" in caplog.text
    extended_by(extended, "i31").save(file)  # with an item that is not there, of another selection
    assert used() not in (extended.fingerprint, extended_by(extended, "i31").fingerprint)


def test_tokenize_computes_features_once(
    settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    count = collaborative.co_occurrence
    monkeypatch.setattr(collaborative, "co_occurrence", lambda *given: calls.append(1) or count(*given))
    words = ["--dataset=tiny", *(f"--{key}={value}" for key, value in settings("TIGER").items())]
    assert main(["tokenize", *words, "--report"]) == 0
    assert calls == [1]


def test_the_file_tokenizer_is_a_file_of_semantic_ids(prepare: Callable[..., Any]) -> None:
    made = prepare("TIGER")[1]._dataset.semantic_ids
    made.save("ids.npz")
    _, train, _, _ = prepare("TIGER", tokenizer="file", semantic_ids_path="ids.npz")
    assert train._dataset.semantic_ids.fingerprint == made.fingerprint


def test_the_recipe_is_the_whole_lineage(prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("TIGER", tokenizer="rq_vae", rq_vae_epochs=1)
    recipe = train._dataset.semantic_ids.recipe
    assert recipe["dataset"] == "tiny"
    assert recipe["package_version"] == recbole_sid.__version__
    assert {"item_tokens", "training_part", "features", "features_hash", "tokenizer", "rq_vae_epochs"} <= set(recipe)
    assert {"codebook_sizes", "collision", "rank_size", "seed"} <= set(recipe)
    assert not any(key.startswith("faiss_rq_") for key in recipe)
    config["faiss_rq_beam"] = 9
    assert semantic_id_recipe(config, train._dataset).items() <= recipe.items()
    config["rq_vae_epochs"] = 2
    assert semantic_id_recipe(config, train._dataset)["rq_vae_epochs"] == 2


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
