"""Tunes an ensemble's weights on the validation split: both models rank each user once, whatever the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_sid.checkpoint import hash_weights, lineage
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics
from recbole_sid.generalization.ensemble import Scored
from recbole_sid.trainer.choosing import ChoosingTrainer
from recbole_sid.trainer.selection import rank_metric, shown
from recbole_sid.util.progress import progress


class EnsembleTrainer(ChoosingTrainer):
    """Chooses among the model's grid what is best on validation by ``valid_metric``, the first of equals.

    Nothing else is learnt and no other split is read. The checkpoint holds the choice and both models.
    """

    def lineage_of(self, train_data: Any) -> dict[str, str]:
        """Return what the choice depends on: the data, the semantic IDs and both models' weights."""
        weights = {"ID model": hash_weights(self.model.id_model), "SID model": hash_weights(self.model.sid_model)}
        return {**lineage(self.config, train_data._dataset), **weights}

    def choose(self, train_data: Any, valid_data: Any) -> str:
        """As `ChoosingTrainer.choose`."""
        if len(self.model.grid) == 1:
            self.model.choose(self.model.grid[0])
            return f"{shown(self.model.chosen)}, as set"
        if not valid_data:
            raise InputError(
                "AdaptiveEnsemble is tuned on validation: set eval_args.split to LS: valid_and_test, or one value in "
                f"each of {', '.join(f'{name}_grid' for name in self.model.names)}."
            )
        values = self._metric_by_setting(valid_data)
        self.model.choose(self.model.grid[int(np.argmax(values))])
        return f"{shown(self.model.chosen)} of {len(values)} settings: validation {self.valid_metric} {max(values):.4f}"

    @torch.no_grad()
    def _metric_by_setting(self, valid_data: Any) -> np.ndarray:
        """Return ``valid_metric`` [n_settings] of each setting of the grid."""
        metric, k = rank_metric(self.config, valid_data)
        self.model.eval()
        ranks = []
        for interaction, _, rows, targets in progress(valid_data, "tuning the ensemble", self.show_progress):
            scored = self.model.score_candidates(interaction.to(self.device))
            wanted = Scored(*(part[rows] for part in scored))
            found = [self._ranks(wanted, targets.to(self.device), setting) for setting in self.model.grid]
            ranks.append(torch.stack(found).cpu().numpy())  # once a batch, whatever the grid
        by_setting = np.concatenate(ranks, axis=1)
        return np.array([rank_metrics(row, [k])[f"{metric}@{k}"].mean() for row in by_setting])

    def _ranks(self, scored: Scored, targets: torch.Tensor, setting: tuple[float, ...]) -> torch.Tensor:
        """Return the rank int64 [B] of each row's target under a setting, from 1; 0 if it is no candidate."""
        fused = scored.fused(self.model.weight(scored.confidence, setting))
        is_target = scored.items == targets.unsqueeze(1)
        place = is_target.int().argmax(dim=1, keepdim=True)
        own = fused.gather(1, place)
        earlier = torch.arange(fused.shape[1], device=fused.device) < place
        rank = 1 + ((fused > own) | ((fused == own) & earlier)).sum(dim=1)
        return torch.where(is_target.any(dim=1), rank, 0)
