"""TransitionMemory as a model: ranking, what it learns from, what it chooses, saving, comparing, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, random_sequences, write_dataset

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.comparison.job import make_jobs, run_job, stored
from recbole_sid.comparison.plan import make_plan
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.histories import recent_items
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import per_user_results
from recbole_sid.evaluation.runs import find_runs
from recbole_sid.generalization.analysis import analyze, label_split
from recbole_sid.memory import Numbers
from recbole_sid.model.transition_memory import TransitionMemory
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_model, run_recbole_sid
from recbole_sid.trainer.transition_memory import TransitionMemoryTrainer
from recbole_sid.tuning.space import read_space
from recbole_sid.tuning.trial import SearchPlan, train_trial
from recbole_sid.util import hardware

SET = {"hops": 2, "hop_decay": 0.5, "window": 3, "window_decay": 0.5, "pseudo_counts": 2.0}
SETTINGS = {key: value for key, value in SMALL.items() if key not in ("codebook_sizes", "collaborative_dim")}


@pytest.fixture
def make(data_path: Path) -> Callable[..., Config]:
    def config(**changes: Any) -> Config:
        settings = {**SETTINGS, "data_path": str(data_path), **changes}
        return Config("TransitionMemory", "tiny", config_dict=settings)

    return config


def counted(config: Config) -> tuple[TransitionMemory, Any, Any, Any]:
    train, valid, test = data_preparation(config, create_dataset(config))
    trainer = make_trainer(config, train)
    trainer.fit(train, valid, saved=False, verbose=False)
    return trainer.model, train, valid, test


def sequences_of(data_path: Path) -> list[list[str]]:
    sequences: dict[str, list[str]] = {}
    for line in (data_path / "tiny/tiny.inter").read_text(encoding="utf-8").splitlines()[1:]:
        user, item, _ = line.split("\t")
        sequences.setdefault(user, []).append(item)
    return list(sequences.values())


def literal_scores(training: list[list[str]], history: list[str], tokens: list[str]) -> np.ndarray:
    """p(i | h) with the numbers of `SET`, by dictionaries of tokens."""
    table: dict[tuple[str, str], float] = {}
    counts = {token: 0 for token in tokens}
    for items in training:
        for place, first in enumerate(items):
            counts[first] += 1
            for d, second in enumerate(items[place + 1 : place + 3]):
                table[first, second] = table.get((first, second), 0.0) + 0.5**d
    whole = sum(counts.values())
    recent = history[::-1][:3]
    weights = np.array([1, 0.5, 0.25])[: len(recent)]
    found = np.zeros(len(tokens))
    for weight, item in zip(weights / weights.sum(), recent, strict=True):
        row_sum = sum(count for (first, _), count in table.items() if first == item)
        for place, token in enumerate(tokens):
            found[place] += weight * (table.get((item, token), 0) + 2 * counts[token] / whole) / (row_sum + 2)
    return found


def test_the_ranking_equals_the_transcription_from_the_files(make: Callable[..., Config], data_path: Path) -> None:
    model, _, _, test = counted(make(**SET))
    sequences = sequences_of(data_path)
    training = [items[:-2] for items in sequences]
    tokens = test._dataset.item_tokens().tolist()
    interaction, *_ = next(iter(test))
    whole = model.full_sort_predict(interaction).view(len(interaction), -1)
    rows, items, scores = model.retrieve(interaction)
    for row, user in enumerate(interaction["user_id"].tolist()):
        sequence = sequences[int(test._dataset.field2id_token["user_id"][user][1:])]
        expected = literal_scores(training, sequence[:-1][-6:], tokens)
        np.testing.assert_allclose(whole[row, 1:].exp().numpy(), expected, rtol=1e-4)
        mine = items[rows == row]
        assert len(mine) == 10 == len(set(mine.tolist()))
        best = np.sort(expected)[::-1][:10]
        np.testing.assert_allclose(scores[rows == row].exp().numpy(), best, rtol=1e-4)
        np.testing.assert_allclose(expected[mine.numpy() - 1], best, rtol=1e-4)
    assert whole[:, 0].isneginf().all()
    torch.testing.assert_close(whole.exp().sum(dim=1), torch.ones(len(whole)))
    torch.testing.assert_close(model.predict(interaction), whole.gather(1, interaction["item_id"].unsqueeze(1))[:, 0])


def test_other_devices_rank_as_the_cpu(make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _, test = counted(make(**SET))
    interaction, *_ = next(iter(test))
    expected = model.retrieve(interaction)
    monkeypatch.setattr(hardware, "on_cpu", lambda place: False)
    for mine, theirs in zip(model.retrieve(interaction), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_recent_items_leave_out_unknown_ones() -> None:
    histories = torch.tensor([[4, 0, 5, 6, 0], [7, 8, 0, 0, 0], [0, 0, 0, 0, 0]])
    lengths = torch.tensor([4, 2, 1])
    assert recent_items(histories, lengths, 2).tolist() == [[6, 5], [8, 7], [0, 0]]
    assert recent_items(histories, lengths, 9).tolist() == [[6, 5, 4, 0, 0], [8, 7, 0, 0, 0], [0] * 5]


def test_what_is_held_out_changes_nothing(tmp_path: Path, make: Callable[..., Config]) -> None:
    sequences = random_sequences()
    shuffled = np.random.default_rng(1).permutation(len(sequences))
    ends = [sequences[user][-2:] for user in shuffled]  # the same items overall, for other users
    changed = [items[:-2] + end for items, end in zip(sequences, ends, strict=True)]
    write_dataset(tmp_path / "changed", changed)
    model, train, *_ = counted(make(**SET))
    other, other_train, *_ = counted(make(**SET, data_path=str(tmp_path / "changed")))
    tables = []
    for each, part in ((model, train), (other, other_train)):
        order = np.argsort(part._dataset.item_tokens()) + 1  # numbers follow the file, which changed
        table = each.memory.table.counts.toarray()[np.ix_(order, order)]
        tables.append((table, each.base.probabilities.numpy()[order]))
    assert tables[0][0].sum() > 0
    for mine, theirs in zip(*tables, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_numbers_are_chosen_on_validation_alone(make: Callable[..., Config], datasets_read: set[int]) -> None:
    config = make()
    train, valid, test = data_preparation(config, create_dataset(config))
    datasets_read.clear()
    trainer = make_trainer(config, train)
    score, result = trainer.fit(train, valid)
    assert datasets_read == {id(valid._dataset)}
    trainer.evaluate(test)
    assert id(test._dataset) in datasets_read

    chosen = trainer.model.memory.numbers
    tried = {score}
    for name, value in (("pseudo_counts", 30.0), ("window", 1), ("hops", 1)):
        trainer.model.learn(train._dataset, chosen._replace(**{name: value}))
        tried.add(trainer.evaluate(valid, load_best_model=False)["ndcg@10"])
    assert score == max(tried) == result["ndcg@10"]
    assert len(tried) > 1


def test_the_choice_measures_what_the_evaluator_does(make: Callable[..., Config]) -> None:
    config = make(**SET, metrics=["Recall", "NDCG"], topk=[5, 10])
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = make_trainer(config, train)
    _, result = trainer.fit(train, valid)
    assert isinstance(trainer, TransitionMemoryTrainer)
    instances = trainer._instances(valid, 10)
    for metric, k in (("ndcg", 5), ("ndcg", 10), ("recall", 5), ("recall", 10)):
        assert trainer._measure(instances, metric, k) == pytest.approx(result[f"{metric}@{k}"], abs=1e-6)


def test_what_the_user_sets_is_kept(make: Callable[..., Config]) -> None:
    model, *_ = counted(make(hops=4, window_decay=0.7, pseudo_counts=5))
    assert model.chosen["hops"] == 4
    assert model.chosen["window_decay"] == 0.7
    assert model.chosen["pseudo_counts"] == 5


def test_saved_and_loaded_give_equal_scores(make: Callable[..., Config]) -> None:
    run = run_model(make())
    file = run.trainer.saved_model_file
    config, model, _, _, _, test = load_data_and_model(file)
    assert model.memory.numbers == run.trainer.model.memory.numbers
    assert load_checkpoint(file)["chosen"] == model.chosen
    assert tuple(model.chosen.values()) == model.memory.numbers
    interaction, *_ = next(iter(test))
    expected, found = run.trainer.model, model
    assert torch.equal(found.full_sort_predict(interaction), expected.full_sort_predict(interaction))
    assert torch.equal(found.predict(interaction), expected.predict(interaction))
    for mine, theirs in zip(found.retrieve(interaction), expected.retrieve(interaction), strict=True):
        assert torch.equal(mine, theirs)
    trainer = make_trainer(config, test)
    assert trainer.evaluate(test, model_file=file) == run.test_result


def test_a_finished_run_is_reused(make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_model(make(resume=True))
    monkeypatch.setattr(TransitionMemoryTrainer, "choose", None)
    again = run_model(make(resume=True))
    assert again.best_valid_score == first.best_valid_score
    assert again.test_result == first.test_result


def test_a_checkpoint_of_other_training_data_is_refused(make: Callable[..., Config]) -> None:
    file = run_model(make(**SET)).trainer.saved_model_file
    with pytest.raises(InputError, match="was trained with training part"):
        load_data_and_model(file, {"eval_args": {"split": {"LS": "valid_only"}, "order": "TO", "mode": "full"}})


def test_a_damaged_table_is_refused(make: Callable[..., Config], tmp_path: Path) -> None:
    content = load_checkpoint(run_model(make(**SET)).trainer.saved_model_file)
    content["state_dict"]["memory.successors"][0] = 1 << 20
    save_checkpoint(tmp_path / "damaged.pth", content)
    with pytest.raises(InputError, match="it names items that are not in the catalogue"):
        load_data_and_model(tmp_path / "damaged.pth")


@pytest.mark.parametrize("value", [-0.5, 1.5, float("inf"), float("nan")])
def test_damaged_popularity_is_refused(make: Callable[..., Config], tmp_path: Path, value: float) -> None:
    content = load_checkpoint(run_model(make(**SET)).trainer.saved_model_file)
    content["state_dict"]["base.probabilities"][1] = value
    save_checkpoint(tmp_path / "damaged.pth", content)
    with pytest.raises(InputError, match=r"base\.probabilities"):
        load_data_and_model(tmp_path / "damaged.pth")


def test_it_needs_no_semantic_ids(make: Callable[..., Config], working_directory: Path) -> None:
    missing = {"features": ["file"], "feature_file": str(working_directory / "missing.npy")}
    config = make(**missing)
    run_model(config)
    assert not list(working_directory.rglob("semantic_ids"))
    settings = {**SETTINGS, **missing, "data_path": str(Path(config["data_path"]).parent)}
    plan = make_plan("tiny", {"TransitionMemory": {}}, [1], (), settings)
    assert len(make_jobs(plan, working_directory / "runs")) == 1


def test_it_is_compared_analysed_and_kept(data_path: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data_path": str(data_path)}
    plan = make_plan("tiny", {"Pop": {}, "TransitionMemory": {}}, [1], (), settings)
    jobs = make_jobs(plan, tmp_path / "runs")
    results = [run_job(job) for job in jobs]
    assert stored(jobs[1]) is not None
    assert results[1]["parameters"] == 0
    pop, memory = (result["evaluations"][""]["metrics"]["ndcg@10"] for result in results)
    assert memory > pop
    runs = find_runs([str(tmp_path / "runs")])
    config = Config("SASRec", "tiny", config_dict=settings)
    found = analyze(label_split(config), runs)
    assert {row["model"] for row in found.categories if "model" in row} >= {"Pop", "TransitionMemory"}


def test_results_per_user_have_whole_lists(make: Callable[..., Config]) -> None:
    run = run_model(make(**SET))
    frame = per_user_results(run.trainer, run.test_data)
    assert (frame["items"].map(len) == 10).all()
    hits = frame["rank"].between(1, 10)
    assert hits.mean() == pytest.approx(run.test_result["recall@10"], abs=1e-6)


def test_every_metric_can_be_measured(make: Callable[..., Config]) -> None:
    metrics = ["Recall", "NDCG", "MRR", "ItemCoverage", "AveragePopularity", "GAUC"]
    by_lists, by_scores = run_model(make(**SET)).test_result, run_model(make(**SET, metrics=metrics)).test_result
    for name, value in by_lists.items():
        assert by_scores[name] == pytest.approx(value, abs=0.03)  # equal scores may be ordered otherwise
    assert 0.5 < by_scores["gauc"] <= 1


def test_a_search_has_trials_of_it(make: Callable[..., Config], tmp_path: Path) -> None:
    from recbole_sid.property_files import space_file

    file = space_file("TransitionMemory", "paper")
    assert file is not None
    settings = {**SETTINGS, "data_path": str(Path(make()["data_path"]).parent), "checkpoint_dir": str(tmp_path)}
    plan = SearchPlan("TransitionMemory", "tiny", settings, read_space(file), {}, str(tmp_path / "search"), 1, 0)
    reported: list[dict[str, Any]] = []
    result = train_trial(plan, {"hops": 5, "pseudo_counts": 3.0}, "t1", reported.append)
    assert [each["epoch"] for each in reported] == [1]
    assert reported[0]["score"] == result["score"] > 0
    assert load_checkpoint(result["model_file"])["chosen"]["hops"] == 5


def test_without_validation_all_numbers_must_be_set(make: Callable[..., Config]) -> None:
    split = {"eval_args": {"split": {"LS": "test_only"}, "order": "TO", "mode": "full"}}
    assert run_recbole_sid(config_dict={**make(**SET, **split).plain()})["test_result"]["recall@10"] > 0
    with pytest.raises(InputError, match="TransitionMemory is tuned on validation: set eval_args"):
        run_model(make(**split))


def test_it_is_tuned_by_full_ranking_and_evaluated_by_any(make: Callable[..., Config]) -> None:
    sampled = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}}
    with pytest.raises(InputError, match="is tuned by ranking all items: set eval_args"):
        run_model(make(**sampled))
    among_ten = run_model(make(**SET, **sampled)).test_result["recall@5"]
    assert run_model(make(**SET)).test_result["recall@5"] < among_ten < 1
    sampled["eval_args"]["mode"] = {"valid": "full", "test": "uni10"}
    assert run_model(make(**sampled)).test_result["recall@5"] > 0


def test_a_second_fit_forgets_the_first(make: Callable[..., Config], tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", random_sequences(seed=5))
    config = make()
    train, valid, _ = data_preparation(config, create_dataset(config))
    other = make(data_path=str(tmp_path / "other"))
    other_train, other_valid, _ = data_preparation(other, create_dataset(other))
    trainer = make_trainer(config, train)
    trainer.fit(other_train, other_valid, saved=False)
    assert trainer.fit(train, valid, saved=False) == make_trainer(config, train).fit(train, valid, saved=False)


def test_a_window_beyond_every_history_costs_nothing(make: Callable[..., Config]) -> None:
    wide, narrow = (counted(make(window=window))[0] for window in (1 << 30, 6))
    assert wide.memory.numbers._replace(window=6) == narrow.memory.numbers


def test_it_is_tuned_by_the_rank_alone(make: Callable[..., Config]) -> None:
    with pytest.raises(InputError, match="TransitionMemory is tuned on Recall or NDCG, not on valid_metric=MRR@10"):
        run_model(make(metrics=["MRR", "NDCG"], valid_metric="MRR@10"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hops", 0, "hops=0 must be a whole number of at least 1"),
        ("hops", 2.5, "hops=2.5 must be a whole number"),
        ("hops", True, "hops=True must be a whole number"),
        ("hop_decay", 1.5, "hop_decay=1.5 must be a number of at least 0 and at most 1"),
        ("hop_decay", -0.1, "hop_decay=-0.1 must be a number of at least 0"),
        ("window", "all", "window='all' must be a whole number"),
        ("window", 1 << 40, "window=1099511627776 must be a whole number of at least 1 and at most"),
        ("window_decay", float("nan"), "window_decay=nan must be a number"),
        ("pseudo_counts", 0, "pseudo_counts=0 must be a number of at least 0.001"),
        ("pseudo_counts", float("inf"), "pseudo_counts=inf must be a number"),
        ("memory_text_weight", -1, "memory_text_weight=-1 must be a number of at least 0"),
        ("memory_text_weight", float("nan"), "memory_text_weight=nan must be a number"),
        ("row_limit", 0, "row_limit=0 must be a whole number of at least 1"),
        ("beam_size", 5, "beam_size=5 is smaller than the largest topk=10"),
    ],
)
def test_wrong_values_are_refused(make: Callable[..., Config], key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**{key: value})


def test_gradients_are_refused(make: Callable[..., Config]) -> None:
    model, train, *_ = counted(make(**SET))
    with pytest.raises(InputError, match="counted by its own trainer"):
        model.calculate_loss(next(iter(train)))


def test_numbers_that_are_none_are_refused(make: Callable[..., Config]) -> None:
    model, *_ = counted(make(**SET))
    with pytest.raises(ValueError, match="window=0 is no whole number"):
        model.memory.use(Numbers(window=0))
