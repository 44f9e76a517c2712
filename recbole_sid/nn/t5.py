"""T5 encoder and decoder in plain torch, equal to transformers' T5ForConditionalGeneration with the same weights.

C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020.
Pre-norm blocks, RMS norm without bias, no attention scaling, relative position bias of the first layer shared by all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.fast.prepared import Form, Prepared
from recbole_sid.fast.t5 import DecoderForm, EncoderForm
from recbole_sid.fast.t5 import T5DecoderCache as T5DecoderCache
from recbole_sid.nn.dropout import Dropout
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.packing import Packed
from recbole_sid.util import hardware


@dataclass(frozen=True)
class T5Sizes:
    """Sizes of a T5; the defaults are TIGER's.

    Attributes:
        causal_encoder: each position of the encoder sees those up to its own; T5's sees all.
    """

    vocabulary: int
    d_model: int = 128
    d_ff: int = 1024
    n_heads: int = 6
    d_kv: int = 64
    encoder_layers: int = 4
    decoder_layers: int = 4
    dropout: float = 0.1
    n_buckets: int = 32
    max_distance: int = 128
    causal_encoder: bool = False


class RMSNorm(nn.Module):
    """Scale by the root mean square, without mean or bias."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x * scale).to(self.weight.dtype)


class RelativeBias(nn.Module):
    """Learned bias per head and bucketed distance; distances beyond max_distance share the last bucket."""

    def __init__(self, sizes: T5Sizes, bidirectional: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.n_buckets, sizes.n_heads)
        self.bidirectional = bidirectional
        self.max_distance = sizes.max_distance

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return the bias [1, heads, n_queries, n_keys] for positions queries [n_queries] and keys [n_keys]."""
        bucket = self._bucket(keys.unsqueeze(0) - queries.unsqueeze(1))
        return self.embedding(bucket).permute(2, 0, 1).unsqueeze(0)

    def among(self, length: int) -> torch.Tensor:
        """Return the bias [1, heads, length, length] of a sequence: -inf at what is later, unless bidirectional."""
        positions = torch.arange(length, device=self.embedding.weight.device)
        bias = self(positions, positions)
        if self.bidirectional:
            return bias
        return bias.masked_fill(positions.unsqueeze(0) > positions.unsqueeze(1), -torch.inf)

    def _bucket(self, distance: torch.Tensor) -> torch.Tensor:
        n_buckets = self.embedding.num_embeddings
        bucket = torch.zeros_like(distance)
        if self.bidirectional:
            n_buckets //= 2
            bucket = (distance > 0).long() * n_buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = n_buckets // 2
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = exact + (ratio * (n_buckets - exact)).long()
        return bucket + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


class Attention(nn.Module):
    """Multi-head attention without biases or scaling."""

    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        inner = sizes.n_heads * sizes.d_kv
        self.q = nn.Linear(sizes.d_model, inner, bias=False)
        self.k = nn.Linear(sizes.d_model, inner, bias=False)
        self.v = nn.Linear(sizes.d_model, inner, bias=False)
        self.o = nn.Linear(inner, sizes.d_model, bias=False)
        self.n_heads = sizes.n_heads
        self.dropout = Dropout(sizes.dropout)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., n, inner] as [..., heads, n, d_kv]."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the output projection of attention: q, k, v [..., heads, n, d_kv], bias broadcast over them."""
        dropout = self.dropout.p if self.training else 0.0
        if dropout and hardware.on_cpu(q):  # torch's own has no fused form there and is slower
            weights = (q @ k.transpose(-1, -2) + bias).float().softmax(-1).to(v.dtype)
            context = self.dropout(weights) @ v
        else:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout, scale=1.0)
        return self.o(context.transpose(-2, -3).flatten(-2))

    def forward(self, x: torch.Tensor, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attend from x [B, n, d] to states [B, m, d] with bias [B or 1, heads or 1, n or 1, m]."""
        return self.attend(self.split(self.q(x)), *self.keys_values(states), bias)

    def keys_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [..., heads, m, d_kv] of states [..., m, d]."""
        return self.split(self.k(states)), self.split(self.v(states))


class FeedForward(nn.Module):
    """ReLU feed-forward without biases."""

    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        self.wi = nn.Linear(sizes.d_model, sizes.d_ff, bias=False)
        self.wo = nn.Linear(sizes.d_ff, sizes.d_model, bias=False)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wo(self.dropout(F.relu(self.wi(x))))


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each x + dropout(f(norm(x)))."""

    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(sizes.d_model), Attention(sizes)
        self.feed_forward_norm, self.feed_forward = RMSNorm(sizes.d_model), FeedForward(sizes)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


# A block's cross-attention and its normed rows to what it reads in the history.
Cross = Callable[[Attention, torch.Tensor], torch.Tensor]


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and feed-forward."""

    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(sizes.d_model), Attention(sizes)
        self.cross_norm, self.cross = RMSNorm(sizes.d_model), Attention(sizes)
        self.feed_forward_norm, self.feed_forward = RMSNorm(sizes.d_model), FeedForward(sizes)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, cross: Cross) -> torch.Tensor:
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, bias))
        x = x + self.dropout(cross(self.cross, self.cross_norm(x)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class HasInferenceForm(nn.Module, Generic[Form]):
    """A module with an inference form (see `Prepared`), which is no part of its state.

    Args:
        build: makes the form of this module.
    """

    def __init__(self, build: Callable[[Any], Form]) -> None:
        super().__init__()
        self._prepared: Prepared[Form] = Prepared(build)
        self._inference_dtype = torch.float32

    @property
    def inference_dtype(self) -> torch.dtype:
        """Dtype of the products of the inference form: float32 or bfloat16; the rest of it is float32."""
        return self._inference_dtype

    @inference_dtype.setter
    def inference_dtype(self, dtype: torch.dtype) -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise InputError(f"Inference in {dtype} is not possible: choose torch.float32 or torch.bfloat16.")
        if dtype != self._inference_dtype:
            self._prepared.forget()
        self._inference_dtype = dtype

    def inference_form(self) -> Form:
        """Return the inference form of the weights as they are now."""
        return self._prepared.get(self)


class T5Encoder(HasInferenceForm[EncoderForm], HistoryEncoder):
    """Tokens to states. Holds the token embedding, which the decoder and the output layer share.

    Args:
        sizes: sizes of the model.
    """

    skips_padding = static_shapes = True

    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__(EncoderForm)
        self.causal = sizes.causal_encoder
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.d_model)
        self.relative_bias = RelativeBias(sizes, bidirectional=not sizes.causal_encoder)
        self.blocks = nn.ModuleList(EncoderBlock(sizes) for _ in range(sizes.encoder_layers))
        self.norm = RMSNorm(sizes.d_model)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return states [B, S, d] of tokens int64 [B, S]; positions where mask bool [B, S] is False are not seen."""
        return self.encoded(tokens, self.relative_bias.among(tokens.shape[1]) + mask_bias(mask))

    def encoded(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return states [B, S, d] of tokens int64 [B, S] that see each other by bias [B or 1, heads, S, S]."""
        x = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, bias)
        return self.dropout(self.norm(x))

    @property
    def typed_blocks(self) -> list[EncoderBlock]:
        """The blocks, under their own type."""
        return cast("list[EncoderBlock]", list(self.blocks))

    def packed(self, tokens: torch.Tensor, mask: torch.Tensor) -> Packed:
        """Return `forward` at the valid positions, without dropout, gradients or work on padding.

        Meant for the CPU: elsewhere the loop over lengths costs more than padding.

        Args:
            tokens: int64 [B, S].
            mask: bool [B, S], each row True first and False after.

        Returns:
            float32 states [N, d] of the valid positions, and where they belong.
        """
        return self.inference_form()(tokens, mask)


class T5Decoder(HasInferenceForm[DecoderForm]):
    """Embedded target tokens and encoder states to decoder states."""

    def __init__(self, sizes: T5Sizes) -> None:
        super().__init__(DecoderForm)
        self.relative_bias = RelativeBias(sizes, bidirectional=False)
        self.blocks = nn.ModuleList(DecoderBlock(sizes) for _ in range(sizes.decoder_layers))
        self.norm = RMSNorm(sizes.d_model)
        self.dropout = Dropout(sizes.dropout)

    @property
    def typed_blocks(self) -> list[DecoderBlock]:
        """The blocks, under their own type."""
        return cast("list[DecoderBlock]", list(self.blocks))

    def forward(self, embedded: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return [B, n, d] for embedded targets [B, n, d], states [B, S, d] and their mask bool [B, S]."""
        cross_bias = mask_bias(mask)
        return self.decoded(embedded, lambda cross, x: cross(x, states, cross_bias))

    def decoded(self, embedded: torch.Tensor, cross: Cross) -> torch.Tensor:
        """Return [..., n, d] for embedded targets [..., n, d] that read what `cross` gives them."""
        x = self.dropout(embedded)
        bias = self.relative_bias.among(x.shape[-2])
        for block in self.blocks:
            x = block(x, bias, cross)
        return self.dropout(self.norm(x))


def mask_bias(mask: torch.Tensor) -> torch.Tensor:
    """Return an additive attention bias: 0 where mask bool [B, S] is True, -inf elsewhere.

    Shape [B, 1, 1, S], or [1, 1, 1, S] where nothing is masked on a CPU: then no bias per row is formed. Elsewhere
    the host would have to wait to know.
    """
    if hardware.on_cpu(mask) and mask.all():
        return torch.zeros(1, 1, 1, mask.shape[1], device=mask.device)
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)[:, None, None, :]


def initialise(module: nn.Module, sizes: T5Sizes) -> None:
    """Initialise weights as transformers does for T5 (factor 1): scaled normals."""
    for child in module.modules():
        if isinstance(child, T5Encoder):
            nn.init.normal_(child.embedding.weight)
        elif isinstance(child, RelativeBias):
            nn.init.normal_(child.embedding.weight, std=sizes.d_model**-0.5)
        elif isinstance(child, Attention):
            nn.init.normal_(child.q.weight, std=(sizes.d_model * sizes.d_kv) ** -0.5)
            nn.init.normal_(child.k.weight, std=sizes.d_model**-0.5)
            nn.init.normal_(child.v.weight, std=sizes.d_model**-0.5)
            nn.init.normal_(child.o.weight, std=(sizes.n_heads * sizes.d_kv) ** -0.5)
        elif isinstance(child, FeedForward):
            nn.init.normal_(child.wi.weight, std=sizes.d_model**-0.5)
            nn.init.normal_(child.wo.weight, std=sizes.d_ff**-0.5)


# Our name -> transformers' name, for parameters below ``encoder.`` and ``decoder.``.
_TRANSFORMERS_NAMES = (
    (r"^encoder\.embedding\.", "shared."),
    (r"^(encoder|decoder)\.relative_bias\.embedding\.", r"\1.block.0.layer.0.SelfAttention.relative_attention_bias."),
    (r"^(encoder|decoder)\.norm\.", r"\1.final_layer_norm."),
    (r"^(encoder|decoder)\.blocks\.(\d+)\.attention_norm\.", r"\1.block.\2.layer.0.layer_norm."),
    (r"^(encoder|decoder)\.blocks\.(\d+)\.attention\.", r"\1.block.\2.layer.0.SelfAttention."),
    (r"^decoder\.blocks\.(\d+)\.cross_norm\.", r"decoder.block.\1.layer.1.layer_norm."),
    (r"^decoder\.blocks\.(\d+)\.cross\.", r"decoder.block.\1.layer.1.EncDecAttention."),
    (r"^encoder\.blocks\.(\d+)\.feed_forward_norm\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^encoder\.blocks\.(\d+)\.feed_forward\.", r"encoder.block.\1.layer.1.DenseReluDense."),
    (r"^decoder\.blocks\.(\d+)\.feed_forward_norm\.", r"decoder.block.\1.layer.2.layer_norm."),
    (r"^decoder\.blocks\.(\d+)\.feed_forward\.", r"decoder.block.\1.layer.2.DenseReluDense."),
)


def transformers_name(name: str) -> str:
    """Return transformers' T5 name of our parameter `name` (``encoder...`` or ``decoder...``)."""
    for pattern, replacement in _TRANSFORMERS_NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    raise KeyError(name)


def to_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `state` under transformers' names, with its copies of the tied embedding."""
    renamed = {transformers_name(name): value for name, value in state.items()}
    for tied in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        renamed[tied] = renamed["shared.weight"]
    return renamed


def from_transformers(state: Mapping[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """Return transformers' `state` under our `names`.

    Raises:
        KeyError: if a weight is missing.
    """
    return {name: state[transformers_name(name)] for name in names}
