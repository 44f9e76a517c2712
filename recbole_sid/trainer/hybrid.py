"""The trainer of SIDMLPHybrid: what a teacher, or a memory of transitions, says of each batch, if it is asked for."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.checkpoint import hash_weights
from recbole_sid.data.batch import on_host
from recbole_sid.data.histories import recent_items
from recbole_sid.memory import Memory, Numbers
from recbole_sid.model.sid_mlp_hybrid import SIDMLPHybrid
from recbole_sid.model.supervision import Supervise
from recbole_sid.trainer.distill_cache import cached_if_asked
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.trainer.stage import Stage

# The memory that labels are smoothed by. Not the numbers of the model's own memory: these are chosen after training.
_SMOOTHING = Numbers(hops=5, hop_decay=0.5, window=5, window_decay=0.3, pseudo_counts=3.0)


class HybridTrainer(SIDTrainer):
    """Trains a `SIDMLPHybrid`.

    Configuration beyond `SIDTrainer`'s: alpha, teacher_path, distill_cache, distill_cache_dir; memory_smoothing.

    Attributes:
        supervision: what the teacher says of a batch; None without one.
        memory: what labels are smoothed by; None if they are not.
    """

    model: SIDMLPHybrid
    supervision: Supervise | None = None
    memory: Memory | None = None

    def lineage_of(self, train_data: Any) -> dict[str, str]:
        teacher = self.model.teacher
        of_teacher = {} if teacher is None else {"teacher": hash_weights(teacher)}
        return {**super().lineage_of(train_data), **of_teacher}

    @property
    def captures(self) -> bool:
        """Not with a memory, which recalls another number of items for every batch."""
        return super().captures and not self.model.memory_smoothing

    def start_stage(self, stage: Stage, train_data: Any) -> None:
        super().start_stage(stage, train_data)
        if self.model.alpha:
            online = self.model.online_supervision()
            self.supervision = cached_if_asked(self.config, online, train_data, self.show_progress)
        if self.model.memory_smoothing:
            self.memory = Memory(self.model.n_items)
            items, offsets = train_data._dataset.training_sequences()
            self.memory.learn(items, offsets, _SMOOTHING)

    def batch_loss(self, interaction: Any) -> torch.Tensor:
        given = self.supervision(interaction) if self.supervision else None
        recall = None
        if self.memory is not None:
            numbers = self.memory.numbers
            model = self.model
            histories, lengths, targets = on_host(interaction, model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.ITEM_ID)
            recent = recent_items(histories, lengths, max(numbers.window, numbers.hops))
            recall = self.memory.recall_without(recent, targets).to(self.device)
        return self.loss(interaction, given, recall)
