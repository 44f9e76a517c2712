"""The first lines of a dataset's atomic files, checked before RecBole unpacks them and fails over what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole.utils import FeatureType, ModelType

from recbole_sid.errors import InputError

_BOM = "\ufeff"
_LONGEST = 1 << 20  # characters of a first line
_TYPES = [kind.value for kind in FeatureType]
# Models that read whatever fields there are, with or without users and items.
_WITHOUT_IDS = (ModelType.CONTEXT, ModelType.DECISIONTREE)


def check_headers(config: Any) -> None:
    """Raise InputError, naming the key that mends it, if RecBole cannot use the first line of a file that it will read.

    Args:
        config: reads ``data_path``, ``dataset``, ``encoding``, ``field_separator``, ``load_col``, ``unload_col``,
            ``USER_ID_FIELD`` and ``ITEM_ID_FIELD``.
    """
    owners = {"USER_ID_FIELD": ("inter", "user"), "ITEM_ID_FIELD": ("inter", "item")}
    for source in ("inter", "user", "item"):
        path = Path(config["data_path"]) / f"{config['dataset']}.{source}"
        wanted = _columns(config, "load_col", source)
        if not path.is_file() or (wanted is not None and not wanted):
            continue
        fields = _fields(path, config)
        if config["MODEL_TYPE"] not in _WITHOUT_IDS:
            for key, sources in owners.items():
                if source in sources:
                    _check_loaded(config, source, key, fields)


def _columns(config: Any, key: str, source: str) -> list[str] | None:
    """Return the fields that ``load_col`` or ``unload_col`` names for a file; None for all, or where it is not set."""
    if config[key] is None:
        return None
    if not isinstance(config[key], dict):
        raise InputError(f"{key}={config[key]!r} must name the fields of each file, such as {{inter: [user_id]}}.")
    columns = config[key].get(source, [])
    return None if columns == "*" else list(columns or [])


def _fields(path: Path, config: Any) -> list[str]:
    """Return the names in the first line of `path`, of which each is ``name:type``."""
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    try:
        with path.open(encoding=encoding) as stream:
            line = stream.readline(_LONGEST).rstrip("\n")
    except (UnicodeError, LookupError) as error:
        raise InputError(f"'{path}' is not text in encoding={encoding}: name its own in encoding.") from error
    if line.startswith(_BOM):
        raise InputError(f"'{path}' starts with a byte order mark: set encoding to utf-8-sig.")
    columns = line.split(separator)
    wrong = [column for column in columns if column.count(":") != 1 or column.split(":")[1] not in _TYPES]
    if not wrong:
        return [column.split(":")[0] for column in columns]
    if len(columns) == 1:
        raise InputError(
            f"'{path}' has one column only by field_separator={separator!r} ('{line[:80]}'): set field_separator "
            "to what stands between its columns."
        )
    raise InputError(
        f"The column '{wrong[0][:80]}' in the first line of '{path}' must be name:type, of type {', '.join(_TYPES)}."
    )


def _check_loaded(config: Any, source: str, key: str, fields: list[str]) -> None:
    field, file = config[key], f"{config['dataset']}.{source}"
    if field is None:
        return
    if field not in fields:
        raise InputError(
            f"'{file}' has no field '{field}': set {key} to the one of {', '.join(fields)} that holds the ids, and "
            "name it in load_col."
        )
    wanted = _columns(config, "load_col", source)
    if wanted is not None and field not in wanted:
        raise InputError(f"The field '{field}' of {key} is not loaded from '{file}': add it to load_col.{source}.")
    if field in (_columns(config, "unload_col", source) or []):
        raise InputError(f"The field '{field}' of {key} is left out of '{file}': take it out of unload_col.{source}.")
