"""Item features against definitions written out as loops, their errors, and that nothing leaks from evaluation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_sequences, write_dataset
from scipy import sparse

from recbole_sid.errors import InputError
from recbole_sid.features import item_features
from recbole_sid.features.collaborative import (
    CollaborativeFeatures,
    co_occurrence,
    positive_pmi,
    truncated_svd,
)
from recbole_sid.features.file import FileFeatures
from recbole_sid.features.text import TextFeatures, item_texts
from recbole_sid.tokenizer.rq_kmeans import ResidualKMeans


@pytest.fixture
def configured(prepare: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Return ``configured(**changes) -> config, training dataset`` of the tiny dataset."""

    def make(**changes: Any) -> tuple[Any, Any]:
        config, train, _, _ = prepare("TIGER")  # semantic IDs of default features: the changes are not used yet
        for key, value in changes.items():
            config[key] = value
        return config, train._dataset

    return make


def flatten(sequences: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    items = np.array([item for sequence in sequences for item in sequence])
    return items, np.cumsum([0, *map(len, sequences)])


def counted(sequences: list[list[int]], window: int, n_items: int) -> np.ndarray:
    counts = np.zeros((n_items, n_items))
    for sequence in sequences:
        for i, left in enumerate(sequence):
            for j, right in enumerate(sequence):
                if i != j and abs(i - j) <= window and left != right:
                    counts[left, right] += 1
    return counts


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_co_occurrence_counts_pairs(window: int) -> None:
    sequences = [*random_sequences(seed=3, n_users=8, n_items=9), [4], [2, 2, 2]]
    found = co_occurrence(*flatten(sequences), window, 9)
    assert np.array_equal(found.toarray(), counted(sequences, window, 9))


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="collaborative_window=0"):
        co_occurrence(*flatten([[0, 1]]), 0, 2)


def test_positive_pmi_by_definition() -> None:
    counts = counted(random_sequences(seed=3, n_users=8, n_items=9), 2, 9)
    found = positive_pmi(sparse.csr_matrix(counts)).toarray()
    total = counts.sum()
    for i in range(9):
        for j in range(9):
            expected = 0.0
            if counts[i, j]:
                p_i, p_j = counts[i].sum() / total, counts[:, j].sum() / total
                expected = max(0.0, math.log(counts[i, j] / total / (p_i * p_j)))
            assert found[i, j] == pytest.approx(expected, abs=1e-12)
    assert (found > 0).any()


def test_no_co_occurrence_is_an_error() -> None:
    with pytest.raises(InputError, match="No two items co-occur"):
        positive_pmi(co_occurrence(*flatten([[1], [2]]), 5, 3))


@pytest.mark.parametrize("dim", [1, 3, 8, 50])
def test_truncated_svd_equals_the_whole_decomposition(dim: int) -> None:
    matrix = np.random.default_rng(0).random((9, 9))
    rank = min(dim, 8)
    found = truncated_svd(sparse.csr_matrix(matrix), dim, seed=1)
    left, singular, _ = np.linalg.svd(matrix)
    expected = left[:, :rank] * np.sqrt(singular[:rank])
    largest = np.abs(found).argmax(axis=0), np.arange(rank)
    assert (found[largest] > 0).all()
    np.testing.assert_allclose(found, expected * np.sign(expected[largest]), atol=1e-5)


def test_collaborative_features_are_the_reduced_ppmi_of_training_sequences(
    configured: Callable[..., tuple[Any, Any]],
) -> None:
    config, dataset = configured(collaborative_window=3, collaborative_dim=28)
    tokens = dataset.item_tokens().tolist()
    sequences = [[tokens.index(f"i{item}") for item in sequence[:-2]] for sequence in random_sequences()]
    features = CollaborativeFeatures(config).fit_encode(dataset)
    ppmi = positive_pmi(sparse.csr_matrix(counted(sequences, 3, 30))).toarray()
    left, singular, _ = np.linalg.svd(ppmi)
    assert features.shape == (30, 28)
    assert features.dtype == np.float32
    expected = (left[:, :28] * singular[:28]) @ left[:, :28].T  # independent of the signs of singular vectors
    np.testing.assert_allclose(features @ features.T, expected, atol=1e-4)


# Items 10 and 11 occur in validation and test only.
UNSEEN = [[*range(10), 10, 11], [3, 4, 5, 6, 10, 11], [1, 2, 0, 3, 11, 10]]


def test_items_unseen_in_training_have_zero_collaborative_features(tmp_path: Path, prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("TIGER", data_path=str(write_dataset(tmp_path / "unseen", UNSEEN)))
    features = CollaborativeFeatures(config).fit_encode(train._dataset)
    is_zero = dict(zip(train._dataset.item_tokens().tolist(), (features == 0).all(axis=1).tolist(), strict=True))
    assert is_zero == {f"i{item}": item >= 10 for item in range(12)}


def test_the_tokenizer_learns_from_the_items_of_training_sequences(
    tmp_path: Path, prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt_from: list[np.ndarray] = []
    fit = ResidualKMeans.fit

    def spy(self: ResidualKMeans, features: np.ndarray, train_items: np.ndarray) -> ResidualKMeans:
        learnt_from.append(train_items)
        return fit(self, features, train_items)

    monkeypatch.setattr(ResidualKMeans, "fit", spy)
    _, train, _, _ = prepare("TIGER", data_path=str(write_dataset(tmp_path / "unseen", UNSEEN)))
    tokens = train._dataset.item_tokens()[learnt_from[0]]
    assert sorted(tokens.tolist()) == [f"i{item}" for item in range(10)]
    assert len(train._dataset.semantic_ids.codes) == 12


def test_changing_validation_and_test_items_changes_nothing_learnt(tmp_path: Path, prepare: Callable[..., Any]) -> None:
    # The first user names every item, so that item numbers are the same; of all others only the last two items change.
    first = [*range(30), 0, 1]
    sequences = [first, *random_sequences()[1:]]
    other = [[*sequence[:-2], (sequence[-2] + 7) % 30, (sequence[-1] + 11) % 30] for sequence in sequences]
    trained_on = [[*sequence[:-3], (sequence[-3] + 7) % 30, *sequence[-2:]] for sequence in sequences]
    found = []
    for name, content in (("a", sequences), ("b", other), ("c", trained_on)):
        path = str(write_dataset(tmp_path / name, content))
        config, train, valid, test = prepare("TIGER", data_path=path, checkpoint_dir=str(tmp_path / f"saved_{name}"))
        dataset = train._dataset
        targets = [loader._dataset.inter_feat["item_id"].tolist() for loader in (valid, test)]
        found.append((CollaborativeFeatures(config).fit_encode(dataset), dataset.semantic_ids, targets))
    (features, ids, targets), (other_features, other_ids, other_targets), (changed, changed_ids, _) = found
    assert all(a != b for a, b in zip(targets, other_targets, strict=True))
    assert np.array_equal(features, other_features)
    assert ids.fingerprint == other_ids.fingerprint
    assert ids.recipe == other_ids.recipe
    assert not np.array_equal(features, changed)
    assert ids.recipe["training_part"] != changed_ids.recipe["training_part"]


def test_texts_are_the_fields_joined_in_order(configured: Callable[..., tuple[Any, Any]]) -> None:
    config, dataset = configured(text_fields=["kind", "title"])
    words = ["red", "green", "blue", "round", "square", "tiny", "large"]
    numbers = [int(token[1:]) for token in dataset.item_tokens()]
    expected = [f"kind{i % 3} {words[i % 7]} {words[i % 5]} thing" for i in numbers]
    assert item_texts(config, dataset.item_tokens()) == expected
    assert item_texts(config, dataset.item_tokens()[::-1]) == expected[::-1]


def test_equal_texts_have_equal_features_and_different_ones_not(configured: Callable[..., tuple[Any, Any]]) -> None:
    config, dataset = configured(text_fields="kind", text_dim=2)
    features = TextFeatures(config).fit_encode(dataset)
    kinds = np.array([int(token[1:]) % 3 for token in dataset.item_tokens()])
    distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert features.shape == (30, 2)
    assert distance[kinds[:, None] == kinds[None]].max() < 1e-5
    assert distance[kinds[:, None] != kinds[None]].min() > 1e-2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["titel"], r"no field 'titel' \(did you mean 'title'\?\)"),
        (["title", "zzz"], "no field 'zzz'; it has item_id, title, kind"),
        (None, "text_fields is empty"),
    ],
)
def test_wrong_text_fields_are_named(
    configured: Callable[..., tuple[Any, Any]], fields: list[str] | None, message: str
) -> None:
    config, dataset = configured(text_fields=fields)
    with pytest.raises(InputError, match=message):
        TextFeatures(config).fit_encode(dataset)


def test_quotes_line_breaks_and_encoding_are_read_as_recbole_reads_them(
    configured: Callable[..., tuple[Any, Any]], data_path: Path
) -> None:
    file = data_path / "tiny" / "tiny.item"
    rows = [f'i{i}\t"é {i}\tsplit\nin ""two"""\tk' for i in range(100)]
    file.write_text("\n".join(["item_id:token\ttitle:token_seq\tkind:token", *rows]) + "\n", encoding="latin-1")
    config, dataset = configured(text_fields=["title", "kind"], encoding="latin-1")
    expected = [f'é {token[1:]}\tsplit\nin "two" k' for token in dataset.item_tokens()]
    assert item_texts(config, dataset.item_tokens()) == expected


def test_a_wrong_encoding_names_its_key(configured: Callable[..., tuple[Any, Any]], data_path: Path) -> None:
    config, dataset = configured(text_fields=["title"])
    (data_path / "tiny" / "tiny.item").write_bytes(b"item_id:token\ttitle:token_seq\ni1\t\xe9\n")
    with pytest.raises(InputError, match=r"encoding=utf-8.*set these two keys"):
        item_texts(config, dataset.item_tokens())


def test_a_missing_item_file_is_named(configured: Callable[..., tuple[Any, Any]], data_path: Path) -> None:
    config, dataset = configured(text_fields=["title"])
    (data_path / "tiny" / "tiny.item").unlink()
    with pytest.raises(InputError, match=r"tiny\.item', which does not exist"):
        TextFeatures(config).fit_encode(dataset)


def test_items_missing_in_the_item_file_are_counted(
    configured: Callable[..., tuple[Any, Any]], data_path: Path
) -> None:
    config, dataset = configured(text_fields=["title"])
    file = data_path / "tiny" / "tiny.item"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith("i7\t")), encoding="utf-8")
    with pytest.raises(InputError, match=r"1 items are not in .*\(for example 'i7'\)"):
        TextFeatures(config).fit_encode(dataset)


def test_texts_without_words_are_refused(configured: Callable[..., tuple[Any, Any]], data_path: Path) -> None:
    config, dataset = configured(text_fields=["title"])
    lines = ["item_id:token\ttitle:token_seq", *(f"i{item}\t!" for item in range(30))]
    (data_path / "tiny" / "tiny.item").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match="no word at all"):
        TextFeatures(config).fit_encode(dataset)


def matrix_of(numbers: list[int]) -> np.ndarray:
    """Return a row [item, 2 * item] for each item number."""
    return np.array([[item, 2 * item] for item in numbers], dtype=np.float64)


def test_file_rows_are_matched_by_token(configured: Callable[..., tuple[Any, Any]], tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(40).tolist()  # ten rows of items that the dataset does not have
    np.save(tmp_path / "features.npy", matrix_of(order))
    (tmp_path / "tokens.txt").write_text("\n".join(f"i{item}" for item in order), encoding="utf-8")
    config, dataset = configured(
        feature_file=str(tmp_path / "features.npy"), feature_tokens=str(tmp_path / "tokens.txt")
    )
    found = FileFeatures(config).fit_encode(dataset)
    assert np.array_equal(found, matrix_of([int(token[1:]) for token in dataset.item_tokens()]))
    assert found.dtype == np.float32


def test_file_rows_are_matched_by_number(
    tmp_path: Path, prepare: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_dataset(tmp_path / "numbered", random_sequences())
    for file in (folder / "tiny").iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"\bi(\d+)\b", r"\1", text), encoding="utf-8")
    np.save(tmp_path / "features.npy", matrix_of(list(range(31))))
    config, train, _, _ = prepare("TIGER", data_path=str(folder), feature_file=str(tmp_path / "features.npy"))
    caplog.clear()
    found = FileFeatures(config).fit_encode(train._dataset)
    assert np.array_equal(found, matrix_of([int(token) for token in train._dataset.item_tokens()]))
    assert "features.npy' has 31 rows, matched by their number, for 30 items" in caplog.text
    caplog.clear()
    assert len(FileFeatures(config).read(train._dataset.item_tokens()[:3])) == 3
    np.save(tmp_path / "features.npy", matrix_of(list(range(30))))
    FileFeatures(config).fit_encode(train._dataset)
    assert "matched by their number" not in caplog.text


@pytest.mark.parametrize(
    ("matrix", "tokens", "message"),
    [
        (matrix_of(list(range(29))), [f"i{item}" for item in range(29)], r"no row for 1 items \(for example 'i29'\)"),
        (matrix_of(list(range(30))), ["i0"], "has 30 rows but feature_tokens names 1 items"),
        (matrix_of(list(range(30))), None, "no row for 30 items .* name the item of each row in feature_tokens"),
        (np.zeros(30), None, r"must hold numbers of shape \[n_items, d\]"),
        (np.full((30, 2), "a"), None, r"must hold numbers of shape \[n_items, d\]"),
        (None, None, "There is no feature file"),
    ],
)
def test_feature_files_that_do_not_fit_are_refused(
    configured: Callable[..., tuple[Any, Any]],
    tmp_path: Path,
    matrix: np.ndarray | None,
    tokens: list[str] | None,
    message: str,
) -> None:
    config, dataset = configured(feature_file=str(tmp_path / "features.npy"))
    if matrix is not None:
        np.save(tmp_path / "features.npy", matrix)
    if tokens is not None:
        (tmp_path / "tokens.txt").write_text("\n".join(tokens), encoding="utf-8")
        config["feature_tokens"] = str(tmp_path / "tokens.txt")
    with pytest.raises(InputError, match=message):
        FileFeatures(config).fit_encode(dataset)


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"PK\x03\x04 a broken zip", b"\x93NUMPY\x01\x00v\x00{(" + b" " * 120]
)
def test_a_damaged_feature_file_is_refused(
    configured: Callable[..., tuple[Any, Any]], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "features.npy").write_bytes(content)
    config, dataset = configured(feature_file=str(tmp_path / "features.npy"))
    with pytest.raises(InputError, match=r"features\.npy' is not a \.npy array"):
        FileFeatures(config).fit_encode(dataset)


def test_missing_names_of_feature_files_are_reported(
    configured: Callable[..., tuple[Any, Any]], tmp_path: Path
) -> None:
    config, dataset = configured()
    with pytest.raises(InputError, match="needs feature_file"):
        FileFeatures(config).fit_encode(dataset)
    np.save(tmp_path / "features.npy", matrix_of(list(range(30))))
    config["feature_file"], config["feature_tokens"] = str(tmp_path / "features.npy"), "none.txt"
    with pytest.raises(InputError, match=r"no feature_tokens file at 'none\.txt'"):
        FileFeatures(config).fit_encode(dataset)


def with_file_feature(
    configured: Callable[..., tuple[Any, Any]], tmp_path: Path, matrix: np.ndarray
) -> tuple[Any, Any]:
    """Return config and dataset with `matrix` as the file feature of items i0, i1, ..."""
    np.save(tmp_path / "features.npy", matrix)
    (tmp_path / "tokens.txt").write_text("\n".join(f"i{item}" for item in range(len(matrix))), encoding="utf-8")
    return configured(feature_file=str(tmp_path / "features.npy"), feature_tokens=str(tmp_path / "tokens.txt"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(
    configured: Callable[..., tuple[Any, Any]], tmp_path: Path, bad: float
) -> None:
    matrix = matrix_of(list(range(30)))
    matrix[[3, 8], 1] = bad
    config, dataset = with_file_feature(configured, tmp_path, matrix)
    config["features"] = ["file"]
    with pytest.raises(InputError, match=r"'file' features of 2 items are not finite \(for example item 'i[38]'\)"):
        item_features(config, dataset)


def test_features_that_are_all_zero_are_refused(configured: Callable[..., tuple[Any, Any]], tmp_path: Path) -> None:
    config, dataset = with_file_feature(configured, tmp_path, np.zeros((30, 2)))
    config["features"] = "file"
    with pytest.raises(InputError, match="all zero"):
        item_features(config, dataset)


def test_concatenated_parts_weigh_the_same(configured: Callable[..., tuple[Any, Any]], tmp_path: Path) -> None:
    matrix = 1000 * matrix_of(list(range(30)))
    config, dataset = with_file_feature(configured, tmp_path, matrix)
    config["features"], config["text_fields"], config["text_dim"] = ["file", "collaborative", "text"], ["title"], 3
    features = item_features(config, dataset)
    parts = np.split(features, [2, 10], axis=1)
    assert [part.shape for part in parts] == [(30, 2), (30, 8), (30, 3)]
    for part in parts:
        assert (part.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1, abs=1e-5)
    rows = matrix[[int(token[1:]) for token in dataset.item_tokens()]]
    np.testing.assert_allclose(parts[0] * np.sqrt((rows**2).sum(1).mean()), rows, rtol=1e-5)
    np.testing.assert_allclose(
        np.corrcoef(parts[1].ravel(), CollaborativeFeatures(config).fit_encode(dataset).ravel())[0, 1], 1, atol=1e-5
    )


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["colaborative"], r"Unknown feature 'colaborative' \(did you mean 'collaborative'\?\)"),
        (["text", "zzz"], "Unknown feature 'zzz'; known: collaborative, file, text"),
        ([], "features is empty"),
        (None, "features is empty"),
    ],
)
def test_unknown_features_are_named(
    configured: Callable[..., tuple[Any, Any]], features: list[str] | None, message: str
) -> None:
    config, dataset = configured(features=features, text_fields=["title"])
    with pytest.raises(InputError, match=message):
        item_features(config, dataset)
