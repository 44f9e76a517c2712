"""Evaluation with top-k metrics never forms a [batch, items] matrix: counted in tensor elements, not in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_sid.config import Config
from recbole_sid.trainer.sid_trainer import SIDTrainer

BATCH, BEAM, N_BATCHES = 64, 50, 3


class LargestTensor(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returns."""

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.n_elements = max([self.n_elements, *sizes])
        return result


class RandomRetriever(torch.nn.Module):
    """Retrieves `BEAM` random items a row, every second row's target at rank 1 + row % 7."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.n_items = n_items

    def retrieve(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n_rows = len(interaction)
        items = torch.randint(1, self.n_items, (n_rows, BEAM), generator=torch.Generator().manual_seed(0))
        row = torch.arange(n_rows)
        hit = row % 2 == 0
        items[row[hit], row[hit] % 7] = interaction["item_id"][hit]
        scores = -torch.arange(BEAM, dtype=torch.float32).expand(n_rows, BEAM)
        order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(1))
        return order.repeat_interleave(BEAM), items[order].flatten(), scores.flatten()

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        rows, items, scores = self.retrieve(interaction)
        table = scores.new_full((len(interaction), self.n_items), -torch.inf)
        table[rows, items] = scores
        return table.view(-1)


class Loader(FullSortEvalDataLoader):
    """RecBole's type of loader over a catalogue of any size, without its data."""

    def __init__(self, n_items: int) -> None:
        self._dataset = SimpleNamespace(item_num=n_items)

    def __len__(self) -> int:
        return N_BATCHES

    def __iter__(self) -> Iterator[Any]:
        for number in range(N_BATCHES):
            items = self._dataset.item_num - 1 - torch.arange(BATCH) - number
            yield Interaction({"item_id": items}), None, torch.arange(BATCH), items


@pytest.fixture
def evaluate(settings: Callable[..., Any]) -> Callable[[int, type], tuple[Any, int]]:
    """Return ``evaluate(n_items, trainer class) -> metrics, elements of the largest tensor``."""

    def run(n_items: int, trainer_class: type) -> tuple[Any, int]:
        config = Config("TIGER", "tiny", config_dict=settings("TIGER", metrics=["Recall", "NDCG", "ShannonEntropy"]))
        trainer = trainer_class(config, RandomRetriever(n_items))
        with LargestTensor() as largest:
            result = trainer.evaluate(Loader(n_items), load_best_model=False)
        return result, largest.n_elements

    return run


class DenseTrainer(SIDTrainer):
    """Evaluates by a matrix of all scores, as RecBole does."""

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.eval_collector.score_metrics = ["all"]

    def _check_metrics(self, eval_data: Any) -> None:
        pass


def test_evaluation_of_a_million_items_forms_no_tensor_of_that_size(evaluate: Callable[..., Any]) -> None:
    result, largest = evaluate(1_000_000, SIDTrainer)
    assert largest <= 2 * BATCH * BEAM
    assert evaluate(10_000, SIDTrainer)[1] == largest
    ranks = np.arange(0, BATCH, 2) % 7
    assert result["recall@10"] == pytest.approx(0.5, abs=1e-4)
    assert result["ndcg@10"] == pytest.approx((1 / np.log2(ranks + 2)).sum() / BATCH, abs=1e-4)


def test_the_measure_sees_a_dense_matrix_and_the_metrics_are_the_same(evaluate: Callable[..., Any]) -> None:
    dense, largest = evaluate(10_000, DenseTrainer)
    assert largest >= BATCH * 10_000
    assert evaluate(10_000, SIDTrainer)[0] == dense
