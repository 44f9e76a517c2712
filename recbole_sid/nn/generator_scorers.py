"""Level logits of the models that write codes by themselves: a T5 and a causal transformer, with cached attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.nn.causal_transformer import CausalCache
from recbole_sid.nn.t5 import T5DecoderCache
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary


class TiedCodes(NamedTuple):
    """A table of token embeddings that is read from and written by.

    Attributes:
        embedding: [vocabulary.size, d].
        vocabulary: what its rows are.
    """

    embedding: nn.Embedding
    vocabulary: TokenVocabulary

    def embedded(self, codes: torch.Tensor, level: int) -> torch.Tensor:
        """Return the embeddings [..., d] of codes int64 [...] of `level`."""
        return self.embedding(codes + self.vocabulary.level_offsets[level])

    def logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        """Return logits [..., size] over the codes of `level` of states [..., d]: the tied embedding, by d^-0.5."""
        start = self.vocabulary.level_offsets[level]
        codes = self.embedding.weight[start : start + self.vocabulary.codebook_sizes[level]]
        return F.linear(states * self.embedding.embedding_dim**-0.5, codes)


class TIGERState(NamedTuple):
    """Beams [B, K] with what the decoder keeps of them.

    Attributes:
        level: of the next code.
        decoded: [B, K, d].
        past: of `T5DecoderCache`.
    """

    level: int
    decoded: torch.Tensor
    past: Any


class TIGERScorer:
    """The `LevelScorer` of TIGER, with cached attention (see `T5DecoderCache`)."""

    def __init__(self, codes: TiedCodes, cache: T5DecoderCache, n_users: int) -> None:
        self.codes, self.cache = codes, cache
        self.n_users, self.device = n_users, codes.embedding.weight.device

    def start(self) -> TIGERState:
        tokens = torch.full((self.n_users, 1), PAD, device=self.device)
        return TIGERState(0, *self.cache.step(self.cache.start(), self.codes.embedding(tokens), None))

    def extend(self, state: TIGERState, parents: torch.Tensor, codes: torch.Tensor) -> TIGERState:
        embedded = self.codes.embedded(codes, state.level)
        return TIGERState(state.level + 1, *self.cache.step(state.past, embedded, parents))

    def logits(self, state: TIGERState, beams: torch.Tensor | None) -> torch.Tensor:
        decoded = state.decoded.flatten(0, 1)
        return self.codes.logits(decoded if beams is None else decoded[beams], state.level)


class CausalState(NamedTuple):
    """Beams [B, K] with what the transformer keeps of them.

    Attributes:
        level: of the next code.
        states: [B, K, d], which predict it.
        path: of `CausalCache`.
    """

    level: int
    states: torch.Tensor
    path: torch.Tensor


class CausalScorer:
    """The `LevelScorer` of CausalSID, on a `CausalCache`."""

    def __init__(self, codes: TiedCodes, cache: CausalCache) -> None:
        self.codes, self.cache = codes, cache
        self.n_users, self.device = len(cache.last), cache.last.device

    def start(self) -> CausalState:
        return CausalState(0, *self.cache.start())

    def extend(self, state: CausalState, parents: torch.Tensor, codes: torch.Tensor) -> CausalState:
        embedded = self.codes.embedded(codes, state.level)
        return CausalState(state.level + 1, *self.cache.step(embedded, state.path, parents))

    def logits(self, state: CausalState, beams: torch.Tensor | None) -> torch.Tensor:
        states = state.states.flatten(0, 1)
        return self.codes.logits(states if beams is None else states[beams], state.level)
