"""What an encoder of histories is: what a teacher hands on to its students, and what a student may have of its own."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext

import torch
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.nn.packing import Packed, Packing, Padded
from recbole_sid.nn.vocabulary import PAD


class HistoryEncoder(nn.Module):
    """Serialised histories to states. A subclass has `forward`, and of the rest what it does better than is done here.

    Attributes:
        skips_padding: `packed` does no work on padding, so that histories of all lengths are best encoded together.
        causal: a state depends on its own token and those before it, so that a longer history begins with the same
            states; the end-of-sequence token's may be anything.
        static_shapes: `forward` asks the device for no values, so that it can be captured in a CUDA graph.
    """

    skips_padding: bool = False
    static_shapes: bool = False
    causal: bool = False

    @abstractmethod
    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return states [B, S', d_model] of tokens int64 [B, S], of which bool [B, S] `mask` are no padding."""

    def state_mask(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return which states of tokens int64 [B, S] are no padding, bool [B, S']: here those of the tokens."""
        return tokens != PAD

    def encode_padded(self, tokens: torch.Tensor) -> Padded:
        """Return the states of `forward` by shapes that do not depend on the data, in float32."""
        low = self.inference_dtype != torch.float32 and not torch.is_grad_enabled()
        # Without autocast's cache: casts made inside a captured graph must not be used outside of it.
        with torch.autocast(tokens.device.type, self.inference_dtype, cache_enabled=False) if low else nullcontext():
            states = self(tokens, tokens != PAD)
        return Padded(states.float() if low else states, self.state_mask(tokens))

    def packed(self, tokens: torch.Tensor, mask: torch.Tensor) -> Packed:
        """Return the states of `forward` that are no padding, for inference on the CPU."""
        packing = Packing.of(self.state_mask(tokens))
        return Packed(self(tokens, mask).flatten(0, 1)[packing.index], packing)

    @property
    def inference_dtype(self) -> torch.dtype:
        """Dtype of the products that inference computes."""
        return torch.float32

    @inference_dtype.setter
    def inference_dtype(self, dtype: torch.dtype) -> None:
        if dtype != torch.float32:
            raise InputError(f"{type(self).__name__} computes in float32 only: leave out encoder_dtype.")
