"""What a later bundle has that an earlier one has not, as a directory of its own, and the later one made of the two.

Of each array the rows are left out that both begin with: where items joined, these are all but theirs. Trie and hash
index are sorted, and come whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from recbole_sid.errors import InputError
from recbole_sid.serving.bundle import Bundle, check_files, map_files, read_manifest
from recbole_sid.serving.bundle_files import described_file, like, write_manifest
from recbole_sid.serving.tensors import arrays_in
from recbole_sid.util.files import check_absent, replacing_folder

CHANGES = "delta.safetensors"
_ARRAYS = ".safetensors"
_ROWS = 1 << 16  # that are compared together


def write_delta(base: Bundle, later: Bundle, output: str | os.PathLike[str]) -> None:
    """Write what makes `later` of `base`.

    Raises:
        InputError: if `output` exists or cannot be written to.
    """
    arrays: dict[str, np.ndarray] = {}
    kept: dict[str, dict[str, int]] = {}
    files: dict[str, np.ndarray] = {}
    for name, known in later.manifest["files"].items():
        if base.manifest["files"].get(name) == known:
            continue
        if not name.endswith(_ARRAYS):
            files[name] = later.content(name)
            continue
        before = base.arrays(name) if name in base else {}
        kept[name] = {}
        for key, values in later.arrays(name).items():
            kept[name][key] = rows = common_rows(before.get(key), values)
            arrays[f"{name}/{key}"] = values[rows:] if values.ndim else values
    manifest = {**later.manifest, "base": base.identity, "later": later.manifest["files"], "kept": kept}
    with replacing_folder(output) as folder:
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / CHANGES)
        for name, content in files.items():
            (folder / name).write_bytes(content.data)
        like(folder / CHANGES, folder)
        manifest["files"] = {name: described_file(folder / name) for name in sorted([CHANGES, *files])}
        write_manifest(folder, manifest)


def apply_delta(delta: str | os.PathLike[str], base: str | os.PathLike[str], output: str | os.PathLike[str]) -> Bundle:
    """Write the bundle that a delta makes of an earlier one, and load it: file for file the one it was made from.

    Args:
        delta: directory that `write_delta` wrote.
        base: directory of the bundle that it was made for.
        output: directory of the result, which must not be there yet.

    Raises:
        InputError: if one is damaged, they do not belong together, or nothing can be written at `output`.
    """
    check_absent(output)
    folder = Path(delta)
    manifest, _ = read_manifest(folder)
    if manifest["base"] is None:
        raise InputError(f"'{delta}' is a whole bundle and no delta: use it as it is.")
    earlier = Bundle.load(base)
    if earlier.identity != manifest["base"]:
        raise InputError(
            f"The delta '{delta}' changes the bundle {manifest['base']} and '{base}' is {earlier.identity}: give it "
            "the bundle that it was made for."
        )
    contents = map_files(folder, manifest, verify=True)
    later, kept = _plan(manifest, folder)
    changes = arrays_in(contents[CHANGES], f"'{folder / CHANGES}'") if CHANGES in contents else {}
    with replacing_folder(output) as made:
        for name, known in later.items():
            _write_file(made / name, name, kept.get(name), changes, contents, earlier, folder)
            if described_file(made / name) != known:
                raise InputError(
                    f"The delta '{delta}' does not make the file '{name}' that it says: it is damaged, or another "
                    "version of the safetensors library writes files otherwise; copy the whole bundle instead."
                )
        whole = {key: value for key, value in manifest.items() if key not in ("later", "kept")}
        write_manifest(made, {**whole, "base": None, "files": later})
    return Bundle.load(output)


def common_rows(before: np.ndarray | None, after: np.ndarray) -> int:
    """Return how many rows two arrays begin with that are the same, bit for bit."""
    if before is None or not after.ndim or (before.dtype, before.shape[1:]) != (after.dtype, after.shape[1:]):
        return 0
    shortest = min(len(before), len(after))
    for first in range(0, shortest, _ROWS):
        rows = slice(first, min(first + _ROWS, shortest))
        old, new = (np.ascontiguousarray(array[rows]) for array in (before, after))
        if old.tobytes() != new.tobytes():
            width = old.nbytes // len(old)
            differ = old.view(np.uint8).reshape(len(old), width) != new.view(np.uint8).reshape(len(new), width)
            return first + int(differ.any(axis=1).argmax())
    return shortest


def _plan(manifest: Any, folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """Return the files that a delta makes, and which rows of their arrays it takes from its base."""
    later, kept = manifest.get("later"), manifest.get("kept")
    fault = "later" if not isinstance(later, dict) else check_files(later)
    if fault is None and not _are_rows(kept):
        fault = "kept"
    if fault is not None:
        raise InputError(f"The delta '{folder}' is damaged (its {fault} is missing or wrong): copy it again.")
    return later, kept


def _are_rows(kept: Any) -> bool:
    return isinstance(kept, dict) and all(
        isinstance(of_file, dict) and all(type(rows) is int and rows >= 0 for rows in of_file.values())
        for of_file in kept.values()
    )


def _write_file(
    target: Path,
    name: str,
    kept: Mapping[str, int] | None,
    changes: Mapping[str, np.ndarray],
    contents: Mapping[str, np.ndarray],
    earlier: Bundle,
    folder: Path,
) -> None:
    """Write one file of the result."""
    if kept is None:
        content = contents[name] if name in contents else earlier.content(name)
        target.write_bytes(content.data)
        return
    before = earlier.arrays(name) if name in earlier else {}
    arrays = {}
    for key, rows in kept.items():
        tail = changes.get(f"{name}/{key}")
        head = before.get(key)
        if tail is None or (rows and (head is None or rows > len(head) or head.shape[1:] != tail.shape[1:])):
            raise InputError(f"The delta '{folder}' is damaged (it lacks rows of '{name}/{key}'): copy it again.")
        arrays[key] = np.concatenate([head[:rows], tail]) if rows and head is not None else np.ascontiguousarray(tail)
    save_file(arrays, target)
    like(target, target.parent)
