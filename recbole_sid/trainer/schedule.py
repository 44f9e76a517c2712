"""Learning-rate schedules, one value per training step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

SHAPES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
}


def learning_rate_schedule(optimizer: Optimizer, name: str, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Rise linearly over `warmup_steps`, then follow `name` (constant, linear, cosine) to `total_steps`."""
    shape = SHAPES[name]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return shape(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)
