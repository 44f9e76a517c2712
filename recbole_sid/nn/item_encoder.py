"""The item-level encoder of SID-MLP++: an item's tokens become one vector, light layers mix the items of a history.

Not in the paper (arXiv 2605.12617), whose encoder works token by token. Positions are counted from the most recent
item (recency 0), so that an older item more moves no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.fast.prepared import Prepared
from recbole_sid.nn.dropout import Dropout
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.packing import Packed, Packing, taken

# Spread of the weights that end a residual branch, so that a fresh layer hardly changes what it is given.
_SMALL = 0.01
HEADS = 4


class ItemEncoder(HistoryEncoder):
    """Encodes histories as one state per item.

    Histories are serialised as in `recbole_sid.nn.vocabulary`, each of at least one item: [user, L codes of the
    oldest item, ..., L codes of the most recent, eos, pad...]. User and end-of-sequence tokens are not read.

    Args:
        embedding: the teacher's token table [vocabulary, d]; never trained.
        n_levels: codes per item L.
        first_code_token: the first token id that is a code.
        n_code_tokens: how many token ids are codes.
        max_items: the longest history, in items.
        n_layers: number of layers.
        ffn_size: hidden width of a layer's MLP.
        mixing: ``position`` (a learned matrix over positions, and the mean) or ``attention``.
        dropout: share of activations that training drops.
        items: what makes an item's tokens one vector; None: an `ItemEmbedding`.

    Raises:
        InputError: if d does not split into the heads of attention.
    """

    skips_padding = static_shapes = True

    def __init__(
        self,
        embedding: nn.Embedding,
        n_levels: int,
        first_code_token: int,
        n_code_tokens: int,
        max_items: int,
        n_layers: int,
        ffn_size: int,
        mixing: str,
        dropout: float,
        items: ItemEmbedding | None = None,
    ) -> None:
        super().__init__()
        d_model = embedding.embedding_dim
        self.n_levels = n_levels
        self.code_tokens = range(first_code_token, first_code_token + n_code_tokens)
        self.items = items or ItemEmbedding(embedding, n_levels, max_items)
        self.layers = nn.ModuleList(
            MixingLayer(MIXINGS[mixing](d_model, max_items), d_model, ffn_size, dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)

    def state_mask(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return bool [B, T], which slots of tokens int64 [B, S] hold an item; T = (S - 2) // L.

        The first does always: a history of no items is read as one of an unknown item.
        """
        first = self._slots(tokens)[..., 0]
        leads = torch.arange(first.shape[1], device=first.device) == 0
        return ((first >= self.code_tokens.start) & (first < self.code_tokens.stop)) | leads

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return states [B, T, d] of tokens int64 [B, S], zero where no item is; `mask` bool [B, S] is not needed."""
        n_items = self.state_mask(tokens).sum(1, keepdim=True)
        # Slot t holds recency n - 1 - t and the other way round. In order of recency one mixing matrix serves all rows;
        # what lies beyond a history is arbitrary there, and masked.
        recency = torch.arange(self._slots(tokens).shape[1], device=tokens.device)
        present = recency < n_items
        swap = (n_items - 1 - recency).clamp(min=0)
        x = self.items(taken(self._slots(tokens), swap), recency)
        for layer in self.layers:
            x = layer(x, present)
        return taken(self.norm(x), swap) * present.unsqueeze(-1)

    def packed(self, tokens: torch.Tensor, mask: torch.Tensor) -> Packed:
        """Return the states of `forward` for the items alone, without gradients of the item embedding."""
        present = self.state_mask(tokens)
        packing = Packing.of(present)
        layout = PackedLayout.of(packing, present.sum(1))
        codes = self._slots(tokens).reshape(-1, self.n_levels)[packing.index]
        x = self.items.looked_up(codes, layout.recency)
        for layer in cast("list[MixingLayer]", list(self.layers)):
            x = layer.packed(x, layout)
        return Packed(self.norm(x), packing)

    def _slots(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens int64 [B, S] by item: [B, T, L]."""
        n_slots = (tokens.shape[1] - 2) // self.n_levels
        return tokens[:, 1 : 1 + n_slots * self.n_levels].unflatten(1, (n_slots, self.n_levels))


class PackedLayout(NamedTuple):
    """Where packed items belong, among the histories and in a table by recency.

    Attributes:
        packing: of items in slots, bool [B, T].
        recency: int64 [N].
        places: int64 [N, 2], rows of a table [(1 + T) * B]: of its history among the first B, and of its recency in
            its history among the others, which are sorted by recency and then history.
        n_items: int64 [B, 1].
    """

    packing: Packing
    recency: torch.Tensor
    places: torch.Tensor
    n_items: torch.Tensor

    @classmethod
    def of(cls, packing: Packing, n_items: torch.Tensor) -> PackedLayout:
        """Return the layout of histories of n_items int64 [B]."""
        n_rows, n_slots = packing.shape
        user = packing.index // n_slots
        recency = n_items[user] - 1 - packing.index % n_slots
        places = torch.stack([user, (1 + recency) * n_rows + user], dim=1)
        return cls(packing, recency, places, n_items.unsqueeze(1))


class ItemEmbedding(nn.Module):
    """One vector an item: a linear map of its concatenated token embeddings, plus a vector for its recency."""

    def __init__(self, embedding: nn.Embedding, n_levels: int, max_items: int) -> None:
        super().__init__()
        d_model = embedding.embedding_dim
        self.embedding = embedding
        self.merge = nn.Linear(n_levels * d_model, d_model)
        self.position = nn.Embedding(max_items, d_model)
        nn.init.normal_(self.position.weight, std=_SMALL)
        self._table = Prepared(_lookup_table)

    def forward(self, codes: torch.Tensor, recency: torch.Tensor) -> torch.Tensor:
        """Return [..., d] of code tokens int64 [..., L] and recency int64 that broadcasts to [...]."""
        embedded = F.embedding(codes, self.embedding.weight.detach())
        return self.merge(embedded.flatten(-2)) + self.position(recency)

    def looked_up(self, codes: torch.Tensor, recency: torch.Tensor) -> torch.Tensor:
        """Return the same [N, d] of codes int64 [N, L] and recency int64 [N] by gathers and adds, without gradients."""
        return self.finished(F.embedding_bag(self.rows(codes, recency), self.table(), mode="sum"))

    def table(self) -> torch.Tensor:
        """Return the table [n, d] whose rows add up to a vector, for the weights as they are now."""
        return self._table.get(self)

    def rows(self, codes: torch.Tensor, recency: torch.Tensor) -> torch.Tensor:
        """Return which rows of the table add up, int64 [N, L + 1], of codes int64 [N, L] and recency int64 [N]."""
        start = torch.arange(codes.shape[1] + 1, device=codes.device) * self.embedding.num_embeddings
        return torch.cat([codes, recency.unsqueeze(1)], dim=1) + start

    def finished(self, sums: torch.Tensor) -> torch.Tensor:
        """Return vectors [N, d] from the sums [N, d] of rows of the table."""
        return sums


def _lookup_table(items: ItemEmbedding) -> torch.Tensor:
    """Return [L * vocabulary + max_items, d]: each level's share of the merged vector, then recency and bias."""
    shares = items.merge.weight.unflatten(1, (-1, items.embedding.embedding_dim)).unbind(1)
    tables = [items.embedding.weight @ share.T for share in shares]
    return torch.cat([*tables, items.position.weight + items.merge.bias])


class TrainedItemEmbedding(ItemEmbedding):
    """An `ItemEmbedding` that trains the code embeddings too, normalises the vector and drops of it.

    There are fewer codes than items in a batch, so the linear map is taken of codes, and its results are added up.

    Args:
        embedding: token table [vocabulary, d].
        codebook_sizes: codes per level; their tokens come one level after the other.
        first_code_token: the first token id that is a code.
        max_items: the longest history, in items.
        dropout: share of activations that training drops.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        codebook_sizes: Sequence[int],
        first_code_token: int,
        max_items: int,
        dropout: float,
    ) -> None:
        super().__init__(embedding, len(codebook_sizes), max_items)
        self.codebook_sizes, self.first_code_token = tuple(codebook_sizes), first_code_token
        self.n_codes = sum(codebook_sizes)
        self.norm = nn.LayerNorm(embedding.embedding_dim)
        self.dropout = Dropout(dropout)
        self._table = Prepared(_table_by_level)

    def forward(self, codes: torch.Tensor, recency: torch.Tensor) -> torch.Tensor:
        rows = self.rows(codes.flatten(0, -2), recency.expand(codes.shape[:-1]).flatten())
        found = F.embedding_bag(rows, _table_by_level(self), mode="sum")
        return self.dropout(self.finished(found.unflatten(0, codes.shape[:-1])))

    def rows(self, codes: torch.Tensor, recency: torch.Tensor) -> torch.Tensor:
        rows = codes - (self.first_code_token - 1)
        rows = torch.where((rows > 0) & (rows <= self.n_codes), rows, 0)  # as of an unknown item: it says nothing
        return torch.cat([rows, recency.unsqueeze(1) + self.n_codes + 1], dim=1)

    def finished(self, sums: torch.Tensor) -> torch.Tensor:
        return self.norm(sums)


def _table_by_level(items: TrainedItemEmbedding) -> torch.Tensor:
    """Return [1 + n_codes + max_items, d]: zeros, each code's share of the merged vector, then recency and bias."""
    shares = items.merge.weight.unflatten(1, (-1, items.embedding.embedding_dim)).unbind(1)
    codes = items.embedding.weight[items.first_code_token :][: items.n_codes].split(items.codebook_sizes)
    tables = [of_level @ share.T for of_level, share in zip(codes, shares, strict=True)]
    nothing = items.merge.bias.new_zeros(1, len(items.merge.bias))
    return torch.cat([nothing, *tables, items.position.weight + items.merge.bias])


class MixingLayer(nn.Module):
    """Pre-norm residual layer: mixing over items, then an MLP on each."""

    def __init__(self, mixing: PositionMixing | AttentionMixing, d_model: int, ffn_size: int, dropout: float) -> None:
        super().__init__()
        self.mixing_norm, self.mixing = nn.LayerNorm(d_model), mixing
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, ffn_size), nn.GELU(), nn.Linear(ffn_size, d_model))
        self.dropout = Dropout(dropout)
        _shrink(cast(nn.Linear, self.mlp[-1]))

    def forward(self, x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return [B, T, d] of x [B, T, d] by recency, of which bool [B, T] are items."""
        x = x + self.dropout(self.mixing(self.mixing_norm(x), present))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def packed(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Return [N, d] of x [N, d], the items alone, oldest first within a history."""
        x = x + self.dropout(self.mixing.packed(self.mixing_norm(x), layout))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class PositionMixing(nn.Module):
    """A learned matrix over the recencies of both items, plus a linear map of the mean over the items there are."""

    def __init__(self, d_model: int, max_items: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_items, max_items) * _SMALL)
        self.mean = nn.Linear(d_model, d_model)
        _shrink(self.mean)

    def forward(self, x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return [B, T, d] of x [B, T, d] by recency, of which bool [B, T] are items."""
        places = torch.arange(x.shape[1], device=x.device)
        # Not a slice: whether it is the whole matrix would be part of what is recorded.
        weight = self.weight.index_select(0, places).index_select(1, places)
        x = x * present.unsqueeze(-1)
        mean = x.sum(1, keepdim=True) / present.sum(1).view(-1, 1, 1)
        return weight @ x + self.mean(mean)

    def packed(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Return [N, d] of x [N, d], the items alone, oldest first within a history."""
        n_rows, n_slots = layout.packing.shape
        by_recency = x.new_zeros(n_slots * n_rows, x.shape[1]).index_copy_(0, layout.places[:, 1] - n_rows, x)
        # One product mixes all histories, whatever their lengths; its first row is the sum over items.
        weight = F.pad(self.weight[:n_slots, :n_slots], (0, 0, 1, 0), value=1.0)
        mixed = (weight @ by_recency.view(n_slots, -1)).view(-1, x.shape[1])
        mixed[:n_rows] = self.mean(mixed[:n_rows] / layout.n_items)
        return F.embedding_bag(layout.places, mixed, mode="sum")


class AttentionMixing(nn.Module):
    """Attention over the items, with four heads."""

    def __init__(self, d_model: int, max_items: int) -> None:
        super().__init__()
        if d_model % HEADS:
            raise InputError(f"Attention over items has {HEADS} heads: token vectors of width {d_model} do not split.")
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        _shrink(self.out)

    def forward(self, x: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return [B, T, d] of x [B, T, d] by recency, of which bool [B, T] are items."""
        return self.out(_attend(self.qkv(x), present[:, None, None]))

    def packed(self, x: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        """Return [N, d] of x [N, d], the items alone."""
        qkv = self.qkv(x)
        parts = [_attend(qkv[rows].unflatten(0, (-1, length)), None) for _, rows, length in layout.packing.groups]
        return self.out(torch.cat([part.flatten(0, 1) for part in parts]))


def _attend(qkv: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the context [B, T, d] of queries, keys and values [B, T, 3 * d]."""
    q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _shrink(linear: nn.Linear) -> None:
    nn.init.normal_(linear.weight, std=_SMALL)
    nn.init.zeros_(linear.bias)


MIXINGS: dict[str, Any] = {"position": PositionMixing, "attention": AttentionMixing}
