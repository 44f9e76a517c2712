"""The modules of SID-MLP and SID-MLP++: readout, level heads, position-specific MLP encoder.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn


class Readout(nn.Module):
    """One-query cross-attention over the history's states, then a feed-forward: the user context z.

    The query projects the mean state. Keys and values are never formed: with one query per head,
    ``q . (W_k h) = (W_k^T q) . h``, and the weighted mean of states is projected by W_v once.
    """

    def __init__(self, d_model: int, attention_dim: int, n_heads: int, ffn_size: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(d_model, d_model)
        self.q_proj = nn.Linear(d_model, attention_dim, bias=False)
        self.k_proj = nn.Linear(d_model, attention_dim, bias=False)
        self.v_proj = nn.Linear(d_model, attention_dim, bias=False)
        self.out_proj = nn.Linear(attention_dim, d_model, bias=False)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(
            nn.Linear(d_model, ffn_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_size, d_model)
        )
        self.attention_dropout = nn.Dropout(dropout)
        self.n_heads = n_heads

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return z [B, d] of states [B, S, d] under mask bool [B, S]."""
        query = self.query(masked_mean(states, mask))
        q = self.q_proj(query).unflatten(-1, (self.n_heads, -1))  # [B, h, e]
        w_k = self.k_proj.weight.unflatten(0, (self.n_heads, -1))  # [h, e, d]
        w_v = self.v_proj.weight.unflatten(0, (self.n_heads, -1))
        scores = torch.einsum("bhe,hed->bhd", q, w_k) @ states.transpose(1, 2) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(-1)
        context = self.attention_dropout(weights) @ states  # [B, h, d]
        attended = self.out_proj(torch.einsum("bhd,hed->bhe", context, w_v).flatten(1))
        x = self.norm1(query + attended)
        return self.norm2(x + self.ffn(x))


class LevelHead(nn.Sequential):
    """``[z; e(c1); ...; e(c_{t-1})]`` to the logits of level t."""

    def __init__(self, width: int, hidden: int, n_hidden: int, size: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        for before in [width] + [hidden] * (n_hidden - 1):
            layers += [nn.Linear(before, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden, size))


class SIDMLPDecoder(nn.Module):
    """Readout and one head per level.

    Args:
        d_model: width of states and token embeddings.
        codebook_sizes: codes per level.
    """

    def __init__(
        self,
        d_model: int,
        codebook_sizes: Sequence[int],
        attention_dim: int,
        n_heads: int,
        ffn_size: int,
        head_hidden: int,
        head_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.readout = Readout(d_model, attention_dim, n_heads, ffn_size, dropout)
        self.heads = nn.ModuleList(
            LevelHead(d_model * (level + 1), head_hidden, head_layers, size, dropout)
            for level, size in enumerate(codebook_sizes)
        )

    def forward(self, context: torch.Tensor, prefix: torch.Tensor) -> list[torch.Tensor]:
        """Return per level the logits [B, size].

        Args:
            context: z [B, d].
            prefix: embedded true codes of all levels but the last, [B, L - 1, d].
        """
        inputs = torch.cat([context.unsqueeze(1), prefix], dim=1)
        return [head(inputs[:, : level + 1].flatten(1)) for level, head in enumerate(self.heads)]


class SIDMLPScorer:
    """Grows beams with the level heads; the context is computed once per user."""

    def __init__(
        self, decoder: SIDMLPDecoder, embedding: nn.Embedding, level_offsets: Sequence[int], context: torch.Tensor
    ) -> None:
        self.decoder = decoder
        self.embedding = embedding
        self.level_offsets = level_offsets
        self.inputs = context.unsqueeze(1)  # [B, K, t * d]
        self.level = 0

    def first(self) -> torch.Tensor:
        return self.decoder.heads[0](self.inputs)

    def next(self, parents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        embedded = self.embedding(codes + self.level_offsets[self.level])
        self.level += 1
        self.inputs = torch.cat([self.inputs.take_along_dim(parents.unsqueeze(-1), 1), embedded], dim=-1)
        return self.decoder.heads[self.level](self.inputs)


class MLPEncoder(nn.Module):
    """Position-specific MLPs with mean mixing in place of the teacher's encoder.

    Each layer adds ``F_role([x; g])`` to x, with g the mean of x over valid tokens and one F for each role: the
    token's level, where the user and end-of-sequence tokens share the last role.

    Args:
        embedding: the teacher's frozen token table.
        n_roles: number of levels L.
        eos: id of the end-of-sequence token.
        n_positions: longest token sequence.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        n_roles: int,
        eos: int,
        n_positions: int,
        n_layers: int,
        ffn_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        d_model = embedding.embedding_dim
        self.embedding = embedding
        self.position = nn.Embedding(n_positions, d_model)
        self.n_roles = n_roles
        self.eos = eos
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Linear(2 * d_model, ffn_size),
                    nn.LayerNorm(ffn_size),
                    nn.GELU(),
                    nn.Dropout(dropout),
                    nn.Linear(ffn_size, d_model),
                )
                for _ in range(n_roles)
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return states [B, S, d] of tokens int64 [B, S] under mask bool [B, S]; zero where padded.

        Tokens are routed by role, so each MLP sees only its own.
        """
        position = torch.arange(tokens.shape[1], device=tokens.device)
        role = ((position - 1) % self.n_roles).expand_as(tokens)
        role = torch.where(tokens == self.eos, self.n_roles - 1, role)
        valid = mask.flatten().nonzero().squeeze(1)
        user = torch.arange(len(tokens), device=tokens.device).repeat_interleave(mask.sum(1))
        order = torch.argsort(role.flatten()[valid], stable=True)
        valid, user = valid[order], user[order]
        counts = torch.bincount(role.flatten()[valid], minlength=self.n_roles).tolist()

        x = (self.embedding(tokens) + self.position(position)).flatten(0, 1)[valid]
        n_tokens = mask.sum(1, keepdim=True)
        for layer in cast("list[nn.ModuleList]", list(self.layers)):
            mean = x.new_zeros(len(tokens), x.shape[1]).index_add(0, user, x) / n_tokens
            parts = torch.cat([x, mean[user]], dim=1).split(counts)
            x = x + torch.cat([mlp(part) for mlp, part in zip(layer, parts, strict=True)])
        states = x.new_zeros(mask.numel(), x.shape[1]).index_copy(0, valid, self.norm(x))
        return states.reshape(*tokens.shape, -1)


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean [B, d] of states [B, S, d] where mask bool [B, S] is True."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
