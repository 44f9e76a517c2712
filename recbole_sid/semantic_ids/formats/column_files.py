"""Semantic IDs as a table with a column of items and one a level: CSV, TSV and Parquet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError, first_line
from recbole_sid.semantic_ids.artefact import SemanticIDs, check_levels
from recbole_sid.semantic_ids.formats.code_table import ABSENT, CodeTable, Format, code_table, in_range
from recbole_sid.util.files import replacing
from recbole_sid.util.item_tokens import token_array
from recbole_sid.util.reading import read_parquet

_ITEM_COLUMN = "item_id"


def _read_csv(path: str | os.PathLike[str]) -> CodeTable:
    """Read a column of items (``item_id``, else the first) and one column per level; empty cells are absent levels.

    A first column without a name beside ``item_id`` is pandas' numbering of the rows, and left out.
    """
    options: dict[str, Any] = {"sep": _separator(path), "compression": None, "encoding": "utf-8-sig"}
    try:
        names = pd.read_csv(path, nrows=0, **options).columns
        item, levels = _columns(names, path)
        missing = {level: [""] for level in levels}
        frame = pd.read_csv(path, dtype={item: str}, keep_default_na=False, na_values=missing, **options)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{path}' is no CSV table ({first_line(error)}).") from error
    return _read_frame(frame, item, levels, path)


def _read_parquet(path: str | os.PathLike[str]) -> CodeTable:
    """As CSV, from Parquet."""
    try:
        frame = read_parquet(path).to_pandas(ignore_metadata=True)  # an index, too, comes as a column
    except InputError:
        raise
    except Exception as error:  # pyarrow has exceptions of its own
        raise InputError(f"'{path}' is no Parquet table ({first_line(error)}).") from error
    return _read_frame(frame, *_columns(frame.columns, path), path)


def _separator(path: str | os.PathLike[str]) -> str:
    return "\t" if str(path).lower().endswith(".tsv") else ","


def _columns(names: Sequence[Any] | pd.Index, path: str | os.PathLike[str]) -> tuple[Any, list[Any]]:
    """Return the column of items and those of the levels."""
    item = _ITEM_COLUMN if _ITEM_COLUMN in names else names[0] if len(names) else None
    if item != _ITEM_COLUMN and any(map(_is_nameless, names)):
        raise InputError(
            f"'{path}' has a column without a name and none called {_ITEM_COLUMN}, so that its items cannot be told "
            f"from row numbers: name the column of items {_ITEM_COLUMN} (with pandas, write without the index)."
        )
    levels = [name for name in names if name != item]
    if not levels:
        raise InputError(f"'{path}' needs a column of items and one column per level.")
    check_levels(len(levels), f"'{path}'")
    return item, levels


def _is_nameless(name: Any) -> bool:
    """Say whether pandas gave a column this name for want of one."""
    return re.fullmatch(r"\s*|Unnamed: \d+|__index_level_\d+__", str(name)) is not None


def _without_row_numbers(frame: pd.DataFrame, levels: list[Any], path: str | os.PathLike[str]) -> list[Any]:
    """Return `levels` without a nameless column that counts the rows, as pandas writes; refuse any other nameless."""
    nameless = [name for name in levels if _is_nameless(name)]
    for name in nameless:
        if not np.array_equal(pd.to_numeric(frame[name], errors="coerce"), np.arange(len(frame))):
            raise InputError(
                f"'{path}' has a column without a name ('{name}') that does not count the rows: name it if it is a "
                "level, else remove it."
            )
        getLogger().warning(f"'{path}' has a column without a name that counts the rows: it is left out.")
    kept = [name for name in levels if name not in nameless]
    if not kept:
        raise InputError(f"'{path}' needs a column of items and one column per level.")
    return kept


def _read_frame(frame: pd.DataFrame, item: Any, levels: list[Any], path: str | os.PathLike[str]) -> CodeTable:
    if frame.empty:
        raise InputError(f"'{path}' holds no item.")
    columns = [_level(frame[level], path) for level in _without_row_numbers(frame, levels, path)]
    codes = np.stack(columns, axis=1)
    absent = codes == ABSENT
    if (absent[:, :-1] & ~absent[:, 1:]).any() or absent[:, 0].any():
        raise InputError(f"'{path}' has an empty cell before an item's last code: only the last levels may be empty.")
    return code_table(token_array(frame[item].astype(str).to_list(), f"'{path}'"), codes, path)


def _level(column: pd.Series, path: str | os.PathLike[str]) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    is_code = np.isfinite(numbers) & (numbers >= 0) & (numbers == np.floor(numbers))
    is_code &= pd.api.types.infer_dtype(column, skipna=True) != "boolean"  # which counts as 0 and 1
    wrong = ~is_code & column.notna().to_numpy()
    if wrong.any():
        raise InputError(
            f"'{path}' has '{column[wrong].iloc[0]}' in column '{column.name}': beside the items, every column is a "
            "level and holds whole numbers from 0."
        )
    return np.where(is_code, in_range(np.where(is_code, numbers, 0), path), ABSENT)


def _frame(semantic_ids: SemanticIDs) -> pd.DataFrame:
    columns = {f"code_{level + 1}": semantic_ids.codes[:, level] for level in range(semantic_ids.n_levels)}
    return pd.DataFrame({_ITEM_COLUMN: semantic_ids.item_tokens, **columns})


def _write_csv(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    with replacing(path) as temporary:
        _frame(semantic_ids).to_csv(temporary, sep=_separator(path), index=False)


def _write_parquet(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    with replacing(path) as temporary:
        try:
            _frame(semantic_ids).to_parquet(temporary, index=False)
        except ImportError as error:
            raise InputError(f"Writing '{path}' needs a Parquet library: pip install pyarrow.") from error


CSV = Format(_read_csv, _write_csv, (".csv", ".tsv"))
PARQUET = Format(_read_parquet, _write_parquet, (".parquet",))
