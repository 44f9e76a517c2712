"""SID-MLP++: SID-MLP whose encoder, too, is made of MLPs.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from recbole_sid.data.histories import cut_histories
from recbole_sid.errors import InputError
from recbole_sid.model.sid_mlp import SIDMLP
from recbole_sid.nn import token_encoder
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.item_encoder import ItemEncoder
from recbole_sid.nn.token_encoder import MLPEncoder
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.settings import declare
from recbole_sid.settings.training import ItemEncoderSettings, StudentSettings

_SAMPLED_ROWS = 1024
_TOKEN_FORM = ("encoder_positions", "encoder_mixing")


@dataclass(frozen=True)
class SIDMLPPlusPlusSettings(ItemEncoderSettings, StudentSettings):
    """SID-MLP++: arXiv 2605.12617."""

    distill_stages: Any = declare(
        None, "Token encoder: encoder, decoder (these if empty), joint. Item encoder: direct."
    )
    encoder: str = declare(
        "token",
        "token: the paper's MLPs over tokens. item: light layers over one vector an item.",
        choices=lambda: _ENCODERS,
    )
    encoder_layers: int = declare(4, "Token encoder: layers of position-specific MLPs.")
    encoder_ffn_size: int = declare(2048, "Their hidden width.")
    encoder_dropout_prob: float = declare(0.1, below=1)
    encoder_positions: str = declare(
        "start",
        "Token encoder: positions count from the start of a history (the paper) or its end.",
        choices=token_encoder.POSITIONS,
    )
    encoder_mixing: str = declare(
        "mean",
        "Token encoder: mean (the paper) or weighted, for each position and channel.",
        choices=token_encoder.MIXINGS,
    )
    max_positions: int = declare(256, "Rows of the position table; more if the longest history needs them.")
    encoder_epochs: int = declare(100, "Stage encoder.")
    encoder_learning_rate: float = declare(0.001)
    joint_epochs: int = declare(20, "Stage joint.")
    joint_learning_rate: float = declare(0.0001)


class SIDMLPPlusPlus(SIDMLP):
    """Student with an encoder of its own, ``encoder: token`` or ``encoder: item``.

    The paper's encoder of tokens (`MLPEncoder`) is trained in stages. Stage ``encoder``: mean squared error to the
    teacher's states. Stage ``decoder``: the distillation loss with the encoder frozen. Stage ``joint`` (optional, not
    in the paper): the distillation loss through both. The encoder of items (`ItemEncoder`, not in the paper) has one
    stage, ``direct``: the distillation loss through both, from scratch.

    Configuration: SIDMLP's, and encoder; encoder_layers, encoder_ffn_size, encoder_dropout_prob, encoder_positions,
    encoder_mixing, max_positions (token); item_layers, item_ffn_size, item_dropout_prob, item_mixing (item).
    """

    settings = SIDMLPPlusPlusSettings

    @property
    def form_keys(self) -> tuple[str, ...]:
        """The configuration keys that decide what weights mean and that their shapes do not show."""
        of_encoder = ("item_mixing",) if isinstance(self.history_encoder, ItemEncoder) else _TOKEN_FORM
        return (*super().form_keys, "encoder", *of_encoder)

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        if config["encoder_dtype"] != "float32":
            raise InputError(f"{cls.__name__} computes in float32 only: leave out encoder_dtype.")

    @classmethod
    def stages_of(cls, config: Any) -> tuple[str, ...]:
        return ("direct",) if config["encoder"] == "item" else ("encoder", "decoder", "joint")

    def make_encoder(self, config: Any, teachers: HistoryEncoder) -> HistoryEncoder:
        """Return the configured encoder, untrained."""
        return _ENCODERS[config["encoder"]](self, config)

    @property
    def states_encoder(self) -> HistoryEncoder:
        """The frozen encoder whose states stage ``decoder`` learns from: the student's own."""
        return self.history_encoder

    @torch.no_grad()
    def start_from_data(self, config: Any, dataset: Any) -> None:
        """Start the encoder of tokens at the scale of the teacher's states, on a sample of training rows."""
        if not isinstance(self.history_encoder, MLPEncoder) or config["student_path"]:
            return
        n_rows = min(_SAMPLED_ROWS, len(dataset))
        rows = torch.linspace(0, len(dataset) - 1, n_rows, dtype=torch.float64).long()  # float32 is exact to 2^24 only
        sample = cut_histories(dataset[rows], self.ITEM_SEQ, self.ITEM_SEQ_LEN)
        tokens = self.history_tokens(sample.to(self.device))
        mask = tokens != PAD
        self.history_encoder.start_at(self.required_teacher().history_encoder(tokens, mask)[mask])


def _token_encoder(model: SIDMLPPlusPlus, config: Any) -> MLPEncoder:
    settings = SIDMLPPlusPlusSettings.of(config)
    longest = 2 + model.max_seq_length * model.vocabulary.n_levels
    return MLPEncoder(
        model.token_embedding,
        n_roles=model.vocabulary.n_levels,
        eos=model.vocabulary.eos,
        n_positions=max(settings.max_positions, longest),
        n_layers=settings.encoder_layers,
        ffn_size=settings.encoder_ffn_size,
        dropout=settings.encoder_dropout_prob,
        positions=settings.encoder_positions,
        mixing=settings.encoder_mixing,
    )


def _item_encoder(model: SIDMLPPlusPlus, config: Any) -> ItemEncoder:
    return model.made_item_encoder(SIDMLPPlusPlusSettings.of(config))


_ENCODERS: Mapping[str, Callable[[SIDMLPPlusPlus, Any], HistoryEncoder]] = {
    "token": _token_encoder,
    "item": _item_encoder,
}
