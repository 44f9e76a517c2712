"""Items that were not retrieved are never hits; the metrics are those of the top-k lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator

from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.evaluation.collector import RetrievedItemsCollector
from recbole_sid.evaluation.retrieved import Retrieved, hits_and_positives
from recbole_sid.registry import get_model
from recbole_sid.trainer.sid_trainer import SIDTrainer

N_ITEMS, RETRIEVED = 21, [4, 9, 17]


@pytest.fixture
def config(settings: Callable[..., Any]) -> Config:
    return Config("TIGER", "tiny", config_dict=settings("TIGER", metrics=["Recall", "NDCG", "ItemCoverage"]))


def collect(collector: Collector, batches: list[tuple[torch.Tensor, list[int]]]) -> Any:
    """Return what `collector` gathers from batches of scores [B, n_items] and one target item a row."""
    for scores, targets in batches:
        collector.eval_batch_collect(scores, None, torch.arange(len(targets)), torch.tensor(targets))
    return collector.get_data_struct()


def scores_of(n_rows: int, items: list[int], seed: int = 0) -> torch.Tensor:
    """Return scores [n_rows, N_ITEMS] that are finite for `items` only."""
    scores = torch.full((n_rows, N_ITEMS), -torch.inf)
    scores[:, items] = -torch.rand(n_rows, len(items), generator=torch.Generator().manual_seed(seed))
    return scores


def recall_and_ndcg(lists: list[list[int]], targets: list[int], k: int) -> tuple[float, float]:
    ranks = [
        items[:k].index(target) if target in items[:k] else None for items, target in zip(lists, targets, strict=True)
    ]
    gains = [0.0 if rank is None else 1 / np.log2(rank + 2) for rank in ranks]
    return float(np.mean([rank is not None for rank in ranks])), float(np.mean(gains))


def top_lists(scores: torch.Tensor) -> list[list[int]]:
    """Return each row's retrieved items by falling score."""
    return [[item for item in np.argsort(-row).tolist() if row[item] > -np.inf] for row in scores.numpy()]


def retrieved_lists(model: Any, interaction: Any) -> list[list[int]]:
    """Return each row's items, in the order in which the model retrieves them."""
    lists: list[list[int]] = [[] for _ in range(len(interaction))]
    rows, items, _ = model.retrieve(interaction)
    for row, item in zip(rows.tolist(), items.tolist(), strict=True):
        lists[row].append(item)
    return lists


def test_recbole_counts_items_that_were_not_retrieved_and_we_do_not(config: Config) -> None:
    targets = [item for item in range(1, N_ITEMS) if item not in RETRIEVED]
    batch = (scores_of(len(targets), RETRIEVED), targets)
    recbole, ours = collect(Collector(config), [batch]), collect(RetrievedItemsCollector(config), [batch])
    assert recbole.get("rec.topk")[:, :10].sum() > 0
    assert ours.get("rec.topk")[:, :10].sum() == 0
    assert ours.get("rec.topk")[:, 10].tolist() == [1] * len(targets)  # how many targets a row has


def test_retrieved_targets_stay_hits_at_their_rank(config: Config) -> None:
    scores = scores_of(3, RETRIEVED)
    hits = collect(RetrievedItemsCollector(config), [(scores, RETRIEVED)]).get("rec.topk")
    for row, (items, target) in enumerate(zip(top_lists(scores), RETRIEVED, strict=True)):
        assert hits[row, :10].tolist() == [int(rank == items.index(target)) for rank in range(10)]


def test_recommended_items_are_padding_where_nothing_was_retrieved(config: Config) -> None:
    scores = scores_of(4, RETRIEVED)
    items = collect(RetrievedItemsCollector(config), [(scores, [1, 2, 3, 4])]).get("rec.items")
    assert items.tolist() == [found + [0] * 7 for found in top_lists(scores)]


def test_each_batch_is_mended_by_its_own_scores(config: Config) -> None:
    full = (scores_of(2, list(range(1, N_ITEMS)), seed=1), [1, 2])
    short, shorter = (scores_of(3, RETRIEVED, seed=2), [4, 9, 5]), (scores_of(1, [8], seed=3), [8])
    together = collect(RetrievedItemsCollector(config), [short, full, shorter])
    for name in ("rec.topk", "rec.items"):
        alone = [collect(RetrievedItemsCollector(config), [batch]).get(name) for batch in (short, full, shorter)]
        assert torch.equal(together.get(name), torch.cat(alone))
    assert torch.equal(collect(Collector(config), [full]).get("rec.topk"), together.get("rec.topk")[3:5])


@pytest.mark.parametrize("metrics", [["Recall", "NDCG"], ["ItemCoverage"]])
def test_only_what_the_metrics_need_is_collected(settings: Callable[..., Any], metrics: list[str]) -> None:
    config = Config("TIGER", "tiny", config_dict=settings("TIGER", metrics=metrics, valid_metric=f"{metrics[0]}@10"))
    found = collect(RetrievedItemsCollector(config), [(scores_of(2, RETRIEVED), [4, 5])])
    assert ("rec.topk" in found, "rec.items" in found) == ("Recall" in metrics, "ItemCoverage" in metrics)


def test_metrics_equal_those_of_the_lists(settings: Callable[..., Any]) -> None:
    config = Config("TIGER", "tiny", config_dict=settings("TIGER"))
    rng = np.random.default_rng(0)
    scores = torch.full((200, N_ITEMS), -torch.inf)
    for row in range(200):
        items = 1 + rng.permutation(N_ITEMS - 1)[: rng.integers(1, N_ITEMS)]
        scores[row, items] = torch.from_numpy(rng.normal(size=len(items))).float()
    targets = rng.integers(1, N_ITEMS, 200).tolist()
    batches = [(scores[:90], targets[:90]), (scores[90:], targets[90:])]
    result = Evaluator(config).evaluate(collect(RetrievedItemsCollector(config), batches))
    assert set(result) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    for k in (5, 10):
        expected = recall_and_ndcg(top_lists(scores), targets, k)
        assert (result[f"recall@{k}"], result[f"ndcg@{k}"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("constrained", [True, False])
def test_the_trainer_reports_the_metrics_of_the_models_lists(prepare: Callable[..., Any], constrained: bool) -> None:
    config, train, _, test = prepare("TIGER", constrained=constrained, eval_batch_size=300)
    torch.manual_seed(0)
    model = get_model("TIGER")(config, train._dataset).eval()
    lists: list[list[int]] = []
    targets: list[int] = []
    with torch.no_grad():
        for rows, _, _, _ in test:
            lists += retrieved_lists(model, rows)
            targets += rows["item_id"].tolist()
    assert len(targets) == 40
    result = SIDTrainer(config, model).evaluate(test, load_best_model=False)
    for k in (5, 10):
        expected = recall_and_ndcg(lists, targets, k)
        assert expected[0] > 0
        assert (result[f"recall@{k}"], result[f"ndcg@{k}"]) == pytest.approx(expected, abs=1e-6)


def retrieved_batch(
    seed: int, most: int, least: int = 0, n_rows: int = 60
) -> tuple[Retrieved, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return retrieved items in a mixed order of rows, the same as scores [n_rows, N_ITEMS], and target rows, items."""
    rng = np.random.default_rng(seed)
    table = np.full((n_rows, N_ITEMS), -np.inf, dtype=np.float32)
    for row in range(n_rows):
        items = 1 + rng.permutation(N_ITEMS - 1)[: rng.integers(least, most + 1)]
        table[row, items] = -rng.permutation(400)[: len(items)].astype(np.float32)
    rows, items = np.nonzero(table > -np.inf)
    by_score = np.argsort(-table[rows, items], kind="stable")  # rows of all users mixed, falling scores within each
    rows, items = rows[by_score], items[by_score]
    shape = (n_rows, N_ITEMS)
    found = Retrieved(*map(torch.from_numpy, (rows, items, table[rows, items])), shape)
    pairs = [(row, item) for row in range(n_rows) for item in 1 + rng.permutation(N_ITEMS - 1)[: 1 + row % 4]]
    positive_u, positive_i = torch.tensor(pairs)[torch.from_numpy(rng.permutation(len(pairs)))].T
    return found, torch.from_numpy(table), positive_u, positive_i


def test_lists_give_what_recboles_collector_takes_from_scores(config: Config) -> None:
    ours, recbole = RetrievedItemsCollector(config), Collector(config)
    for seed in range(3):
        found, scores, positive_u, positive_i = retrieved_batch(seed, most=N_ITEMS - 1, least=10)
        assert (found.rows.diff() < 0).any()
        ours.eval_batch_collect(found, None, positive_u, positive_i)
        recbole.eval_batch_collect(scores, None, positive_u, positive_i)
    ours_data, recbole_data = ours.get_data_struct(), recbole.get_data_struct()
    assert recbole_data.get("rec.topk")[:, :10].sum() > 60
    assert set(recbole_data.get("rec.topk")[:, 10].tolist()) == {1, 2, 3, 4}
    for name in ("rec.topk", "rec.items"):
        assert torch.equal(ours_data.get(name), recbole_data.get(name))


def test_short_lists_equal_a_loop_over_rows(config: Config) -> None:
    found, scores, positive_u, positive_i = retrieved_batch(0, most=12)
    collector = RetrievedItemsCollector(config)
    collector.eval_batch_collect(found, None, positive_u, positive_i)
    data = collector.get_data_struct()
    lists = top_lists(scores)
    assert {0, 10} < {min(len(items), 10) for items in lists}
    for row, items in enumerate(lists):
        targets = {int(item) for user, item in zip(positive_u, positive_i, strict=True) if user == row}
        hits = [int(item in targets) for item in items[:10]]
        padding = [0] * (10 - len(hits))
        assert data.get("rec.topk")[row].tolist() == [*hits, *padding, len(targets)]
        assert data.get("rec.items")[row].tolist() == items[:10] + padding


def test_minus_infinity_is_not_retrieved() -> None:
    found = Retrieved(torch.tensor([1, 0, 1]), torch.tensor([3, 5, 4]), torch.tensor([-1.0, -torch.inf, -2.0]), (2, 9))
    assert found.top_lists(3).tolist() == [[0, 0, 0], [3, 4, 0]]
    assert found.top_lists(1).tolist() == [[0], [3]]


def test_a_target_given_twice_counts_once_as_in_recbole(config: Config) -> None:
    scores = scores_of(2, list(range(1, N_ITEMS)))
    twice = (torch.tensor([1, 0, 1, 1]), torch.tensor([4, 2, 7, 4]))
    recbole = Collector(config)
    recbole.eval_batch_collect(scores, None, *twice)
    lists = scores.topk(10).indices
    assert torch.equal(hits_and_positives(lists, *twice, N_ITEMS), recbole.get_data_struct().get("rec.topk"))


def test_rows_without_items_and_without_targets() -> None:
    none = torch.empty(0, dtype=torch.int64)
    lists = Retrieved(none, none, torch.empty(0), (3, 9)).top_lists(2)
    assert lists.tolist() == [[0, 0]] * 3
    assert hits_and_positives(lists, none, none, 9).tolist() == [[0, 0, 0]] * 3


def test_keys_of_a_large_catalogue_do_not_overflow() -> None:
    n_items, row = 2**33, torch.arange(4)
    items = n_items - 1 - row
    assert hits_and_positives(items.unsqueeze(1), row, items, n_items).tolist() == [[1, 1]] * 4


COVERAGE = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage"]


def coverage_metrics(lists: np.ndarray, n_items: int, counts: np.ndarray, k: int) -> list[float]:
    """Return the five metrics of item lists [users, >= k] by the formulas in RecBole's documentation.

    counts: [n_items], how often each item occurs in training.
    """
    lists = lists[:, :k]
    shown = np.sort(np.bincount(lists.flatten(), minlength=n_items))
    share = shown[shown > 0] / shown.sum()
    rank = np.arange(1, n_items + 1)
    seen = np.flatnonzero(counts)
    tail = sorted(seen, key=lambda item: (counts[item], item))[: max(1, len(seen) // 10)]
    return [
        len(share) / n_items,
        float(((2 * rank - n_items - 1) * shown).sum() / (n_items * shown.sum())),
        float(-(share * np.log(share)).sum() / len(share)),  # RecBole divides by the number of items shown
        float(counts[lists].mean()),
        float(np.isin(lists, tail).mean()),
    ]


@pytest.fixture
def evaluated(prepare: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any]]:
    """Return ``evaluated(**changes) -> trainer, train, test`` of a TIGER with random weights."""

    def make(**changes: Any) -> tuple[Any, Any, Any]:
        config, train, _, test = prepare("TIGER", **changes)
        torch.manual_seed(0)
        return SIDTrainer(config, get_model("TIGER")(config, train._dataset).eval()), train, test

    return make


def test_coverage_metrics_equal_their_formulas(evaluated: Callable[..., Any]) -> None:
    trainer, train, test = evaluated(metrics=[*COVERAGE, "NDCG"], beam_size=15, metric_decimal_place=9)
    trainer.eval_collector.data_collect(train)
    with torch.no_grad():
        lists = np.array([items[:10] for rows, *_ in test for items in retrieved_lists(trainer.model, rows)])
    assert (lists > 0).all()
    dataset = train._dataset
    counts = np.bincount(dataset.inter_feat["item_id"].numpy(), minlength=dataset.item_num)
    for _ in range(2):  # the counts stay for the next evaluation, the lists do not
        result = trainer.evaluate(test, load_best_model=False)
        for k in (5, 10):
            found = [result[f"{name.lower()}@{k}"] for name in COVERAGE]
            assert found == pytest.approx(coverage_metrics(lists, dataset.item_num, counts, k), abs=1e-8)


def test_counts_of_the_training_data_must_have_been_collected(evaluated: Callable[..., Any]) -> None:
    trainer, _, test = evaluated(metrics=["AveragePopularity", "NDCG"])
    with pytest.raises(InputError, match=r"AveragePopularity needs counts .*data_collect\(train_data\)"):
        trainer.evaluate(test, load_best_model=False)


def every_score(n_rows: int, n_items: int) -> torch.Tensor:
    return torch.rand(n_rows, n_items, generator=torch.Generator().manual_seed(n_rows))


@pytest.mark.parametrize("every", [True, False])
def test_a_metric_of_all_scores_takes_the_dense_path_or_says_what_is_missing(
    evaluated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    trainer, train, test = evaluated(metrics=["GAUC", "NDCG"], eval_batch_size=13)
    n_items = train._dataset.item_num
    cls = type(trainer.model)
    monkeypatch.setattr(cls, "scores_every_item", every, raising=False)
    monkeypatch.setattr(cls, "full_sort_predict", lambda self, rows: every_score(len(rows), n_items).view(-1))
    if not every:
        message = (
            rf"GAUC needs the score of every item: raise full_sort_items .* number of items {n_items - 1}, or leave"
        )
        with pytest.raises(InputError, match=message):
            trainer.evaluate(test, load_best_model=False)
        return
    aucs = []
    for rows, _, _, targets in test:
        for scores, target in zip(every_score(len(rows), n_items).numpy(), targets.tolist(), strict=True):
            others = np.delete(scores[1:], target - 1)
            aucs.append((scores[target] > others).mean())
    result = trainer.evaluate(test, load_best_model=False)
    assert result["gauc"] == pytest.approx(np.mean(aucs), abs=1e-4)


SAMPLED = {"mode": "uni5", "order": "TO", "split": {"LS": "valid_and_test"}, "group_by": "user"}


def test_sampled_evaluation_ranks_by_predict(evaluated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _, test = evaluated(eval_args=SAMPLED, metrics=["Recall"], topk=[1, 3], valid_metric="Recall@3")
    candidates: list[tuple[int, int, float]] = []  # user, item, score, the target first

    def predict(self: Any, interaction: Any) -> torch.Tensor:
        scores = interaction["item_id"] * 0.61803 % 1
        users = interaction["user_id"]
        candidates.extend(zip(users.tolist(), interaction["item_id"].tolist(), scores.tolist(), strict=True))
        return scores

    monkeypatch.setattr(type(trainer.model), "predict", predict)
    monkeypatch.setattr(type(trainer.model), "retrieve", None)
    result = trainer.evaluate(test, load_best_model=False)
    ranks = []
    for user in {user for user, _, _ in candidates}:
        scored = {item: score for who, item, score in candidates if who == user}
        target = next(item for who, item, _ in candidates if who == user)
        ranks.append(sum(score > scored[target] for score in scored.values()))
    assert len(ranks) == 40
    for k in (1, 3):
        assert result[f"recall@{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]), abs=1e-4)


def test_short_lists_are_said_to_count_in_coverage(
    evaluated: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer, train, test = evaluated(metrics=["ItemCoverage", "NDCG"], topk=[10], beam_size=10)
    trainer.eval_collector.data_collect(train)
    trainer.evaluate(test, load_best_model=False)
    assert "metrics of coverage count" not in caplog.text
    retrieve = trainer.model.retrieve
    trainer.model.retrieve = lambda rows: tuple(values[:-3] for values in retrieve(rows))
    trainer.evaluate(test, load_best_model=False)
    assert caplog.text.count("Some rankings hold fewer than 10 items: metrics of coverage count") == 1
