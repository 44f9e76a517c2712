"""SID-MLP's heads for decoding: what depends on the user once per user, what depends on codes as tables.

The first layer of head t on [z; e(c1); ...; e(c_{t-1})] is W_z z + W_1 e(c1) + ...: the first term is computed once per
user for all heads together, the others are rows of tables, since the embeddings are frozen. LayerNorm's mean is
subtracted from weights, bias and tables beforehand, so that compiled loops need only the variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.nn.item_head import ItemScores
from recbole_sid.nn.readout import LevelHead, SIDMLPDecoder


class FactorisedHeads(NamedTuple):
    """The heads of all levels; H is their hidden width.

    Attributes:
        user_weight: [L * H, d], the part of every head that multiplies z.
        user_bias: [L * H].
        tables: one row per code [sum of sizes of all (level, earlier level), H], level by level.
        table_start: per level t, the row where the table of each earlier level begins.
        norms: per level, the LayerNorm that follows.
        rest: per level, the layers after the first activation, the last of which gives the logits.
    """

    user_weight: torch.Tensor
    user_bias: torch.Tensor
    tables: torch.Tensor
    table_start: tuple[tuple[int, ...], ...]
    norms: tuple[nn.LayerNorm, ...]
    rest: tuple[nn.Sequential, ...]

    @classmethod
    def of(cls, decoder: SIDMLPDecoder, embedding: torch.Tensor, level_offsets: Sequence[int]) -> FactorisedHeads:
        """Factorise the heads of `decoder` for the token embeddings [vocabulary, d]."""
        heads = cast("list[LevelHead]", list(decoder.heads))
        width = embedding.shape[1]
        ends = [*level_offsets[1:], level_offsets[-1]]
        user_weights, user_biases, tables, starts, n_rows = [], [], [], [], 0
        for level, head in enumerate(heads):
            first = cast(nn.Linear, head[0])
            weight = (first.weight - first.weight.mean(0)).split(width, dim=1)
            user_weights.append(weight[0])
            user_biases.append(first.bias - first.bias.mean())
            start = []
            for earlier in range(level):
                table = embedding[level_offsets[earlier] : ends[earlier]] @ weight[earlier + 1].T
                start.append(n_rows)
                tables.append(table)
                n_rows += len(table)
            starts.append(tuple(start))
        return cls(
            torch.cat(user_weights),
            torch.cat(user_biases),
            torch.cat(tables) if tables else embedding.new_zeros(0, user_weights[0].shape[0]),
            tuple(starts),
            tuple(cast(nn.LayerNorm, head[1]) for head in heads),
            tuple(nn.Sequential(*list(head)[4:]) for head in heads),
        )

    def user_parts(self, context: torch.Tensor) -> torch.Tensor:
        """Return the user's part of every head [B, L, H] for contexts z [B, Q, d], Q = 1 or one for each level."""
        n_levels = len(self.norms)
        if context.shape[1] == 1:
            return F.linear(context.squeeze(1), self.user_weight, self.user_bias).unflatten(1, (n_levels, -1))
        bias, weight = (part.unflatten(0, (n_levels, -1)) for part in (self.user_bias, self.user_weight))
        return torch.baddbmm(bias.unsqueeze(1), context.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)

    def logits(self, level: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [M, size] from first-layer outputs [M, H]."""
        return self.rest[level](F.gelu(self.norms[level](hidden)))


class Beams(NamedTuple):
    """Prefixes of beams [B, K].

    Attributes:
        level: how many codes they have.
        codes: per earlier level int64 [B, K].
    """

    level: int
    codes: tuple[torch.Tensor, ...]
    n_beams: int


class FactorisedScorer:
    """The `LevelScorer` of SID-MLP: extending a beam is bookkeeping, logits are computed only where asked for.

    Args:
        heads: factorised heads.
        user_parts: [B, L, H], `FactorisedHeads.user_parts` of the contexts.

    Attributes:
        items: what the model's `ItemHead` says, if it has one.
    """

    items: ItemScores | None = None

    def __init__(self, heads: FactorisedHeads, user_parts: torch.Tensor) -> None:
        self.heads = heads
        self.user_parts = user_parts
        self.n_users, self.device = user_parts.shape[0], user_parts.device

    def split(self, n_users: int) -> Iterator[FactorisedScorer]:
        """Yield scorers of at most `n_users` users each."""
        for part in self.user_parts.split(n_users):
            yield FactorisedScorer(self.heads, part)

    def start(self) -> Beams:
        return Beams(0, (), 1)

    def extend(self, state: Beams, parents: torch.Tensor, codes: torch.Tensor) -> Beams:
        kept = tuple(column.gather(1, parents) for column in state.codes)
        return Beams(state.level + 1, (*kept, codes), codes.shape[1])

    def logits(self, state: Beams, beams: torch.Tensor | None) -> torch.Tensor:
        level = state.level
        of_user = self.user_parts[:, level]
        if beams is None:
            hidden = of_user.unsqueeze(1).repeat(1, state.n_beams, 1).flatten(0, 1)
            codes = [column.flatten() for column in state.codes]
        else:
            hidden = of_user.index_select(0, beams // state.n_beams)
            codes = [column.flatten().index_select(0, beams) for column in state.codes]
        for start, column in zip(self.heads.table_start[level], codes, strict=True):
            hidden += self.heads.tables.index_select(0, column + start)
        return self.heads.logits(level, hidden)
