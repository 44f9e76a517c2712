"""What all formats of semantic IDs have in common: the table of codes that a file holds, and what is checked of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_sid.decoding.trie import LARGEST_SIZE
from recbole_sid.errors import InputError
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.util.files import write_text
from recbole_sid.util.item_tokens import match_rows

ABSENT = -1  # stands for a level that an item's semantic ID does not have


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
    """One file format.

    Attributes:
        read: path -> `CodeTable`.
        write: (semantic_ids, path).
        endings: of file names, by which the format is known where it is not named; the longest that fits counts.
    """

    read: Callable[[str | os.PathLike[str]], CodeTable]
    write: Callable[[SemanticIDs, str | os.PathLike[str]], None]
    endings: tuple[str, ...]


def code_table(items: np.ndarray, codes: np.ndarray, path: str | os.PathLike[str], rank_from: int = 0) -> CodeTable:
    """Return the table of `items` and `codes`; refuse items that occur twice."""
    names, counts = np.unique(items, return_counts=True)
    if len(names) < len(items):
        raise InputError(f"'{path}' names {(counts > 1).sum()} items twice (for example '{names[counts > 1][0]}').")
    return CodeTable(items, codes, rank_from)


def in_range(codes: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Return `codes`, whole numbers of any type and shape, as int64; refuse those that no level can have."""
    if codes.min(initial=0) < 0:
        raise InputError(f"'{path}' holds the code {codes.min()}: codes count from 0.")
    if codes.max(initial=0) >= LARGEST_SIZE:
        raise InputError(too_large(int(codes.max()), path))
    return codes.astype(np.int64)


def too_large(code: int, path: str | os.PathLike[str]) -> str:
    """Return the sentence that refuses a code beyond the largest size."""
    return (
        f"'{path}' holds the code {code}, where levels have at most {LARGEST_SIZE:,} codes, counted from 0: these are "
        "no codes of semantic IDs."
    )


def numbering_file(path: str | os.PathLike[str]) -> Path:
    """Return the file beside an exported one that names its items, one a line, where it can only number them."""
    return Path(f"{path}.items.txt")


def numbered_rows(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> np.ndarray:
    """Return the row of item 0, 1, ...: that of the token "0", "1", ...; else rows in order, named in a file beside."""
    n_items = len(semantic_ids.item_tokens)
    rows = match_rows(semantic_ids.item_tokens, np.arange(n_items).astype(str))
    if (rows >= 0).all():
        return rows
    write_text(numbering_file(path), "\n".join(semantic_ids.item_tokens.tolist()) + "\n")
    return np.arange(n_items)


def ends_in_rank(codes: np.ndarray) -> bool:
    """Say whether the last of at least two levels counts 0, 1, 2, ... among the items that agree in all others."""
    if codes.shape[1] < 2:
        return False
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    opens = np.r_[True, (ordered[1:, :-1] != ordered[:-1, :-1]).any(axis=1)]
    position = np.arange(len(codes))
    return bool((ordered[:, -1] == position - np.maximum.accumulate(np.where(opens, position, 0))).all())
