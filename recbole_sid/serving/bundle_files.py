"""Writing a bundle: into a temporary directory, the manifest last, then renamed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from recbole_sid import __version__
from recbole_sid.serving.bundle import CARD, FORMAT, MANIFEST
from recbole_sid.util.files import replacing_folder
from recbole_sid.util.hashing import sha256_of


def write_bundle(
    path: str | os.PathLike[str],
    described: Mapping[str, Any],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    files: Mapping[str, bytes],
    card: Callable[[Mapping[str, Any]], str],
) -> None:
    """Write a bundle's directory.

    Args:
        path: where there is nothing yet.
        described: what its manifest says, but for ``format``, ``version``, ``created`` and ``files``.
        arrays: name of a safetensors file -> its arrays by name.
        files: name of another file -> its content.
        card: makes ``README.md`` of the manifest, which lists all other files.

    Raises:
        InputError: if `path` exists or cannot be written to, or the disk is full.
    """
    with replacing_folder(path) as folder:
        for name, of_file in arrays.items():
            save_file({key: np.ascontiguousarray(values) for key, values in of_file.items()}, folder / name)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "base": None,
            **described,
            "files": {name: described_file(folder / name) for name in sorted([*arrays, *files])},
        }
        (folder / CARD).write_text(card(manifest), encoding="utf-8")
        for name in arrays:
            like(folder / name, folder)
        manifest["files"][CARD] = described_file(folder / CARD)
        write_manifest(folder, manifest)


def like(file: Path, folder: Path) -> None:
    """Let those read `file` who can read `folder`: the library writes for its user alone."""
    file.chmod(stat.S_IMODE(folder.stat().st_mode) & 0o666)


def described_file(file: Path) -> dict[str, Any]:
    """Return what a manifest says of a file."""
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``bundle.json``."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
