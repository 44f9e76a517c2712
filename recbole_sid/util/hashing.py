"""Hashes that name things: 16 hex digits (64 bits), of files by what they hold, anew only when they changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError

DIGITS = 16
EARLIER_DIGITS = 8  # of version 0.1
_BLOCK = 1 << 20  # bytes that a file is read by


def fingerprint(settings: Any) -> str:
    """Return 16 hex digits of the SHA-256 of `settings` as canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=as_json_type).encode()).hexdigest()[:DIGITS]


def as_json_type(value: Any) -> Any:
    """Return what stands for `value` in JSON: a sorted list of a set, the name of an enum's member, else its text."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return getattr(value, "name", None) or str(value)


def is_same_hash(recorded: Any, current: Any) -> bool:
    """Compare two hashes, of which files of version 0.1 hold the first eight digits only."""
    if recorded == current:
        return True
    of_earlier = isinstance(recorded, str) and re.fullmatch(rf"[0-9a-f]{{{EARLIER_DIGITS}}}", recorded)
    of_now = isinstance(current, str) and re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", current)
    return bool(of_earlier and of_now) and current.startswith(recorded)


def content_hash(path: str | os.PathLike[str]) -> str:
    """Return 16 hex digits over the bytes of a file, or the names and bytes of all files in a folder.

    Raises:
        InputError: if one cannot be read.
    """
    root = Path(path)
    try:
        if root.is_file():
            return _of_file(root)
        files = sorted(file for file in root.rglob("*") if file.is_file())
        parts = [f"{file.relative_to(root).as_posix()}\0{_of_file(file)}" for file in files]
    except OSError as error:
        raise InputError(f"'{error.filename or path}' cannot be read ({error.strerror}).") from error
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]


def _of_file(file: Path) -> str:
    now = file.stat()
    return _read(str(file.resolve()), now.st_ino, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: str, inode: int, size: int, mtime_ns: int) -> str:
    """Hash a file; inode, size and time only tell a changed file from the one that the cache knows."""
    return sha256_of(path)[:DIGITS]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
