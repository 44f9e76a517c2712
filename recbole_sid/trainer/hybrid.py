"""The trainer of SIDMLPHybrid: what a teacher says of each batch, if it has one."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.checkpoint import hash_weights
from recbole_sid.model.sid_mlp_hybrid import SIDMLPHybrid
from recbole_sid.model.supervision import Supervise
from recbole_sid.trainer.distill_cache import cached_if_asked
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.trainer.stage import Stage


class HybridTrainer(SIDTrainer):
    """Trains a `SIDMLPHybrid`.

    Configuration beyond `SIDTrainer`'s: alpha, teacher_path, distill_cache, distill_cache_dir.

    Attributes:
        supervision: what the teacher says of a batch; None without one.
    """

    model: SIDMLPHybrid
    supervision: Supervise | None = None

    def lineage_of(self, train_data: Any) -> dict[str, str]:
        teacher = self.model.teacher
        of_teacher = {} if teacher is None else {"teacher": hash_weights(teacher)}
        return {**super().lineage_of(train_data), **of_teacher}

    def start_stage(self, stage: Stage, train_data: Any) -> None:
        super().start_stage(stage, train_data)
        if self.model.alpha:
            online = self.model.online_supervision()
            self.supervision = cached_if_asked(self.config, online, train_data, self.show_progress)

    def batch_loss(self, interaction: Any) -> torch.Tensor:
        return self.loss(interaction, self.supervision(interaction) if self.supervision else None)
