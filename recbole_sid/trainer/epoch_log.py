"""What tensorboard and wandb are told of every epoch; stages and the teacher of a run are told apart by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EpochLog:
    """Writes losses and validation results as ``<stage>/train/loss`` and ``<stage>/valid/<metric>``.

    Args:
        tensorboard: RecBole's summary writer.
        wandb: RecBole's WandbLogger, which does nothing unless ``log_wandb`` is set.
    """

    def __init__(self, tensorboard: Any, wandb: Any) -> None:
        self.tensorboard = tensorboard
        self.wandb = wandb

    def start(self, stage: str) -> None:
        """Let the curves of `stage` go by its own epochs: wandb counts its steps over all stages and the teacher."""
        if self.wandb.log_wandb:
            self.wandb._wandb.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")

    def write(self, stage: str, epoch: int, loss: float, validation: Mapping[str, float]) -> None:
        """Log one epoch.

        Args:
            stage: name of the stage, which begins with its model.
            epoch: from 0; curves count from 1, as logs do.
            loss: of training.
            validation: metrics, empty if the epoch was not validated.
        """
        values = {"train/loss": loss, **{f"valid/{name}": float(value) for name, value in validation.items()}}
        for name, value in values.items():
            self.tensorboard.add_scalar(f"{stage}/{name}", value, epoch + 1)
        self.wandb.log_metrics({**values, "epoch": epoch + 1}, head=stage)
