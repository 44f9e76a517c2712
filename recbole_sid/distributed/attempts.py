"""A launch that starts its processes again when one is lost: what an attempt goes on from is what those before left."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_sid.distributed.group import current_group
from recbole_sid.util.files import write_json
from recbole_sid.util.hashing import fingerprint
from recbole_sid.util.reading import read_json

LAUNCH_FOLDER = "RECBOLE_SID_LAUNCH"  # in the environment: a folder of the launch, which all attempts see


def goes_on(last_file: Path, best_file: Path) -> bool:
    """Say whether an earlier attempt of this launch began, or finished, the training of these files.

    Those that lay there before the launch are another training's, and nothing to go on from.

    Args:
        last_file: with the state that an unfinished training continues from.
        best_file: with its best weights.
    """
    folder = os.environ.get(LAUNCH_FOLDER)
    if not folder:
        return False
    group = current_group()
    return group.from_main(group.is_main and _has_changed(Path(folder), [last_file, best_file]))


def _has_changed(folder: Path, files: Sequence[Path]) -> bool:
    """Say whether the first of `files` that is there is not the one that was there when this was first asked."""
    note = folder / f"before-{fingerprint([str(file) for file in files])}.json"
    now = [_identity(file) for file in files]
    if not note.is_file():
        write_json(note, now)
        return False
    before = read_json(note)
    return next((is_now != was for is_now, was in zip(now, before, strict=True) if is_now is not None), False)


def _identity(file: Path) -> list[Any] | None:
    """Return what changes when a file is written again; None if it is not there."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]
