"""How long a stage of training will take, said in one line once its first batches are measured."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from time import perf_counter
from typing import Any

from recbole_sid.property_files import PAPER
from recbole_sid.util.hardware import on_cpu
from recbole_sid.util.progress import beside_bars

# Enough is measured when both are reached: on a CPU a batch of the paper's sizes takes seconds, others milliseconds.
_BATCHES, _SECONDS = 5, 5.0
LONG_S = 30 * 60  # on a CPU, a forecast above this is a warning


class Forecast:
    """Measures the batches of a stage, the first aside, and says once what all that are left take at most.

    Args:
        stage: its name, which begins with its model's: a student's teacher has a forecast of its own.
        epochs: of the stage, at most.
        batches: of an epoch.
        eval_step: epochs between validations; 0: none.
        advice: how to shorten it, if it is long; None: nothing is long here (`advice_for`).
        clock: seconds that only differences are taken of.

    Attributes:
        silent: nothing is said.
    """

    def __init__(
        self,
        stage: str,
        epochs: int,
        batches: int,
        eval_step: int = 1,
        advice: str | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.stage, self.epochs, self.batches, self.eval_step = stage, epochs, batches, eval_step
        self.advice, self.clock, self.silent = advice, clock, False
        self.measured, self.seconds = -1, 0.0  # the first batch also pays for what is done once
        self.epoch, self.done, self.before = 0, 0, 0.0
        self.validation_s: float | None = None

    def start_epoch(self, epoch: int) -> None:
        """Take note that the batches of `epoch`, counted from 0, begin now."""
        self.epoch, self.done, self.before = epoch, 0, self.clock()

    def validated(self, seconds: float) -> None:
        """Take note of what a validation costs."""
        self.validation_s = seconds

    def batch_done(self) -> None:
        """Take note of the end of a batch, and log the forecast if it is time to."""
        now = self.clock()
        if self.measured >= 0:
            self.seconds += now - self.before
        self.measured, self.done, self.before = self.measured + 1, self.done + 1, now
        if not self.silent and self.measured >= _BATCHES and self.seconds >= _SECONDS:
            self.silent = True  # said once
            self._say()

    def left_s(self) -> float | None:
        """Return the seconds that the rest of the stage takes at most, with validation once one was measured; None
        before a second batch has ended.
        """
        if self.measured < 1:
            return None
        epochs = self.epochs - self.epoch
        training = (epochs * self.batches - self.done) * self.seconds / self.measured
        validations = epochs / self.eval_step if self.eval_step else 0
        return training + validations * (self.validation_s or 0.0)

    def _say(self) -> None:
        left = self.left_s() or 0.0
        validation = "with" if self.validation_s is not None else "without"
        text = (
            f"{self.stage}: {self.seconds / self.measured:.2g} s a batch, so at most {duration(left)} more "
            f"({self.epochs} epochs of {self.batches} batches, {validation} validation; it may stop early)."
        )
        _tell(text, left, self.advice)


def say_by_epochs(stage: str, seconds: float, done: int, epochs: int, advice: str | None) -> None:
    """Log what the rest of a training takes at most whose batches are not measured, as RecBole's trainers'.

    Args:
        stage: its name.
        seconds: that the epochs took that are `done`, with validation.
        done, epochs: so far, and in all.
        advice: as of `Forecast`.
    """
    left = seconds / done * (epochs - done)
    text = (
        f"{stage}: {seconds / done:.2g} s an epoch, so at most {duration(left)} more ({epochs} epochs with validation; "
        "it may stop early)."
    )
    _tell(text, left, advice)


def _tell(text: str, left_s: float, advice: str | None) -> None:
    with beside_bars():
        if advice is not None and left_s > LONG_S:
            getLogger().warning(f"{text} {advice}")
        else:
            getLogger().info(text)


def advice_for(config: Any) -> str | None:
    """Return what shortens a long training with `config`; None off the CPU, where long ones are as they should be."""
    if not on_cpu(config["device"]):
        return None
    if config["size"] == PAPER:
        return "On this CPU, --size=small takes minutes on small data; the paper's sizes are for a GPU."
    return "A GPU or fewer epochs shorten it."


def duration(seconds: float) -> str:
    """Return `seconds` in words, two units at most."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"
