"""What students and the hybrid minimise."""

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


def sampled_cross_entropy(
    query: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, drawn: torch.Tensor, log_drawn: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross entropy of logits ``query @ table.T`` whose normaliser is estimated from drawn rows.

    A row that was drawn counts one over how often it was to be expected, so that the normaliser has the right mean.

    Args:
        query: [B, d].
        table: [n, d].
        targets: int64 [B].
        drawn: int64 [k], rows, with replacement; where one is a target, it does not count for that one.
        log_drawn: [k], the logarithm of how often each is expected among the k.
    """
    own = (query * table[targets]).sum(1, keepdim=True)
    others = query @ table[drawn].T - log_drawn
    others = others.masked_fill(drawn == targets.unsqueeze(1), -torch.inf)
    return (torch.cat([own, others], dim=1).logsumexp(1) - own.squeeze(1)).mean()


def state_error(states: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error between states [B, S, d] where mask bool [B, S] is True."""
    difference = (states - target).float()
    if hardware.on_cpu(mask):
        return difference[mask].square().mean()
    # How many states there are is not known to the host.
    squares = difference.square().masked_fill(~mask.unsqueeze(-1), 0.0)
    return squares.sum() / (mask.sum() * states.shape[-1])
