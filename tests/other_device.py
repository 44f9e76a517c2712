"""A device that is not the CPU, for tests: a GPU, or the CPU taking all the ways that a GPU's work goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from recbole_sid.fast import captured
from recbole_sid.util import hardware

# Parameters of the fixture `other`: tests run on the CPU everywhere, and on a GPU where there is one.
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
    ),
]
# Every kind of model, with the settings that choose other code.
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("TIGER", {}),
    ("TIGER", {"constrained": False}),
    ("CausalSID", {}),
    ("SIDMLP", {}),
    ("SIDMLPPlusPlus", {}),
    ("SIDMLPPlusPlus", {"encoder_positions": "end", "encoder_mixing": "weighted"}),
    ("SIDMLPPlusPlus", {"encoder": "item"}),
    ("SIDMLPPlusPlus", {"encoder": "item", "item_mixing": "attention"}),
    ("SIDMLPHybrid", {}),
    ("SIDMLPHybrid", {"sid_heads": False}),
]
NAMES = [" ".join([name, *(f"{key}={value}" for key, value in changes.items())]) for name, changes in MODELS]
every_model = pytest.mark.parametrize(("name", "changes"), MODELS, ids=NAMES)


class OtherDevice:
    """Where work is done that is compared with the CPU's.

    Attributes:
        device: the place.
        settings: of a run there.
        n_captured: graphs recorded so far.
    """

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.settings = {"use_gpu": name == "cuda"}
        self.n_captured = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Take a GPU's ways within, also on the CPU."""
        with pytest.MonkeyPatch.context() as patch:
            count, recording = self._count, captured.Recording
            if self.device.type == "cpu":
                patch.setattr(hardware, "on_cpu", lambda place: False)
                patch.setattr(hardware, "has_graphs", lambda device: True)
                recording = DoneAgain

            def counted(function: Callable[[], Any], pool: Any) -> Any:
                count()
                return recording(function, pool)

            patch.setattr(captured, "Recording", counted)
            patch.setattr("recbole_sid.trainer.captured_loss.Recording", counted)
            yield

    def _count(self) -> None:
        self.n_captured += 1


class DoneAgain:
    """In place of a `captured.Recording`: does everything anew, and writes results where they were before."""

    def __init__(self, function: Callable[[], Any], pool: Any) -> None:
        self.function, self.result = function, function()

    def replay(self) -> Any:
        old, form = tree_flatten(self.result)
        fresh = tree_flatten(self.function())[0]
        values = [was.copy_(is_) if isinstance(is_, torch.Tensor) else is_ for was, is_ in zip(old, fresh, strict=True)]
        return tree_unflatten(values, form)
