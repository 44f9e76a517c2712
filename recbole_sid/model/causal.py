"""CausalSID: a decoder-only transformer that reads the codes of a history and goes on with those of the next item.

Every item of a sequence is predicted in the pass that reads it, so that one pass over a user's training sequence trains
what TIGER trains prefix by prefix. A teacher of SIDMLP and SIDMLPPlusPlus like TIGER.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.data.windows import WINDOW_FIELD
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.model.generator import Generator
from recbole_sid.nn.causal_transformer import CausalCache, CausalSizes, CausalTransformer
from recbole_sid.nn.generator_scorers import CausalScorer
from recbole_sid.nn.packing import taken
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.settings import declare
from recbole_sid.settings.training import GeneratorSettings
from recbole_sid.util import hardware

_LEFT_OUT = -1  # in place of a code that the loss is not of


@dataclass(frozen=True)
class CausalSettings(GeneratorSettings):
    """A decoder-only teacher, laid out as Llama: one pass over a user's sequence trains all its prefixes."""

    d_model: int = declare(96, "Width of states and token embeddings; a multiple of twice n_heads.")
    d_ff: int = declare(256, "Width of the feed-forward layers.")
    n_heads: int = declare(4, "Attention heads.")
    n_layers: int = declare(3)
    dropout_prob: float = declare(0.2, below=1)
    window_stride: int = declare(
        1, "In long sequences 1 gives every target its whole history; more is cheaper, see docs/training.md."
    )
    epochs: int = 40
    train_batch_size: int = declare(64, "Sequences, not prefixes.")
    learning_rate: float = 0.002
    warmup_steps: int = 200


class CausalSID(Generator):
    """Causal transformer over semantic-ID tokens; can teach.

    Configuration: d_model, d_ff, n_heads, n_layers, dropout_prob, n_user_tokens, beam_size, constrained; window_stride
    (see `Windows`).

    Attributes:
        targets_per_batch: what the loss of a batch is divided by, so that every target of an epoch weighs the same;
            None: by the batch's own number of targets. Set by the trainer.
    """

    settings = CausalSettings
    trainer = "recbole_sid.trainer.window_trainer:WindowTrainer"
    trains_windows = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.transformer = CausalTransformer(_sizes(config, self.vocabulary.size), self.vocabulary.eos)
        self.targets_per_batch: float | None = None

    @classmethod
    def check_config(cls, config: Any) -> None:
        super().check_config(config)
        _sizes(config, vocabulary=0)

    @property
    def history_encoder(self) -> CausalTransformer:
        return self.transformer

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.transformer.embedding

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Return the cross entropy of the codes of all targets of the batch's windows, a mean over codes.

        Rows without WINDOW_FIELD are windows of one target.
        """
        items, lengths = self.with_targets(interaction)
        n_items, n_levels = items.shape[1], self.vocabulary.n_levels
        tokens = self.vocabulary.serialise(self.item_tokens[items], lengths, interaction[self.USER_ID])
        # Without the last code and end-of-sequence: the state before each code of an item is at that item's place.
        states = self.transformer.hidden(tokens[:, : n_items * n_levels]).unflatten(1, (n_items, n_levels))
        last = lengths.unsqueeze(1) - torch.arange(n_items, device=items.device)  # 1 for the last item, 2 before it
        n_targets = interaction[WINDOW_FIELD].unsqueeze(1) if WINDOW_FIELD in interaction else 1
        trained = (last >= 1) & (last <= n_targets)
        codes = self.item_codes[items]
        if hardware.on_cpu(states):
            states, codes = states[trained], codes[trained]
        else:  # how many are trained is not known to the host: the others are computed too, and left out
            states, codes = states.flatten(0, 1), codes.masked_fill(~trained.unsqueeze(-1), _LEFT_OUT).flatten(0, 1)
        total = states.new_zeros(())
        for level in range(n_levels):
            logits = self.level_vocabulary_logits(states[:, level], level)
            total = total + F.cross_entropy(logits, codes[:, level], ignore_index=_LEFT_OUT, reduction="sum")
        return total / (n_levels * (self.targets_per_batch or trained.sum()))

    def teach(self, tokens: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        n_levels = self.vocabulary.n_levels
        end = (tokens != PAD).sum(1, keepdim=True) - 1
        # The target's codes follow the last item, in place of end-of-sequence; the last code is only predicted.
        continued = F.pad(tokens, (0, max(0, n_levels - 2)))
        places = end + torch.arange(n_levels - 1, device=tokens.device)
        continued = continued.scatter(1, places, self.vocabulary.code_tokens(codes[:, :-1]))
        hidden = self.transformer.hidden(continued)
        states = self.transformer.repeated_at_end(hidden[:, : tokens.shape[1]], tokens)
        before = end - 1 + torch.arange(n_levels, device=tokens.device)
        before_codes = taken(hidden, before).unbind(1)
        return states, [self.level_vocabulary_logits(state, level) for level, state in enumerate(before_codes)]

    def encode(self, tokens: torch.Tensor) -> CausalCache:
        return CausalCache(self.transformer, tokens, tokens != PAD)

    def scorer(self, encoded: CausalCache) -> LevelScorer:
        return CausalScorer(self.codes, encoded)


def _sizes(config: Any, vocabulary: int) -> CausalSizes:
    settings = CausalSettings.of(config)
    return CausalSizes(
        vocabulary=vocabulary,
        d_model=settings.d_model,
        d_ff=settings.d_ff,
        n_heads=settings.n_heads,
        n_layers=settings.n_layers,
        dropout=settings.dropout_prob,
    )
