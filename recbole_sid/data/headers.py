"""A dataset's atomic files, checked before RecBole reads them: the first line, over which it fails, and texts so long
that its arrays, of which every place is as wide as the longest text, would fill the memory.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureType, ModelType

from recbole_sid.errors import InputError, first_line
from recbole_sid.util.atomic_files import PARQUET, atomic_path, parquet_columns
from recbole_sid.util.item_tokens import CHARACTER, LARGEST_ARRAY, LONGEST_TOKEN

_BOM = "\ufeff"
_LONGEST = 1 << 20  # characters of a first line
_TYPES = [kind.value for kind in FeatureType]
_FILES, _KNOWLEDGE_FILES = ("inter", "user", "item"), ("kg", "link")
# Keys that name the ids, and the files that hold them.
_OWNERS = {
    "USER_ID_FIELD": ("inter", "user"),
    "ITEM_ID_FIELD": ("inter", "item", "link"),
    "HEAD_ENTITY_ID_FIELD": ("kg",),
    "RELATION_ID_FIELD": ("kg",),
    "TAIL_ENTITY_ID_FIELD": ("kg",),
    "ENTITY_ID_FIELD": ("link",),
}
_BLOCK = 1 << 24  # bytes
_ROWS = 10_000  # read at a time
_LONG = 256  # bytes of a line
# Models that read whatever fields there are, with or without users and items.
_WITHOUT_IDS = (ModelType.CONTEXT, ModelType.DECISIONTREE)


def check_headers(config: Any) -> None:
    """Raise InputError, naming the key that mends it, if RecBole cannot use the first line of a file that it will read.

    Args:
        config: reads ``data_path``, ``dataset``, ``encoding``, ``field_separator``, ``load_col``, ``unload_col``,
            and the keys in `_OWNERS`.
    """
    for source in _FILES + (_KNOWLEDGE_FILES if config["MODEL_TYPE"] == ModelType.KNOWLEDGE else ()):
        path = atomic_path(config["data_path"], config["dataset"], source)
        wanted = _columns(config, "load_col", source)
        if not path.is_file() or (wanted is not None and not wanted):
            continue
        fields = _fields_of_parquet(path, config) if path.name.endswith(PARQUET) else _fields(path, config)
        if config["MODEL_TYPE"] not in _WITHOUT_IDS:
            for key, sources in _OWNERS.items():
                if source in sources:
                    _check_loaded(config, source, key, list(fields))
        if not path.name.endswith(PARQUET) and _may_be_too_wide(path):
            loaded = fields.keys() if wanted is None else fields.keys() & set(wanted)
            _check_texts(path, config, {field: fields[field] for field in fields if field in loaded})


def _columns(config: Any, key: str, source: str) -> list[str] | None:
    """Return the fields that ``load_col`` or ``unload_col`` names for a file; None for all, or where it is not set."""
    if config[key] is None:
        return None
    if not isinstance(config[key], dict):
        raise InputError(f"{key}={config[key]!r} must name the fields of each file, such as {{inter: [user_id]}}.")
    columns = config[key].get(source, [])
    if columns is not None and not isinstance(columns, (str, list, tuple)):
        raise InputError(f"{key}.{source}={columns!r} must be a list of fields, such as [user_id, item_id].")
    return None if columns == "*" else list(columns or [])


def _fields(path: Path, config: Any) -> dict[str, str]:
    """Return the types in the first line of `path` by their names: each column is ``name:type``."""
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    if not isinstance(separator, str) or not separator:
        raise InputError(f"field_separator={separator!r} must be what stands between columns, such as ','.")
    try:
        with path.open(encoding=encoding) as stream:
            line = stream.readline(_LONGEST).rstrip("\n")
    except (UnicodeError, LookupError) as error:
        raise InputError(f"'{path}' is not text in encoding={encoding}: name its own in encoding.") from error
    if not line:
        raise InputError(f"'{path}' is empty, or begins with an empty line: its first line must name the columns.")
    if line.startswith(_BOM):
        raise InputError(f"'{path}' starts with a byte order mark: set encoding to utf-8-sig.")
    columns = line.split(separator)
    wrong = [column for column in columns if column.count(":") != 1 or column.split(":")[1] not in _TYPES]
    if not wrong:
        return dict(column.split(":") for column in columns)
    if len(columns) == 1:
        raise InputError(
            f"'{path}' has one column only by field_separator={separator!r} ('{line[:80]}'): set field_separator "
            "to what stands between its columns."
        )
    raise InputError(
        f"The column '{wrong[0][:80]}' in the first line of '{path}' must be name:type, of type {', '.join(_TYPES)}."
    )


def _fields_of_parquet(path: Path, config: Any) -> dict[str, str]:
    ids = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"])
    return {column.field: column.type for column in parquet_columns(path, ids)}


def _may_be_too_wide(path: Path) -> bool:
    """Say whether the texts of `path` have to be looked at, from the number and the longest of its lines alone."""
    longest = begun = n_lines = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
            if not len(ends):
                begun += len(block)
                continue
            n_lines += len(ends)
            longest = max(longest, begun + int(ends[0]), int(np.diff(ends).max(initial=0)))
            begun = len(block) - int(ends[-1])
    longest = max(longest, begun)
    return longest > LONGEST_TOKEN or (longest > _LONG and longest * n_lines * CHARACTER > LARGEST_ARRAY)


def _check_texts(path: Path, config: Any, types: dict[str, str]) -> None:
    """Raise InputError for ids and words of over `LONGEST_TOKEN` bytes, and texts that as wide an array cannot hold.

    Args:
        path: the file.
        config: reads ``encoding``, ``field_separator``, ``seq_separator`` and the keys in `_OWNERS`.
        types: type by name of the fields that are loaded.
    """
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    ids = {config[key] for key in _OWNERS}
    texts = [field for field, kind in types.items() if kind.startswith("token")]
    found: dict[str, set[str]] = {field: set() for field in texts}
    columns = [f"{field}:{types[field]}" for field in texts]
    try:
        chunks = pd.read_csv(
            path,
            delimiter=separator,
            usecols=columns,
            dtype=str,
            keep_default_na=False,
            encoding=encoding,
            engine="python",
            chunksize=_ROWS,
        )
        for chunk in chunks:
            for field, column in zip(texts, columns, strict=True):
                of_words = types[field] == FeatureType.TOKEN_SEQ.value
                words = chunk[column].str.split(config["seq_separator"]).explode() if of_words else chunk[column]
                widest = int(words.str.len().max())
                if widest > LONGEST_TOKEN and (of_words or field in ids):
                    raise InputError(
                        f"'{path}' has a value of {widest:,} characters in its field '{field}', where at most "
                        f"{LONGEST_TOKEN:,} are read: shorten it, or leave the field out of load_col."
                    )
                found[field].update(words.dropna().unique())
    except InputError:
        raise
    except (ValueError, LookupError, pd.errors.ParserError, csv.Error) as error:
        raise InputError(f"'{path}' cannot be read ({first_line(error)}): shorten it, or mend the file.") from error
    for field, values in found.items():
        width = max(map(len, values), default=0)
        if width * len(values) * CHARACTER > LARGEST_ARRAY:
            raise InputError(
                f"'{path}' has {len(values):,} texts of up to {width:,} characters in its field '{field}', each of "
                "which takes the longest one's memory: shorten the longest, or leave the field out of load_col."
            )


def _check_loaded(config: Any, source: str, key: str, fields: list[str]) -> None:
    field, file = config[key], atomic_path(config["data_path"], config["dataset"], source).name
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
