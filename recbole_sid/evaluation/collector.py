"""RecBole's Collector, in which an item that was not retrieved is never a hit."""

from __future__ import annotations

from collections.abc import Iterable
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information

from recbole_sid import compat  # noqa: F401 - patches RecBole
from recbole_sid.distributed.group import current_group
from recbole_sid.evaluation.retrieved import Retrieved, hits_and_positives

_LISTS = frozenset({"rec.topk", "rec.items"})


class RetrievedItemsCollector(Collector):
    """Collects top-k lists from retrieved items, or from scores whose -inf entries mean "not retrieved".

    RecBole 1.2.1 (recbole/evaluator/collector.py, `eval_batch_collect`) takes the top k of the scores whatever they
    are, so with fewer than k retrieved items arbitrary others fill the list and can count as hits.

    Attributes:
        score_metrics: the configured metrics that top-k lists are not enough for.
        group: the processes that share an evaluation; what all collected is the main one's.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.data_struct = BatchedStruct()
        self.score_metrics = [name for name in config["metrics"] if not _lists_suffice(name)]
        self.warned = False
        self.group = current_group()

    def eval_batch_collect(
        self,
        scores_tensor: torch.Tensor | Retrieved,
        interaction: Any,
        positive_u: torch.Tensor,
        positive_i: torch.Tensor,
    ) -> None:
        """Collect a batch.

        Args:
            scores_tensor: scores [B, n_items], or the retrieved items, which are enough without `score_metrics`.
            interaction: the batch.
            positive_u: int64 [p], rows of the target items.
            positive_i: int64 [p], target items.
        """
        if isinstance(scores_tensor, Retrieved):
            self._collect_lists(scores_tensor, positive_u, positive_i)
            return
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if not any(map(self.register.need, _LISTS)):
            return
        scores = scores_tensor.topk(max(self.topk), dim=-1).values
        missing = torch.isneginf(scores)
        if missing.any():
            self._mend("rec.topk", missing)
            self._mend("rec.items", missing)

    def uncounted_metrics(self) -> list[str]:
        """Return the configured metrics that need what `data_collect` takes from the training data, before it did."""
        return [
            name
            for name in self.config["metrics"]
            if any(
                need.startswith("data.") and need != "data.label" and need not in self.data_struct
                for need in metric_information[name.lower()]
            )
        ]

    def get_data_struct(self) -> DataStruct:
        """Return what was collected, by all processes in the main one, on the CPU, and forget the batches.

        RecBole's own (recbole/evaluator/collector.py, `get_data_struct`) calls `cpu` on everything, which fails on the
        number of items and the counters that its coverage and popularity metrics need.
        """
        collected = DataStruct()
        own: dict[str, np.ndarray] = {}
        for name, value in list(self.data_struct.items()):
            if isinstance(value, list):
                own[name] = torch.cat(value).cpu().numpy()  # a tensor is sent by torch.load, which is patched
                del self.data_struct[name]
            else:
                collected.set(name, value)
        parts = self.group.to_main(own)
        for name in {name: None for part in parts for name in part}:
            found = [torch.from_numpy(part[name]) for part in parts if name in part]
            collected.set(name, torch.cat(found) if len(found) > 1 else found[0])
        if "rec.items" in collected and not self.warned and bool((collected.get("rec.items") == 0).any()):
            self.warned = True
            getLogger().warning(
                f"Some rankings hold fewer than {collected.get('rec.items').shape[1]} items: metrics of coverage count "
                "the missing places as one more item."
            )
        return collected

    def _collect_lists(self, found: Retrieved, positive_u: torch.Tensor, positive_i: torch.Tensor) -> None:
        lists = found.top_lists(max(self.topk))
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", lists)
        if self.register.need("rec.topk"):
            result = hits_and_positives(lists, positive_u, positive_i, found.shape[1])
            self.data_struct.update_tensor("rec.topk", result)

    def _mend(self, name: str, missing: torch.Tensor) -> None:
        """Put no hit (in rec.topk) or the padding item (in rec.items) where nothing was retrieved."""
        if name in self.data_struct:
            batch = self.data_struct[name][-1]
            batch[:, : missing.shape[1]].masked_fill_(missing, 0)


class BatchedStruct(DataStruct):
    """A DataStruct that keeps a list of what batches add, where RecBole's copies all there is with every batch."""

    def update_tensor(self, name: str, value: torch.Tensor) -> None:
        self._data_dict.setdefault(name, []).append(value.clone().detach())

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return names and values; lists are of batches."""
        return self._data_dict.items()


class MainEvaluator(Evaluator):
    """RecBole's Evaluator, whose results are the main process's in all processes of a group.

    Args:
        config: of the run.
        collector: collects for it.
    """

    def __init__(self, config: Any, collector: RetrievedItemsCollector) -> None:
        super().__init__(config)
        self.collector = collector

    def evaluate(self, collected: DataStruct) -> Any:
        """Return the metrics of what the main process collected."""
        group = self.collector.group
        return group.from_main(super().evaluate(collected) if group.is_main else None)


def _lists_suffice(metric: str) -> bool:
    needs = set(metric_information[metric.lower()])
    return "data.label" not in needs and all(need in _LISTS or need.startswith("data.") for need in needs)
