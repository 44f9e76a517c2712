"""What a run's identity is made of beside its settings: the content of the files that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_sid.capabilities import capabilities_of
from recbole_sid.features.sources import feature_sources
from recbole_sid.util.atomic_files import PARQUET
from recbole_sid.util.hashing import content_hash, fingerprint

_ATOMIC = ("inter", "item", "user", "kg", "link", "net")


def data_hash(config: Any) -> str:
    """Return 16 hex digits of the content of all files that a run with `config` reads its data from.

    These are all atomic files of the dataset, pre-split ones and those of additional_feat_suffix included, the files of
    its features, and ready-made semantic IDs.
    """
    reads_features = capabilities_of(config.model_class).reads_features(config)
    sources = dict(feature_sources(config)) if reads_features else {}
    ready_made = config["semantic_ids_path"]
    if ready_made and Path(ready_made).is_file():
        sources["semantic_ids_path"] = content_hash(ready_made)
    return fingerprint({"atomic": atomic_hashes(config), "sources": sources})


def atomic_hashes(config: Any) -> dict[str, str]:
    """Return the hash of the content of each atomic file of the dataset, by name."""
    further = config["additional_feat_suffix"] or ()
    endings = {*_ATOMIC, *([further] if isinstance(further, str) else further)}
    folder = Path(config["data_path"])
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    ours = [file for file in files if file.name.startswith(f"{config['dataset']}.") and file.is_file()]
    return {file.name: content_hash(file) for file in ours if _ending(file) in endings}


def _ending(file: Path) -> str:
    """Return what kind of atomic file it is, of text or Parquet: `inter` of ``NAME.inter.parquet``."""
    return Path(file.name.removesuffix(PARQUET)).suffix[1:]


def with_contents(
    settings: Mapping[str, Any], keys: Iterable[str], made_by: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return `settings` with the content of files and folders in place of their paths.

    What is no path of this disk, as a hub's name or a file that is not there yet, stays as it is.

    Args:
        settings: of a run.
        keys: that name files.
        made_by: key -> name of the run that makes its file, which stands for the content before and after.
    """
    files = {key: _content_of(settings[key]) for key in keys if isinstance(settings.get(key), str)}
    return {**settings, **files, **(made_by or {})}


def _content_of(path: str) -> str:
    return f"content {content_hash(path)}" if path and Path(path).exists() else path
