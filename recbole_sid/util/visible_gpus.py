"""Which GPUs the user lets the program see: a configuration hides others from its process, not from those it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "CUDA_VISIBLE_DEVICES"


class _Visible:
    """What the variable was before a configuration set it, and what that made of it."""

    before: str | None = None
    ours: str | None = None


@contextmanager
def hiding_gpus() -> Iterator[None]:
    """Note what the user lets the program see, for a block that sets the variable, as RecBole's `Config` does."""
    now = os.environ.get(_VARIABLE)
    if now is None or now != _Visible.ours:
        _Visible.before = now
    try:
        yield
    finally:
        _Visible.ours = os.environ.get(_VARIABLE)


@contextmanager
def all_gpus_visible() -> Iterator[None]:
    """Let what is started in the block see what the user lets the program see, whatever configurations were made."""
    now = os.environ.get(_VARIABLE)
    if now is not None and now == _Visible.ours:
        _set(_Visible.before)
    try:
        yield
    finally:
        _set(now)


def _set(value: str | None) -> None:
    if value is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = value
