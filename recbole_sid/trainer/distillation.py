"""Distillation: trains a student from a frozen teacher, stage by stage, online or from cached supervision."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.checkpoint import check_lineage, hash_weights, load_checkpoint, load_weights
from recbole_sid.config import Config
from recbole_sid.data.batch import Size, portion_of
from recbole_sid.errors import InputError
from recbole_sid.evaluation.parts import part_of
from recbole_sid.model.student import STAGES, Student
from recbole_sid.model.supervision import OnlineSupervision, Supervise
from recbole_sid.nn.losses import state_error
from recbole_sid.settings.whole_data import warn_if_seen
from recbole_sid.trainer.distill_cache import JoinedSupervision, cached_if_asked
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.trainer.stage import Stage
from recbole_sid.util.hardware import release_free_memory
from recbole_sid.util.progress import progress

# Stages that epochs and learning_rate are of.
_MAIN_STAGES = ("decoder", "direct")


class DistillationTrainer(SIDTrainer):
    """Trains a `Student` by the stages in ``distill_stages``.

    Configuration beyond `SIDTrainer`'s: distill_stages; for stages ``encoder`` and ``joint`` their own
    ``<stage>_epochs`` and ``<stage>_learning_rate``; student_path (weights to start from, to run a later stage alone);
    distill_cache (none, memory, disk) and distill_cache_dir.

    Attributes:
        supervision: what the stage learns from, by the frozen models or from the cache; set at a stage's start.
    """

    model: Student
    supervision: Supervise

    @classmethod
    def stages_of(cls, config: Any) -> list[Stage]:
        """Return the stages of ``distill_stages``."""
        return [
            Stage(
                name,
                f"{config['model']} {name}",
                config["epochs" if name in _MAIN_STAGES else f"{name}_epochs"],
                config["learning_rate" if name in _MAIN_STAGES else f"{name}_learning_rate"],
                config["schedule_epochs"] if name in _MAIN_STAGES else None,
                ranks=STAGES[name].trains_decoder,
            )
            for name in config.model_class.chosen_stages(config)
        ]

    def fit(self, train_data: Any, valid_data: Any = None, *args: Any, **kwargs: Any) -> tuple[float, Any]:
        """Train all stages; see `SIDTrainer.fit`.

        Raises:
            InputError: if the student has no teacher.
        """
        self.model.required_teacher()
        if self.config["student_path"]:
            self._load_student(self.config["student_path"], self._lineage_with_teacher(train_data))
        if not self.stages()[-1].ranks:
            self.logger.warning("Only the encoder is trained: rankings mean nothing before the decoder stage.")
        return super().fit(train_data, valid_data, *args, **kwargs)

    def lineage_of(self, train_data: Any) -> dict[str, str]:
        """Return what the student depends on beside its configuration: data, teacher, and where it starts from."""
        start = {"starting weights": hash_weights(self.model)} if self.config["student_path"] else {}
        return {**self._lineage_with_teacher(train_data), **start}

    def _lineage_with_teacher(self, train_data: Any) -> dict[str, str]:
        return {**super().lineage_of(train_data), "teacher": hash_weights(self.model.required_teacher())}

    def start_stage(self, stage: Stage, train_data: Any) -> None:
        """Freeze what the stage does not train and prepare its supervision."""
        before = (self.stage.key, self.best_valid_score, self.best_valid_result, self.best_epoch)
        self.model.start_stage(stage.key)
        super().start_stage(stage, train_data)
        if stage.key == "joint" and before[0] == "decoder":  # it has to beat what the decoder stage reached
            _, self.best_valid_score, self.best_valid_result, self.best_epoch = before
        self.model.eval()
        self.supervision = self._cached_if_asked(self.model.online_supervision(), train_data)
        release_free_memory()

    def batch_loss(self, interaction: Any) -> torch.Tensor:
        """Return the loss of a batch: how far the student is from what the frozen teacher says of it."""
        given = self.supervision(interaction)  # now, or from the cache
        return self.loss(interaction, given)  # `Student.forward`: its states or logits, and their loss

    def batch_weight(self, batch: Any) -> float:
        """As `SIDTrainer.batch_weight`; in the encoder stage the loss of a batch is a mean over its tokens."""
        if self.stage.ranks:
            return super().batch_weight(batch)
        own, whole = portion_of(batch)
        return self._n_tokens(own) / self._n_tokens(whole) * whole.rows / self.rows_per_step

    def _n_tokens(self, size: Size) -> int:
        return 2 * size.rows + self.model.vocabulary.n_levels * size.items

    def validate(self, valid_data: Any) -> tuple[float, Any]:
        """Return the validation metric; in the encoder stage the error of the states, signed so that it selects."""
        if self.stage.ranks:
            return super().validate(valid_data)
        error = self.state_error(valid_data)
        return -error if self.valid_metric_bigger else error, {"state error": error}

    @torch.no_grad()
    def state_error(self, data: Any) -> float:
        """Return the mean squared error of the student encoder's states to the teacher's, over tokens of `data`."""
        self.model.eval()
        online = OnlineSupervision(self.model, self.model.required_teacher().history_encoder, None)
        parts = []  # read at the end, so that no batch waits for the device
        with part_of(data, self.group):
            for batch in progress(data, "Evaluate", self.show_progress):
                interaction = batch[0].to(self.device)
                given = online(interaction)
                own = self.model.encode_padded(self.model.history_tokens(interaction))
                error = state_error(own.states, given.states, given.mask)
                parts.append(torch.stack([error, given.mask.sum().to(error.dtype)]))
        error, n_tokens = torch.stack([torch.zeros(2, device=self.device), *parts]).cpu().double().unbind(1)
        total, n = self.group.sum(torch.stack([(error * n_tokens).sum(), n_tokens.sum()])).tolist()
        return total / n if n else 0.0

    def _cached_if_asked(self, online: OnlineSupervision, train_data: Any) -> Supervise:
        whole = online.encoder is None or online.teacher is None or online.encoder is online.teacher.history_encoder
        if whole or (self.config["distill_cache"] or "none") == "none":
            return self._cached(online, train_data)
        # The student's own encoder is another in every run, its teacher is not: only the logits are of use to others.
        states = OnlineSupervision(self.model, online.encoder, None)
        logits = OnlineSupervision(self.model, None, online.teacher)
        return JoinedSupervision(self._cached(states, train_data, shared=False), self._cached(logits, train_data))

    def _cached(self, online: OnlineSupervision, train_data: Any, shared: bool = True) -> Any:
        return cached_if_asked(self.config, online, train_data, self.show_progress, shared)

    def _load_student(self, path: str, current: dict[str, str]) -> None:
        checkpoint = load_checkpoint(path, self.config["model"], self.device)
        check_lineage(path, checkpoint["lineage"], current)
        warn_if_seen(path, checkpoint["config"], self.config)
        self._check_form(path, checkpoint)
        load_weights(self.model, self.model.trained_state(checkpoint["state_dict"]), path)

    def _check_form(self, path: str, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another form that have the same shapes; a checkpoint without a key has its default."""
        theirs = Config(checkpoint["model"], checkpoint["config"]["dataset"], config_dict=checkpoint["config"])
        for key in self.model.form_keys:
            if theirs[key] != self.config[key]:
                raise InputError(
                    f"'{path}' was trained with {key}={theirs[key]} but this run has {self.config[key]}: give the same."
                )
