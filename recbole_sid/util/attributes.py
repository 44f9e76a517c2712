"""Attributes of an object that are others for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def attributes_set(thing: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Set attributes that `thing` has, for the block; they are as before after it."""
    before = {name: getattr(thing, name) for name in values}
    try:
        for name, value in values.items():
            setattr(thing, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)
