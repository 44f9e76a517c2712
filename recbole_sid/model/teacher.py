"""What a student may know of its teacher: a type, and how one is built or loaded."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeGuard, TypeVar

import torch
from torch import nn

from recbole_sid.checkpoint import check_lineage, lineage, load_checkpoint, load_weights
from recbole_sid.config import Config
from recbole_sid.errors import InputError, nearest
from recbole_sid.model.later_items import weights_for
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.vocabulary import TokenVocabulary
from recbole_sid.registry import get_model
from recbole_sid.settings.whole_data import warn_if_seen

Module = TypeVar("Module", bound=nn.Module)


class Teacher(nn.Module):
    """What makes a `SIDRecommender` a teacher: histories to states, and level logits for teacher-forced prefixes.

    `teach` gives both at once: an encoder-decoder gets the logits from the states, a decoder-only model reads on.

    Attributes:
        vocabulary: token ids of codes, users and end-of-sequence.
        d_model: width of the states.
    """

    vocabulary: TokenVocabulary
    d_model: int

    @property
    @abstractmethod
    def history_encoder(self) -> HistoryEncoder:
        """The encoder of histories, which students may keep."""

    @property
    @abstractmethod
    def token_embedding(self) -> nn.Embedding:
        """The table [vocabulary.size, d_model] that codes are embedded with, which students keep."""

    @abstractmethod
    def teach(self, tokens: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the history's states, and per level the logits over its codes given the true codes before it.

        Args:
            tokens: serialised histories int64 [B, S], padded on the right.
            codes: int64 [B, L].

        Returns:
            states [B, S, d_model], those of `history_encoder`; logits, per level [B, size].
        """


def is_teacher(model_class: type) -> TypeGuard[type[Teacher]]:
    """Say whether models of a class can teach."""
    return issubclass(model_class, Teacher)


def teacher_config(config: Any) -> Config:
    """Return the configuration of a student's teacher: what both share, then the student's ``teacher_config``.

    Raises:
        InputError: if the teacher's model is no `Teacher`.
    """
    _teacher_class(config["teacher_model"])
    settings = {**config.shared_with_teacher(), **(config["teacher_config"] or {})}
    return Config(config["teacher_model"], config["dataset"], config_dict=settings)


def check_teacher(config: Any) -> None:
    """Raise InputError for settings of a student's teacher that are not possible."""
    if not config["teacher_path"]:
        teacher_config(config)
    given = config["teacher_config"] or {}
    known = Config(config["teacher_model"], config["dataset"]).known_keys(given)
    for key in given:
        if key not in known:
            raise InputError(f"teacher_config has the unknown key '{key}'{nearest(key, known)}.")


def build_teacher(config: Any, dataset: Any) -> Teacher:
    """Build the teacher that ``teacher_model`` and ``teacher_config`` describe, untrained and frozen."""
    model_class = _teacher_class(config["teacher_model"])
    return freeze(model_class(teacher_config(config), dataset).to(config["device"]))


def _teacher_class(name: str) -> type[Teacher]:
    model_class = get_model(name)
    if not is_teacher(model_class):
        raise InputError(f"{name} cannot be a teacher: it gives no level logits, as TIGER does.")
    return model_class


def load_teacher(config: Any, dataset: Any) -> Teacher:
    """Load the teacher at ``teacher_path``, frozen, and record its settings in ``teacher_config``.

    Raises:
        InputError: if the checkpoint is missing, of another model, or trained on another dataset, other items or
            other semantic IDs.
    """
    path = config["teacher_path"]
    checkpoint = load_checkpoint(path)
    check_lineage(path, checkpoint["lineage"], lineage(config, dataset))
    warn_if_seen(path, checkpoint["config"], config)
    config["teacher_model"] = checkpoint["model"]
    config["teacher_config"] = model_settings(checkpoint)
    teacher = build_teacher(config, dataset)
    load_weights(teacher, weights_for(teacher, checkpoint["state_dict"], checkpoint["lineage"], config, dataset), path)
    return teacher


def model_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint that its model's property file names: all that its constructor needs."""
    known = Config(checkpoint["model"], checkpoint["config"]["dataset"]).model_keys()
    return {key: checkpoint["config"][key] for key in known if key in checkpoint["config"]}


def freeze(module: Module) -> Module:
    """Put `module` in eval mode and stop its gradients."""
    return module.eval().requires_grad_(False)
