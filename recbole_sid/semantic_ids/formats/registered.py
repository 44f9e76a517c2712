"""The formats that `recbole_sid.registry.FORMATS` names, by name and by the ending of a file."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_sid.errors import InputError
from recbole_sid.registry import FORMATS, resolve
from recbole_sid.semantic_ids.formats.code_table import Format

OURS = "npz"  # what `SemanticIDs.save` writes, which holds more than a table of codes


def get_format(name: str) -> Format:
    """Return the registered format `name`.

    Raises:
        InputError: if there is none; lists the known ones, ours too.
    """
    return resolve({**FORMATS, OURS: ""}, name, "format")


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the name of the format that a file's ending stands for.

    Raises:
        InputError: if it stands for none.
    """
    name = Path(path).name.lower()
    endings = {ending: known for known in FORMATS for ending in get_format(known).endings} | {f".{OURS}": OURS}
    fitting = [ending for ending in endings if name.endswith(ending)]
    if fitting:
        return endings[max(fitting, key=len)]
    raise InputError(
        f"The ending of '{path}' names no format of semantic IDs: name the file *{', *'.join(endings)}, or the format "
        "with --format."
    )
