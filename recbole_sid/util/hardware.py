"""What this machine is good at, where libraries do not say."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from time import perf_counter

import torch
import torch.nn.functional as F

# A bf16 product this much slower than fp32's is emulated: processors without such instructions take 10 to 100 times.
_EMULATED = 3


_by_shapes_alone: ContextVar[bool] = ContextVar("by_shapes_alone", default=False)


@contextmanager
def by_shapes_alone() -> Iterator[None]:
    """Say that no value is to be read within, wherever it is: what is computed is recorded, for other values too."""
    before = _by_shapes_alone.set(True)
    try:
        yield
    finally:
        _by_shapes_alone.reset(before)


def on_cpu(place: torch.Tensor | torch.device) -> bool:
    """Say whether values there can be read without waiting, so that shapes of the work may follow them.

    The one question by which code tells the CPU from other devices, so that tests can answer it otherwise.
    """
    if torch.compiler.is_compiling() or _by_shapes_alone.get():
        return False
    return (place.device if isinstance(place, torch.Tensor) else place).type == "cpu"


def has_graphs(device: torch.device) -> bool:
    """Say whether what runs there can be captured and launched as one: a CUDA graph; tests answer it otherwise too."""
    return device.type == "cuda"


def moved(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return `values` on `device`; from the host to a GPU without waiting for what the GPU has still to do."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


@lru_cache(maxsize=1)
def cpu_has_fast_bfloat16() -> bool:
    """Say whether this CPU multiplies bf16 matrices about as fast as fp32's or faster, by trying (milliseconds)."""
    return _product_seconds(torch.bfloat16) < _EMULATED * _product_seconds(torch.float32)


def peak_memory(device: torch.device | str) -> float | None:
    """Return the most memory this process has held so far, in MB: of the GPU if `device` is one; None if unknown."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def release_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library (glibc) keeps it.

    Batches of ever other sizes leave holes in its heap, so that long trainings held several times what they use.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _product_seconds(dtype: torch.dtype) -> float:
    rows, weight = torch.ones(512, 128, dtype=dtype), torch.ones(384, 128, dtype=dtype)
    seconds = []
    for _ in range(3):
        started = perf_counter()
        F.linear(rows, weight)
        seconds.append(perf_counter() - started)
    return min(seconds)
