"""`Recommender` of trained models: their own lists, ours and RecBole's, also where these ask who the user is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SASREC

from recbole_sid.errors import InputError
from recbole_sid.exporting.export import export_model
from recbole_sid.exporting.trained import trained_recommender
from recbole_sid.model import batches
from recbole_sid.quick_start import load_data_and_model, run_recbole_sid
from recbole_sid.serving import Recommender

SMALL = {
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "MAX_ITEM_LIST_LENGTH": 6,
    "epochs": 1,
    "train_batch_size": 32,
}
INTER = ["user_id", "item_id", "timestamp"]
# One of each kind: plain, of a fixed width, asking for the user, scoring one item at a time, with features of items.
RECBOLES: dict[str, dict[str, Any]] = {
    "SASRec": SASREC,
    "Caser": {},
    "FPMC": {},
    "HGN": {},
    "DIN": {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}},
    "GRU4RecF": {"selected_features": ["kind"], "load_col": {"inter": INTER, "item": ["item_id", "kind"]}},
}
ASKING = {"Caser", "FPMC", "HGN", "DIN"}


@torch.no_grad()
def of_test_split(loaded: Any) -> tuple[list[str], list[list[str]], np.ndarray]:
    """Return the users of the test split, their histories as ids, and the model's scores of all items."""
    _, model, dataset, _, _, test_data = loaded
    model.eval()  # RecBole's are not when they are loaded
    rows = test_data._dataset[:]
    users = dataset.id2token(dataset.uid_field, rows[dataset.uid_field]).tolist()
    lengths = rows[dataset.item_list_length_field].tolist()
    ids = dataset.id2token(dataset.iid_field, rows[f"{dataset.iid_field}_list"])
    histories = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    try:
        scores = model.full_sort_predict(rows).view(len(users), -1)
    except NotImplementedError:
        every = [rows[[row]].repeat_interleave(dataset.item_num) for row in range(len(users))]
        for each in every:
            each.update(dataset.get_item_feature())
        scores = torch.stack([model.predict(each) for each in every])
    return users, histories, scores.numpy()


def check_lists(found: Any, dataset: Any, scores: np.ndarray) -> None:
    """Compare lists with the best by `scores`, where items of equal score may change places."""
    wanted = scores.copy()
    wanted[:, 0] = -np.inf
    for row, ids in enumerate(found.lists()):
        numbers = dataset.token2id(dataset.iid_field, ids)
        assert len(set(ids)) == len(ids)
        np.testing.assert_allclose(wanted[row, numbers], np.sort(wanted[row])[::-1][: len(ids)], atol=1e-4)
        np.testing.assert_allclose(found.scores[row, : len(ids)], wanted[row, numbers], atol=1e-4)


@pytest.mark.parametrize("model", RECBOLES)
def test_models_of_recbole_answer_by_their_own_scores(model: str, data_path: Any) -> None:
    settings = {**SMALL, **RECBOLES[model], "data_path": str(data_path)}
    file = run_recbole_sid(model, "tiny", config_dict=settings)["model_file"]
    loaded = load_data_and_model(file)
    users, histories, scores = of_test_split(loaded)
    ours = trained_recommender(*loaded)
    found = ours.recommend(histories, k=7, exclude=None, users=users)
    check_lists(found, loaded[2], scores)
    assert found.search.tolist() == ["exact"] * len(users)
    assert [row["user"] for row in found.to_dicts()] == users
    if model in ASKING:
        with pytest.raises(InputError, match=f"{model} asks who the user is, and nobody is named"):
            ours.recommend(histories, k=7)
        with pytest.raises(InputError, match="one of the users was not in its training"):
            ours.recommend(histories[:2], k=7, users=[users[0], "somebody"])
    else:
        assert ours.recommend(histories, k=7, exclude=None).lists() == found.lists()
        assert ours.explain(histories[0], found.items[0, 0]).score == pytest.approx(found.scores[0, 0], abs=1e-4)


@pytest.mark.parametrize("decoding", ["beam", "exact"])
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("TIGER", {}),
        ("SIDMLP", {}),
        ("SIDMLPHybrid", {"memory": "transitions"}),
        ("SIDMLPHybrid", {"item_head": False}),
        ("CausalSID", {"memory": "transitions"}),
    ],
)
def test_our_models_answer_as_they_are_evaluated(
    settings: Callable[..., dict[str, Any]],
    model: str,
    changes: dict[str, Any],
    decoding: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_WORTHWHILE_SAVING", -1)  # histories are ranked in groups of alike length
    given = {**settings(model, epochs=1, **changes), "decoding": decoding}
    file = run_recbole_sid(model, "tiny", config_dict=given)["model_file"]
    loaded = load_data_and_model(file)
    trained, dataset, test_data = loaded[1], loaded[2], loaded[5]
    _, histories, scores = of_test_split(loaded)
    ours = trained_recommender(*loaded)
    rows, items, by_search = trained.retrieve(test_data._dataset[:])
    found = ours.recommend(histories, k=10, exclude=None)
    assert set(found.search.tolist()) == {"beam"}
    searched = np.full(scores.shape, -np.inf, dtype=np.float32)
    searched[rows, items] = by_search
    check_lists(found, dataset, searched)
    everything = ours.recommend(histories, k=29, exclude=None)
    assert everything.counts.tolist() == [29] * len(histories)
    check_lists(everything, dataset, scores)
    assert trained.beam_size == 10
    why = ours.explain(histories[3], everything.items[3, 5])
    assert why.score == pytest.approx(everything.scores[3, 5], abs=1e-4)
    _check_explanation(why, changes)


def _check_explanation(why: Any, changes: dict[str, Any]) -> None:
    by_levels = np.prod([level.probability for level in why.levels])
    assert why.parts["semantic IDs"] == pytest.approx(by_levels, rel=1e-3)
    assert (why.memory_share > 0) <= bool(changes.get("memory"))
    if "memory" not in changes:
        assert why.probability == pytest.approx(np.exp(why.score), rel=1e-3)
    for level in why.levels:
        assert [p for _, p in level.siblings] == sorted((p for _, p in level.siblings), reverse=True)
        assert (level.code, pytest.approx(level.probability, rel=1e-3)) in level.siblings or level.probability <= min(
            p for _, p in level.siblings
        ) + 1e-6


def test_known_users_have_their_last_interaction_too(data_path: Any) -> None:
    file = run_recbole_sid("SASRec", "tiny", config_dict={**SMALL, **SASREC, "data_path": str(data_path)})["model_file"]
    loaded = load_data_and_model(file)
    users, histories, _ = of_test_split(loaded)
    targets = loaded[2].id2token("item_id", loaded[5]._dataset[:]["item_id"]).tolist()
    ours = trained_recommender(*loaded)
    found = ours.recommend_users(users, k=30)
    for items, history, target in zip(found.lists(), histories, targets, strict=True):
        assert not {*history, target} & set(items)
    longer = [[*history, target] for history, target in zip(histories, targets, strict=True)]
    assert ours.recommend(longer, 5, None).lists() == ours.recommend_users(users, 5, None).lists()


def test_a_model_without_histories_is_refused(data_path: Any) -> None:
    file = run_recbole_sid("BPR", "tiny", config_dict={**SMALL, "data_path": str(data_path)})["model_file"]
    with pytest.raises(InputError, match="BPR"):
        trained_recommender(*load_data_and_model(file))


def test_a_memory_alone_is_explained_as_its_bundle_does(trained: dict[str, str]) -> None:
    ours = trained_recommender(*load_data_and_model(trained["TransitionMemory"]))
    theirs = Recommender.load(export_model(trained["TransitionMemory"], "bundle"))
    for item in ("i3", "i20"):
        found, wanted = ours.explain(["i1", "i2"], item), theirs.explain(["i1", "i2"], item)
        assert found.parts == pytest.approx(dict(wanted.parts), rel=1e-4)
        assert (found.remembered, found.probability) == (wanted.remembered, pytest.approx(wanted.probability, rel=1e-4))
        assert found.probability == pytest.approx(np.exp(found.score), rel=1e-4)
