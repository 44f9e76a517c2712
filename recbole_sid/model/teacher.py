"""What a student may know of its teacher: a protocol, and how one is built or loaded."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from recbole_sid.checkpoint import check_lineage, lineage, load_checkpoint, load_weights
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.nn.vocabulary import TokenVocabulary
from recbole_sid.registry import get_model

Module = TypeVar("Module", bound=nn.Module)


class Teacher(Protocol):
    """Anything that encodes a batch of histories and gives level logits for teacher-forced prefixes.

    `teach` gives both at once: an encoder-decoder gets the logits from the states, a decoder-only model reads on.

    Attributes:
        vocabulary: token ids of codes, users and end-of-sequence.
        d_model: width of the states.
        history_encoder: ``(tokens int64 [B, S], mask bool [B, S]) -> states [B, S, d_model]``.
        token_embedding: the table [vocabulary.size, d_model] that the codes are embedded with.
    """

    vocabulary: TokenVocabulary
    d_model: int

    @property
    def history_encoder(self) -> nn.Module: ...

    @property
    def token_embedding(self) -> nn.Embedding: ...

    def teach(self, tokens: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the history's states, and per level the logits over its codes given the true codes before it.

        Args:
            tokens: serialised histories int64 [B, S], padded on the right.
            codes: int64 [B, L].

        Returns:
            states [B, S, d_model], those of `history_encoder`; logits, per level [B, size].
        """


def is_teacher(model: Any) -> bool:
    """Say whether a model, or model class, offers the `Teacher` protocol."""
    return hasattr(model, "teach")


def teacher_config(config: Any) -> Config:
    """Return the configuration of a student's teacher: what both share, then the student's ``teacher_config``.

    Raises:
        InputError: if the teacher's model is no `Teacher`.
    """
    if not is_teacher(get_model(config["teacher_model"])):
        raise InputError(f"{config['teacher_model']} cannot be a teacher: it gives no level logits, as TIGER does.")
    settings = {**config.shared_with_teacher(), **(config["teacher_config"] or {})}
    return Config(config["teacher_model"], config["dataset"], config_dict=settings)


def build_teacher(config: Any, dataset: Any) -> Any:
    """Build the teacher that ``teacher_model`` and ``teacher_config`` describe, untrained and frozen."""
    return freeze(get_model(config["teacher_model"])(teacher_config(config), dataset).to(config["device"]))


def load_teacher(config: Any, dataset: Any) -> Any:
    """Load the teacher at ``teacher_path``, frozen, and record its settings in ``teacher_config``.

    Raises:
        InputError: if the checkpoint is missing, of another model, or trained on another dataset, other items or
            other semantic IDs.
    """
    path = config["teacher_path"]
    checkpoint = load_checkpoint(path)
    check_lineage(path, checkpoint["lineage"], lineage(config, dataset))
    config["teacher_model"] = checkpoint["model"]
    config["teacher_config"] = model_settings(checkpoint)
    teacher = build_teacher(config, dataset)
    load_weights(teacher, checkpoint["state_dict"], path)
    return teacher


def model_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint that its model's property file names: all that its constructor needs."""
    known = Config(checkpoint["model"], checkpoint["config"]["dataset"]).model_keys()
    return {key: checkpoint["config"][key] for key in known if key in checkpoint["config"]}


def freeze(module: Module) -> Module:
    """Put `module` in eval mode and stop its gradients."""
    return module.eval().requires_grad_(False)
