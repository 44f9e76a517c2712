"""Semantic IDs in the files of others: one reader and one writer per format.

A reader gives a `CodeTable`; `recbole_sid.semantic_ids.ready_made` makes `SemanticIDs` of it. Formats are registered in
`recbole_sid.registry.FORMATS`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from logging import getLogger
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError, first_line
from recbole_sid.semantic_ids.artefact import LARGEST_SIZE, SemanticIDs, check_levels
from recbole_sid.util.files import replacing, write_text
from recbole_sid.util.item_tokens import match_rows, token_array
from recbole_sid.util.reading import is_plain_tensor, load_tensors, read_json, read_parquet

ABSENT = -1  # stands for a level that an item's semantic ID does not have
_ITEM_COLUMN = "item_id"


@dataclass(frozen=True)
class CodeTable:
    """What a file of semantic IDs holds.

    Attributes:
        items: str [n], the items as the file names or numbers them, unique.
        codes: int64 [n, L], from 0; `ABSENT` after the last code of a semantic ID that is shorter than the longest.
        rank_from: what the file counts the collision rank in its last level from (`codes` count from 0).
    """

    items: np.ndarray
    codes: np.ndarray
    rank_from: int = 0


class Format(NamedTuple):
    """One file format: ``read(path) -> CodeTable`` and ``write(semantic_ids, path)``."""

    read: Callable[[str | os.PathLike[str]], CodeTable]
    write: Callable[[SemanticIDs, str | os.PathLike[str]], None]


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the name of the format that a file's ending stands for.

    Raises:
        InputError: if it stands for none.
    """
    name = Path(path).name.lower()
    for ending, file_format in _ENDINGS.items():
        if name.endswith(ending):
            return file_format
    raise InputError(
        f"The ending of '{path}' names no format of semantic IDs: name the file *{', *'.join(_ENDINGS)}, or the format "
        "with --format."
    )


_ENDINGS = {
    ".index.json": "index",
    ".json": "json",
    ".sem_ids": "sem_ids",
    ".pt": "tensor",
    ".pth": "tensor",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".npz": "npz",
}


class _Pairs(list):
    """A JSON object as (key, value) pairs: a dictionary would drop an item that occurs twice without a word."""


def _read_json(path: str | os.PathLike[str]) -> CodeTable:
    """Read ``{item: [codes]}``, the codes as numbers or as ``"<a_12>"``."""
    content = read_json(path, _Pairs)
    if not isinstance(content, _Pairs) or not content:
        raise InputError(f"'{path}' must hold one JSON object {{item: [codes], ...}} of at least one item.")
    items, lists = zip(*content, strict=True)
    if set(map(type, lists)) != {list}:
        raise InputError(f"'{path}' must give every item a list of codes, as in {{item: [12, 3, 7]}}.")
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    if lengths.min() == 0:
        raise InputError(f"'{path}' has {(lengths == 0).sum()} items without any code: leave them out.")
    check_levels(int(lengths.max()), f"'{path}'")
    flat = _json_codes(list(chain.from_iterable(lists)), lengths, path)
    return _table(token_array(items, f"'{path}'"), _rectangle(flat, lengths), path)


def _json_codes(values: list[Any], lengths: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Return the codes of all items in a row, written as numbers or as words: int64 [n]."""
    kinds = set(map(type, values))
    if kinds == {str}:
        longest = max(values, key=len)
        if len(longest) > _LONGEST_WORD:
            raise InputError(f"'{path}' has the code '{longest[:_LONGEST_WORD]}...', not <a_NUMBER>.")
        return _in_range(_codes_of_words(np.array(values), lengths, path), path)
    if kinds != {int}:
        problem = next(text for kind, text in _NO_CODES.items() if kind in kinds)
        raise InputError(f"'{path}' {problem}: give every item a plain list of whole numbers, as in [12, 3, 7].")
    try:
        return _in_range(np.array(values, dtype=np.int64), path)
    except OverflowError:
        raise InputError(_too_large(max(values, key=abs), path)) from None


_LONGEST_WORD = 100  # characters of a code in quotes
# What JSON may hold in the place of a code, and how to say so; the first that occurs is named.
_NO_CODES: dict[type, str] = {
    list: "nests lists within an item's codes",
    _Pairs: "has an object among an item's codes",
    bool: "has true or false among its codes",
    type(None): "has null among its codes",
    float: "holds codes that are no whole numbers",
    str: "has some codes in quotes and others not",
}


def _codes_of_words(words: np.ndarray, lengths: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Return the numbers of ``<a_12>, <b_3>, ...``: the letter is the level's, from a."""
    if pd.Series(words[:1]).str.fullmatch(r"-?\d+").any():
        raise InputError(
            f"'{path}' has its codes in quotes, as in \"{words[0]}\": write numbers, as in [12, 3, 7], or what index "
            'files have, as in ["<a_12>", "<b_3>"].'
        )
    parts = pd.Series(words).str.extract(r"^<([a-z])_(\d{1,18})>$")
    level = np.arange(len(words)) - np.repeat(lengths.cumsum() - lengths, lengths)
    letters = np.array(list(ascii_lowercase))[level.clip(max=len(ascii_lowercase) - 1)]
    wrong = parts[0].to_numpy() != letters
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"'{path}' has '{words[first]}' at level {level[first] + 1}, where index files have "
            f"<{letters[first]}_NUMBER>."
        )
    return parts[1].to_numpy().astype(np.int64)


def _rectangle(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return codes [n, L] of the items' codes in a row, `ABSENT` behind those of the shorter ones."""
    codes = np.full((len(lengths), lengths.max()), ABSENT, dtype=np.int64)
    codes[np.arange(lengths.max()) < lengths[:, None]] = flat
    return codes


def _in_range(codes: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Return `codes`, whole numbers of any type and shape, as int64; refuse those that no level can have."""
    if codes.min(initial=0) < 0:
        raise InputError(f"'{path}' holds the code {codes.min()}: codes count from 0.")
    if codes.max(initial=0) >= LARGEST_SIZE:
        raise InputError(_too_large(int(codes.max()), path))
    return codes.astype(np.int64)


def _too_large(code: int, path: str | os.PathLike[str]) -> str:
    return (
        f"'{path}' holds the code {code}, where levels have at most {LARGEST_SIZE:,} codes, counted from 0: these are "
        "no codes of semantic IDs."
    )


def _table(items: np.ndarray, codes: np.ndarray, path: str | os.PathLike[str], rank_from: int = 0) -> CodeTable:
    names, counts = np.unique(items, return_counts=True)
    if len(names) < len(items):
        raise InputError(f"'{path}' names {(counts > 1).sum()} items twice (for example '{names[counts > 1][0]}').")
    return CodeTable(items, codes, rank_from)


def _write_json(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    _write_lists(semantic_ids.item_tokens, semantic_ids.codes, path)


def _write_lists(items: np.ndarray, codes: np.ndarray, path: str | os.PathLike[str]) -> None:
    write_text(path, json.dumps(dict(zip(items.tolist(), codes.tolist(), strict=True))) + "\n")


PLAIN = Format(_read_json, _write_json)


def _write_index(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    """Write ``{"0": ["<a_12>", "<b_3>", ...]}``."""
    if semantic_ids.n_levels > len(ascii_lowercase):
        raise InputError(f"An index file has one letter a level: {semantic_ids.n_levels} levels are too many for it.")
    rows = _numbered(semantic_ids, path)
    columns = [
        np.char.add(np.char.add(f"<{letter}_", column.astype(str)), ">")
        for letter, column in zip(ascii_lowercase, semantic_ids.codes[rows].T, strict=False)
    ]
    _write_lists(np.arange(len(rows)).astype(str), np.stack(columns, axis=1), path)


def numbering_file(path: str | os.PathLike[str]) -> Path:
    """Return the file beside an exported one that names its items, one a line, where it can only number them."""
    return Path(f"{path}.items.txt")


def _numbered(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> np.ndarray:
    """Return the row of item 0, 1, ...: that of the token "0", "1", ...; else rows in order, named in a file beside."""
    n_items = len(semantic_ids.item_tokens)
    rows = match_rows(semantic_ids.item_tokens, np.arange(n_items).astype(str))
    if (rows >= 0).all():
        return rows
    write_text(numbering_file(path), "\n".join(semantic_ids.item_tokens.tolist()) + "\n")
    return np.arange(n_items)


INDEX = Format(_read_json, _write_index)


def _read_sem_ids(path: str | os.PathLike[str]) -> CodeTable:
    """Read ``{item: [codes]}`` whose last level is the collision rank counted from 1."""
    table = _read_json(path)
    if table.codes.min() == ABSENT:
        raise InputError(f"'{path}' gives items different numbers of codes: a .sem_ids file gives all the same.")
    if table.codes[:, -1].min() < 1:
        raise InputError(
            f"'{path}' has rank 0 in its last level, where .sem_ids files count from 1: read it with --format=json."
        )
    shift = np.arange(table.codes.shape[1]) == table.codes.shape[1] - 1
    return CodeTable(table.items, table.codes - shift, rank_from=1)


def _write_sem_ids(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    if not ends_in_rank(semantic_ids.codes):
        raise InputError(
            "A .sem_ids file ends in a collision rank, which these semantic IDs do not have: make them with "
            "collision=rank, or export another format."
        )
    shift = np.arange(semantic_ids.n_levels) == semantic_ids.n_levels - 1
    _write_lists(semantic_ids.item_tokens, semantic_ids.codes + shift, path)


def ends_in_rank(codes: np.ndarray) -> bool:
    """Say whether the last of at least two levels counts 0, 1, 2, ... among the items that agree in all others."""
    if codes.shape[1] < 2:
        return False
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    opens = np.r_[True, (ordered[1:, :-1] != ordered[:-1, :-1]).any(axis=1)]
    position = np.arange(len(codes))
    return bool((ordered[:, -1] == position - np.maximum.accumulate(np.where(opens, position, 0))).all())


SEM_IDS = Format(_read_sem_ids, _write_sem_ids)


def _read_tensor(path: str | os.PathLike[str]) -> CodeTable:
    """Read a tensor [levels, items]; column j is item number j."""
    import torch

    try:
        codes = load_tensors(path)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"'{path}' is no tensor that torch loads without pickle ({first_line(error)}).") from error
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if not is_plain_tensor(codes) or codes.dim() != 2 or codes.dtype not in whole:
        raise InputError(
            f"'{path}' must hold one tensor of whole numbers [levels, items] (for a model's weights, say which model: "
            "--model=TIGER)."
        )
    if codes.shape[0] > codes.shape[1] or codes.numel() == 0:
        raise InputError(f"'{path}' has shape {tuple(codes.shape)}: it must be [levels, items].")
    check_levels(codes.shape[0], f"'{path}'")
    table = codes.T.long().numpy()
    return _table(np.arange(len(table)).astype(str), _in_range(table, path), path)


def _write_tensor(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    import torch

    codes = semantic_ids.codes[_numbered(semantic_ids, path)]
    with replacing(path) as temporary, open(temporary, "wb") as stream:  # a stream: see save_checkpoint
        torch.save(torch.from_numpy(codes.T.copy()), stream)


TENSOR = Format(_read_tensor, _write_tensor)


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
    return _table(token_array(frame[item].astype(str).to_list(), f"'{path}'"), codes, path)


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
    return np.where(is_code, _in_range(np.where(is_code, numbers, 0), path), ABSENT)


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


CSV = Format(_read_csv, _write_csv)
PARQUET = Format(_read_parquet, _write_parquet)
