"""What installed packages add to this one: names in their entry points, and the objects behind such names."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any


def with_installed(kind: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return our names, then those of the entry points ``recbole_sid.<kind>`` of installed packages.

    Args:
        kind: such as ``models``.
        ours: name -> ``"module:attribute"``, or what these would be; no package can replace them.
    """
    found = dict(ours)
    for entry in sorted(entry_points(group=f"recbole_sid.{kind}")):
        if found.setdefault(entry.name, entry.value) != entry.value:
            package = entry.dist.name if entry.dist else "an installed package"
            warnings.warn(f"{package} has a '{entry.name}' among its {kind}: that name is taken.", stacklevel=2)
    return found


def imported(where: str) -> Any:
    """Return the object ``"module:attribute"``."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)
