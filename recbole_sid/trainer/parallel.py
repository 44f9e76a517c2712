"""Training by the processes of a group: torch's DistributedDataParallel sums the gradients of their shares."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from recbole.utils import init_seed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recbole_sid import compat  # noqa: F401 - patches RecBole
from recbole_sid.distributed.group import Group

Loss = Callable[..., torch.Tensor]


class ParallelLoss:
    """A model's loss of a process's share of a batch; gradients are means over the group as soon as they are known.

    The weights of the main process are copied to all. Weights that no process used have no gradient, as alone.

    Args:
        loss: of the model, from a batch and what else it is given.
        model: whose weights that require gradients now are trained.
    """

    def __init__(self, loss: Loss, model: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._wrapped = DistributedDataParallel(
                _LossModule(loss, model), broadcast_buffers=False, find_unused_parameters=True
            )

    def __call__(self, interaction: Any, *given: Any) -> torch.Tensor:
        loss: torch.Tensor = self._wrapped(interaction, *given)
        return loss

    def kept_back(self) -> AbstractContextManager[None]:
        """Let gradients stay each process's own, until those of a later batch are added and all go together."""
        return self._wrapped.no_sync()


class _LossModule(nn.Module):
    """What DistributedDataParallel wraps: a module whose `forward` is the loss."""

    def __init__(self, loss: Loss, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._loss = (loss,)  # in a tuple: it may be the model, which is registered already

    def forward(self, *given: Any) -> torch.Tensor:
        return self._loss[0](*given)


def seed_apart(group: Group, seed: int, reproducible: bool, epoch: int = 0) -> None:
    """Let the processes draw other random numbers from now on, such as those of dropout; the main one goes on as alone.

    Args:
        seed: of the run.
        epoch: that begins: processes that are new in it draw none that others drew in those before.
    """
    if not group.is_main:
        init_seed((seed + group.rank + epoch * group.size * 1_000_003) % 2**32, reproducible)
