"""Code embeddings that start from the items' features: their means per code, their size, and when they are set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_ITEMS
from numpy.testing import assert_allclose
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import nn

from recbole_sid.features import FeaturePipeline
from recbole_sid.model.code_init import code_means, start_from_features
from recbole_sid.nn.vocabulary import TokenVocabulary
from recbole_sid.quick_start import make_trainer

SIZES = (4, 3, 6)
SIZES_OF_TINY = (5, 3)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32) + 3


@pytest.fixture
def codes() -> np.ndarray:
    """Of 60 items; the last code of the last level is of none."""
    rng = np.random.default_rng(1)
    return np.stack([rng.integers(4, size=60), rng.integers(3, size=60), rng.integers(5, size=60)], axis=1)


def test_means_of_what_earlier_levels_leave(features: np.ndarray, codes: np.ndarray) -> None:
    left = features.astype(float)
    for level, means in enumerate(code_means(features, codes, SIZES)):
        assert means.dtype == np.float32
        for code in range(SIZES[level]):
            items = codes[:, level] == code
            assert_allclose(means[code], left[items].mean(0) if items.any() else 0, **CLOSE)
        left -= means[codes[:, level]]


def test_means_are_the_centroids_of_kmeans(features: np.ndarray) -> None:
    kmeans = KMeans(4, n_init=1, random_state=0, tol=0).fit(features)
    (means,) = code_means(features, kmeans.labels_[:, None].astype(np.int64), [4])
    assert_allclose(means, kmeans.cluster_centers_, **CLOSE)


@pytest.mark.parametrize("width", [5, 8, 12])
def test_embeddings_point_where_the_means_do(features: np.ndarray, codes: np.ndarray, width: int) -> None:
    vocabulary = TokenVocabulary(SIZES, n_user_tokens=1)
    torch.manual_seed(0)
    embedding = nn.Embedding(vocabulary.size, width)
    before = embedding.weight.detach().clone()
    started = start_from_features(embedding, vocabulary, features, codes, seed=0)
    after = embedding.weight.detach()
    assert started == sum(SIZES) - 1
    assert torch.equal(before[:, 8:], after[:, 8:])  # beyond the features' width
    before, after = before[:, :8], after[:, :8]

    _, _, axes = np.linalg.svd(features - features.mean(0))
    projected = (features - features.mean(0)) @ axes[:width].T
    changed = torch.zeros(vocabulary.size, dtype=torch.bool)
    for level, means in enumerate(code_means(projected, codes, SIZES)):
        start = vocabulary.level_offsets[level]
        used = means.any(1)
        rows = torch.arange(start, start + SIZES[level])[torch.from_numpy(used)]
        changed[rows] = True
        assert_allclose(cosines(after[rows].numpy()), cosines(means[used]), **CLOSE)
        assert_allclose(
            after[rows].square().mean(1).sqrt(), before[start : start + SIZES[level]].square().mean().sqrt(), **CLOSE
        )
    assert changed.sum() == sum(SIZES) - 1  # the code of no item stays
    assert torch.equal(before[~changed], after[~changed])


def test_level_that_repeats_another_stays_as_it_is(features: np.ndarray, codes: np.ndarray) -> None:
    vocabulary = TokenVocabulary((SIZES[0], SIZES[0]), n_user_tokens=1)
    embedding = nn.Embedding(vocabulary.size, 8)
    before = embedding.weight.detach().clone()
    assert start_from_features(embedding, vocabulary, features * 1000, codes[:, [0, 0]], seed=0) == SIZES[0]
    first, second = vocabulary.level_offsets
    assert torch.equal(before[second:][: SIZES[0]], embedding.weight[second:][: SIZES[0]])  # not rounding noise
    assert not torch.equal(before[first:second], embedding.weight[first:second])


def cosines(rows: np.ndarray) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


@pytest.mark.parametrize("model", ["TIGER", "CausalSID"])
def test_new_training_starts_from_the_features_of_the_semantic_ids(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    config, train, valid, _ = prepare(model, code_init="features", epochs=1, learning_rate=1e-9)
    items = np.arange(1, N_ITEMS, 2)
    monkeypatch.setattr("recbole_sid.model.code_init.training_items", lambda dataset: items)
    trainer = make_trainer(config, train)
    random = trainer.model.token_embedding.weight.detach().clone()
    trainer.fit(train, valid)
    started = trainer.model.token_embedding.weight.detach()
    features = FeaturePipeline(config).fit_encode(train._dataset)
    features, codes = features[items], trainer.model.item_codes[1:].numpy()[items]
    width = min(config["d_model"], *features.shape)
    (means, *_) = code_means(PCA(width).fit_transform(features), codes, SIZES_OF_TINY)
    used = means.any(1)
    first = started[trainer.model.vocabulary.level_offsets[0] :][: len(means), :width][used]
    assert_allclose(cosines(first.numpy()), cosines(means[used]), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(random, started)

    def refuse(*args: Any) -> None:
        raise AssertionError("a finished training computes no features")

    monkeypatch.setattr(FeaturePipeline, "fit_encode", refuse)
    again, train, valid, _ = prepare(model, code_init="features", epochs=1, learning_rate=1e-9, resume=True)
    make_trainer(again, train).fit(train, valid)


def test_training_from_changed_features_is_not_reused(prepare: Callable[..., Any], tmp_path: Path) -> None:
    ready_made = tmp_path / "ids.json"
    ready_made.write_text(json.dumps({f"i{item}": [item % 5, item // 5] for item in range(N_ITEMS)}))
    (tmp_path / "tokens.txt").write_text("\n".join(f"i{item}" for item in range(N_ITEMS)))
    own = {
        "features": ["file"],
        "feature_file": str(tmp_path / "f.npy"),
        "feature_tokens": str(tmp_path / "tokens.txt"),
    }
    changes = {**own, "semantic_ids_path": str(ready_made), "code_init": "features", "epochs": 1, "resume": True}

    def train(seed: int) -> torch.Tensor:
        np.save(tmp_path / "f.npy", np.random.default_rng(seed).normal(size=(N_ITEMS, 6)).astype(np.float32))
        config, train, valid, _ = prepare("TIGER", **changes)
        trainer = make_trainer(config, train)
        trainer.fit(train, valid)
        return trainer.model.token_embedding.weight.detach().clone()

    first = train(0)
    assert torch.equal(first, train(0))
    assert not torch.equal(first, train(1))


def test_resumed_training_equals_the_uninterrupted_and_computes_no_features(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer(**changes: Any) -> tuple[Any, Any, Any]:
        config, train, valid, _ = prepare("TIGER", code_init="features", epochs=2, **changes)
        return make_trainer(config, train), train, valid

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    whole, train, valid = trainer(checkpoint_dir="whole")
    whole.fit(train, valid)
    interrupted, train, valid = trainer()
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(train, valid, callback_fn=lambda epoch, score: stop() if epoch else None)
    resumed, train, valid = trainer(resume=True)
    monkeypatch.setattr(FeaturePipeline, "fit_encode", stop)
    resumed.fit(train, valid)
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_levels_share_one_basis(features: np.ndarray, codes: np.ndarray) -> None:
    vocabulary = TokenVocabulary(SIZES, n_user_tokens=1)
    embedding = nn.Embedding(vocabulary.size, 8)
    start_from_features(embedding, vocabulary, features, codes, seed=0)
    first, second, *_ = code_means(features - features.mean(0), codes, SIZES)
    found = embedding.weight.detach().numpy()
    one, two = (found[vocabulary.level_offsets[level] :][: SIZES[level]] for level in (0, 1))
    assert_allclose(cosines(np.concatenate([one, two])), cosines(np.concatenate([first, second])), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_start_on_a_gpu_is_that_on_the_cpu(features: np.ndarray, codes: np.ndarray) -> None:
    vocabulary = TokenVocabulary(SIZES, n_user_tokens=1)
    embedding = nn.Embedding(vocabulary.size, 8)
    on_gpu = nn.Embedding.from_pretrained(embedding.weight.detach().clone()).to("cuda")
    started = [start_from_features(table, vocabulary, features, codes, seed=0) for table in (embedding, on_gpu)]
    assert started == [sum(SIZES) - 1] * 2
    assert_allclose(on_gpu.weight.cpu().numpy(), embedding.weight.detach().numpy(), **CLOSE)


def test_random_is_the_default(prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("TIGER")
    model = make_trainer(config, train).model
    before = model.token_embedding.weight.detach().clone()
    model.start_from_data(config, train._dataset)
    assert torch.equal(before, model.token_embedding.weight)
