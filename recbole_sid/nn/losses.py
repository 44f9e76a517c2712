"""What students minimise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from recbole_sid.util import hardware


def distillation_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    codes: torch.Tensor,
    alpha: float,
    temperature: float,
) -> torch.Tensor:
    """Return ``alpha T^2 KL(teacher || student) + (1 - alpha) CE``, a mean over rows, summed over levels.

    Args:
        student: logits [B, size] of each level, given the true codes before it; KL and CE are computed in float32.
        teacher: likewise, without gradients.
        codes: the true codes int64 [B, L].
        alpha: share of the teacher, 0..1.
        temperature: T, by which logits are divided in KL.
    """
    loss = student[0].new_zeros(())
    for level, (own, taught) in enumerate(zip(student, teacher, strict=True)):
        divergence = F.kl_div(
            (own.float() / temperature).log_softmax(-1),
            (taught.float() / temperature).log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
        cross_entropy = F.cross_entropy(own.float(), codes[:, level])
        loss = loss + alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy
    return loss


def state_error(states: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error between states [B, S, d] where mask bool [B, S] is True."""
    difference = (states - target).float()
    if hardware.on_cpu(mask):
        return difference[mask].square().mean()
    # How many states there are is not known to the host.
    squares = difference.square().masked_fill(~mask.unsqueeze(-1), 0.0)
    return squares.sum() / (mask.sum() * states.shape[-1])
