"""Dropout from 16 random bits an element: on a CPU several times faster than torch's, which draws 64 for each."""

from __future__ import annotations

import torch
from torch import nn

from recbole_sid.util import hardware

_STEPS = 1 << 16


class Dropout(nn.Dropout):
    """torch's Dropout, with its rate rounded to a multiple of 2^-16 on the CPU; the mean is kept exactly.

    Draws from torch's global generator, as torch's does, but other numbers.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [...] with elements set to zero at the rate p and the others scaled by 1 / (1 - p)."""
        dropped = round(self.p * _STEPS)
        if not self.training or not hardware.on_cpu(x) or not 0 < dropped < _STEPS:
            return super().forward(x)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= dropped - _STEPS // 2
        return x * kept.to(x.dtype).mul_(_STEPS / (_STEPS - dropped))
