"""Files of a bundle as memory maps: opened once, checked, and never copied; arrays in the safetensors format.

The library of that format copies what it reads. What stands here believes nothing that a file says before it is checked
against the file's size.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.util.reading import parse_json, unique_pairs

LARGEST_HEADER = 1 << 22  # bytes of a header
MOST_DIMENSIONS = 16
_LENGTH = 8  # bytes of the number in front of the header
_BLOCK = 1 << 20  # bytes that a file is hashed by
_DTYPES: dict[str, np.dtype] = {
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    "BOOL": np.dtype(bool),
}


def mapped(path: str | os.PathLike[str], n_bytes: int, sha256: str | None) -> np.ndarray:
    """Return the content of a file, uint8 [n_bytes], read-only and mapped: what is never looked at is never read.

    Args:
        path: the file.
        n_bytes: what it must have.
        sha256: what its content must have, in hex; None: it is not looked at.

    Raises:
        InputError: if it is missing, no file, of another size, or holds something else.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(f"The bundle lacks its file '{path}': copy it again, whole.") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}).") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"'{path}' is no file: copy the bundle again, whole.")
        if found.st_size != n_bytes:
            raise InputError(
                f"'{path}' has {found.st_size:,} bytes and the bundle's manifest says {n_bytes:,}: it is cut short or "
                "of another bundle; copy the bundle again, whole."
            )
        if sha256 is not None and _digest(handle) != sha256:
            raise InputError(
                f"'{path}' is damaged or of another bundle (its SHA-256 is not the manifest's): copy the bundle again."
            )
        content = mmap.mmap(handle, n_bytes, access=mmap.ACCESS_READ) if n_bytes else b""
    finally:
        os.close(handle)
    return np.frombuffer(content, dtype=np.uint8)


def _digest(handle: int) -> str:
    """Hash a file by reading, not through the map, whose pages would count as the process's memory."""
    digest, block = hashlib.sha256(), bytearray(_BLOCK)
    with open(handle, "rb", buffering=0, closefd=False) as stream:
        while n_read := stream.readinto(block):
            digest.update(memoryview(block)[:n_read])
    return digest.hexdigest()


def arrays_in(content: np.ndarray, source: str) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, read-only, as parts of `content`.

    Args:
        content: uint8 [n], the whole file.
        source: what messages call it.

    Raises:
        InputError: if it is no such file, is cut short, or its header does not tell apart its bytes.
    """
    n_bytes = len(content)
    length = int.from_bytes(content[:_LENGTH].tobytes(), "little") if n_bytes >= _LENGTH else 0
    if not 2 <= length <= min(LARGEST_HEADER, n_bytes - _LENGTH):
        raise InputError(f"{source} is no safetensors file (its header has no possible length): make the bundle again.")
    try:
        text = content[_LENGTH : _LENGTH + length].tobytes().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{source} is no safetensors file (its header is no text): make the bundle again.") from None
    header = parse_json(text, f"The header of {source}", unique_pairs)
    body = content[_LENGTH + length :]
    if not isinstance(header, dict):
        raise InputError(f"{source} is no safetensors file (its header is no object): make the bundle again.")
    described = {name: _described(name, value, source) for name, value in header.items() if name != "__metadata__"}
    _check_tiling(described, len(body), source)
    return {name: _array(body, *value, source, name) for name, value in described.items()}


def _described(name: str, value: Any, source: str) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Return type, shape, begin and end of an array that a header describes."""
    fault = None
    if not isinstance(value, Mapping) or set(value) != {"dtype", "shape", "data_offsets"}:
        fault = "is not described by dtype, shape and data_offsets"
    elif not isinstance(value["dtype"], str) or value["dtype"] not in _DTYPES:
        fault = f"is of a type that is not read ({str(value['dtype'])[:20]!r})"
    elif not _are_sizes(value["shape"]) or len(value["shape"]) > MOST_DIMENSIONS or not _has_place(value["shape"]):
        fault = "has no possible shape"
    elif not _are_sizes(value["data_offsets"]) or len(value["data_offsets"]) != 2:
        fault = "has no possible place"
    if fault is None:
        dtype, (begin, end) = _DTYPES[value["dtype"]], value["data_offsets"]
        if end - begin == math.prod(value["shape"]) * dtype.itemsize:
            return dtype, tuple(value["shape"]), begin, end
        fault = "has another size than its shape says"
    raise InputError(f"{source} is damaged: its array {name[:60]!r} {fault}; make the bundle again.")


def _are_sizes(value: Any) -> bool:
    """Say whether this is a list of whole numbers that can be sizes in memory."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 62 for size in value)


def _has_place(shape: list[int]) -> bool:
    """Say whether numpy can make such an array: one of no bytes, too, counts its other lengths."""
    return math.prod(size or 1 for size in shape) < 1 << 59


def _check_tiling(described: Mapping[str, tuple[Any, Any, int, int]], n_bytes: int, source: str) -> None:
    """Refuse arrays that overlap, leave bytes between them, or lie outside."""
    reached = 0
    for begin, end in sorted((begin, end) for _, _, begin, end in described.values()):
        if begin != reached:
            break
        reached = end
    else:
        if reached == n_bytes:
            return
    raise InputError(
        f"{source} is damaged: its arrays do not lie one behind the other up to the end; make the bundle again."
    )


def _array(
    body: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], begin: int, end: int, source: str, name: str
) -> np.ndarray:
    found = body[begin:end].view(dtype).reshape(shape) if end > begin else np.zeros(shape, dtype)
    if not found.flags.aligned:
        found = found.copy()  # other writers need not align
    if dtype.kind == "b" and end > begin and body[begin:end].max() > 1:
        raise InputError(f"{source} is damaged: its array {name[:60]!r} holds what is neither true nor false.")
    found.flags.writeable = False
    return found
