"""Inference forms of modules (fused weights, tables), built once and never stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Form = TypeVar("Form")


class Prepared(Generic[Form]):
    """Builds a form of a module's weights on first use, and again after any of them changed.

    A change is seen by torch's version counter (optimizer steps, `load_state_dict`, any in-place operation) and by the
    storage that a weight lies in (`to`, `half`, assignment), which is kept alive so that no other weight can take its
    address. What writes through ``.data`` escapes the counter: call `forget`, as modules do in `train`.

    Args:
        build: makes the form of a module; called without gradients.
    """

    def __init__(self, build: Callable[[Any], Form]) -> None:
        self._build = build
        self.forget()

    def forget(self) -> None:
        """Build anew on the next use."""
        self._seen: tuple[Any, ...] | None = None
        self._form: Form | None = None
        self._storages: list[torch.UntypedStorage] = []

    def get(self, module: nn.Module) -> Form:
        """Return the form of the weights of `module` as they are now."""
        weights = list(_weights(module))
        seen = tuple(_mark(weight) for weight in weights)
        if self._form is None or seen != self._seen:
            with torch.inference_mode(False), torch.no_grad():  # forms outlive the caller's mode
                self._form = self._build(module)
            self._seen = seen
            self._storages = [weight.untyped_storage() for weight in weights]
        return self._form

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepared[Form]:
        return Prepared(self._build)

    def __reduce__(self) -> tuple[Any, ...]:
        return Prepared, (self._build,)


def _weights(module: nn.Module) -> Iterator[torch.Tensor]:
    # As module.parameters(), several times faster: it runs at every use.
    for weight in module._parameters.values():
        if weight is not None:
            yield weight
    for child in module._modules.values():
        if child is not None:
            yield from _weights(child)


def _mark(weight: torch.Tensor) -> tuple[Any, ...]:
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.dtype, weight.device
