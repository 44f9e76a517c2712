"""Items that come after training: their semantic IDs, and models that recommend them without being trained again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_sequences, write_dataset

from recbole_sid.cli import main
from recbole_sid.config import Config
from recbole_sid.data import SemanticIDs, create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.features import FeaturePipeline, item_features
from recbole_sid.quick_start import load_data_and_model, run_recbole_sid
from recbole_sid.registry import COLLISIONS, TOKENIZERS
from recbole_sid.semantic_ids.artefact import EXTENDED_AT
from recbole_sid.semantic_ids.extend import extend, extend_to_items, fitted_tokenizer

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


@pytest.mark.parametrize("model", ["TIGER", "SIDMLP", "SIDMLPPlusPlus", "SIDMLPHybrid"])
def test_a_trained_model_recommends_a_later_item_at_once(
    made: Callable[..., Any], settings: Callable[..., Any], data_path: Path, vectors: np.ndarray, model: str
) -> None:
    ids, _ = made()
    ids.save("ids.npz")
    changes = {**FILE, "semantic_ids_path": "ids.npz", "epochs": 1, "beam_size": 40}
    model_file = run_recbole_sid(model, "tiny", config_dict=settings(model, **changes))["model_file"]
    weights = {name: value.clone() for name, value in load_data_and_model(model_file)[1].state_dict().items()}

    add_later_item(data_path)
    with pytest.raises(InputError, match=r"1 of the dataset's 31 items have no semantic ID \(for example 'i30'\)"):
        load_data_and_model(model_file)
    extend(ids, {"file": vectors[:31]}, TOKENS[:31]).save("ids.npz")
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


# From raw input: texts and vectors as they come, by what the features learnt before.

N_SEEN = 28  # items 28 and 29 occur in validation and test only
WORDS = ["red", "green", "blue", "round", "square", "tiny", "large", "kind"]


def sequences() -> list[list[int]]:
    return [[*range(N_KNOWN)], *random_sequences(n_items=N_SEEN)[1:]]


def text_of(item: int) -> str:
    """Return a title of common words and one of the item's own."""
    picked = np.random.default_rng(item).choice(WORDS, size=4)
    return f"{' '.join(picked)} word{item}"


def write_items(folder: Path, n_items: int) -> None:
    lines = ["item_id:token\ttitle:token_seq", *(f"i{item}\t{text_of(item)}" for item in range(n_items))]
    (folder / "tiny" / "tiny.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def growing(tmp_path: Path, vectors: np.ndarray, settings: Callable[..., Any]) -> Callable[..., Config]:
    """Return ``growing(n_items, **changes) -> config`` of the dataset when it had 30, or has now 36, items."""

    def make(n_items: int, **changes: Any) -> Config:
        grown = [[*range(N_KNOWN, n_items), 0, 1, 2]] if n_items > N_KNOWN else []
        folder = write_dataset(tmp_path / "growing", [*sequences(), *grown])
        write_items(folder, n_items)
        np.save(tmp_path / "vectors.npy", vectors[:n_items])
        (tmp_path / "tokens.txt").write_text("\n".join(TOKENS[:n_items]), encoding="utf-8")
        return Config("TIGER", "tiny", config_dict=settings("TIGER", data_path=str(folder), **FILE | changes))

    return make


def semantic_ids_of(config: Config) -> SemanticIDs:
    return data_preparation(config, create_dataset(config))[0]._dataset.semantic_ids


def numbers(item_tokens: np.ndarray) -> list[int]:
    return [int(token[1:]) for token in item_tokens]


def fitted_by_hand(part: np.ndarray, normalize: str) -> np.ndarray:
    """Return rows of all items, normalised by those of items 0 to 27, by definition and in float64."""
    part = part.astype(np.float64)
    seen = part[:N_SEEN]
    if normalize == "rows":
        return part / np.linalg.norm(part, axis=1, keepdims=True)
    if normalize == "standard":
        part = (part - seen.mean(axis=0)) / seen.std(axis=0)
    if normalize in ("standard", "scale"):
        part = part / np.sqrt((part[:N_SEEN] ** 2).sum(axis=1).mean())
    return part


def tfidf_by_hand(dim: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text_of(item) for item in range(N_ALL)]
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(texts[:N_SEEN])
    svd = TruncatedSVD(dim, random_state=seed).fit(vectorizer.transform(texts[:N_SEEN]))
    return svd.transform(vectorizer.transform(texts))


def reduced_by_hand(features: np.ndarray, dim: int, whiten: bool) -> np.ndarray:
    centred = features - features[:N_SEEN].mean(axis=0)
    _, singular, directions = np.linalg.svd(centred[:N_SEEN], full_matrices=False)
    components = centred @ directions[:dim].T
    return components / (singular[:dim] / np.sqrt(N_SEEN - 1)) if whiten else components


TEXT = {"text_fields": ["title"], "text_dim": 5}


@pytest.mark.parametrize(
    "settings_of_features",
    [
        *({"features": ["file"], "feature_normalize": kind} for kind in ("scale", "standard", "rows", "none")),
        {"features": ["file"], "feature_normalize": "standard", "feature_pca": 3},
        {"features": ["file"], "feature_normalize": "none", "feature_pca": 4, "feature_whiten": True},
        {"features": ["text"], "feature_normalize": "none", **TEXT},
        {"features": ["text"], "feature_normalize": "standard", **TEXT},
        {"features": ["file", "text"], "feature_normalize": ["standard", "rows"], **TEXT},
        {"features": ["text", "file"], "feature_pca": 6, "feature_whiten": True, **TEXT},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_new_items_get_the_codes_that_all_would_have_together(
    growing: Callable[..., Config], vectors: np.ndarray, settings_of_features: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"codebook_sizes": [4, 8], "collision": "keep", **settings_of_features}
    config = growing(N_KNOWN, **changes)
    made = semantic_ids_of(config)
    made.save(tmp_path / "made.npz")
    with np.load(tmp_path / "made.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    loaded = SemanticIDs.load(tmp_path / "made.npz")

    names, kinds = config["features"], config["feature_normalize"]
    kinds = [kinds] * len(names) if isinstance(kinds, str) else kinds
    raw = {"file": vectors, "text": tfidf_by_hand(5, config["seed"])}
    together = np.concatenate([fitted_by_hand(raw[name], kind) for name, kind in zip(names, kinds, strict=True)], 1)
    if config["feature_pca"]:
        together = reduced_by_hand(together, config["feature_pca"], config["feature_whiten"])
        own = FeaturePipeline(config).fit_encode(create_dataset(config).build()[0])  # a component has no sign by itself
        together *= np.sign(own[0]) * np.sign(together[numbers(made.item_tokens)[0]])
    expected = fitted_tokenizer(loaded).encode(np.ascontiguousarray(together, dtype=np.float32))
    assert np.array_equal(expected[numbers(made.item_tokens)], made.codes)
    assert len(np.unique(expected[N_KNOWN:], axis=0)) > 2

    given = {"file": vectors[N_KNOWN:], "text": [text_of(item) for item in range(N_KNOWN, N_ALL)]}
    by_hand = extend(loaded, {name: given[name] for name in names}, TOKENS[N_KNOWN:])
    assert np.array_equal(by_hand.codes, np.concatenate([made.codes, expected[N_KNOWN:]]))

    grown_config = growing(N_ALL, **changes)
    grown = create_dataset(grown_config).item_tokens()
    from_files = extend_to_items(loaded, grown_config, grown)
    assert np.array_equal(from_files.codes[:N_KNOWN], made.codes)
    assert sorted(from_files.item_tokens) == sorted(TOKENS)
    assert np.array_equal(from_files.codes, expected[numbers(from_files.item_tokens)])
    assert extend_to_items(from_files, grown_config, grown) is from_files


def extend_with(growing: Callable[..., Config], options: list[str], **changes: Any) -> int:
    """Tokenize 30 items, let the dataset grow to 36, and extend; return the exit status of the last."""
    semantic_ids_of(growing(N_KNOWN, codebook_sizes=[4, 8], rank_size=20, **changes)).save("ids.npz")
    config = growing(N_ALL)
    folder = str(Path(config["data_path"]).parent)
    common = ["--dataset=tiny", f"--data_path={folder}", "--use_gpu=False", "--show_progress=False"]
    if not any(option.startswith("--feature_file") for option in options):
        common.append("--feature_file=vectors.npy")
    return main(["extend", "ids.npz", *common, "--feature_tokens=tokens.txt", *options])


def test_the_command_adds_what_is_new_and_says_so(
    growing: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extend_with(growing, ["--output=grown.npz", "--json=grown.json"], feature_normalize="standard") == 0
    old, new = SemanticIDs.load("ids.npz"), SemanticIDs.load("grown.npz")
    assert np.array_equal(new.codes[:N_KNOWN], old.codes)
    assert new.item_tokens[:N_KNOWN].tolist() == old.item_tokens.tolist()
    assert sorted(new.item_tokens[N_KNOWN:]) == TOKENS[N_KNOWN:]
    assert new.extends == (old.fingerprint,)
    printed = capsys.readouterr().out
    assert "6 of the dataset's 36 items had no semantic ID and have one now; those of 30 items" in printed
    assert f"Written: grown.npz ({new.fingerprint})" in printed
    written = json.loads(Path("grown.json").read_text(encoding="utf-8"))
    assert (written["items"], written["new_items"], written["fingerprint"]) == (36, 6, new.fingerprint)
    for level, row in enumerate(written["rows"]):
        used = [len(set(ids.codes[:, level].tolist())) for ids in (old, new)]
        assert row == {"level": level + 1, "size": [4, 8, 20][level], "used_before": used[0], "used": used[1]}


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ([], {}, "extend needs --output=FILE.npz"),
        (["--feature_normalize=rows"], {}, "were made with feature_normalize=scale, not rows: leave it out"),
        (["--codebook_sizes=[4,9]"], {}, r"were made with codebook_sizes=\[4, 8\], not \[4, 9\]"),
        (["--feature_file=no.npy"], {}, "There is no feature file at 'no.npy'"),
        ([], {"features": ["collaborative"]}, r"New items have no 'collaborative' features.*features=\[text\] or"),
        ([], {"features": ["text", "collaborative"], **TEXT}, "New items have no 'collaborative' features"),
    ],
)
def test_the_command_refuses_and_writes_nothing(
    growing: Callable[..., Config],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    output = [] if "--output" in message else ["--output=grown.npz"]
    assert extend_with(growing, [*options, *output], **changes) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("grown.npz").exists()


def test_raw_input_that_does_not_fit_is_refused(growing: Callable[..., Config], vectors: np.ndarray) -> None:
    ids = semantic_ids_of(growing(N_KNOWN, features=["file", "text"], **TEXT))
    texts = [text_of(item) for item in range(N_ALL)]
    for raw, message in (
        ({"file": vectors}, r"made from file, text but raw input is given for file: give each"),
        ({"file": vectors, "text": texts, "collaborative": vectors}, "given for file, text, collaborative"),
        ({"file": vectors[:, :5], "text": texts}, r"The 'file' features \(36, 5\) must be \(36, 6\)"),
        ({"file": vectors[:7], "text": texts}, r"The 'file' features \(7, 6\) must be \(36, 6\)"),
        ({"file": vectors[:, 0], "text": texts}, r"'file' features must be numbers of shape \[n_items, d\]"),
        ({"file": vectors, "text": "red thing"}, "'text' features must be one string an item"),
        ({"file": vectors, "text": [None, *texts[1:]]}, "'text' features must be one string an item"),
        ({"file": vectors, "text": texts[1:]}, r"The 'text' features \(35, 5\) must be \(36, 5\)"),
        ({"file": np.where(vectors == vectors[2, 1], np.nan, vectors), "text": texts}, "for example item 'i2'"),
        ({"file": vectors[::-1], "text": texts}, "codes again from these features"),
    ):
        with pytest.raises(InputError, match=message):
            extend(ids, raw, TOKENS)


def test_files_from_before_features_were_kept_load_and_say_what_to_do(
    growing: Callable[..., Config], vectors: np.ndarray
) -> None:
    replace(semantic_ids_of(growing(N_KNOWN, feature_normalize="none", rank_size=20)), feature_state={}).save("old.npz")
    ids = SemanticIDs.load("old.npz")
    with pytest.raises(InputError, match=r"do not hold what was learnt to compute their features.*make them again"):
        extend(ids, {"file": vectors}, TOKENS)
    assert len(extend(ids, vectors, TOKENS).codes) == N_ALL  # features as computed then
    some = {name: array for name, array in semantic_ids_of(growing(N_KNOWN)).feature_state.items() if name != "widths"}
    with pytest.raises(InputError, match="lack 'widths' of their features"):
        extend(replace(ids, feature_state=some), {"file": vectors}, TOKENS)


def test_a_trained_model_recommends_an_item_that_nobody_has_touched(
    growing: Callable[..., Config], settings: Callable[..., Any], tmp_path: Path
) -> None:
    items = {"item": ["item_id", "title"], "inter": ["user_id", "item_id", "timestamp"]}
    Path("items.yaml").write_text(json.dumps({"load_col": items}), encoding="utf-8")
    changes = {"features": ["text"], **TEXT, "load_col": items, "rank_size": 9, "epochs": 1, "beam_size": 40}
    folder = str(Path(growing(N_KNOWN)["data_path"]).parent)
    settings_of_run = settings("TIGER", data_path=folder, **changes)
    model_file = run_recbole_sid("TIGER", "tiny", config_dict=settings_of_run)["model_file"]
    (ids_of_run,) = Path("saved/semantic_ids").glob("*.npz")
    before = SemanticIDs.load(ids_of_run)

    write_items(tmp_path / "growing", 33)  # three more lines of the .item file, no interaction
    command = ["extend", str(ids_of_run), "--dataset=tiny", f"--data_path={folder}", "--config_files=items.yaml"]
    assert main([*command, f"--output={ids_of_run}", "--use_gpu=False"]) == 0
    assert SemanticIDs.load(ids_of_run).extends == (before.fingerprint,)
    _, loaded, dataset, _, _, test_data = load_data_and_model(model_file)
    batch = next(iter(test_data))[0]
    _, found, scores = loaded.retrieve(batch)
    for token in ("i30", "i31", "i32"):
        of_item = found == dataset.token2id(dataset.iid_field, token)
        assert of_item.sum() == len(batch)
        assert torch.isfinite(scores[of_item]).all()
