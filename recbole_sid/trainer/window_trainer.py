"""Training on windows: batches of as many sequences, which hold different numbers of targets."""

from __future__ import annotations

from typing import Any

from recbole_sid.data.batch import portion_of
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.trainer.stage import Stage


class WindowTrainer(SIDTrainer):
    """Trains CausalSID so that every target weighs the same, in whatever batch it is."""

    def start_stage(self, stage: Stage, train_data: Any) -> None:
        """Let the loss of a batch be divided by the mean number of targets a step; every row of the dataset is one."""
        super().start_stage(stage, train_data)
        self.epoch_weight = self.n_steps(train_data)
        self.model.targets_per_batch = len(train_data._dataset) / max(1, self.epoch_weight)

    def batch_weight(self, batch: Any) -> float:
        """Return 1: the loss is a sum over targets already, divided by what is the same for all batches; 0 where the
        batch holds no rows of this process.
        """
        return float(portion_of(batch).own.rows > 0)
