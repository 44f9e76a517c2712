"""The property files that ship with the package: where they lie, and what their comments say of each key."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it in an installed wheel.
PROPERTIES = _HERE / "properties" if (_HERE / "properties").is_dir() else _HERE.parent / "properties"

PAPER = "paper"  # the size that the models' own property files have


class DocumentedKey(NamedTuple):
    """A configuration key as a property file documents it: its name, its default as written, and the comment."""

    name: str
    default: str
    comment: str


def keys_of(file: Path) -> Iterator[DocumentedKey]:
    """Yield the top-level keys of a property file, in order; none if there is no such file."""
    if file.is_file():
        yield from parse_keys(file.read_text(encoding="utf-8").splitlines())


def parse_keys(lines: Iterable[str]) -> Iterator[DocumentedKey]:
    """Yield the top-level keys of the lines of a property file, in order."""
    for line in lines:
        found = re.match(r"(\w+):\s*(.*?)(?:\s+#\s*(.*))?$", line)
        if found:
            yield DocumentedKey(found[1], found[2], found[3] or "")


def sizes() -> list[str]:
    """Return the values of the key ``size``: the models' own property files, and those that are put over them."""
    return [PAPER, *sorted(folder.name for folder in (PROPERTIES / "size").iterdir() if folder.is_dir())]


def size_files(size: str, names: Iterable[str]) -> list[Path]:
    """Return the property files that a size has for every model, and for the models `names`, in this order."""
    files = [PROPERTIES / "size" / size / f"{name}.yaml" for name in ("overall", *names)]
    return [file for file in files if file.is_file()]


def space_file(model: str, size: str) -> Path | None:
    """Return the search space that ships for a model of this size: one of the size, else the model's, else None."""
    files = [PROPERTIES / "tune" / size / f"{model}.yaml", PROPERTIES / "tune" / f"{model}.yaml"]
    return next((file for file in files if file.is_file()), None)


def model_file(model: str) -> Path | None:
    """Return the property file of a model: ours, else RecBole's (found without importing it), else None."""
    for folder in (PROPERTIES, *_recbole_properties()):
        file = folder / "model" / f"{model}.yaml"
        if file.is_file():
            return file
    return None


def model_names() -> list[str]:
    """Return the names of the models that have a property file, ours and RecBole's."""
    return sorted(
        {file.stem for folder in (PROPERTIES, *_recbole_properties()) for file in folder.glob("model/*.yaml")}
    )


def models_with(key: str) -> list[str]:
    """Return the names of our models whose property file lists `key`."""
    files = sorted(PROPERTIES.glob("model/*.yaml"))
    return [file.stem for file in files if any(known.name == key for known in keys_of(file))]


@lru_cache(maxsize=1)
def all_keys() -> frozenset[str]:
    """Return every key that some property file of ours or RecBole's lists."""
    files = [file for folder in (PROPERTIES, *_recbole_properties()) for file in folder.rglob("*.yaml")]
    return frozenset(key.name for file in files for key in keys_of(file))


def _recbole_properties() -> list[Path]:
    found = importlib.util.find_spec("recbole")
    return [Path(folder) / "properties" for folder in (found.submodule_search_locations or ())] if found else []
