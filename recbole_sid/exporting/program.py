"""A ranking graph recorded by torch.export, for batches and histories of any size."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from recbole_sid.errors import InputError, first_line
from recbole_sid.exporting.agreement import RankedItems

_MOST_USERS = 1 << 20


def recorded(graph: nn.Module, max_history: int) -> ExportedProgram:
    """Return the program of a graph of histories int64 [B, T], B and T up to `max_history` left open.

    Histories of at most two items cannot leave T open: they are always of `max_history` places then.

    Raises:
        InputError: if torch cannot record it.
    """
    is_open = max_history > 2  # torch takes 0, 1 and the example's own largest size for constants
    example = torch.ones(3, max(2, max_history // 2) if is_open else max_history, dtype=torch.int64)
    length = Dim("length", min=1, max=max_history) if is_open else None
    return _recorded(graph, example, length)


def recorded_scores(graph: nn.Module, max_history: int) -> ExportedProgram:
    """Return the program of a graph of histories int64 [B, max_history], B left open; raises as `recorded`."""
    return _recorded(graph, torch.ones(3, max_history, dtype=torch.int64), None)


def _recorded(graph: nn.Module, example: torch.Tensor, length: Any) -> ExportedProgram:
    batch = Dim("batch", min=1, max=_MOST_USERS)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(graph, (example,), dynamic_shapes=({0: batch, 1: length},), strict=False)
    except Exception as error:  # of many classes, none of them documented
        raise InputError(
            f"torch {torch.__version__} cannot record this model ({first_line(error)}): what it does follows the data, "
            "or this torch is too old; torch 2.13 records all that docs/serving.md names."
        ) from error


def saved(program: ExportedProgram) -> bytes:
    """Return a program as the content of a file that `torch.export.load` reads."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def run_saved(content: bytes) -> Callable[[torch.Tensor], RankedItems]:
    """Return what ranks by a program that was just `saved`: torch.export.load runs pickle, so none of elsewhere."""
    with quiet():
        module = torch.export.load(io.BytesIO(content)).module()
    return lambda histories: RankedItems(*module(histories))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's exporters say of themselves off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
