"""Semantic IDs in JSON: ``{item: [codes]}``, as numbers, as the words of index files, or with a rank from 1."""

from __future__ import annotations

import json
import os
from itertools import chain
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError
from recbole_sid.semantic_ids.artefact import SemanticIDs, check_levels
from recbole_sid.semantic_ids.formats.code_table import (
    ABSENT,
    CodeTable,
    Format,
    code_table,
    ends_in_rank,
    in_range,
    numbered_rows,
    too_large,
)
from recbole_sid.util.files import write_text
from recbole_sid.util.item_tokens import token_array
from recbole_sid.util.reading import read_json


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
    return code_table(token_array(items, f"'{path}'"), _rectangle(flat, lengths), path)


def _json_codes(values: list[Any], lengths: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Return the codes of all items in a row, written as numbers or as words: int64 [n]."""
    kinds = set(map(type, values))
    if kinds == {str}:
        longest = max(values, key=len)
        if len(longest) > _LONGEST_WORD:
            raise InputError(f"'{path}' has the code '{longest[:_LONGEST_WORD]}...', not <a_NUMBER>.")
        return in_range(_codes_of_words(np.array(values), lengths, path), path)
    if kinds != {int}:
        problem = next(text for kind, text in _NO_CODES.items() if kind in kinds)
        raise InputError(f"'{path}' {problem}: give every item a plain list of whole numbers, as in [12, 3, 7].")
    try:
        return in_range(np.array(values, dtype=np.int64), path)
    except OverflowError:
        raise InputError(too_large(max(values, key=abs), path)) from None


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


def _write_json(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    _write_lists(semantic_ids.item_tokens, semantic_ids.codes, path)


def _write_lists(items: np.ndarray, codes: np.ndarray, path: str | os.PathLike[str]) -> None:
    write_text(path, json.dumps(dict(zip(items.tolist(), codes.tolist(), strict=True))) + "\n")


PLAIN = Format(_read_json, _write_json, (".json",))


def _write_index(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    """Write ``{"0": ["<a_12>", "<b_3>", ...]}``."""
    if semantic_ids.n_levels > len(ascii_lowercase):
        raise InputError(f"An index file has one letter a level: {semantic_ids.n_levels} levels are too many for it.")
    rows = numbered_rows(semantic_ids, path)
    columns = [
        np.char.add(np.char.add(f"<{letter}_", column.astype(str)), ">")
        for letter, column in zip(ascii_lowercase, semantic_ids.codes[rows].T, strict=False)
    ]
    _write_lists(np.arange(len(rows)).astype(str), np.stack(columns, axis=1), path)


INDEX = Format(_read_json, _write_index, (".index.json",))


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


SEM_IDS = Format(_read_sem_ids, _write_sem_ids, (".sem_ids",))
