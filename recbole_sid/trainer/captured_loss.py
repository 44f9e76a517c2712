"""Loss and gradients of a training batch as one CUDA graph: what bounds the training of small models is launches.

`CapturedLosses` stands where the model is called and returns its loss; what follows (weights of batches, clipping, the
optimizer, other processes) goes on as it does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from recbole_sid.data.batch import Batch
from recbole_sid.fast.captured import Recording

# Shapes of batches that have a graph: a few widths of histories, each with full batches and an epoch's last.
_MOST_GRAPHS = 16

Loss = Callable[..., torch.Tensor]


class CapturedLosses:
    """The losses of a model, as one graph for each shape of its batches that comes for the second time.

    Args:
        loss: from a batch and what else it is given, whose tensors are on the device or not read; by shapes alone.
        weights: that gradients are wanted of.
    """

    def __init__(self, loss: Loss, weights: Sequence[torch.Tensor]) -> None:
        self.loss, self.weights = loss, list(weights)
        self._graphs: dict[Any, _CapturedLoss] = {}
        self._met: set[Any] = set()
        self._pool: Any = None

    def __call__(self, interaction: Any, *given: Any) -> torch.Tensor:
        """Return the loss; its gradients are known already, where it was captured."""
        values, form = tree_flatten((dict(interaction.interaction), given))
        shape = form, tuple(value.shape if isinstance(value, torch.Tensor) else value for value in values)
        if shape not in self._graphs:
            if shape not in self._met or len(self._graphs) >= _MOST_GRAPHS:
                self._met.add(shape)
                return self.loss(interaction, *given)
            if self._pool is None and torch.cuda.is_available():
                self._pool = torch.cuda.graph_pool_handle()
            self._graphs[shape] = _CapturedLoss(self.loss, self.weights, values, form, self._pool)
        found, gradients = self._graphs[shape](values)
        return _Known.apply(found, gradients, *self.weights)


class _CapturedLoss:
    """A loss and its gradients, of batches of one shape."""

    def __init__(self, loss: Loss, weights: list[torch.Tensor], values: list[Any], form: Any, pool: Any) -> None:
        self.values = [value.detach().clone() if isinstance(value, torch.Tensor) else value for value in values]
        fields, given = tree_unflatten(self.values, form)
        batch = Batch(fields)
        device = weights[0].device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

        def learn() -> tuple[torch.Tensor, list[torch.Tensor | None]]:
            # Without autocast's cache: casts made inside a captured graph must not be used outside of it.
            with torch.enable_grad(), torch.autocast(device, low, enabled=low is not None, cache_enabled=False):
                found = loss(batch, *given)
            with torch.autocast(device, enabled=False):
                return found.detach(), list(torch.autograd.grad(found, weights, allow_unused=True))

        self.recording: Recording[tuple[torch.Tensor, list[torch.Tensor | None]]] = Recording(learn, pool)

    def __call__(self, values: Sequence[Any]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Return loss and gradients, which the next call of any graph writes over."""
        for own, value in zip(self.values, values, strict=True):
            if isinstance(own, torch.Tensor):
                own.copy_(value, non_blocking=True)
        return self.recording.replay()


class _Known(torch.autograd.Function):
    """A loss whose gradients are known."""

    @staticmethod
    def forward(
        ctx: Any, loss: torch.Tensor, gradients: list[torch.Tensor | None], *weights: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        known = [own for own in ctx.gradients if own is not None]
        scaled = iter(torch._foreach_mul(known, gradient))
        return None, None, *(None if own is None else next(scaled) for own in ctx.gradients)
