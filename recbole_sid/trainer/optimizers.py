"""Optimizers that are one kernel, and states that go on in optimizers of another kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

# Those of RecBole's learners that torch has in one kernel, and for which that pays: many small weights.
_FUSED: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
DEVICES = ("cpu", "cuda")  # that have such kernels
# How an optimizer computes, not what.
_FORMS = ("fused", "foreach", "capturable", "differentiable")


def fused_optimizer(
    learner: str, parameters: Iterable[Any], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer | None:
    """Return RecBole's optimizer of that name in its fused form; None if it has none.

    Args:
        learner: in any case.
        parameters: tensors, or groups of them.
        learning_rate, weight_decay: as RecBole passes them.
    """
    kind = _FUSED.get(learner.lower())
    if kind is None:
        return None
    return kind(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)  # type: ignore[call-arg]


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Set what `state_dict` of an optimizer of the same kind returned, perhaps on another device: the form stays."""
    own = [{key: group[key] for key in _FORMS if key in group} for group in optimizer.param_groups]
    groups = [{**group, **forms} for group, forms in zip(state["param_groups"], own, strict=False)]
    optimizer.load_state_dict({**state, "param_groups": groups})
