"""TIGER: a T5 that reads the codes of the history and writes the codes of the next item.

S. Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023; sizes and protocol as in the SID-MLP
paper (arXiv 2605.12617). The teacher of SIDMLP and SIDMLPPlusPlus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.data.histories import cut_histories
from recbole_sid.data.windows import WINDOW_FIELD
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.errors import InputError
from recbole_sid.model.batches import is_cpu_inference
from recbole_sid.model.generator import Generator
from recbole_sid.nn.generator_scorers import TIGERScorer
from recbole_sid.nn.packing import Padded
from recbole_sid.nn.t5 import (
    T5Decoder,
    T5DecoderCache,
    T5Encoder,
    T5Sizes,
    from_transformers,
    initialise,
    to_transformers,
)
from recbole_sid.nn.t5_windows import WindowPrefixes, windows_alike
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.settings import declare
from recbole_sid.settings.training import GeneratorSettings
from recbole_sid.util import hardware

ENCODER_ATTENTIONS = ("bidirectional", "causal")
WINDOW_TRAINER = "recbole_sid.trainer.window_trainer:WindowTrainer"
_LEFT_OUT = -100  # in place of a token that the loss is not of


@dataclass(frozen=True)
class TIGERSettings(GeneratorSettings):
    """The SID-MLP paper's teacher: arXiv 2605.12617."""

    d_model: int = declare(128, "Width of states and token embeddings.")
    d_ff: int = declare(1024, "Width of the feed-forward layers.")
    n_heads: int = declare(6, "Attention heads.")
    d_kv: int = declare(64, "Width of a head.")
    encoder_layers: int = declare(4)
    decoder_layers: int = declare(4)
    dropout_prob: float = declare(0.1, below=1)
    encoder_attention: str = declare(
        "bidirectional",
        "causal: states know only what is before them, so that one pass over a sequence trains all its prefixes; "
        "train_batch_size then counts sequences.",
        choices=ENCODER_ATTENTIONS,
    )
    window_stride: int = declare(
        1, "With a causal encoder as CausalSID's: 1 gives every target its whole history; more is cheaper."
    )
    epochs: int = 150
    learning_rate: float = 0.003
    warmup_steps: int = 10000


class TIGER(Generator):
    """T5 encoder-decoder over semantic-ID tokens; can teach.

    Configuration: d_model, d_ff, n_heads, d_kv, encoder_layers, decoder_layers, dropout_prob, n_user_tokens,
    beam_size, constrained (search valid semantic IDs only, or all code combinations as TIGER's authors do);
    encoder_attention, and window_stride (see `Windows`) where it is causal.

    Attributes:
        targets_per_batch: as of `CausalSID`, where the encoder is causal.
    """

    settings = TIGERSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = TIGERSettings.of(config)
        sizes = T5Sizes(
            vocabulary=self.vocabulary.size,
            d_model=settings.d_model,
            d_ff=settings.d_ff,
            n_heads=settings.n_heads,
            d_kv=settings.d_kv,
            encoder_layers=settings.encoder_layers,
            decoder_layers=settings.decoder_layers,
            dropout=settings.dropout_prob,
            causal_encoder=settings.encoder_attention == "causal",
        )
        self.sizes = sizes
        self.targets_per_batch: float | None = None
        self.encoder = T5Encoder(sizes)
        self.decoder = T5Decoder(sizes)
        initialise(self, sizes)

    @classmethod
    def trains_windows_with(cls, config: Any) -> bool:
        return config["encoder_attention"] == "causal"

    @classmethod
    def trainer_with(cls, config: Any) -> str:
        return WINDOW_TRAINER if cls.trains_windows_with(config) else cls.trainer

    @property
    def history_encoder(self) -> T5Encoder:
        """The encoder that students keep."""
        return self.encoder

    @property
    def token_embedding(self) -> nn.Embedding:
        """The token table that students keep."""
        return self.encoder.embedding

    def vocabulary_logits(self, decoded: torch.Tensor) -> torch.Tensor:
        """Return logits [..., vocabulary] of decoder states [..., d]: the tied embedding, scaled by d_model^-0.5."""
        return F.linear(decoded * self.d_model**-0.5, self.token_embedding.weight)

    def teacher_forced(self, states: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return logits [B, n, vocabulary] for target tokens int64 [B, n], each given the targets before it."""
        inputs = F.pad(targets[:, :-1], (1, 0), value=PAD)
        return self.vocabulary_logits(self.decoder(self.token_embedding(inputs), states, mask))

    def level_logits(self, states: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        """Return per level the logits [B, size] given the true codes int64 [B, L] before it."""
        logits = self.teacher_forced(states, mask, self.vocabulary.code_tokens(codes))
        return [self.vocabulary.cut(logits[:, level], level) for level in range(self.vocabulary.n_levels)]

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the cross entropy over the target's L codes and end-of-sequence, a mean over targets.

        With a causal encoder rows are windows, of one target where they have no WINDOW_FIELD.
        """
        if self.sizes.causal_encoder:
            return self._loss_of_windows(interaction)
        tokens = self.history_tokens(interaction)
        mask = tokens != PAD
        targets = F.pad(self.vocabulary.code_tokens(self.target_codes(interaction)), (0, 1), value=self.vocabulary.eos)
        logits = self.teacher_forced(self.encoder(tokens, mask), mask, targets)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _loss_of_windows(self, interaction: Any) -> torch.Tensor:
        """Return the loss of windows, a mean over their targets."""
        lengths = interaction[self.ITEM_SEQ_LEN]
        n_targets = interaction[WINDOW_FIELD] if WINDOW_FIELD in interaction else torch.ones_like(lengths)
        per_batch = self.targets_per_batch or n_targets.sum()
        if not hardware.on_cpu(lengths):  # the host would have to wait for the lengths
            return self._sum_over_windows(interaction, n_targets, first=1) / per_batch
        sums = []
        for rows in windows_alike(lengths, n_targets, self.vocabulary.n_levels):
            part = cut_histories(interaction[rows], str(self.ITEM_SEQ), str(self.ITEM_SEQ_LEN))
            sums.append(self._sum_over_windows(part, n_targets[rows], int((lengths - n_targets)[rows].min()) + 1))
        return torch.stack(sums).sum() / per_batch

    def _sum_over_windows(self, interaction: Any, n_targets: torch.Tensor, first: int) -> torch.Tensor:
        """Return the sum of the losses of the last `n_targets` int64 [B] targets of windows.

        Args:
            interaction: the windows.
            n_targets: of each.
            first: items of the shortest prefix that is followed by one of them; less costs time.
        """
        items, lengths = self.with_targets(interaction)
        prefixes = WindowPrefixes(first, items.shape[1] - 1, self.vocabulary.n_levels, items.device)
        past = lengths.unsqueeze(1) - prefixes.lengths  # 1 for the prefix of all items but the last
        trained = (past >= 1) & (past <= n_targets.unsqueeze(1))
        tokens = self.vocabulary.serialise(self.item_tokens[items[:, :-1]], lengths - 1, self._users(interaction))
        states = prefixes.states(self.encoder, tokens[:, :-1], self.vocabulary.eos)
        codes = self.vocabulary.code_tokens(self.item_codes[items[:, first:]])
        targets, inputs = F.pad(codes, (0, 1), value=self.vocabulary.eos), F.pad(codes, (1, 0), value=PAD)
        decoded = prefixes.decoded(self.decoder, self.token_embedding(inputs), states)
        if hardware.on_cpu(decoded):
            decoded, targets = decoded[trained], targets[trained]
        else:  # how many are trained is not known to the host: the others are computed too, and left out
            targets = targets.masked_fill(~trained.unsqueeze(-1), _LEFT_OUT)
        logits = self.vocabulary_logits(decoded).flatten(0, -2)
        total = F.cross_entropy(logits, targets.flatten(), ignore_index=_LEFT_OUT, reduction="sum")
        return total / targets.shape[-1]

    def teach(self, tokens: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        mask = tokens != PAD
        states = self.encoder(tokens, mask)
        return states, self.level_logits(states, mask, codes)

    def encode(self, tokens: torch.Tensor) -> Padded:
        mask = tokens != PAD
        if is_cpu_inference(tokens) and not self.training:
            return Padded(self.encoder.packed(tokens, mask).padded(), mask)
        return Padded(self.encoder(tokens, mask), mask)

    def scorer(self, encoded: Padded) -> LevelScorer:
        cache = T5DecoderCache(self.decoder, encoded.states, encoded.mask)
        return TIGERScorer(self.codes, cache, len(encoded.states))

    def transformers_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights under the names of transformers' T5ForConditionalGeneration.

        Raises:
            InputError: if the encoder is causal.
        """
        return to_transformers(self._t5_state())

    def load_transformers_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load weights named as in transformers' T5ForConditionalGeneration.

        Raises:
            InputError: if a weight is missing, of another shape, or has no place here, or the encoder is causal.
        """
        own = self._t5_state()
        try:
            weights = from_transformers(state, list(own))
        except KeyError as error:
            raise InputError(
                f"The transformers checkpoint has no weight {error}: is it a T5 of these layers?"
            ) from None
        for name, value in own.items():
            if weights[name].shape != value.shape:
                raise InputError(
                    f"'{name}' has shape {tuple(weights[name].shape)} in the checkpoint but {tuple(value.shape)} here: "
                    "set the sizes of the model to the checkpoint's."
                )
        surplus = set(state) - set(to_transformers(own))
        if surplus:
            raise InputError(
                f"The checkpoint has {len(surplus)} weights more than this model (for example '{min(surplus)}'): set "
                "the numbers of layers to the checkpoint's."
            )
        self.load_state_dict({**self.state_dict(), **weights})

    def _t5_state(self) -> dict[str, torch.Tensor]:
        if self.sizes.causal_encoder:
            raise InputError(
                "encoder_attention=causal has no counterpart in transformers, whose T5 has a bidirectional encoder: "
                "set encoder_attention=bidirectional."
            )
        return {name: value for name, value in self.state_dict().items() if name.startswith(("encoder.", "decoder."))}
