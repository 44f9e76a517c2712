"""The decoder of SID-MLP and SID-MLP++: readout and level heads.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.fast.prepared import Prepared
from recbole_sid.nn.dropout import Dropout
from recbole_sid.nn.packing import Packed, Padded, taken


class Readout(nn.Module):
    """Cross-attention of one query, or one for each level, over a history's states, then a feed-forward: contexts z.

    Queries project the mean state; with `reads_last` (not in the paper) the mean and the last state. Keys and values
    are never formed: per head, ``q . (W_k h) = (W_k^T q) . h``, and the weighted mean of states is projected by W_v
    once.

    Args:
        n_queries: Q, contexts per user.
        reads_last: queries also see the last state: of end-of-sequence, or of the last item of an encoder of items.
    """

    def __init__(
        self,
        d_model: int,
        attention_dim: int,
        n_heads: int,
        ffn_size: int,
        dropout: float,
        n_queries: int = 1,
        reads_last: bool = False,
    ) -> None:
        super().__init__()
        self.query = nn.Linear(2 * d_model if reads_last else d_model, n_queries * d_model)
        self.q_proj = nn.Linear(d_model, attention_dim, bias=False)
        self.k_proj = nn.Linear(d_model, attention_dim, bias=False)
        self.v_proj = nn.Linear(d_model, attention_dim, bias=False)
        self.out_proj = nn.Linear(attention_dim, d_model, bias=False)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(
            nn.Linear(d_model, ffn_size), nn.ReLU(), Dropout(dropout), nn.Linear(ffn_size, d_model)
        )
        self.attention_dropout = Dropout(dropout)
        self.n_heads, self.n_queries, self.reads_last = n_heads, n_queries, reads_last
        self.absorbed = Prepared(_absorb)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return contexts z [B, Q, d] of states [B, S, d] under mask bool [B, S], whose rows are True first."""
        pooled = masked_mean(states, mask)
        query = self.queries(pooled, last_state(states, mask) if self.reads_last else None)
        q = self.q_proj(query).unflatten(-1, (self.n_heads, -1))  # [B, Q, h, e]
        w_k = self.k_proj.weight.unflatten(0, (self.n_heads, -1))  # [h, e, d]
        w_v = self.v_proj.weight.unflatten(0, (self.n_heads, -1))
        keys = torch.einsum("bqhe,hed->bqhd", q, w_k).flatten(1, 2)
        scores = keys @ states.transpose(1, 2) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(-1)
        context = (self.attention_dropout(weights) @ states).unflatten(1, (self.n_queries, -1))  # [B, Q, h, d]
        return self._finish(query, self.out_proj(torch.einsum("bqhd,hed->bqhe", context, w_v).flatten(2)))

    def packed(self, states: Packed) -> torch.Tensor:
        """Return contexts z [B, Q, d] for inference, of states without padding; equal to `forward`."""
        form, order, groups = self.absorbed.get(self), states.packing.order, states.packing.groups
        values = states.values.to(self.query.weight.dtype)
        histories = [values[group.rows].unflatten(0, (-1, group.length)) for group in groups]  # [g, n, d]
        pooled = torch.cat([history.mean(1) for history in histories])
        last = torch.cat([history[:, -1] for history in histories]) if self.reads_last else None
        query = self.queries(pooled, last)
        keys = F.linear(query, form.keys).unflatten(-1, (self.n_heads, -1)).flatten(1, 2)  # [B, Q * h, d]
        context = torch.empty_like(keys)
        for group, history in zip(groups, histories, strict=True):
            weights = torch.bmm(keys[group.users], history.transpose(1, 2)).softmax(-1)
            torch.bmm(weights, history, out=context[group.users])
        attended = F.linear(context.unflatten(1, (self.n_queries, -1)).flatten(2), form.values)
        found = self._finish(query, attended)
        return torch.empty_like(found).index_copy_(0, order, found)

    def queries(self, pooled: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
        """Return queries [B, Q, d] from the mean states [B, d] and, if it `reads_last`, the last ones [B, d]."""
        source = pooled if last is None else torch.cat([pooled, last], dim=-1)
        return self.query(source).unflatten(-1, (self.n_queries, -1))

    def _finish(self, query: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = self.norm1(query + attended)
        return self.norm2(x + self.ffn(x))


class AbsorbedAttention(NamedTuple):
    """The readout's projections multiplied out, per head h.

    Attributes:
        keys: [h * d, d], W_k^T W_q with the attention's scale.
        values: [d, h * d], W_o W_v.
    """

    keys: torch.Tensor
    values: torch.Tensor


def _absorb(readout: Readout) -> AbsorbedAttention:
    def split(weight: torch.Tensor) -> torch.Tensor:
        return weight.unflatten(0, (readout.n_heads, -1))  # [h, e, d]

    q, k, v = (split(layer.weight) for layer in (readout.q_proj, readout.k_proj, readout.v_proj))
    out = readout.out_proj.weight.unflatten(1, (readout.n_heads, -1))  # [d, h, e]
    keys = torch.einsum("hed,hef->hdf", k, q) * q.shape[1] ** -0.5
    return AbsorbedAttention(keys.flatten(0, 1), torch.einsum("ohe,hed->ohd", out, v).flatten(1))


class LevelHead(nn.Sequential):
    """``[z; e(c1); ...; e(c_{t-1})]`` to the logits of level t."""

    def __init__(self, width: int, hidden: int, n_hidden: int, size: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        for before in [width] + [hidden] * (n_hidden - 1):
            layers += [nn.Linear(before, hidden), nn.LayerNorm(hidden), nn.GELU(), Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden, size))


class SIDMLPDecoder(nn.Module):
    """Readout and one head per level.

    Args:
        d_model: width of states and token embeddings.
        codebook_sizes: codes per level.
        query_per_level: read a context for every level, in place of one for all (not in the paper).
        query_from_last: see `Readout`.
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
        query_per_level: bool = False,
        query_from_last: bool = False,
    ) -> None:
        super().__init__()
        n_queries = len(codebook_sizes) if query_per_level else 1
        self.readout = Readout(d_model, attention_dim, n_heads, ffn_size, dropout, n_queries, query_from_last)
        self.heads = nn.ModuleList(
            LevelHead(d_model * (level + 1), head_hidden, head_layers, size, dropout)
            for level, size in enumerate(codebook_sizes)
        )

    def forward(self, context: torch.Tensor, prefix: torch.Tensor) -> list[torch.Tensor]:
        """Return per level the logits [B, size].

        Args:
            context: z [B, Q, d], of Q = 1 all levels read the same.
            prefix: embedded true codes of all levels but the last, [B, L - 1, d].
        """
        of_level = context.expand(-1, len(self.heads), -1).unbind(1)
        return [
            head(torch.cat([z, prefix[:, :level].flatten(1)], dim=1))
            for level, (z, head) in enumerate(zip(of_level, self.heads, strict=True))
        ]


def last_state(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the last of states [B, S, d] where mask bool [B, S] is True, whose rows are True first: [B, d]."""
    return taken(states, mask.sum(1, keepdim=True) - 1).squeeze(1)


def last_states(encoded: Packed | Padded) -> torch.Tensor:
    """Return the last state of each history, [B, d]."""
    if isinstance(encoded, Padded):
        return last_state(*encoded)
    packing = encoded.packing
    ends = [
        rows.start + torch.arange(1, 1 + users.stop - users.start) * length for users, rows, length in packing.groups
    ]
    found = encoded.values[torch.cat(ends).to(encoded.values.device) - 1]
    return torch.empty_like(found).index_copy_(0, packing.order, found)


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean [B, d] of states [B, S, d] where mask bool [B, S] is True."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
