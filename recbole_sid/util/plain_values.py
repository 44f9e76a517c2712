"""Arrays, sparse matrices and containers as tensors and plain types, which load without pickle, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse

from recbole_sid.errors import InputError

_FORM = "recbole_sid-form"  # marks the dictionaries that stand for something else
_SPARSE_FORMATS = ("csr", "csc", "coo", "lil", "dok", "dia", "bsr")
_PLAIN = (type(None), bool, int, float, str, torch.Tensor)


def as_plain(value: Any) -> Any:
    """Return `value` in tensors, numbers, strings, lists and dictionaries; `from_plain` makes it again.

    Raises:
        InputError: for an object of any other kind.
    """
    if isinstance(value, np.generic):
        return as_plain(value.item())
    if type(value) in _PLAIN or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return {_FORM: "objects", "shape": list(value.shape), "values": [as_plain(each) for each in value.flat]}
        if value.dtype.kind in "US":
            return {_FORM: "strings", "shape": list(value.shape), "values": [str(each) for each in value.flat]}
        return {_FORM: "array", "values": torch.from_numpy(np.ascontiguousarray(value))}
    if sparse.issparse(value):
        entries = value.tocoo()
        place = {"row": torch.from_numpy(entries.row), "column": torch.from_numpy(entries.col)}
        values = torch.from_numpy(np.ascontiguousarray(entries.data))
        array = isinstance(value, sparse.sparray)
        return {
            _FORM: "sparse",
            "format": value.format,
            "array": array,
            "shape": list(value.shape),
            **place,
            "values": values,
        }
    if isinstance(value, Mapping):
        pairs = [[as_plain(key), as_plain(each)] for key, each in value.items()]
        # The function that makes the default is code; the empty list and others are named by what they make.
        factory = value.default_factory if isinstance(value, defaultdict) else None
        makes = next((name for name, known in _DEFAULTS.items() if known is factory), None)
        return {_FORM: "dictionary", "default": makes, "pairs": pairs}
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            return {_FORM: kind.__name__, "values": [as_plain(each) for each in value]}
    raise InputError(f"A {type(value).__name__} cannot be written into a checkpoint.")


def from_plain(value: Any) -> Any:
    """Return what `as_plain` was given.

    Raises:
        InputError: if it is damaged.
    """
    if not isinstance(value, dict) or _FORM not in value:
        return value
    try:
        return _MAKE[value[_FORM]](value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"The checkpoint holds a damaged value ({type(error).__name__}: {error}).") from error


_DEFAULTS: dict[str, Any] = {"list": list, "int": int, "float": float, "dict": dict, "set": set}


def _object_array(value: dict[str, Any]) -> np.ndarray:
    found = np.empty(len(value["values"]), dtype=object)
    for place, each in enumerate(value["values"]):
        found[place] = from_plain(each)
    return found.reshape(value["shape"])


def _sparse_matrix(value: dict[str, Any]) -> Any:
    if value["format"] not in _SPARSE_FORMATS:
        raise ValueError(f"no sparse format {value['format']!r}")
    make = sparse.coo_array if value["array"] else sparse.coo_matrix
    entries = tuple(value[name].cpu().numpy() for name in ("values", "row", "column"))
    # The constructor refuses places outside the shape.
    return make((entries[0], entries[1:]), shape=tuple(value["shape"])).asformat(value["format"])


def _dictionary(value: dict[str, Any]) -> dict[Any, Any]:
    pairs = {from_plain(key): from_plain(each) for key, each in value["pairs"]}
    return defaultdict(_DEFAULTS[value["default"]], pairs) if value["default"] else pairs


_MAKE: dict[str, Any] = {
    "array": lambda value: value["values"].cpu().numpy(),
    "objects": _object_array,
    "strings": lambda value: np.array(value["values"], dtype=str).reshape(value["shape"]),
    "sparse": _sparse_matrix,
    "dictionary": _dictionary,
    "list": lambda value: [from_plain(each) for each in value["values"]],
    "tuple": lambda value: tuple(from_plain(each) for each in value["values"]),
    "set": lambda value: {from_plain(each) for each in value["values"]},
}
