"""Semantic IDs of settings that stand in somebody's file, a checkpoint or the result of a run: found rather than made.

Because such a file says so nothing is downloaded, no model is loaded and no folder is walked; other files that it names
are read by readers that run nothing.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.errors import InputError
from recbole_sid.features.sources import check_recorded_files, model_keys
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.build import kept_semantic_ids, semantic_ids_for, warn_of_other_training
from recbole_sid.util.hashing import is_same_hash


class Recorded(NamedTuple):
    """What is known of recorded settings.

    Attributes:
        named: the keys that the caller gave over those recorded, and so vouches for.
        fingerprint: of the semantic IDs that the settings were used with; None if that was not recorded.
        folders: where semantic IDs may lie, beside ``checkpoint_dir/semantic_ids``.
        keep: whether semantic IDs that have to be built are written to ``checkpoint_dir``.
    """

    named: Collection[str] = ()
    fingerprint: str | None = None
    folders: Sequence[Path] = ()
    keep: bool = False


def recorded_semantic_ids(config: Any, train_dataset: Any, recorded: Recorded) -> SemanticIDs:
    """Return the semantic IDs of recorded settings: the file that they name, else those of the same fingerprint or
    recipe that are on the disk, else, where no model has to be loaded for it, built again.

    Raises:
        InputError: if there are none and the settings name a model that the caller does not name, or a folder or device
            where a file should be; and as `semantic_ids_for`.
    """
    file = config["semantic_ids_path"]
    if file and ("semantic_ids_path" in recorded.named or os.path.isfile(file)):
        return semantic_ids_for(config, train_dataset)
    found = _of_fingerprint(config, train_dataset, recorded)
    if found is not None:
        return found
    if not file:
        check_recorded_files(config, recorded.named)
        models = [key for key in model_keys(config) if key not in recorded.named]
        if models:
            return _of_recipe(config, train_dataset, models)
    return semantic_ids_for(config, train_dataset, recorded.keep)


def _of_fingerprint(config: Any, train_dataset: Any, recorded: Recorded) -> SemanticIDs | None:
    """Return the semantic IDs of the recorded fingerprint, or those that extend them; None if none hold all items."""
    if recorded.fingerprint is None:
        return None
    extended = None
    for file, semantic_ids in _on_disk(config, recorded.folders):
        exact = is_same_hash(recorded.fingerprint, semantic_ids.fingerprint)
        if not exact and not any(is_same_hash(recorded.fingerprint, earlier) for earlier in semantic_ids.extends):
            continue
        try:
            semantic_ids.table(train_dataset.item_tokens())
        except InputError:
            continue
        if exact:
            getLogger().info(f"Semantic IDs {semantic_ids.fingerprint} found in {file}")
            warn_of_other_training(train_dataset, semantic_ids, file)
            return semantic_ids
        extended = semantic_ids
    return extended


def _on_disk(config: Any, folders: Sequence[Path]) -> Iterator[tuple[Path, SemanticIDs]]:
    for folder in dict.fromkeys((*folders, Path(config["checkpoint_dir"], "semantic_ids"))):
        for file in sorted(folder.glob(f"{glob.escape(config['dataset'])}-*.npz")):
            try:
                yield file, SemanticIDs.load(file)
            except InputError:  # damaged, and so not those looked for
                continue


def _of_recipe(config: Any, train_dataset: Any, models: Sequence[str]) -> SemanticIDs:
    kept = kept_semantic_ids(config, train_dataset)
    if kept is None:
        shown = ", ".join(f"{key}={config[key]}" for key in models)
        raise InputError(
            f"The semantic IDs are not on this disk, and to make them again the model of {shown}, which stands in the "
            f"file only, would have to be loaded: name their file in semantic_ids_path, or {' and '.join(models)} "
            "yourself if you trust it."
        )
    return kept
