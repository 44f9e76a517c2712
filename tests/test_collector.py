"""Items that were not retrieved are never hits; the metrics are those of the top-k lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator

from recbole_sid.config import Config
from recbole_sid.evaluation.collector import RetrievedItemsCollector
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
            lists += top_lists(model.full_sort_predict(rows).view(len(rows), -1))
            targets += rows["item_id"].tolist()
    assert len(targets) == 40
    result = SIDTrainer(config, model).evaluate(test, load_best_model=False)
    for k in (5, 10):
        expected = recall_and_ndcg(lists, targets, k)
        assert expected[0] > 0
        assert (result[f"recall@{k}"], result[f"ndcg@{k}"]) == pytest.approx(expected, abs=1e-6)
