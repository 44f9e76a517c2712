"""Inference forms of modules (fused weights, tables), built once and never stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

Form = TypeVar("Form")


class Marks(NamedTuple):
    """What tells the weights of a module from those of before.

    Torch counts what is done in place (optimizer steps, `load_state_dict`) in `versions`; `to`, `half` and assignment
    move a weight to another address, and it stays another one for as long as the first storage is kept.
    """

    addresses: list[int]
    versions: list[int]
    dtypes: list[torch.dtype]


class Seen:
    """The weights of a module and of all inside of it, as one walk finds them.

    Attributes:
        weights: depth first; shared ones at each of their places.
        marks: of these weights.
        are_counted: False if some were made in inference mode, where torch counts nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        self.weights: list[torch.Tensor] = []
        self._places: dict[int, slice] = {}
        self._add(module)
        self.are_counted = True
        try:
            versions = [weight._version for weight in self.weights]
        except RuntimeError:
            versions, self.are_counted = [0] * len(self.weights), False
        dtypes = [weight.dtype for weight in self.weights]
        self.marks = Marks([weight.data_ptr() for weight in self.weights], versions, dtypes)

    def __contains__(self, module: nn.Module) -> bool:
        return id(module) in self._places

    def marks_of(self, module: nn.Module) -> Marks:
        """Return the marks of a module that was seen."""
        place = self._places[id(module)]
        return Marks(self.marks.addresses[place], self.marks.versions[place], self.marks.dtypes[place])

    def storages_of(self, module: nn.Module) -> list[torch.UntypedStorage]:
        """Return the storages of the weights of a module that was seen."""
        return [weight.untyped_storage() for weight in self.weights[self._places[id(module)]]]

    def _add(self, module: nn.Module) -> None:
        # As module.parameters(), several times faster: it runs at every request.
        start = len(self.weights)
        for weight in module._parameters.values():
            if weight is not None:
                self.weights.append(weight)
        for child in module._modules.values():
            if child is not None:
                self._add(child)
        self._places[id(module)] = slice(start, len(self.weights))


def _count_fused_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    # Torch's fused optimizers write weights without counting it.
    for group in optimizer.param_groups:
        if group.get("fused"):
            increment_version(group["params"])


register_optimizer_step_post_hook(_count_fused_step)

_seen: ContextVar[Seen | None] = ContextVar("seen", default=None)


@contextmanager
def weights_unchanged(model: nn.Module) -> Iterator[None]:
    """Say that nothing writes the weights of `model` within: they are looked at once, for all its forms."""
    seen = _seen.get()
    if seen is not None and model in seen:
        yield
        return
    before = _seen.set(Seen(model))
    try:
        yield
    finally:
        _seen.reset(before)


class _Kept(NamedTuple):
    """A form with what it was built from."""

    form: Any
    marks: Marks
    storages: list[torch.UntypedStorage]
    seen: Seen | None


class Prepared(nn.Module, Generic[Form]):
    """Builds a form of a module's weights on first use, and again after any of them changed.

    A change is seen by `Marks`. What writes through ``.data`` escapes them; since that is a way of training, a switch
    of the module to training mode makes the form anew, which is why this is a module too: it is switched with its
    owner. In training mode, and of weights that torch does not count, no form is kept beyond `weights_unchanged`.

    Args:
        build: makes the form of a module; called without gradients.
    """

    def __init__(self, build: Callable[[Any], Form]) -> None:
        super().__init__()
        self._build = build
        self.forget()

    def forget(self) -> None:
        """Build anew on the next use."""
        self._kept: _Kept | None = None

    def train(self, mode: bool = True) -> Prepared[Form]:
        """Forget the form if training begins."""
        if mode:
            self.forget()
        return super().train(mode)

    def get(self, module: nn.Module) -> Form:
        """Return the form of the weights of `module` as they are now."""
        seen = _seen.get()
        if seen is None or module not in seen:
            seen = Seen(module)
        lasting, kept, marks = seen.are_counted and not self.training, self._kept, seen.marks_of(module)
        if kept is None or kept.marks != marks or not (lasting or kept.seen is seen):
            with torch.inference_mode(False), torch.no_grad():  # forms outlive the caller's mode
                form = self._build(module)
            kept = self._kept = _Kept(form, marks, seen.storages_of(module), None if lasting else seen)
        return kept.form

    def __reduce__(self) -> tuple[Any, ...]:
        return Prepared, (self._build,), {"training": self.training}
