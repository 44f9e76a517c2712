"""The encoder of SID-MLP++: MLPs over the tokens of a history, which are mixed by a mean.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617; counting positions from the end and the
weighted mean are not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.nn.dropout import Dropout
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.packing import Packed, Packing
from recbole_sid.util import hardware

POSITIONS = ("start", "end")
# What log weights are multiplied by, so that they move as far in a step as the rest of the encoder needs.
_LOG_WEIGHT_SCALE = 10.0


class MLPEncoder(HistoryEncoder):
    """Position-specific MLPs with mean mixing in place of the teacher's encoder.

    Each layer adds ``F_role([x; g])`` to x, with g a mean of x over valid tokens and one F for each role: the token's
    level, where the user and end-of-sequence tokens share the last role.

    Args:
        embedding: the teacher's frozen token table.
        n_roles: number of levels L.
        eos: id of the end-of-sequence token.
        n_positions: longest token sequence.
        n_layers: number of layers.
        ffn_size: hidden width of a layer's MLPs.
        dropout: share of activations that training drops.
        positions: what positions are counted from, ``start`` (the paper) or ``end`` of the history, where an older item
            more moves no other.
        mixing: ``mean`` (the paper) or ``weighted``, by weights learned for each position and channel.
    """

    skips_padding = static_shapes = True

    def __init__(
        self,
        embedding: nn.Embedding,
        n_roles: int,
        eos: int,
        n_positions: int,
        n_layers: int,
        ffn_size: int,
        dropout: float,
        positions: str = "start",
        mixing: str = "mean",
    ) -> None:
        super().__init__()
        d_model = embedding.embedding_dim
        self.embedding = embedding
        self.position = nn.Embedding(n_positions, d_model)
        self.counts_from_end = positions == "end"
        self.n_roles = n_roles
        self.eos = eos
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Linear(2 * d_model, ffn_size),
                    nn.LayerNorm(ffn_size),
                    nn.GELU(),
                    Dropout(dropout),
                    nn.Linear(ffn_size, d_model),
                )
                for _ in range(n_roles)
            )
            for _ in range(n_layers)
        )
        self.means = nn.ModuleList(MIXINGS[mixing](n_positions, d_model) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)

    @torch.no_grad()
    def start_at(self, states: torch.Tensor) -> None:
        """Give the last norm the mean and deviation of `states` [n, d], so that training need not find their scale."""
        self.norm.weight.copy_(states.std(0, correction=0))
        self.norm.bias.copy_(states.mean(0))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return states [B, S, d] of serialised histories int64 [B, S] under mask bool [B, S]; zero where padded."""
        return self.packed(tokens, mask).padded() if hardware.on_cpu(tokens) else self.padded(tokens, mask)

    def packed(self, tokens: torch.Tensor, mask: torch.Tensor) -> Packed:
        """Return the states of valid tokens only.

        Tokens are routed by role, so each MLP sees only its own, and the mean's half of a layer's first product is
        computed once per user.
        """
        packing = Packing.of(mask)
        n_columns = mask.shape[1]
        column, token = packing.index % n_columns, tokens.flatten()[packing.index]
        role = torch.where(token == self.eos, self.n_roles - 1, (column - 1) % self.n_roles)
        order = torch.argsort(role, stable=True)
        counts = torch.bincount(role, minlength=self.n_roles).tolist()
        user = (packing.index // n_columns)[order]
        users = user.split(counts)
        n_tokens = mask.sum(1)
        position = self.counted(column[order], n_tokens[user])

        x = self.embedding(token[order]) + self.position(position)
        for mean_of, layer in self._layers():
            mean = mean_of(x, position, user, n_tokens)
            parts = zip(layer, x.split(counts), users, strict=True)
            x = x + torch.cat(
                [_mix(mlp, part, _shared_half(mlp, mean).index_select(0, of_user)) for mlp, part, of_user in parts]
            )
        states = torch.empty_like(x).index_copy(0, order, self.norm(x))
        return Packed(states, packing)

    def padded(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the states of `forward` by shapes alone: no device is asked for values, but padding is computed too.

        Tokens lie by role: those of codes by their column, then the user, then the end wherever it is in its row.
        """
        n_rows, n_columns = tokens.shape
        n_items, n_tokens = (n_columns - 2) // self.n_roles, mask.sum(1, keepdim=True)
        of_code = torch.arange(1, n_columns - 1, device=tokens.device).view(n_items, self.n_roles).T.flatten()
        column = torch.cat([of_code.expand(n_rows, -1), torch.zeros_like(n_tokens), n_tokens - 1], dim=1)
        valid = torch.cat([of_code < n_tokens - 1, n_tokens > 0, n_tokens > 1], dim=1)
        counts = [n_items] * (self.n_roles - 1) + [n_items + 2]
        position = self.counted(column, n_tokens).clamp(min=0)

        x = self.embedding(tokens.gather(1, column)) + self.position(position)
        for mean_of, layer in self._layers():
            mean = mean_of.padded(x, position, valid, n_tokens)
            parts = zip(layer, x.split(counts, dim=1), strict=True)
            x = x + torch.cat([_mix(mlp, part, _shared_half(mlp, mean)) for mlp, part in parts], dim=1)
        states = self.norm(x) * valid.unsqueeze(-1)

        codes, user, end = states.split([n_items * self.n_roles, 1, 1], dim=1)
        codes = codes.unflatten(1, (self.n_roles, n_items)).transpose(1, 2).flatten(1, 2)
        is_end = torch.arange(n_columns, device=tokens.device) == n_tokens - 1
        return torch.where(is_end.unsqueeze(-1), end, torch.cat([user, codes, torch.zeros_like(end)], dim=1))

    def _layers(self) -> Iterator[tuple[Mean | WeightedMean, list[nn.Sequential]]]:
        """Yield each layer's mean and its MLPs by role."""
        for mean_of, layer in zip(self.means, self.layers, strict=True):
            yield cast("Mean | WeightedMean", mean_of), cast("list[nn.Sequential]", list(cast(nn.ModuleList, layer)))

    def counted(self, column: torch.Tensor, n_tokens: torch.Tensor) -> torch.Tensor:
        """Return the position of valid tokens in columns int64 [...], of histories of n_tokens int64 [...]."""
        return n_tokens - 1 - column if self.counts_from_end else column


class Mean(nn.Module):
    """The mean over a history's tokens."""

    def __init__(self, n_positions: int, d_model: int) -> None:
        super().__init__()

    def forward(
        self, x: torch.Tensor, position: torch.Tensor, user: torch.Tensor, n_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return means [B, d] of x [N, d], tokens of `user` int64 [N], of which user b has n_tokens int64 [B]."""
        return _sums(x, user, len(n_tokens)) / n_tokens.unsqueeze(1)

    def padded(
        self, x: torch.Tensor, position: torch.Tensor, valid: torch.Tensor, n_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return means [B, 1, d] of x [B, S, d] where bool [B, S] is `valid`, n_tokens int64 [B, 1] times."""
        return (x * valid.unsqueeze(-1)).sum(1, keepdim=True) / n_tokens.unsqueeze(-1)

    def weights(self, position: torch.Tensor) -> torch.Tensor:
        """Return the weights [..., 1] of tokens at position int64 [...]."""
        return torch.ones_like(position).unsqueeze(-1)


class WeightedMean(nn.Module):
    """The mean over a history's tokens, by a weight for each position and channel; a fresh one weighs all alike."""

    def __init__(self, n_positions: int, d_model: int) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(n_positions, d_model))

    def forward(
        self, x: torch.Tensor, position: torch.Tensor, user: torch.Tensor, n_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return means [B, d] of x [N, d], tokens at position int64 [N] of `user` int64 [N]; n_tokens is int64 [B]."""
        weights = self._table()
        # A history's tokens are at positions 0, 1, ..., whichever end they are counted from.
        totals = F.embedding(n_tokens - 1, weights.cumsum(0))
        return _sums(F.embedding(position, weights) * x, user, len(n_tokens)) / totals

    def padded(
        self, x: torch.Tensor, position: torch.Tensor, valid: torch.Tensor, n_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return means [B, 1, d] of x [B, S, d] at position int64 [B, S] where bool [B, S] is `valid`."""
        weights = F.embedding(position, self._table()) * valid.unsqueeze(-1)
        return (x * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)

    def weights(self, position: torch.Tensor) -> torch.Tensor:
        """Return the weights [..., d] of tokens at position int64 [...]."""
        return F.embedding(position, self._table())

    def _table(self) -> torch.Tensor:
        """Return the weights by position, of at most 1."""
        scaled = _LOG_WEIGHT_SCALE * self.log_weight
        return (scaled - scaled.amax(0)).exp()


def _sums(x: torch.Tensor, user: torch.Tensor, n_users: int) -> torch.Tensor:
    return x.new_zeros(n_users, x.shape[1]).index_add(0, user, x)


def _shared_half(mlp: nn.Sequential, mean: torch.Tensor) -> torch.Tensor:
    """Return what mean [..., d] adds to the first product of ``mlp([x; mean])``, once for all tokens of a history."""
    first = cast(nn.Linear, mlp[0])
    return F.linear(mean, first.weight[:, mean.shape[-1] :], first.bias)


def _mix(mlp: nn.Sequential, x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Return ``mlp([x; mean])`` for x [..., d], given the mean's half of the first product."""
    first = cast(nn.Linear, mlp[0])
    return mlp[1:](F.linear(x, first.weight[:, : x.shape[-1]]) + shared)


MIXINGS: dict[str, Any] = {"mean": Mean, "weighted": WeightedMean}
