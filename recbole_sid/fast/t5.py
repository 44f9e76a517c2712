"""Inference forms of the T5 stacks: fused weights, no padding, products into reused buffers. No gradients flow.

The gains of the norms are folded into the products that follow them; queries, keys and values come from one product;
residual stream and norms are float32 whatever the products are. Rows are worked off in chunks, for memory's sake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from recbole_sid.fast.t5_parts import (
    Buffers,
    FeedForwardWeights,
    add_product,
    chunk_rows,
    eps,
    folded,
    gain,
    inference,
    key_value,
    n_rows,
    transposed,
    unit_rows,
    view,
)
from recbole_sid.nn.packing import EqualLengths, Packed, Packing, chunked
from recbole_sid.util import hardware

if TYPE_CHECKING:
    from recbole_sid.nn.t5 import RelativeBias, T5Decoder, T5Encoder

# The first layer's queries, keys and values are a table over the vocabulary up to this many tokens.
MAX_TABLE_ROWS = 65_536


class EncoderLayer(NamedTuple):
    """Weights of an encoder block: queries, keys and values [d, 3 * inner], output [inner, d], feed-forward."""

    qkv: torch.Tensor
    output: torch.Tensor
    feed_forward: FeedForwardWeights


class EncoderForm:
    """Inference form of a T5 encoder; made by `Prepared`, so never of other weights than the encoder has.

    Args:
        encoder: its `inference_dtype` is the dtype of the products.
    """

    def __init__(self, encoder: T5Encoder) -> None:
        dtype = encoder.inference_dtype
        self.dtype = dtype
        self.layers = [
            EncoderLayer(
                folded(block.attention_norm, [block.attention.q, block.attention.k, block.attention.v], dtype),
                transposed(block.attention.o, dtype),
                FeedForwardWeights.of(block.feed_forward_norm, block.feed_forward, dtype),
            )
            for block in encoder.typed_blocks
        ]
        self.n_heads = encoder.typed_blocks[0].attention.n_heads
        self.eps = eps(encoder.norm)
        self.final_gain = gain(encoder.norm)
        self.embedding = encoder.embedding.weight.detach().float()
        self.table = self._first_qkv() if len(self.embedding) <= MAX_TABLE_ROWS else None
        self.bias = _GrowingBias(encoder.relative_bias, dtype)

    def __call__(self, tokens: torch.Tensor, mask: torch.Tensor) -> Packed:
        """Return the states [N, d] of the valid positions of tokens int64 [B, S], mask bool [B, S]."""
        with inference(tokens.device):
            return self._packed(tokens, Packing.of(mask))

    def _packed(self, tokens: torch.Tensor, packing: Packing) -> Packed:
        packed_tokens = tokens.flatten().index_select(0, packing.index)
        bias = self.bias.up_to(tokens.shape[1])
        chunks = list(chunked(packing.groups, chunk_rows(tokens.device)))
        buffers = Buffers.of(self, max((n_rows(chunk) for chunk in chunks), default=0))
        values = torch.empty(len(packed_tokens), self.embedding.shape[1], device=tokens.device)
        for chunk in chunks:
            rows = slice(chunk[0].rows.start, chunk[-1].rows.stop)
            self._encode(packed_tokens[rows], chunk, bias, buffers, out=values[rows])
        return Packed(values, packing)

    def _encode(
        self, tokens: torch.Tensor, groups: list[EqualLengths], bias: torch.Tensor, buffers: Buffers, out: torch.Tensor
    ) -> None:
        # The residual stream lives in `out`.
        x = torch.index_select(self.embedding, 0, tokens, out=out)
        normed = buffers.normed[: len(x)]
        for number, layer in enumerate(self.layers):
            qkv = view(buffers.wide, len(x), layer.qkv.shape[1])
            if number == 0 and self.table is not None:
                torch.index_select(self.table, 0, tokens, out=qkv)
            else:
                torch.mm(unit_rows(x, self.eps, out=normed), layer.qkv, out=qkv)
            add_product(x, self._attention(qkv, groups, bias), layer.output)
            layer.feed_forward.add_to(x, unit_rows(x, self.eps, out=normed), buffers.wide)
        unit_rows(x, self.eps, out=x).mul_(self.final_gain)

    def _attention(self, qkv: torch.Tensor, groups: list[EqualLengths], bias: torch.Tensor) -> torch.Tensor:
        contexts = []
        first = groups[0].rows.start
        for users, rows, length in groups:
            own = qkv[rows.start - first : rows.stop - first]
            q, k, v = own.view(users.stop - users.start, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4).unbind()
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, :, :length, :length], scale=1.0)
            contexts.append(context.transpose(1, 2).reshape(len(own), -1))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def _first_qkv(self) -> torch.Tensor:
        normed = unit_rows(self.embedding, self.eps, out=torch.empty_like(self.embedding, dtype=self.dtype))
        return normed @ self.layers[0].qkv


class _GrowingBias:
    """Bias [1, heads, n, n] of all distances up to the longest history seen."""

    def __init__(self, module: RelativeBias, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        self.table: torch.Tensor | None = None

    def up_to(self, length: int) -> torch.Tensor:
        """Return the bias of at least `length` positions."""
        if self.table is None or self.table.shape[-1] < length:
            self.table = self.module.among(length).to(self.dtype).contiguous()
        return self.table


class DecoderLayer(NamedTuple):
    """Weights of a decoder block; `query` [d, inner] and `key_value` [d, 2 * inner] are of the self-attention."""

    query: torch.Tensor
    key_value: torch.Tensor
    output: torch.Tensor
    cross_query: torch.Tensor
    cross_key_value: torch.Tensor
    cross_output: torch.Tensor
    feed_forward: FeedForwardWeights


class DecoderForm:
    """Inference form of a T5 decoder; made by `Prepared`, so never of other weights than the decoder has.

    Args:
        decoder: its `inference_dtype` is the dtype of the products.
    """

    def __init__(self, decoder: T5Decoder) -> None:
        dtype = decoder.inference_dtype
        self.dtype = dtype
        self.layers = [
            DecoderLayer(
                folded(block.attention_norm, [block.attention.q], dtype),
                folded(block.attention_norm, [block.attention.k, block.attention.v], dtype),
                transposed(block.attention.o, dtype),
                folded(block.cross_norm, [block.cross.q], dtype),
                key_value(block.cross, dtype),
                transposed(block.cross.o, dtype),
                FeedForwardWeights.of(block.feed_forward_norm, block.feed_forward, dtype),
            )
            for block in decoder.typed_blocks
        ]
        self.n_heads = decoder.typed_blocks[0].attention.n_heads
        self.eps = eps(decoder.norm)
        self.final_gain = gain(decoder.norm)
        self.relative_bias = decoder.relative_bias


class T5Step(NamedTuple):
    """One decoded position.

    Attributes:
        keys_values: [layers, B, K', 2 * inner] of the K' beams that the search had then.
        beams: int64 [B, K], the beam among those K' that each beam of now descends from.
    """

    keys_values: torch.Tensor
    beams: torch.Tensor


class T5Past(NamedTuple):
    """What the self-attention sees: the positions decoded so far. Users are in the cache's own order."""

    steps: tuple[T5Step, ...]


class _Readers(NamedTuple):
    """Neighbouring users with histories of one length.

    Attributes:
        users: their places in the cache's order.
        keys_values: per layer, keys and values [n_users, heads, length, d_kv].
        bias: [n_users, 1, 1, length] where some positions are padding.
    """

    users: slice
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    bias: torch.Tensor | None


class T5DecoderCache:
    """Decodes beams one position at a time (no dropout and no gradients: for inference).

    Cross-attention keys and values exist once per user and are shared by the beams, without padding on the CPU. Those
    of the self-attention stay where they were computed: beams know their ancestors. Steps change neither the cache nor
    a past, so one past can be extended many times.

    Args:
        decoder: its `inference_dtype` is the dtype of the products.
        states: [B, S, d].
        mask: bool [B, S]; each row True first and False after.
    """

    def __init__(self, decoder: T5Decoder, states: torch.Tensor, mask: torch.Tensor) -> None:
        self.form = decoder.inference_form()
        with inference(states.device):
            if hardware.on_cpu(states):
                self._read_packed(states, Packing.of(mask))
            else:
                self._read_padded(states, mask)

    def start(self) -> T5Past:
        """Return the past of nothing decoded."""
        return T5Past(())

    def step(self, past: T5Past, embedded: torch.Tensor, parents: torch.Tensor | None) -> tuple[torch.Tensor, T5Past]:
        """Decode the next position.

        Args:
            past: of K' beams, from `start` or an earlier step.
            embedded: [B, K, d], the embedded last token of each beam.
            parents: int64 [B, K], which of the K' beams each beam continues; None: each continues itself.

        Returns:
            decoder states [B, K, d], and the past of the K beams.
        """
        with inference(embedded.device):
            n_users, n_beams, _ = embedded.shape
            if self.order is not None:
                embedded = embedded.index_select(0, self.order)
                parents = None if parents is None else parents.index_select(0, self.order)
            x = embedded.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            steps = past.steps if parents is None else tuple(_descend(step, parents) for step in past.steps)
            keys_values = x.new_empty(
                len(self.form.layers), n_users, n_beams, self.form.layers[0].key_value.shape[1], dtype=self.form.dtype
            )
            own = torch.arange(n_beams, device=x.device).expand(n_users, -1)
            self._decode(x, steps, keys_values)
            decoded = x if self.place is None else x.index_select(0, self.place)
            return decoded.to(embedded.dtype), T5Past((*steps, T5Step(keys_values, own)))

    def _read_packed(self, states: torch.Tensor, packing: Packing) -> None:
        rows = states.flatten(0, 1).index_select(0, packing.index).to(self.form.dtype)
        layers = [rows @ layer.cross_key_value for layer in self.form.layers]
        self.order: torch.Tensor | None = packing.order
        self.place: torch.Tensor | None = torch.argsort(packing.order)
        self.readers = []
        for users, own, length in packing.groups:
            split = [self._heads(layer[own].view(users.stop - users.start, length, -1)) for layer in layers]
            self.readers.append(_Readers(users, split, None))

    def _read_padded(self, states: torch.Tensor, mask: torch.Tensor) -> None:
        layers = [self._heads(states.to(self.form.dtype) @ layer.cross_key_value) for layer in self.form.layers]
        bias = torch.zeros(mask.shape, dtype=self.form.dtype, device=mask.device).masked_fill(~mask, -torch.inf)
        self.order = self.place = None
        self.readers = [_Readers(slice(0, len(states)), layers, bias[:, None, None, :])]

    def _heads(self, keys_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n_users, length, _ = keys_values.shape
        split = keys_values.view(n_users, length, 2, self.form.n_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        return split[0], split[1]

    def _decode(self, x: torch.Tensor, steps: tuple[T5Step, ...], keys_values: torch.Tensor) -> None:
        """Turn embedded tokens x [B, K, d] into decoder states; write the new keys and values."""
        n_users, n_beams, _ = x.shape
        positions = torch.arange(len(steps) + 1, device=x.device)
        bias = self.form.relative_bias(positions[-1:], positions)[0, :, 0].unbind(1)
        per_chunk = max(1, chunk_rows(x.device) // n_beams)
        buffers = Buffers.of(self.form, min(per_chunk, n_users) * n_beams)
        for first in range(0, n_users, per_chunk):
            users = slice(first, min(first + per_chunk, n_users))
            past = [_ancestor_rows(step, users) for step in steps]
            rows = x[users].view(-1, x.shape[-1])
            normed = buffers.normed[: len(rows)]
            for number, layer in enumerate(self.form.layers):
                unit_rows(rows, self.form.eps, out=normed)
                own = keys_values[number, users]
                torch.mm(normed, layer.key_value, out=own.view(len(rows), -1))
                query = torch.mm(normed, layer.query, out=view(buffers.wide, len(rows), layer.query.shape[1]))
                seen = [*(_of_ancestors(step, number, users, at) for step, at in zip(steps, past, strict=True)), own]
                context = self._self_attention(query.view(-1, n_beams, query.shape[1]), seen, bias)
                add_product(rows, context, layer.output)
                unit_rows(rows, self.form.eps, out=normed)
                query = torch.mm(normed, layer.cross_query, out=query)
                context = self._cross_attention(number, query.view(-1, n_beams, query.shape[1]), users)
                add_product(rows, context, layer.cross_output)
                layer.feed_forward.add_to(rows, unit_rows(rows, self.form.eps, out=normed), buffers.wide)
            unit_rows(rows, self.form.eps, out=rows).mul_(self.form.final_gain)

    def _self_attention(
        self, query: torch.Tensor, seen: list[torch.Tensor], bias: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Return the context [n * K, inner] of query [n, K, inner]; `seen` is [n, K or 1, 2 * inner] per position."""
        heads = (self.form.n_heads, -1)
        q = query.unflatten(-1, heads)
        keys, values = zip(*(rows.unflatten(-1, (2, *heads)).unbind(2) for rows in seen), strict=True)
        scores = [(q * k).sum(-1, dtype=torch.float32) + b for k, b in zip(keys, bias, strict=True)]
        weights = torch.stack(scores).softmax(0).to(query.dtype).unsqueeze(-1)
        context = weights[0] * values[0]
        for weight, v in zip(weights[1:], values[1:], strict=True):
            context.addcmul_(weight, v)
        return context.flatten(0, 1).flatten(1)

    def _cross_attention(self, layer: int, query: torch.Tensor, users: slice) -> torch.Tensor:
        """Return the context [n * K, inner] of the queries [n, K, inner] of `users`."""
        contexts = []
        for readers in self.readers:
            first, last = max(users.start, readers.users.start), min(users.stop, readers.users.stop)
            if first >= last:
                continue
            theirs = slice(first - readers.users.start, last - readers.users.start)
            q = query[first - users.start : last - users.start].unflatten(-1, (self.form.n_heads, -1)).transpose(1, 2)
            k, v = (part[theirs] for part in readers.keys_values[layer])
            bias = None if readers.bias is None else readers.bias[theirs]
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            contexts.append(context.transpose(1, 2).flatten(0, 1).flatten(1))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)


def _descend(step: T5Step, parents: torch.Tensor) -> T5Step:
    return T5Step(step.keys_values, step.beams.gather(1, parents))


def _ancestor_rows(step: T5Step, users: slice) -> torch.Tensor:
    """Return the rows int64 [n * K] of `users` in the flattened [B * K'] of a step."""
    beams = step.beams[users]
    start = torch.arange(users.start, users.stop, device=beams.device) * step.keys_values.shape[2]
    return (beams + start.unsqueeze(1)).flatten()


def _of_ancestors(step: T5Step, layer: int, users: slice, rows: torch.Tensor) -> torch.Tensor:
    """Return the keys and values [n, K, 2 * inner] of a step for `users`; [n, 1, 2 * inner] if there was one beam."""
    keys_values = step.keys_values[layer]
    if keys_values.shape[1] == 1:
        return keys_values[users]
    return keys_values.flatten(0, 1).index_select(0, rows).view(users.stop - users.start, -1, keys_values.shape[2])
