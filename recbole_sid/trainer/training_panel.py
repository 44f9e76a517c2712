"""Where a training stands: what its panel says while it runs (`recbole_sid.util.panel`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

from recbole_sid.evaluation.tables import column_title
from recbole_sid.trainer.forecast import duration
from recbole_sid.trainer.stage import Stage


class TrainingStanding:
    """Where one of our trainers or RecBole's stands, read off it.

    Args:
        trainer: which trains meanwhile, in another thread.
        clock: seconds that only differences are taken of.
    """

    def __init__(self, trainer: Any, clock: Callable[[], float] = perf_counter) -> None:
        self.trainer, self.clock, self.began = trainer, clock, clock()

    def lines(self) -> list[tuple[str, str]]:
        """Return what the panel says, as pairs."""
        stage = getattr(self.trainer, "stage", None)
        name = self.trainer.config["model"] if stage is None else stage.name
        pairs = [("training", f"{name}, {duration(self.clock() - self.began)} so far")]
        if (standing := self._of_recbole() if stage is None else self._of_ours()) is not None:
            done, epochs, left = standing
            pairs.append(("done", f"{done} of {epochs} epochs" + self._patience()))
            pairs.append(("left", "known once more is done" if left is None else f"at most {duration(left)}"))
        if (best := self._best(stage)) is not None:
            pairs.append(("best so far", f"{best} of validation"))
        return pairs

    def _best(self, stage: Stage | None) -> str | None:
        """Return name and value of what selects the best epoch; None before one was validated."""
        score = getattr(self.trainer, "best_valid_score", None)
        if score is None or not math.isfinite(score):
            return None
        if stage is None or stage.ranks:
            return f"{column_title(self.trainer.valid_metric)} {score:.4f}"
        return ", ".join(f"{name} {value:.4g}" for name, value in (self.trainer.best_valid_result or {}).items())

    def _of_ours(self) -> tuple[int, int, float | None] | None:
        """Return how many epochs of the stage are over, of how many, and seconds left; None without epochs."""
        forecast = getattr(self.trainer, "forecast", None)
        return None if forecast is None else (forecast.epoch, forecast.epochs, forecast.left_s())

    def _of_recbole(self) -> tuple[int, int, float | None] | None:
        """Return the same of RecBole's trainers, whose time is known by whole epochs."""
        losses, epochs = getattr(self.trainer, "train_loss_dict", None), getattr(self.trainer, "epochs", None)
        if losses is None or epochs is None:  # trees
            return None
        done = len(losses)
        return done, epochs, (self.clock() - self.began) / done * (epochs - done) if done else None

    def _patience(self) -> str:
        """Say how near the training is to stopping early, once its last validation was not the best."""
        since, patience = self.trainer.cur_step, self.trainer.stopping_step
        return f"; {since} of {patience} validations without a better one" if since and patience else ""
