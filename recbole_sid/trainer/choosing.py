"""The trainer of models that learn nothing by gradients: what they have to choose is chosen once, on validation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from time import perf_counter
from typing import Any

from recbole.utils import calculate_valid_score

from recbole_sid.trainer.sid_trainer import SIDTrainer


class ChoosingTrainer(SIDTrainer):
    """Base of trainers whose `fit` is one choice on the validation split; no other split is read for it."""

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Refuse nothing: neither an optimizer nor a schedule is used."""

    def _build_optimizer(self, **kwargs: Any) -> Any:
        return None  # torch refuses one without weights

    @abstractmethod
    def choose(self, train_data: Any, valid_data: Any) -> str:
        """Make the model what it is to be, and return a sentence about it for the log.

        Raises:
            InputError: if there is something to choose and no validation split, or not by its metric.
        """

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, Any]:
        """Choose on `valid_data`; with ``resume: True`` what was chosen for this configuration is reused.

        In a group of processes the main one chooses; all rank.

        Returns:
            best validation score and the result it is of.
        """
        started = perf_counter()
        if self._reuses_finished(train_data, valid_data, show_progress):
            return self.best_valid_score, self.best_valid_result
        message = self.group.from_main(self.choose(train_data, valid_data) if self.group.is_main else "")
        if self.group.size > 1:
            self.model.load_state_dict(self.group.from_main(self.model.state_dict()))
        self.best_epoch = 0
        if valid_data:
            self.best_valid_result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
            self.best_valid_score = calculate_valid_score(self.best_valid_result, self.valid_metric)
        self.train_s = perf_counter() - started
        if verbose:
            self.logger.info(message)
        if saved:
            self._save_checkpoint(self.best_epoch, finished=True)
        if callback_fn:
            callback_fn(0, self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _content(self, epoch: int) -> dict[str, Any]:
        return {**super()._content(epoch), "chosen": self.model.chosen}
