"""Tunes an ensemble's weights on the validation split: both models rank each user once, whatever the grid."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.utils import calculate_valid_score

from recbole_sid.checkpoint import hash_weights, lineage
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics
from recbole_sid.generalization.ensemble import Scored
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.util.progress import progress


class EnsembleTrainer(SIDTrainer):
    """Chooses among the model's grid what is best on validation by ``valid_metric``, the first of equals.

    Nothing else is learnt and no other split is read. The checkpoint holds the choice and both models.
    """

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Refuse nothing: neither an optimizer nor a schedule is used."""

    def lineage_of(self, train_data: Any) -> dict[str, str]:
        """Return what the choice depends on: the data, the semantic IDs and both models' weights."""
        weights = {"ID model": hash_weights(self.model.id_model), "SID model": hash_weights(self.model.sid_model)}
        return {**lineage(self.config, train_data._dataset), **weights}

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, Any]:
        """Tune on `valid_data`; with ``resume: True`` a finished tuning of this configuration is reused.

        Returns:
            best validation score and the result it is of.

        Raises:
            InputError: without a validation split, or if ``valid_metric`` is not of the rank of the target alone.
        """
        if not valid_data:
            raise InputError("AdaptiveEnsemble is tuned on validation: set eval_args.split to LS: valid_and_test.")
        started = perf_counter()
        if self._reuses_finished(train_data, valid_data, show_progress):
            return self.best_valid_score, self.best_valid_result
        values = self._metric_by_setting(valid_data)
        self.model.choose(self.model.grid[int(np.argmax(values))])
        self.best_epoch = 0
        self.best_valid_result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        self.best_valid_score = calculate_valid_score(self.best_valid_result, self.valid_metric)
        self.train_s = perf_counter() - started
        if verbose:
            shown = ", ".join(f"{name}={value:g}" for name, value in self.model.chosen.items())
            self.logger.info(f"{shown} of {len(values)} settings: validation {self.valid_metric} {max(values):.4f}")
        if saved:
            self._save_checkpoint(self.best_epoch, finished=True)
        if callback_fn:
            callback_fn(0, self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    @torch.no_grad()
    def _metric_by_setting(self, valid_data: Any) -> np.ndarray:
        """Return ``valid_metric`` [n_settings] of each setting of the grid."""
        metric, _, k = self.valid_metric.lower().partition("@")
        if metric not in ("recall", "ndcg"):
            raise InputError(f"AdaptiveEnsemble is tuned on Recall or NDCG, not on valid_metric={self.valid_metric}.")
        self.model.eval()
        ranks = []
        for interaction, _, rows, targets in progress(valid_data, "tuning the ensemble", self.show_progress):
            scored = self.model.score_candidates(interaction.to(self.device))
            wanted = Scored(*(part[rows] for part in scored))
            found = [self._ranks(wanted, targets.to(self.device), setting) for setting in self.model.grid]
            ranks.append(torch.stack(found).cpu().numpy())  # once a batch, whatever the grid
        by_setting = np.concatenate(ranks, axis=1)
        return np.array([rank_metrics(row, [int(k)])[f"{metric}@{k}"].mean() for row in by_setting])

    def _ranks(self, scored: Scored, targets: torch.Tensor, setting: tuple[float, ...]) -> torch.Tensor:
        """Return the rank int64 [B] of each row's target under a setting, from 1; 0 if it is no candidate."""
        fused = scored.fused(self.model.weight(scored.confidence, setting))
        is_target = scored.items == targets.unsqueeze(1)
        place = is_target.int().argmax(dim=1, keepdim=True)
        own = fused.gather(1, place)
        earlier = torch.arange(fused.shape[1], device=fused.device) < place
        rank = 1 + ((fused > own) | ((fused == own) & earlier)).sum(dim=1)
        return torch.where(is_target.any(dim=1), rank, 0)

    def _content(self, epoch: int) -> dict[str, Any]:
        return {**super()._content(epoch), "chosen": self.model.chosen}
