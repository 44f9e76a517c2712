"""The adaptive ensemble: fusion against a numpy transcription, tuning on validation alone, refusals, loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OWN, SASREC, SETTINGS, SMALL, random_sequences, write_dataset
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.comparison.job import make_jobs, run_job, stored
from recbole_sid.comparison.plan import make_plan
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import per_user_results
from recbole_sid.generalization.ensemble import AdaptiveEnsemble, Scored, merge_lists, min_max
from recbole_sid.generalization.ensemble_trainer import EnsembleTrainer
from recbole_sid.quick_start import load_data_and_model, run_model, run_recbole_sid

Lists = dict[int, float]


def scaled(scores: Lists) -> Lists:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    return {item: 1.0 if low == high else (value - low) / (high - low) for item, value in scores.items()}


def literal_fusion(by_id: Lists, by_sid: Lists, weight: float) -> list[tuple[int, float]]:
    """Section 3 of the specification for one user; dictionaries keep the order of the lists."""
    s, t = scaled(by_id), scaled(by_sid)
    fused = {item: weight * s.get(item, 0.0) + (1 - weight) * t.get(item, 0.0) for item in {**s, **t}}
    return sorted(fused.items(), key=lambda pair: -pair[1])  # stable


def as_tensors(lists: list[Lists], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    items, scores = torch.zeros(len(lists), width, dtype=torch.int64), torch.zeros(len(lists), width).double()
    for row, entries in enumerate(lists):
        items[row, : len(entries)] = torch.tensor(list(entries), dtype=torch.int64)
        scores[row, : len(entries)] = torch.tensor(list(entries.values()), dtype=torch.float64)
    return items, scores


# Few values, so that ties and constant lists are common; lists may be empty and overlap.
one_list = st.dictionaries(st.integers(1, 9), st.sampled_from([-2.0, -1.0, 0.0, 3.0]), max_size=5)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(one_list, one_list), min_size=1, max_size=4), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_fused_lists_equal_the_transcription(users: list[tuple[Lists, Lists]], weight: float) -> None:
    by_id, by_sid = as_tensors([user[0] for user in users], 5), as_tensors([user[1] for user in users], 6)
    scored = Scored(*merge_lists(*by_id, *by_sid), torch.zeros(len(users)))
    scores, place = scored.fused(weight).sort(dim=1, descending=True, stable=True)
    items = scored.items.gather(1, place)
    for row, (first, second) in enumerate(users):
        found = [(int(i), float(v)) for i, v in zip(items[row], scores[row], strict=True) if i > 0]
        expected = literal_fusion(first, second, weight)
        assert [item for item, _ in found] == [item for item, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected])


def test_scaling_ignores_what_was_not_retrieved() -> None:
    scores = torch.tensor([[2.0, -torch.inf, 4.0, 3.0], [7.0, 7.0, -torch.inf, 7.0], [-torch.inf] * 4])
    assert min_max(scores).tolist() == [[0, 0, 1, 0.5], [1, 1, 0, 1], [0, 0, 0, 0]]


def build(config: Config) -> tuple[AdaptiveEnsemble, Any, Any, Any]:
    loaders = data_preparation(config, create_dataset(config))
    return AdaptiveEnsemble(config, loaders[0]._dataset), *loaders


def literal_lists(model: AdaptiveEnsemble, interaction: Any) -> list[tuple[Lists, Lists, float]]:
    """Each user's two candidate lists, and the confidence, from the models' own scores."""
    logits = model.id_model.full_sort_predict(interaction).view(len(interaction), -1)[:, 1:].double()
    rows, items, scores = model.sid_model.retrieve(interaction)
    found = []
    for row in range(len(interaction)):
        order = logits[row].argsort(descending=True, stable=True)[: model.beam_size]
        by_id = {int(i) + 1: float(logits[row, i]) for i in order}
        mine = [n for n in range(len(rows)) if rows[n] == row][: model.beam_size]
        by_sid = {int(items[n]): float(scores[n]) for n in mine}
        found.append((by_id, by_sid, float(logits[row].softmax(0).max())))
    return found


@pytest.mark.parametrize("sid_model", ["TIGER", "SIDMLP"])
@pytest.mark.parametrize("fusion", ["adaptive", "fixed"])
def test_ranking_equals_the_transcription(ensemble: Callable[..., Config], sid_model: str, fusion: str) -> None:
    model, _, _, test = build(ensemble(sid_model, fusion=fusion, q_grid=[5], tau_grid=[0.1], alpha_grid=[0.3]))
    interaction = next(iter(test))[0]
    rows, items, scores = model.retrieve(interaction)
    table = model.full_sort_predict(interaction).view(len(interaction), -1)
    for row, (by_id, by_sid, confidence) in enumerate(literal_lists(model, interaction)):
        weight = 0.3 if fusion == "fixed" else 1 / (1 + np.exp(-5 * (confidence - 0.1)))
        expected = literal_fusion(by_id, by_sid, weight)
        assert items[rows == row].tolist() == [item for item, _ in expected]
        assert scores[rows == row].tolist() == pytest.approx([value for _, value in expected], abs=1e-5)
        assert table[row].isfinite().nonzero().flatten().tolist() == sorted(item for item, _ in expected)


def test_full_scores_fuse_every_item(ensemble: Callable[..., Config]) -> None:
    model, _, _, test = build(ensemble(candidates="scores", fusion="fixed", alpha_grid=[0.4]))
    interaction = next(iter(test))[0]
    table = model.full_sort_predict(interaction).view(len(interaction), -1)
    logits = model.id_model.full_sort_predict(interaction).view(len(interaction), -1)[:, 1:]
    log_probs = model.sid_model.full_sort_predict(interaction).view(len(interaction), -1)[:, 1:]
    s, t = (
        (part - part.amin(1, keepdim=True)) / (part.amax(1, keepdim=True) - part.amin(1, keepdim=True))
        for part in (logits, log_probs)
    )
    torch.testing.assert_close(table[:, 1:], 0.4 * s + 0.6 * t)
    assert table[:, 0].isneginf().all()
    rows, items, _ = model.retrieve(interaction)
    best = table.argsort(dim=1, descending=True)[:, : 2 * model.beam_size]
    assert items.view(len(interaction), -1)[:, :5].tolist() == best[:, :5].tolist()
    assert rows.bincount().tolist() == [2 * model.beam_size] * len(interaction)


def test_invalid_semantic_ids_are_no_candidates(
    ensemble: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _, test = build(ensemble())
    interaction = next(iter(test))[0]
    rows, items, scores = model.sid_model.retrieve(interaction)
    dropped = scores.masked_fill(torch.arange(len(scores)) % 2 == 0, -torch.inf)
    monkeypatch.setattr(model.sid_model, "retrieve", lambda _: (rows, items, dropped))
    scored = model.score_candidates(interaction)
    from_sid = scored.items[:, model.beam_size :]
    kept = {(int(r), int(i)) for r, i, s in zip(rows, items, dropped, strict=True) if s > -torch.inf}
    assert {(r, int(i)) for r in range(len(from_sid)) for i in from_sid[r] if i > 0} <= kept
    assert scored.items.shape == scored.by_sid.shape
    assert (scored.by_sid[scored.items == 0] == 0).all()


def test_confidence_of_the_id_model_raises_its_weight(ensemble: Callable[..., Config]) -> None:
    model, *_ = build(ensemble())
    confidence = torch.tensor([0.01, 0.2, 0.5, 0.99])
    weight = model.weight(confidence, (9.0, 0.2)).flatten()
    assert (weight.diff() > 0).all()
    assert weight[1] == 0.5
    assert model.weight(confidence, (0.0, 0.3)).flatten().tolist() == [0.5] * 4


@pytest.mark.parametrize("fusion", ["adaptive", "fixed"])
def test_a_memory_is_weighed_by_the_evidence_of_its_rows(ensemble: Callable[..., Config], fusion: str) -> None:
    """The evidence is counted here from the training sequences: sum_k w_k n_k / (n_k + c)."""
    settings = {"fusion": fusion, "q_grid": [5], "tau_grid": [0.4], "alpha_grid": [0.3]}
    model, train, _, test = build(ensemble(id_model="TransitionMemory", **settings))
    hops, decay, window, window_decay, c, *_ = model.id_model.memory.numbers
    assert c == 3
    items, offsets = train._dataset.training_sequences()
    row_sums = np.zeros(model.n_items)
    for sequence in np.split(items, offsets[1:-1]):
        for place, item in enumerate(sequence):
            row_sums[item] += sum(decay**d for d in range(min(hops, len(sequence) - 1 - place)))
    interaction = next(iter(test))[0]
    rows, found, scores = model.retrieve(interaction)
    lists = literal_lists(model, interaction)
    evidences = []
    for row, (by_id, by_sid, _) in enumerate(lists):
        recent = [item for item in interaction["item_id_list"][row].tolist() if item][::-1][:window]
        weights = window_decay ** np.arange(len(recent))
        evidence = float((weights / weights.sum() * row_sums[recent] / (row_sums[recent] + c)).sum())
        evidences.append(evidence)
        weight = 0.3 if fusion == "fixed" else 1 / (1 + np.exp(-5 * (evidence - 0.4)))
        expected = literal_fusion({i: s for i, s in by_id.items() if np.isfinite(s)}, by_sid, weight)
        assert scores[rows == row].tolist() == pytest.approx([value for _, value in expected], abs=1e-5)
        mine = dict(zip(found[rows == row].tolist(), scores[rows == row].tolist(), strict=True))
        assert mine == pytest.approx(dict(expected), abs=1e-5)
    torch.testing.assert_close(model.score_candidates(interaction).confidence, torch.tensor(evidences))
    assert max(evidences) - min(evidences) > 0.1


def test_an_ensemble_with_a_memory_is_tuned_kept_and_loaded(
    ensemble: Callable[..., Config], trained: dict[str, str], tmp_path: Path
) -> None:
    copy = tmp_path / "memory.pth"
    copy.write_bytes(Path(trained["TransitionMemory"]).read_bytes())
    run = run_model(ensemble(id_model_path=str(copy)))
    copy.unlink()
    assert run.test_result["recall@10"] > 0
    _, model, _, _, _, test = load_data_and_model(run.trainer.saved_model_file)
    assert model.id_model.chosen == load_checkpoint(trained["TransitionMemory"])["chosen"]
    batch = next(iter(test))[0]
    assert torch.equal(model.full_sort_predict(batch), run.trainer.model.full_sort_predict(batch))


def test_a_memory_of_other_training_data_is_refused(
    ensemble: Callable[..., Config], trained: dict[str, str], tmp_path: Path
) -> None:
    content = load_checkpoint(trained["TransitionMemory"])
    content["lineage"]["training part"] = "00000000"
    save_checkpoint(tmp_path / "other.pth", content)
    with pytest.raises(InputError, match="was trained with training part 00000000"):
        build(ensemble(id_model_path=str(tmp_path / "other.pth")))


@pytest.mark.parametrize(("fusion", "candidates"), [("adaptive", "lists"), ("fixed", "lists"), ("adaptive", "scores")])
def test_tuning_keeps_the_first_best_of_the_grid_on_validation(
    ensemble: Callable[..., Config], fusion: str, candidates: str
) -> None:
    run = run_model(ensemble(fusion=fusion, candidates=candidates, tau_grid=[0.0, 0.3]))
    model = run.trainer.model
    assert isinstance(model, AdaptiveEnsemble)
    valid = data_preparation(run.config, create_dataset(run.config))[1]
    scores = []
    chosen = tuple(model.chosen.values())
    for setting in model.grid:
        model.choose(setting)
        scores.append(run.trainer.evaluate(valid, load_best_model=False)["ndcg@10"])
    assert chosen == model.grid[scores.index(max(scores))]
    assert len(set(scores)) > 1
    assert run.best_valid_score == max(scores)


def test_tuning_ranks_all_items(ensemble: Callable[..., Config]) -> None:
    sampled = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}
    with pytest.raises(InputError, match="AdaptiveEnsemble is tuned by ranking all items: set eval_args"):
        run_model(ensemble(eval_args=sampled))


def test_tuning_reads_validation_and_no_other_split(
    ensemble: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, datasets_read: set[int]
) -> None:
    config = ensemble()
    model, train, valid, test = build(config)
    trainer = EnsembleTrainer(config, model)
    ranked: list[tuple[int, int]] = []
    score = model.score_candidates

    def counted_score(rows: Any) -> Any:
        ranked.extend(zip(_users(rows), _lengths(rows), strict=True))
        return score(rows)

    wanted = list(zip(_users(valid._dataset[:]), _lengths(valid._dataset[:]), strict=True))
    monkeypatch.setattr(model, "score_candidates", counted_score)
    datasets_read.clear()
    trainer.fit(train, valid)
    assert sorted(ranked) == sorted(wanted * 2)  # once for the whole grid, once for the result of the best
    assert datasets_read == {id(valid._dataset)}
    trainer.evaluate(test)
    assert id(test._dataset) in datasets_read


def _users(rows: Any) -> list[int]:
    return rows["user_id"].tolist()


def _lengths(rows: Any) -> list[int]:
    return rows["item_length"].tolist()


def test_loaded_ensemble_needs_neither_checkpoint(
    ensemble: Callable[..., Config], trained: dict[str, str], tmp_path: Path
) -> None:
    copies = {}
    for key, model in (("id_model_path", "SASRec"), ("sid_model_path", "SIDMLP")):
        copies[key] = str(tmp_path / f"{model}.pth")
        Path(copies[key]).write_bytes(Path(trained[model]).read_bytes())
    run = run_model(ensemble(**copies))
    for path in copies.values():
        Path(path).unlink()
    config, model, _, _, _, test = load_data_and_model(run.trainer.saved_model_file)
    assert config["model"] == "AdaptiveEnsemble"
    assert model.chosen == run.trainer.model.chosen
    batch = next(iter(test))[0]
    assert torch.equal(model.full_sort_predict(batch), run.trainer.model.full_sort_predict(batch))
    results = per_user_results(run.trainer, run.test_data)
    in_list = results["rank"].between(1, 10)
    assert run.test_result["recall@10"] == pytest.approx(in_list.mean(), abs=1e-6)


def test_finished_tuning_is_reused(ensemble: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_model(ensemble(resume=True))
    monkeypatch.setattr(EnsembleTrainer, "_metric_by_setting", None)
    second = run_model(ensemble(resume=True))
    assert second.test_result == first.test_result
    assert second.trainer.model.chosen == first.trainer.model.chosen


def test_models_of_different_data_are_refused_by_name(ensemble: Callable[..., Config], trained: dict[str, str]) -> None:
    plain = {key: value for key, value in SMALL.items() if key not in OWN}
    changed = {**plain, **SASREC, "data_path": trained["data_path"], "epochs": 1}
    # RecBole names a checkpoint after the second it begins in, so each gets a folder.
    longer = run_recbole_sid("SASRec", "tiny", config_dict={**changed, "MAX_ITEM_LIST_LENGTH": 8})["model_file"]
    split = {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user", "mode": "full"}
    other = run_recbole_sid("SASRec", "tiny", config_dict={**changed, "eval_args": split, "checkpoint_dir": "b"})[
        "model_file"
    ]
    for path, key in ((other, "eval_args.split"), (longer, "MAX_ITEM_LIST_LENGTH=8")):
        with pytest.raises(InputError, match=key) as refusal:
            build(ensemble(id_model_path=path))
        assert path in str(refusal.value)
        assert trained["TIGER"] in str(refusal.value)
    with pytest.raises(InputError, match="this run has MAX_ITEM_LIST_LENGTH=5"):
        build(ensemble(MAX_ITEM_LIST_LENGTH=5))


def test_models_of_other_items_or_semantic_ids_are_refused(
    ensemble: Callable[..., Config], trained: dict[str, str], tmp_path: Path
) -> None:
    content = load_checkpoint(trained["TIGER"])
    content["lineage"]["semantic IDs"] = "00000000"
    save_checkpoint(tmp_path / "other.pth", content)
    with pytest.raises(InputError, match="was trained with semantic IDs 00000000"):
        build(ensemble(sid_model_path=str(tmp_path / "other.pth")))
    data = write_dataset(tmp_path / "data", random_sequences())
    with open(data / "tiny" / "tiny.item", "a", encoding="utf-8") as file:
        file.write("never_bought\tred thing\tkind0\n")
    plain = {key: value for key, value in SMALL.items() if key not in OWN}
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]}
    more = {**plain, **SASREC, "data_path": str(data), "load_col": columns, "epochs": 1}
    path = run_recbole_sid("SASRec", "tiny", config_dict=more)["model_file"]
    with pytest.raises(InputError, match="was trained on 31 items and this run has 30"):
        build(ensemble(id_model_path=path, data_path=str(data)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id_model_path": None}, "combines two trained models"),
        ({"sid_model_path": "nowhere.pth"}, "no checkpoint at 'nowhere.pth'"),
        ({"id_model_path": "TIGER"}, "holds TIGER: give a sequential model of RecBole such as SASRec, or Trans"),
        ({"id_model_path": "."}, "'.' is no folder of a finished run"),
        ({"sid_model_path": "SASRec"}, "no checkpoint of recbole_sid"),
        ({"sid_model_path": "TransitionMemory"}, "holds TransitionMemory: give a TIGER"),
        ({"fusion": "adaptve"}, "did you mean 'adaptive'"),
        ({"candidates": "all"}, "candidates='all'"),
        ({"alpha_grid": [0, 2], "fusion": "fixed"}, "alpha_grid=.* from 0 to 1"),
        ({"q_grid": []}, "q_grid"),
        ({"candidates": "scores", "full_sort_items": 10}, "raise full_sort_items"),
    ],
)
def test_wrong_settings_are_refused(
    ensemble: Callable[..., Config], trained: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    named = {key: trained.get(value, value) if key.endswith("path") else value for key, value in changes.items()}
    with pytest.raises(InputError, match=message):
        build(ensemble(**named))


def test_an_ensemble_is_no_part_of_another(ensemble: Callable[..., Config]) -> None:
    run = run_model(ensemble())
    with pytest.raises(InputError, match="holds AdaptiveEnsemble"):
        build(ensemble(sid_model_path=run.trainer.saved_model_file))


def test_a_comparison_combines_the_models_before_it_with_the_same_seed(trained: dict[str, str]) -> None:
    common = {"data_path": trained["data_path"]}
    plain = {key: value for key, value in SMALL.items() if key not in OWN}
    search = {key: plain[key] for key in ("use_gpu", "show_progress", "state", "beam_size", "MAX_ITEM_LIST_LENGTH")}
    models = {
        "SASRec": {**plain, **SASREC, **common},
        "TIGER": {**SETTINGS["TIGER"], **common, "evaluate": {"": {}}},
        "adaptive": {"model": "AdaptiveEnsemble", **search, **common},
        "fixed": {"model": "AdaptiveEnsemble", "fusion": "fixed", "sid_model": "TIGER", **search, **common},
    }
    jobs = make_jobs(make_plan("tiny", models, [2020, 2021]), "runs")
    place = {(job.entry.name, job.seed): job.folder for job in jobs}
    assert len(set(place.values())) == 8
    for job in jobs:
        if job.entry.model == "AdaptiveEnsemble":
            assert job.settings["id_model_path"] == place["SASRec", job.seed]
            assert job.settings["sid_model_path"] == place["TIGER", job.seed]
    for job in jobs[:4]:
        result = run_job(job)
        assert stored(job) is not None
    assert result["settings"]["sid_model_config"]["model"] == "TIGER"
    with pytest.raises(InputError, match=r"fixed needs sid_model=TIGER: .* none that fits"):
        make_plan("tiny", {name: models[name] for name in ("SASRec", "fixed")}, [2020])
    with pytest.raises(InputError, match="There is no checkpoint at 'runs/SASRec"):  # of seed 2021, not run
        run_job(jobs[6])
