"""A bundle: one directory that answers for a trained model, read as memory maps and checked.

``bundle.json`` says what there is; every other file is known by its size and SHA-256 there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.engine import Engine, engine_named
from recbole_sid.serving.histories import KnownUsers
from recbole_sid.serving.tensors import arrays_in, mapped
from recbole_sid.util.hashing import DIGITS
from recbole_sid.util.reading import parse_json, read_text, unique_pairs
from recbole_sid.util.typed_json import first_fault

FORMAT = 1  # of what is written; earlier ones are read too
MANIFEST, CARD = "bundle.json", "README.md"
WEIGHTS, ITEMS, HISTORIES = "weights.safetensors", "items.safetensors", "histories.safetensors"
SEMANTIC_IDS = "semantic_ids.safetensors"
LARGEST_MANIFEST = 1 << 22  # bytes
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HASH = re.compile(r"[0-9a-f]{64}")
# Not of the engine; every other file is handed to it.
_OF_ALL = (CARD, WEIGHTS, ITEMS, HISTORIES, SEMANTIC_IDS)


class Manifest(TypedDict):
    """What ``bundle.json`` holds; JSON types only.

    Attributes:
        format: of the directory.
        version: of the package that wrote it.
        model: class of the model.
        engine: name in `recbole_sid.serving.engine.ENGINES`.
        settings: the engine's.
        n_items: of the catalogue, with padding.
        fields: names of the items' display fields, the most telling first.
        sizes: what the model is made of, to be shown.
        fingerprints: of the semantic IDs, the item tokens and the data, by name.
        metrics: ``validation``, by which the model was selected, and ``test``: name -> value; empty if not recorded.
        protocol: how data were split, filtered and metrics taken.
        created: date and time, UTC.
        files: name -> ``bytes`` and ``sha256``.
        base: `Bundle.identity` of the bundle that a delta changes; None of a whole bundle.
    """

    format: int
    version: str
    model: str
    engine: str
    settings: dict[str, Any]
    n_items: int
    fields: list
    sizes: dict[str, Any]
    fingerprints: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    protocol: dict[str, Any]
    created: str
    files: dict[str, Any]
    base: str | None


class Bundle:
    """What a directory holds.

    Attributes:
        path: of the directory.
        manifest: what it says of itself.
        identity: 16 hex digits over the manifest, and so over all files.
    """

    def __init__(self, path: Path, manifest: Manifest, identity: str, contents: Mapping[str, np.ndarray]) -> None:
        self.path, self.manifest, self.identity = path, manifest, identity
        self._contents = dict(contents)

    @classmethod
    def load(cls, path: str | os.PathLike[str], verify: bool = True) -> Bundle:
        """Open a bundle.

        Nothing of the directory is read again later, and a link is followed once: another one may take its place.

        Args:
            path: the directory.
            verify: whether the files' hashes are compared, which reads all of them once.

        Raises:
            InputError: if it is none, of a later format, a delta, or a file is missing, damaged or of another bundle.
        """
        try:
            folder = Path(os.path.realpath(path))
        except (TypeError, ValueError):
            raise InputError(f"{path!r} is no name of a bundle: give its directory.") from None
        manifest, identity = read_manifest(folder)
        if manifest["base"] is not None:
            raise InputError(
                f"'{path}' is a delta, to a bundle {manifest['base']}: make a whole one with `recbole-sid apply-delta`."
            )
        return cls(folder, manifest, identity, map_files(folder, manifest, verify))

    def content(self, name: str) -> np.ndarray:
        """Return the bytes of a file, uint8 [n], mapped.

        Raises:
            InputError: if the bundle has no such file.
        """
        if name not in self._contents:
            raise InputError(f"The bundle '{self.path}' has no file '{name}'.")
        return self._contents[name]

    def __contains__(self, name: str) -> bool:
        return name in self._contents

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of one of its safetensors files, mapped and read-only.

        Raises:
            InputError: if the bundle has no such file, or it is damaged.
        """
        return arrays_in(self.content(name), f"'{self.path / name}'")

    def engine(self) -> Engine:
        """Build what ranks; it gets the arrays of the weights and, by their names, the bytes of further files.

        Raises:
            InputError: if the engine is unknown, or the arrays are not its.
        """
        further = {name: content for name, content in self._contents.items() if name not in _OF_ALL}
        engine = engine_named(self.manifest["engine"]).of(
            {**further, **self.arrays(WEIGHTS)}, self.manifest["settings"]
        )
        if engine.n_items != self.manifest["n_items"]:
            raise InputError(
                f"'{self.path}' has weights of {engine.n_items - 1:,} items and a manifest of "
                f"{self.manifest['n_items'] - 1:,}: make the bundle again."
            )
        return engine

    @cached_property
    def catalogue(self) -> Catalogue:
        """Its items.

        Raises:
            InputError: if they are damaged.
        """
        known = self.manifest
        return Catalogue.read(self.arrays(ITEMS), known["n_items"], known["fields"], f"'{self.path / ITEMS}'")

    @cached_property
    def known_users(self) -> KnownUsers:
        """Its users and their histories.

        Raises:
            InputError: if it was exported without, or they are damaged.
        """
        if HISTORIES not in self:
            raise InputError(
                f"The bundle '{self.path}' knows no users: give histories, or export it again with --histories."
            )
        return KnownUsers.read(self.arrays(HISTORIES), self.manifest["n_items"], f"'{self.path / HISTORIES}'")


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return what a bundle says of itself, and its identity.

    Raises:
        InputError: if it is no bundle, of a later format, or damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise InputError(f"'{folder}' is no bundle (it has no {MANIFEST}): make one with `recbole-sid export-model`.")
    text = read_text(file, "manifest", LARGEST_MANIFEST)
    found = parse_json(text, f"'{file}'", unique_pairs)
    number = found.get("format") if isinstance(found, dict) else None
    if type(number) is not int or number < 1:
        raise InputError(f"'{file}' is no manifest of a bundle (it has no format): make one with export-model.")
    if number > FORMAT:
        raise InputError(
            f"'{folder}' is of format {number}, written by recbole-sid {str(found.get('version'))[:40]}, and this "
            f"version reads up to {FORMAT}: install that version, or export the model again with this one."
        )
    fault = first_fault(found, Manifest) or check_files(found["files"])
    if not fault and not 2 <= found["n_items"] < 1 << 40:
        fault = "n_items"
    if not fault and not all(isinstance(name, str) for name in found["fields"]):
        fault = "fields"
    if fault:
        raise InputError(f"'{file}' is damaged (its {fault} is missing or wrong): copy the bundle again, whole.")
    return found, hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def check_files(files: dict[str, Any]) -> str | None:
    """Return what is wrong with the list of files; a name never leads out of the directory."""
    for name, known in files.items():
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            return f"file name {name[:60]!r}"
        if not isinstance(known, dict) or type(known.get("bytes")) is not int or not 0 <= known["bytes"] < 1 << 62:
            return f"size of '{name}'"
        if not isinstance(known.get("sha256"), str) or not _HASH.fullmatch(known["sha256"]):
            return f"hash of '{name}'"
    return None


def map_files(folder: Path, manifest: Manifest, verify: bool) -> dict[str, np.ndarray]:
    """Return the bytes of all files that a manifest names, mapped.

    Raises:
        InputError: if one is missing, damaged or another.
    """
    return {
        name: mapped(folder / name, known["bytes"], known["sha256"] if verify else None)
        for name, known in manifest["files"].items()
    }
