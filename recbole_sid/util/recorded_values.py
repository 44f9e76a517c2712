"""Arrays, sparse matrices and default dictionaries in somebody's pickle: stand-ins that run nothing, what they mean.

An unpickler that finds these in place of numpy's and scipy's classes makes records of plain values; `restored` checks
them and builds the arrays. So no size is believed before the numbers are there, and no index before it is checked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
from scipy import sparse

_KINDS = "biufcSU"  # of numbers and text: arrays of objects are lists of their own


class RecordedArray:
    """What a pickle says of an array: ``(version, shape, dtype, is_fortran, bytes or list)``."""

    def __init__(self, is_matrix: bool) -> None:
        self.is_matrix = is_matrix
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def restored(self) -> np.ndarray:
        """Return the array."""
        _, shape, dtype, is_fortran, content = self.state
        n_values = math.prod(shape)
        if dtype.hasobject:
            if dtype.kind != "O" or len(content) != n_values:
                raise ValueError("an array of objects has another size than it says")
            found = np.empty(n_values, dtype=object)
            for place, value in enumerate(content):
                found[place] = value
        else:
            if dtype.kind not in _KINDS or len(content) != n_values * dtype.itemsize:
                raise ValueError("an array has another size than it says")
            found = np.frombuffer(content, dtype).copy()
        found = found.reshape(shape, order="F" if is_fortran else "C")
        return np.asmatrix(found) if self.is_matrix else found


class _RecordedSparse:
    """What a pickle says of a sparse matrix: its attributes."""

    def restored(self) -> Any:
        """Return the matrix."""
        raise NotImplementedError


class _RecordedCompressed(_RecordedSparse):
    make: Any

    def restored(self) -> Any:
        data, indices, indptr, shape = (restored(self.__dict__[key]) for key in ("data", "indices", "indptr", "_shape"))
        found = type(self).make((data, indices, indptr), shape=shape)
        found.check_format(full_check=True)
        return found


class _RecordedCSR(_RecordedCompressed):
    make = sparse.csr_matrix


class _RecordedCSC(_RecordedCompressed):
    make = sparse.csc_matrix


class _RecordedLIL(_RecordedSparse):
    def restored(self) -> Any:
        rows, data, shape = (restored(self.__dict__[key]) for key in ("rows", "data", "_shape"))
        if len(rows) != shape[0] or [len(row) for row in rows] != [len(row) for row in data]:
            raise ValueError("a sparse matrix has rows of another size than it says")
        indptr = np.cumsum([0, *(len(row) for row in rows)])
        indices = np.array([column for row in rows for column in row], dtype=np.int64)
        values = np.array([value for row in data for value in row], dtype=self.__dict__["dtype"])
        found = sparse.csr_matrix((values, indices, indptr), shape=shape)
        found.check_format(full_check=True)
        return found.tolil()


class _Name:
    """A class as a value, which a pickle cannot call."""

    def __init__(self, kind: type) -> None:
        self.kind = kind


def _array(kind: Any, *shape_and_code: Any) -> RecordedArray:
    if kind not in (_NDARRAY, _MATRIX):
        raise ValueError("it holds an array of an unknown class")
    return RecordedArray(kind is _MATRIX)


def _default_dictionary(factory: Any = None) -> dict[Any, Any]:
    kind = factory.kind if isinstance(factory, _Name) else factory
    if kind not in (None, *_FACTORIES):
        raise ValueError("it holds a dictionary whose default is made by code")
    return defaultdict(kind)


_NDARRAY, _MATRIX = _Name(np.ndarray), _Name(np.matrix)
_FACTORIES = (list, int, float, dict, set)
# What a pickle calls them -> what it gets; modules as of numpy 1 and 2, scipy 1.
STAND_INS: dict[str, Any] = {
    "collections.defaultdict": _default_dictionary,
    **{f"builtins.{kind.__name__}": _Name(kind) for kind in _FACTORIES if kind is not set},  # a set is also made
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    "numpy.ndarray": _NDARRAY,
    **{name: _MATRIX for name in ("numpy.matrix", "numpy.matrixlib.defmatrix.matrix")},
    **{
        f"scipy.sparse.{module}.{name}_matrix": kind
        for name, kind in (("csr", _RecordedCSR), ("csc", _RecordedCSC), ("lil", _RecordedLIL))
        for module in (name, f"_{name}")
    },
}


def restored(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Return `value` with arrays and matrices in place of their records, also inside lists, tuples and dictionaries.

    Args:
        value: what an unpickler with the `STAND_INS` gave.
        known: what was restored before, by identity: what occurs often is restored once.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: if a record does not fit together.
    """
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = _restored(value, known)
    return known[id(value)]


def _restored(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, RecordedArray):
        return value.restored()
    if isinstance(value, _RecordedSparse):
        return value.restored()
    if isinstance(value, dict):
        pairs = {key: restored(each, known) for key, each in value.items()}
        return defaultdict(value.default_factory, pairs) if isinstance(value, defaultdict) else pairs
    if type(value) in (list, tuple):
        return type(value)(restored(each, known) for each in value)
    return value
