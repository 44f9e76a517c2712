"""Training on windows: batches of as many sequences, which hold different numbers of targets."""

from __future__ import annotations

from typing import Any

from recbole_sid.trainer.sid_trainer import SIDTrainer, Stage


class WindowTrainer(SIDTrainer):
    """Trains CausalSID so that every target weighs the same, in whatever batch it is."""

    def start_stage(self, stage: Stage, train_data: Any) -> None:
        """Let the loss of a batch be divided by the mean number of targets; every row of the dataset is one target."""
        super().start_stage(stage, train_data)
        self.model.targets_per_batch = len(train_data._dataset) / max(1, len(train_data))
