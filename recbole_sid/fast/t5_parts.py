"""What the inference forms of both T5 stacks are made of: folded weights, products into reused buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from recbole_sid.nn.packing import EqualLengths
from recbole_sid.util import hardware

if TYPE_CHECKING:
    from recbole_sid.fast.t5 import DecoderForm, EncoderForm
    from recbole_sid.nn.t5 import Attention, FeedForward, RMSNorm

# Rows per chunk: the widest buffer (1,152 floats a row at TIGER's sizes) then takes 2.4 MB, however large the batch.
CPU_CHUNK_ROWS = 512


class FeedForwardWeights(NamedTuple):
    """[d, d_ff] with the norm's gain, and [d_ff, d]."""

    wi: torch.Tensor
    wo: torch.Tensor

    @classmethod
    def of(cls, norm: RMSNorm, module: FeedForward, dtype: torch.dtype) -> FeedForwardWeights:
        """Return the weights of a feed-forward and the norm before it."""
        return cls(folded(norm, [module.wi], dtype), transposed(module.wo, dtype))

    def add_to(self, x: torch.Tensor, normed: torch.Tensor, buffer: torch.Tensor) -> None:
        """Add the feed-forward of `normed` [n, d] to x [n, d]; `buffer` holds at least n * d_ff values."""
        hidden = torch.mm(normed, self.wi, out=view(buffer, len(x), self.wi.shape[1])).relu_()
        add_product(x, hidden, self.wo)


class Buffers(NamedTuple):
    """Room for the normalised rows [rows, d] and for the widest product, flat."""

    normed: torch.Tensor
    wide: torch.Tensor

    @classmethod
    def of(cls, form: EncoderForm | DecoderForm, n_rows: int) -> Buffers:
        """Return room for `n_rows` rows of a form."""
        width = max(layer.feed_forward.wi.shape[1] for layer in form.layers)
        width = max(width, 3 * form.layers[0].output.shape[0])
        normed = torch.empty(n_rows, len(form.final_gain), dtype=form.dtype, device=form.final_gain.device)
        return cls(normed, normed.new_empty(n_rows * width))


def chunk_rows(device: torch.device) -> int:
    """Return how many rows to work on at a time: on a CPU few, for the memory's sake; elsewhere all."""
    return CPU_CHUNK_ROWS if hardware.on_cpu(device) else 2**62


def n_rows(chunk: list[EqualLengths]) -> int:
    """Return how many packed rows a chunk has."""
    return chunk[-1].rows.stop - chunk[0].rows.start


def view(buffer: torch.Tensor, n_rows: int, width: int) -> torch.Tensor:
    """Return the beginning of a flat buffer as [n_rows, width]."""
    return buffer[: n_rows * width].view(n_rows, width)


def unit_rows(x: torch.Tensor, eps: float, out: torch.Tensor) -> torch.Tensor:
    """Write x [n, d] times (|x|^2 + eps)^-0.5 into `out`: the RMS norm but for a factor d^0.5, which weights carry."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().add_(eps).rsqrt_()
    return torch.mul(x, scale, out=out)


def add_product(x: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor) -> None:
    """Add rows [n, m] times weight [m, d] to x float32 [n, d]."""
    if rows.dtype == x.dtype:
        x.addmm_(rows, weight)
    else:
        x.add_(rows @ weight)


@contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """Switch off gradients, and autocast, which would mix dtypes into products with `out`."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def folded(norm: RMSNorm, linears: list[nn.Linear], dtype: torch.dtype) -> torch.Tensor:
    """Return the weights of products of normed rows side by side [d, sum of widths], the norm's gain within."""
    weight = torch.cat([linear.weight for linear in linears]).float() * gain(norm)
    return weight.t().to(dtype).contiguous()


def gain(norm: RMSNorm) -> torch.Tensor:
    """Return the gain [d] of a norm by `unit_rows`."""
    return norm.weight.detach().float() * len(norm.weight) ** 0.5


def eps(norm: RMSNorm) -> float:
    """Return what `unit_rows` takes for the norm's eps."""
    return norm.eps * len(norm.weight)


def transposed(linear: nn.Linear, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight as [inputs, outputs]."""
    return linear.weight.detach().t().to(dtype).contiguous()


def key_value(attention: Attention, dtype: torch.dtype) -> torch.Tensor:
    """Return the weights of keys and values side by side [d, 2 * inner]."""
    return torch.cat([attention.k.weight, attention.v.weight]).t().to(dtype).contiguous()
