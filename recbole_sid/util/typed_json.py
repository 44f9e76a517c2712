"""Whether JSON is what a TypedDict declares."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict


def first_fault(content: Any, declared: type) -> str | None:
    """Return the first key of a TypedDict that `content` lacks or has of another type; None if it has them all.

    Keys that are not required may be missing. What TypedDicts within it hold is not looked at.

    Args:
        content: of a JSON file.
        declared: the TypedDict; its values are JSON types, their unions, and dictionaries and lists of them.
    """
    required: frozenset[str] = getattr(declared, "__required_keys__", frozenset())
    for key, kind in get_type_hints(declared).items():
        if isinstance(content, dict) and key not in content and key not in required:
            continue
        if not isinstance(content, dict) or key not in content or not _is_a(content[key], kind):
            return key
    return None


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is UnionType:
        return any(_is_a(value, one) for one in get_args(kind))
    if get_origin(kind) is dict:
        of_values = get_args(kind)[1]
        return isinstance(value, dict) and all(_is_a(one, of_values) for one in value.values())
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(one, get_args(kind)[0]) for one in value)
    if kind is Any or is_typeddict(kind):
        return True
    return type(value) in ((int, float) if kind is float else (kind,))  # True is no number
