"""A decoder-only transformer in plain torch, laid out as transformers' Llama: RMS norm, rotary positions, SwiGLU.

H. Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", arXiv 2302.13971; rotary positions: J. Su et
al., arXiv 2104.09864; SwiGLU: N. Shazeer, arXiv 2002.05202. Histories lie on the left, so that nothing before a
position is padding and a causal mask is all that attention needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.nn.dropout import Dropout
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.packing import Packed, Packing, taken
from recbole_sid.util import hardware


@dataclass(frozen=True)
class CausalSizes:
    """Sizes of a causal transformer; attention itself has no dropout, as in Llama.

    Raises:
        InputError: if the heads do not divide d_model into even widths, which rotary positions need.
    """

    vocabulary: int
    d_model: int = 96
    d_ff: int = 256
    n_heads: int = 4
    n_layers: int = 3
    dropout: float = 0.2
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        if self.d_model % (2 * self.n_heads):
            raise InputError(
                f"d_model={self.d_model} must be a multiple of twice n_heads={self.n_heads}, as rotary positions turn "
                "pairs."
            )


class Rotation(NamedTuple):
    """Cosines and sines [n, 1, d_model / n_heads] by which rotary positions turn queries and keys."""

    cos: torch.Tensor
    sin: torch.Tensor

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        """Return queries or keys x [..., n, heads, width] turned by their positions."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin


class KeysValues(NamedTuple):
    """Keys and values of one layer, each [B, heads, S, width]."""

    keys: torch.Tensor
    values: torch.Tensor


# Queries, keys and values to the context, all [..., heads, width].
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class CausalBlock(nn.Module):
    """Self-attention and SwiGLU feed-forward without biases, each x + dropout(f(norm(x)))."""

    def __init__(self, sizes: CausalSizes) -> None:
        super().__init__()
        d_model = sizes.d_model
        self.attention_norm = nn.RMSNorm(d_model, eps=1e-6)
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.feed_forward_norm = nn.RMSNorm(d_model, eps=1e-6)
        self.gate_up = nn.Linear(d_model, 2 * sizes.d_ff, bias=False)
        self.down = nn.Linear(sizes.d_ff, d_model, bias=False)
        self.dropout = Dropout(sizes.dropout)
        self.n_heads = sizes.n_heads

    def forward(self, x: torch.Tensor, rotation: Rotation, attend: Attend) -> torch.Tensor:
        """Return [..., d] of x [..., d], whose positions `rotation` turns and whose rows `attend` joins."""
        q, k, v = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.n_heads, -1)).unbind(-3)
        context = attend(rotation.turn(q), rotation.turn(k), v)
        x = x + self.dropout(self.output(context.flatten(-2)))
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up))


class CausalTransformer(HistoryEncoder):
    """Tokens to states, each of which knows the tokens up to its own."""

    skips_padding = static_shapes = causal = True

    def __init__(self, sizes: CausalSizes, eos: int) -> None:
        super().__init__()
        self.sizes, self.eos = sizes, eos
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.d_model)
        self.blocks = nn.ModuleList(CausalBlock(sizes) for _ in range(sizes.n_layers))
        self.norm = nn.RMSNorm(sizes.d_model, eps=1e-6)
        self.dropout = Dropout(sizes.dropout)
        _initialise(self)

    @property
    def typed_blocks(self) -> list[CausalBlock]:
        """The blocks, under their own type."""
        return cast("list[CausalBlock]", list(self.blocks))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return states [B, S, d] of serialised histories int64 [B, S], padded on the right; `mask` is not needed.

        The model never reads end-of-sequence: its place repeats the state before, which is what predicts the next item.
        """
        return self.repeated_at_end(self.hidden(tokens), tokens)

    def repeated_at_end(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return states [..., S, d] with those of end-of-sequence in tokens int64 [..., S] set to the ones before."""
        return torch.where((tokens == self.eos).unsqueeze(-1), states.roll(1, dims=-2), states)

    def hidden(self, tokens: torch.Tensor, kept: list[KeysValues] | None = None) -> torch.Tensor:
        """Return states [B, S, d] of tokens int64 [B, S]; append each layer's keys and values to `kept`."""

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = (part.transpose(-2, -3) for part in (q, k, v))
            if kept is not None:
                kept.append(KeysValues(k, v))
            context = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return context.transpose(-2, -3)

        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self._run(tokens, positions, attend)

    def packed(self, tokens: torch.Tensor, mask: torch.Tensor) -> Packed:
        """Return `forward` at the valid positions, without work on padding; meant for inference on the CPU.

        Args:
            tokens: int64 [B, S].
            mask: bool [B, S], each row True first and False after.
        """
        states, packing = self.hidden_packed(tokens, mask)
        # A history's rows are neighbours, in order: before its end-of-sequence comes its last code.
        return Packed(self.repeated_at_end(states, tokens.flatten()[packing.index]), packing)

    def hidden_packed(self, tokens: torch.Tensor, mask: torch.Tensor, kept: list[KeysValues] | None = None) -> Packed:
        """Return `hidden` where mask bool [B, S] is True; keys and values that are kept are zero elsewhere."""
        packing = Packing.of(mask)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if kept is not None:
                kept.append(KeysValues(*(_by_history(part, packing) for part in (k, v))))
            contexts = []
            for _, rows, length in packing.groups:
                queries, keys, values = (part[rows].unflatten(0, (-1, length)).transpose(-2, -3) for part in (q, k, v))
                context = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
                contexts.append(context.transpose(-2, -3).flatten(0, 1))
            return torch.cat(contexts)

        own = tokens.flatten()[packing.index]
        return Packed(self._run(own, packing.index % tokens.shape[1], attend), packing)

    def rotation(self, positions: torch.Tensor) -> Rotation:
        """Return the rotation of positions int64 [...]: each part [..., 1, width]."""
        width = self.sizes.d_model // self.sizes.n_heads
        turns = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
        angle = (
            (positions.unsqueeze(-1) * self.sizes.rotary_base**-turns).repeat(*[1] * positions.dim(), 2).unsqueeze(-2)
        )
        dtype = self.embedding.weight.dtype
        return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))

    def _run(self, tokens: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        x = self.dropout(self.embedding(tokens))
        rotation = self.rotation(positions)
        for block in self.typed_blocks:
            x = block(x, rotation, attend)
        return self.dropout(self.norm(x))


class CausalCache:
    """A batch of histories that beams continue, one code at a time.

    Keys and values of a history exist once per user and are shared by the beams; a beam carries those of its own codes.

    Args:
        transformer: in eval mode.
        tokens: serialised histories int64 [B, S], padded on the right.
        mask: bool [B, S], which of them are no padding.
    """

    def __init__(self, transformer: CausalTransformer, tokens: torch.Tensor, mask: torch.Tensor) -> None:
        self.transformer = transformer
        self.history: list[KeysValues] = []
        self.n_read = mask.sum(1) - 1  # all but end-of-sequence, int64 [B]
        tokens = tokens[:, :-1]
        read = torch.arange(tokens.shape[1], device=tokens.device) < self.n_read.unsqueeze(1)
        if hardware.on_cpu(tokens):
            states = transformer.hidden_packed(tokens, read, self.history).padded()
        else:
            states = transformer.hidden(tokens, self.history)
        self.last = taken(states, (self.n_read - 1).unsqueeze(1))
        self.bias = torch.zeros_like(read, dtype=states.dtype).masked_fill_(~read, -torch.inf)[:, None, None]

    def start(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the state [B, 1, d] that predicts the next item's first code, and its beams' path of no codes.

        A path is [layers, B, K, n, 2, heads, width], the keys and values of the n codes of each beam.
        """
        keys, _ = self.history[0]
        n_users, n_heads, _, width = keys.shape
        return self.last, keys.new_empty(len(self.history), n_users, 1, 0, 2, n_heads, width)

    def step(
        self, embedded: torch.Tensor, path: torch.Tensor, parents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one more code a beam.

        Args:
            embedded: [B, K, d], the embedded codes.
            path: of K' beams, from `start` or an earlier step.
            parents: int64 [B, K], which of the K' beams each beam continues.

        Returns:
            states [B, K, d], and the path of the K beams.
        """
        n_read = path.shape[3]
        rotation = self.transformer.rotation(self.n_read.unsqueeze(1) + n_read)
        first = torch.arange(len(parents), device=parents.device).unsqueeze(1) * path.shape[2]
        before = path.flatten(1, 2)[:, (parents + first).flatten()].unflatten(1, parents.shape)
        steps = []
        x = embedded
        for layer, block in enumerate(self.transformer.typed_blocks):

            def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int = layer) -> torch.Tensor:
                own = torch.cat([before[layer], torch.stack([k, v], dim=2).unsqueeze(2)], dim=2)
                steps.append(own)
                return self._attend(layer, q, *own.unbind(3))

            x = block(x, rotation, attend)
        return self.transformer.norm(x), torch.stack(steps)

    def _attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the context of q [B, K, heads, width] over the history and its own k, v [B, K, n, heads, width]."""
        keys, values = self.history[layer]
        q = q.transpose(1, 2) * q.shape[-1] ** -0.5  # [B, heads, K, width]
        k, v = (part.permute(0, 3, 1, 2, 4) for part in (k, v))  # [B, heads, K, n, width]
        of_history = q @ keys.transpose(-1, -2) + self.bias
        of_own = (k @ q.unsqueeze(-1)).squeeze(-1)
        n_history = of_history.shape[-1]
        weights = torch.cat([of_history, of_own], dim=-1).softmax(-1)
        context = weights[..., :n_history] @ values + (weights[..., n_history:].unsqueeze(-2) @ v).squeeze(-2)
        return context.transpose(1, 2)


def _by_history(rows: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Return [B, heads, S, width] of packed rows [N, heads, width], zero where none is."""
    return Packed(rows.flatten(1), packing).padded().unflatten(-1, rows.shape[1:]).transpose(1, 2).contiguous()


def _initialise(transformer: CausalTransformer) -> None:
    """Draw embeddings from N(0, 1), as T5 does, and weights so that layers keep the scale of what they are given.

    What is added to the residual stream is smaller by the root of how often, as in GPT-2.
    """
    nn.init.normal_(transformer.embedding.weight)
    shrink = (2 * transformer.sizes.n_layers) ** -0.5
    for block in transformer.typed_blocks:
        for linear in (block.query_key_value, block.gate_up):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        for linear in (block.output, block.down):
            nn.init.normal_(linear.weight, std=shrink * linear.in_features**-0.5)
