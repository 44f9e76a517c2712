"""Counts the transitions of the training part, and chooses on validation how they are weighed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from recbole_sid.checkpoint import lineage
from recbole_sid.data.histories import recent_places
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics
from recbole_sid.memory import Numbers, ranks
from recbole_sid.model.transition_memory import KEYS
from recbole_sid.trainer.alike import known_alike
from recbole_sid.trainer.choosing import ChoosingTrainer
from recbole_sid.trainer.selection import best_by_groups, rank_metric, shown, varied

# Tried together, the others as they are: how pairs are counted, which items are looked up, how much is smoothed.
_TRIED: Sequence[tuple[tuple[str, ...], Sequence[tuple[float, ...]]]] = (
    (("hops", "hop_decay"), ((1, 0.3), (2, 0.3), (3, 0.3), (3, 0.5), (5, 0.3), (5, 0.5), (5, 0.8), (10, 0.8))),
    (("window", "window_decay"), ((1, 0.3), (2, 0.3), (5, 0.3), (5, 0.5), (5, 0.8), (10, 0.5), (10, 0.8))),
    (("pseudo_counts",), ((0.3,), (1.0,), (3.0,), (10.0,), (30.0,))),
    (("text_weight",), ((0.0,), (1.0,), (3.0,), (10.0,))),
)
_WIDEST = 10  # of the windows above
# Instances of validation that the choice is made by, and that are ranked together.
_MOST_INSTANCES, _TOGETHER = 20_000, 1024


class _Instances(NamedTuple):
    """Histories, the most recent items first, int64 [n, W], and their targets int64 [n]."""

    recent: torch.Tensor
    targets: torch.Tensor


class TransitionMemoryTrainer(ChoosingTrainer):
    """Chooses each number of the memory that is not set by ``valid_metric``, the first of equals.

    One group of numbers is varied at a time, starting from values that suit sparse data, until none changes. Of a large
    validation split 20,000 instances, evenly spaced, are looked at.
    """

    def lineage_of(self, train_data: Any) -> dict[str, str]:
        """Return what the table depends on."""
        return lineage(self.config, train_data._dataset)

    def choose(self, train_data: Any, valid_data: Any) -> str:
        """As `ChoosingTrainer.choose`."""
        values_set = {name: self.config[key] for name, key in zip(Numbers._fields, KEYS, strict=True)}
        fixed: dict[str, Any] = {name: value for name, value in values_set.items() if value is not None}
        self.model.memory.alike = known_alike(self.config, train_data._dataset)
        if self.model.memory.alike is None:
            fixed["text_weight"] = 0.0
        start = Numbers()._replace(**fixed)
        self.model.learn(train_data._dataset, start)
        if len(fixed) == len(Numbers._fields):
            return f"{shown(start._asdict())}, as set: {self._size()}"
        if not valid_data:
            raise InputError(
                "TransitionMemory is tuned on validation: set eval_args.split to LS: valid_and_test, or all of "
                f"{', '.join(KEYS)}."
            )
        metric, k = rank_metric(self.config, valid_data)
        instances = self._instances(valid_data, fixed.get("window", _WIDEST))
        values: dict[Numbers, float] = {}
        sequences = train_data._dataset.training_sequences()

        def value_of(numbers: Numbers) -> float:
            if numbers not in values:
                self.model.memory.learn_again(*sequences, numbers)
                values[numbers] = float(self._measure(instances, metric, k))
            return values[numbers]

        chosen = best_by_groups(start, [varied(names, tried, fixed) for names, tried in _TRIED], value_of)
        self.model.memory.learn_again(*sequences, chosen)
        best = f"validation {self.valid_metric} {values[chosen]:.4f} on {len(instances.targets):,} instances"
        return f"{shown(chosen._asdict())} of {len(values)} settings: {best}; {self._size()}"

    def _instances(self, valid_data: Any, window: int) -> _Instances:
        window = min(window, self.model.max_seq_length)
        recent, targets = [], []
        for interaction, _, rows, items in valid_data:
            histories, lengths = interaction[self.model.ITEM_SEQ], interaction[self.model.ITEM_SEQ_LEN]
            recent.append(recent_places(histories, lengths, window)[rows])
            targets.append(items)
        n = sum(map(len, targets))
        kept = torch.arange(n) if n <= _MOST_INSTANCES else torch.linspace(0, n - 1, _MOST_INSTANCES).long()
        return _Instances(torch.cat(recent)[kept], torch.cat(targets)[kept])

    @torch.no_grad()
    def _measure(self, instances: _Instances, metric: str, k: int) -> float:
        """Return the mean `metric` at `k` of the model as it is."""
        found = []
        for recent, targets in zip(*(part.split(_TOGETHER) for part in instances), strict=True):
            recall = self.model.memory.recall(recent.to(self.device))
            found.append(ranks(recall, self.model.base, targets.to(self.device)).cpu().numpy())
        return rank_metrics(np.concatenate(found), [k])[f"{metric}@{k}"].mean()

    def _size(self) -> str:
        entries = len(self.model.memory.counts)
        return f"{entries:,} pairs, {entries / max(1, self.model.n_items - 1):.0f} an item"
