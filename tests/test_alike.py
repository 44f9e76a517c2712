"""Items that are alike, and a memory that counts them as if they had followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from scipy.sparse import csr_matrix

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.features import alike as module
from recbole_sid.features.alike import alike
from recbole_sid.memory import Memory, Numbers
from recbole_sid.memory.table import transition_table
from recbole_sid.quick_start import make_trainer


def cosines_cubed(features: np.ndarray, nearest: int) -> np.ndarray:
    """As `alike` says, one item after the other."""
    result = np.zeros((1 + len(features), 1 + len(features)))
    for i, a in enumerate(features):
        cosine = {
            j: a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for j, b in enumerate(features) if j != i and b.any()
        }
        for j in sorted(cosine, key=lambda j: -cosine[j])[:nearest]:
            result[1 + i, 1 + j] = max(0, cosine[j]) ** 3
    return result


def test_the_nearest_items_have_the_cube_of_their_cosine() -> None:
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    table = alike(features, nearest=4)
    np.testing.assert_allclose(table.toarray(), cosines_cubed(features, 4), atol=1e-5)
    assert np.diff(table.indptr).max() <= 4


def test_copies_of_an_item_are_its_nearest_and_empty_features_are_like_nothing() -> None:
    features = np.zeros((8, 3), dtype=np.float32)
    features[:7] = [1, 2, 3]
    table = alike(features, nearest=3)
    assert np.diff(table.indptr).tolist() == [0, 3, 3, 3, 3, 3, 3, 3, 0]
    assert (table.diagonal() == 0).all()
    np.testing.assert_allclose(table.data, 1, rtol=1e-5)


def test_many_items_are_looked_up_in_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    exact = alike(features, nearest=2)
    monkeypatch.setattr(module, "_EXACT", 100)
    found = alike(features, nearest=2)
    same = found.minimum(exact).nnz / exact.nnz
    assert same > 0.9


def test_alike_items_count_as_if_they_had_followed_so_often() -> None:
    items, offsets = np.array([1, 2, 3, 1, 3]), np.array([0, 3, 5])
    likeness = csr_matrix(np.array([[0, 0, 0, 0, 0], [0, 0, 0.5, 0, 0.25], [0, 0.5, 0, 0, 0], [0] * 5, [0] * 5], "f4"))
    memory = Memory(5)
    memory.alike = likeness
    numbers = Numbers(hops=1, window=1, pseudo_counts=2.0, text_weight=3.0)
    memory.learn(items, offsets, numbers)
    # After 1 came 2 and 3, once each; 2 is half like it, 4 a quarter.
    recall = memory.recall(torch.tensor([[1]]))
    whole = 1 + 1 + 3 * 0.75 + 2
    np.testing.assert_allclose(recall.dense()[0], np.array([0, 0, 2.5, 1, 0.75]) / whole, rtol=1e-6)
    np.testing.assert_allclose(recall.remaining, [2 / whole], rtol=1e-6)
    other = Memory(5)
    other.load_state_dict(memory.state_dict())
    assert other.numbers == numbers
    assert torch.equal(other.recall(torch.tensor([[1]])).masses, recall.masses)


def test_a_row_limit_counts_what_is_beside_too() -> None:
    items, offsets = np.array([1, 2, 1, 2, 1, 3]), np.array([0, 2, 4, 6])
    beside = csr_matrix(np.array([[0] * 4, [0, 0, 0, 5], [0] * 4, [0] * 4], "f4"))
    table = transition_table(items, offsets, 4, 1, 1.0, row_limit=1, beside=beside)
    assert table.counts.toarray()[1].tolist() == [0, 0, 0, 6]
    assert table.row_sums.tolist() == [0, 8, 0, 0]


def test_a_text_weight_without_likeness_is_refused() -> None:
    with pytest.raises(ValueError, match="which items are alike"):
        Memory(3).learn(np.array([1, 2]), np.array([0, 2]), Numbers(text_weight=1.0))
    assert "text_weight" in str(Numbers(text_weight=-1.0).problem())


@pytest.fixture
def make(data_path: Path) -> Callable[..., Config]:
    def config(**changes: Any) -> Config:
        return Config("TransitionMemory", "tiny", config_dict={**SMALL, "data_path": str(data_path), **changes})

    return config


def trained(config: Config) -> Any:
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = make_trainer(config, train)
    trainer.fit(train, valid, saved=False, verbose=False)
    return trainer.model


def test_the_model_takes_the_weight_that_is_set_or_chooses_it(make: Callable[..., Config]) -> None:
    without = trained(make(hops=1, window=2))
    assert without.chosen["memory_text_weight"] == 0
    model = trained(make(hops=1, window=2, memory_text_weight=3.0))
    assert model.chosen["memory_text_weight"] == 3
    assert len(model.memory.counts) > len(without.memory.counts)
    chosen = trained(make(memory_text_weight=None)).chosen["memory_text_weight"]
    assert chosen in (0, 1, 3, 10)


def test_features_count_for_the_name_of_a_run_only_where_they_are_read(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    names = []
    for value in (1.0, 2.0):
        file = tmp_path / "features.npy"
        np.save(file, np.full((50, 3), value, dtype=np.float32))
        features = {"features": ["file"], "feature_file": str(file)}
        names.append((make(**features).run_name(), make(**features, memory_text_weight=1.0).run_name()))
    (plain, weighted), (_, weighted_again) = names
    assert weighted != weighted_again
    assert plain != weighted


def test_missing_features_are_refused_if_asked_for_and_left_out_if_not(
    make: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = {"features": ["file"], "feature_file": str(tmp_path / "none.npy")}
    with pytest.raises(InputError, match="memory_text_weight=2 needs the items' features"):
        trained(make(**missing, memory_text_weight=2.0))
    assert trained(make(**missing, memory_text_weight=None)).chosen["memory_text_weight"] == 0
