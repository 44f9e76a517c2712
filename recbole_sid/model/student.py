"""What students share: the stages in which they learn, what a frozen teacher gives them, and the loss that it makes.

A batch of training goes this way (`Student.forward`, called by `trainer.distillation.DistillationTrainer`): the frozen
models, or a cache of what they said, give a `Supervision`; the student gives its states or level logits; what lies
between them is the loss (`nn.losses`).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from logging import getLogger
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.fast.prepared import Prepared
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.supervision import OnlineSupervision, Supervision
from recbole_sid.model.teacher import Teacher, build_teacher, check_teacher, freeze, load_teacher
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.losses import distillation_loss, state_error
from recbole_sid.nn.packing import Padded
from recbole_sid.settings.training import StudentSettings
from recbole_sid.util import hardware
from recbole_sid.util.hardware import cpu_has_fast_bfloat16

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class StudentStage(NamedTuple):
    """What a student learns at a time; the rest of it is frozen.

    Attributes:
        name: as in ``distill_stages``.
        trains_encoder: whether the encoder of histories learns; if it does alone, then the teacher's states.
        trains_decoder: whether the decoder learns the teacher's logits.
    """

    name: str
    trains_encoder: bool
    trains_decoder: bool


STAGES = {
    stage.name: stage
    for stage in (
        StudentStage("encoder", trains_encoder=True, trains_decoder=False),
        StudentStage("decoder", trains_encoder=False, trains_decoder=True),
        StudentStage("joint", trains_encoder=True, trains_decoder=True),
        StudentStage("direct", trains_encoder=True, trains_decoder=True),
    )
}


class Student(SIDRecommender):
    """A model that a frozen teacher trains, with the teacher's token table, which is part of its own checkpoint.

    Configuration: teacher_path (a teacher's checkpoint) or teacher_model and teacher_config; alpha, temperature;
    encoder_dtype; distill_stages.

    Attributes:
        teacher: the frozen teacher, or None when loaded for inference; not part of the checkpoint.
        stages: names of the training stages that this model has.
        stage: the one in training.
        history_encoder: histories to states.
        decoder: states and codes before to level logits.
    """

    settings: ClassVar[type[StudentSettings]] = StudentSettings
    learns_from_teacher = True
    made_of = ("teacher_path",)
    trainer = "recbole_sid.trainer.distillation:DistillationTrainer"

    teacher: Teacher | None
    history_encoder: HistoryEncoder
    decoder: nn.Module

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        check_teacher(config)
        cls.chosen_stages(config)

    @classmethod
    def stages_of(cls, config: Any) -> tuple[str, ...]:
        """Return the training stages that the configured model has."""
        return ("decoder",)

    @classmethod
    def chosen_stages(cls, config: Any) -> tuple[str, ...]:
        """Return the stages of ``distill_stages``, or else all but ``joint``.

        Raises:
            InputError: for a stage that the model does not have, or one that would start from an untrained encoder.
        """
        known, chosen = cls.stages_of(config), config["distill_stages"]
        if chosen is not None and not chosen:
            raise InputError(f"distill_stages={chosen!r} trains nothing: leave it empty (~), or name stages.")
        names = chosen or [name for name in known if name != "joint"]
        names = tuple(names) if isinstance(names, (list, tuple)) else (names,)
        if any(name not in known for name in names):
            raise InputError(
                f"distill_stages={list(names)} is not possible for {config['model']}: choose from {', '.join(known)}."
            )
        if "encoder" in known and names[0] != "encoder" and not config["student_path"]:
            raise InputError(
                f"distill_stages={list(names)} would start from an untrained encoder: begin with 'encoder', or name "
                "the checkpoint of that stage in student_path."
            )
        return names

    @property
    def form_keys(self) -> tuple[str, ...]:
        """The configuration keys that decide what weights mean and that their shapes do not show."""
        return ()

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        teacher = load_teacher(config, dataset) if config["teacher_path"] else build_teacher(config, dataset)
        # Not registered as a submodule: it is no part of the student.
        object.__setattr__(self, "teacher", teacher if config["teacher_path"] else None)
        settings = StudentSettings.of(config)
        self.alpha, self.temperature = settings.alpha, settings.temperature
        token_embedding, encoder = teacher.token_embedding, teacher.history_encoder
        if self.teacher is not None:  # own copies (of both at once: they share weights), so that the teacher stays
            token_embedding, encoder = copy.deepcopy((token_embedding, encoder))
        self.token_embedding: nn.Embedding = freeze(token_embedding)
        self.history_encoder = self.make_encoder(config, encoder)
        self.decoder = self.make_decoder(config, teacher.d_model)
        _compute_in(self.history_encoder, DTYPES[settings.encoder_dtype], config["device"])
        self.stages = self.stages_of(config)
        self.start_stage(self.stages[-1])

    def make_encoder(self, config: Any, teachers: HistoryEncoder) -> HistoryEncoder:
        """Return the encoder of histories: here the teacher's, a copy of which is given."""
        return freeze(teachers)

    @abstractmethod
    def make_decoder(self, config: Any, d_model: int) -> nn.Module:
        """Return the untrained decoder of states [B, S', d_model]."""

    @abstractmethod
    def level_logits(self, encoded: Padded, codes: torch.Tensor) -> list[torch.Tensor]:
        """Return per level the logits [B, size] given states and the true codes int64 [B, L] before it."""

    @property
    def states_encoder(self) -> HistoryEncoder:
        """The frozen encoder whose states stage ``decoder`` learns from; here the teacher's own, which runs anyway."""
        return self.required_teacher().history_encoder

    def start_stage(self, name: str) -> None:
        """Freeze all but what stage `name` trains; `forward` is that stage's loss from now on."""
        self.stage = STAGES[name]
        self.requires_grad_(False)
        for module in self._trained():
            module.requires_grad_(True)
        self.token_embedding.requires_grad_(False)

    def _trained(self) -> list[nn.Module]:
        """Return the modules that the stage trains."""
        encoder = [self.history_encoder] if self.stage.trains_encoder else []
        return [*encoder, self.decoder] if self.stage.trains_decoder else [*encoder]

    def train(self, mode: bool = True) -> Student:
        """Switch only what is being trained: frozen modules stay in eval mode, without dropout."""
        super().train(mode)  # all of them: forms are made anew after training
        trained = self._trained()
        for module in self.children():
            if not isinstance(module, Prepared):
                module.train(mode and module in trained)
        self.token_embedding.train(False)
        return self

    def online_supervision(self) -> OnlineSupervision:
        """Return what the stage learns from, as the frozen models say it of each batch anew; needs a teacher."""
        teacher = self.required_teacher()
        if not self.stage.trains_decoder:
            return OnlineSupervision(self, teacher.history_encoder, None)
        return OnlineSupervision(self, None if self.stage.trains_encoder else self.states_encoder, teacher)

    def required_teacher(self) -> Teacher:
        """Return the teacher.

        Raises:
            InputError: if there is none.
        """
        if self.teacher is None:
            raise InputError(f"{type(self).__name__} is distilled from a teacher: set teacher_path to its checkpoint.")
        return self.teacher

    def forward(self, interaction: Any, given: Supervision | None = None) -> torch.Tensor:
        """Return the stage's loss of a batch.

        Args:
            interaction: of B training rows.
            given: what the stage learns from; None: the frozen models are asked.
        """
        if given is None:
            given = self.online_supervision()(interaction)
        encoded = Padded(given.states, given.mask)
        if self.stage.trains_encoder:
            encoded = self.encode_padded(self.history_tokens(interaction))
        if not self.stage.trains_decoder:
            return state_error(encoded.states, given.states, encoded.mask)
        codes = self.target_codes(interaction)
        return distillation_loss(self.level_logits(encoded, codes), given.logits, codes, self.alpha, self.temperature)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the stage's loss of a batch by the teacher itself: RecBole's name for `forward`."""
        return self(interaction)

    def encode_padded(self, tokens: torch.Tensor) -> Padded:
        """Return the encoder's states of histories int64 [B, S] by shapes that do not depend on the data."""
        return self.history_encoder.encode_padded(tokens)

    def target_logits(self, tokens: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        return self.level_logits(self.encode_padded(tokens), codes)


def _compute_in(encoder: HistoryEncoder, dtype: torch.dtype, device: torch.device) -> None:
    """Let the encoder's inference use products of `dtype`.

    Raises:
        InputError: if the encoder has no such choice.
    """
    encoder.inference_dtype = dtype
    if dtype != torch.float32 and hardware.on_cpu(device) and not cpu_has_fast_bfloat16():
        getLogger().warning("encoder_dtype: this processor only emulates bf16 and will be slower with it.")
