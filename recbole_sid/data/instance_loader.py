"""Evaluation of general models target by target, as sequential ones are."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction

from recbole_sid.data.dataset import TimeOrderedDataset
from recbole_sid.data.time_split import TimeSplit, seen_before


class InstanceLoader(FullSortEvalDataLoader):
    """Yields one ranking of all items for each target of a split by time, in the order of the split.

    RecBole ranks once for each user, with all of the user's targets as hits, which measures something else than the one
    ranking for each target that a sequential model makes. With ``repeatable: False`` what the user had before the
    target leaves the ranking, but for the target itself.

    Args:
        config: of the run.
        dataset: the validation or test part.
    """

    def __init__(self, config: Any, dataset: TimeOrderedDataset) -> None:
        self.logger = getLogger()
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.sample_size = len(dataset)
        self.split: TimeSplit | None = None if config["repeatable"] else dataset.time_split
        AbstractDataLoader.__init__(self, config, dataset, None, shuffle=False)

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step)

    def collate_fn(self, index: Any) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
        """Return a batch as RecBole's: users, what leaves their rankings, and rows and items of the targets."""
        rows = np.asarray(index)
        targets = self._dataset.inter_feat[rows]
        users = self._dataset.join(Interaction({self.uid_field: targets[self.uid_field]}))
        history = None
        if self.split is not None:
            place, items = seen_before(self.split, self._dataset.target_positions()[rows])
            history = (torch.from_numpy(place), torch.from_numpy(items))
        return users, history, torch.arange(len(rows)), targets[self.iid_field]
