"""Names that become parts of paths."""

from __future__ import annotations

from typing import Any

from recbole_sid.errors import InputError

_LONGEST = 200  # bytes; file systems allow 255 with the endings


def check_dataset_name(name: Any) -> None:
    """Refuse a name of a dataset that would lead out of its folder or cannot name a file.

    Raises:
        InputError: if it is no text, is empty, '.' or '..', has a separator or control character, or is too long.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"dataset={name!r} must be a name, such as ml-100k.")
    if name in (".", "..") or any(character in "/\\" or not character.isprintable() for character in name):
        raise InputError(
            f"dataset={name!r} is no name of a dataset: it names a folder and files, so leave out '/' and the like "
            "(the folder above goes into data_path or, of convert, --output)."
        )
    if len(name.encode()) > _LONGEST:
        raise InputError(f"dataset='{name[:30]}...' is longer than {_LONGEST} bytes: shorten it.")
