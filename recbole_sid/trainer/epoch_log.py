"""What is kept of every epoch, and told tensorboard and wandb; stages and a run's teacher are told apart by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EpochLog:
    """Writes losses and validation results as ``<stage>/train/loss`` and ``<stage>/valid/<metric>``.

    Args:
        tensorboard: RecBole's summary writer.
        wandb: RecBole's WandbLogger, which does nothing unless ``log_wandb`` is set.

    Attributes:
        curve: a row for each epoch so far, those before a resume included: stage, epoch (from 1), loss, and the metrics
            of validation where there was one.
    """

    def __init__(self, tensorboard: Any, wandb: Any) -> None:
        self.tensorboard = tensorboard
        self.wandb = wandb
        self.curve: list[dict[str, Any]] = []

    def take_up(self, curve: Any) -> None:
        """Go on with what a checkpoint keeps; those of 0.4 keep none."""
        self.curve = [row for row in curve if isinstance(row, dict)] if isinstance(curve, list) else []

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
        measured = {name: float(value) for name, value in validation.items()}
        self.curve.append({"stage": stage, "epoch": epoch + 1, "loss": float(loss), **measured})
        values = {"train/loss": loss, **{f"valid/{name}": value for name, value in measured.items()}}
        for name, value in values.items():
            self.tensorboard.add_scalar(f"{stage}/{name}", value, epoch + 1)
        self.wandb.log_metrics({**values, "epoch": epoch + 1}, head=stage)
