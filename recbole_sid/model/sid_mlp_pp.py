"""SID-MLP++: SID-MLP whose encoder, too, is made of MLPs.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from recbole_sid.data.vocabulary import PAD
from recbole_sid.model.mlp import MLPEncoder
from recbole_sid.model.sid_mlp import SIDMLP
from recbole_sid.model.supervision import Supervision


class SIDMLPPlusPlus(SIDMLP):
    """Student with an MLP encoder, trained in stages.

    Stage ``encoder``: mean squared error to the teacher's states. Stage ``decoder``: the distillation loss with the
    encoder frozen. Stage ``joint`` (optional, not in the paper): the distillation loss through both.

    Configuration: SIDMLP's, and encoder_layers, encoder_ffn_size, encoder_dropout_prob, max_positions.
    """

    stages = ("encoder", "decoder", "joint")

    def make_encoder(self, config: Any, teacher: Any) -> nn.Module:
        longest = 2 + self.max_seq_length * self.vocabulary.n_levels
        return MLPEncoder(
            self.token_embedding,
            n_roles=self.vocabulary.n_levels,
            eos=self.vocabulary.eos,
            n_positions=max(config["max_positions"], longest),
            n_layers=config["encoder_layers"],
            ffn_size=config["encoder_ffn_size"],
            dropout=config["encoder_dropout_prob"],
        )

    def trained_in(self, stage: str) -> Sequence[nn.Module]:
        encoder = cast(MLPEncoder, self.history_encoder)
        learnt: list[nn.Module] = [encoder.position, encoder.layers, encoder.norm]
        trained: dict[str, list[nn.Module]] = {
            "encoder": learnt,
            "decoder": [self.decoder],
            "joint": [*learnt, self.decoder],
        }
        return trained[stage]

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the loss of the current stage."""
        given = self.supervise(interaction)
        if self.stage == "decoder":
            return self.distillation_loss(interaction, given)
        tokens = self.history_tokens(interaction)
        mask = tokens != PAD
        states = self.history_encoder(tokens, mask)
        if self.stage == "joint":
            return self.distillation_loss(interaction, Supervision(states, mask, given.logits))
        return state_error(states, given.states, mask)


def state_error(states: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error between states [B, S, d] over valid tokens ."""
    return (states - target).float()[mask].square().mean()
