"""Ready-made semantic IDs of any format, checked against a dataset's items, as `SemanticIDs`; and the way back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_sid.decoding.trie import LARGEST_SIZE
from recbole_sid.errors import InputError
from recbole_sid.registry import COLLISIONS, resolve
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.formats.code_table import ABSENT, CodeTable, ends_in_rank, numbering_file
from recbole_sid.semantic_ids.formats.registered import format_of, get_format
from recbole_sid.tokenizer.collisions import CollisionContext, summary
from recbole_sid.util.hashing import content_hash
from recbole_sid.util.item_tokens import match_rows, token_array

_EXAMPLES = 3
_FEW = 10  # items that may well have different codes by chance


class Coverage(NamedTuple):
    """What a set of semantic IDs and a dataset do not have in common: str [n] each."""

    items_without: np.ndarray
    without_item: np.ndarray

    @classmethod
    def of(cls, known: np.ndarray, wanted: np.ndarray) -> Coverage:
        """Compare the items `known` to a set of semantic IDs with the dataset's items `wanted`."""
        return cls(wanted[match_rows(known, wanted) < 0], known[match_rows(wanted, known) < 0])


def read_semantic_ids(
    path: str | os.PathLike[str],
    item_tokens: Sequence[str] | np.ndarray | None = None,
    *,
    file_format: str | None = None,
    numbering: str | os.PathLike[str] | None = None,
    codebook_sizes: Sequence[int] | None = None,
    collision: str = "keep",
    rank_size: int | None = None,
    popularity: np.ndarray | None = None,
    dataset: str | None = None,
) -> SemanticIDs:
    """Read semantic IDs of any format.

    A ``.npz`` of ours is returned as it is. Of other files, items are matched by name, rows come in the order of
    `item_tokens`, shorter semantic IDs are filled up with a code of their own per level, and items of equal codes
    are told apart by the collision rule. What was changed or left out is logged as a warning.

    Args:
        path: the file.
        item_tokens: the dataset's items; by default those of the file.
        file_format: a name in `recbole_sid.registry.FORMATS` or ``npz``; by default what the file's ending says.
        numbering: a text file with one item token a line, for files that number their items: line 0 names item 0.
        codebook_sizes: codes per level; by default the largest code and 1.
        collision: ``keep``, or a rule in `recbole_sid.registry.COLLISIONS` that needs no features.
        rank_size: for the rule.
        popularity: int64 [n_items], how often each of `item_tokens` occurs in training: orders items that share a
            semantic ID.
        dataset: name of the dataset, to be recorded.

    Raises:
        InputError: if the file is missing or damaged, an item has no semantic ID, or a code is out of range.
    """
    if not os.path.isfile(path):
        raise InputError(f"There is no semantic-ID file at '{path}': write one with `recbole-sid tokenize`.")
    name = file_format or format_of(path)
    if name == "npz":
        return _load(path, item_tokens, dataset)
    table = get_format(name).read(path)
    if numbering is not None:
        table = _renamed(table, numbering, path)
    if item_tokens is not None:
        if numbering is None:
            _warn_of_numbers(table, path)
        table = _in_order(table, token_array(item_tokens, "The dataset"), path)
    _warn_of_unique_levels(table.codes, path)
    codes, sizes, padded = _filled_up(table.codes, codebook_sizes, path)
    recipe: dict[str, Any] = {
        "source": Path(path).name,
        "source_hash": content_hash(path),
        "format": name,
        "collision": "ragged" if padded else "rank" if table.rank_from or ends_in_rank(codes) else "keep",
    }
    recipe |= {"dataset": dataset} if dataset else {}
    recipe |= {"rank_from": table.rank_from} if table.rank_from else {}
    recipe |= {"padded_levels": padded} if padded else {}
    before, rule = summary(codes), resolve(COLLISIONS, collision, "collision rule")
    if before["groups"] == 0:
        return SemanticIDs(codes, sizes, table.items, recipe)
    codes, sizes = rule(codes, sizes, CollisionContext(rank_size))
    getLogger().warning(
        f"{before['collided_items']:,} items in '{path}' share their codes with another item: collision={collision} "
        f"{'lets them' if collision == 'keep' else f'tells them apart, with {codes.shape[1]} levels'}."
    )
    recipe |= {"collision": collision, "before_collision_rule": before}
    return SemanticIDs(codes, sizes, table.items, recipe, popularity if collision == "keep" else None)


def write_semantic_ids(
    semantic_ids: SemanticIDs, path: str | os.PathLike[str], file_format: str | None = None
) -> list[Path]:
    """Write semantic IDs in `file_format`, by default what the file's ending says.

    Formats that number items use the tokens as numbers if they are 0 to n - 1; else items are numbered by row, and a
    file beside, ``<path>.items.txt``, names them one a line.

    Returns:
        the files written.

    Raises:
        InputError: if the format is unknown or cannot hold these semantic IDs.
    """
    name = file_format or format_of(path)
    file_kind = None if name == "npz" else get_format(name)
    beside = numbering_file(path)
    beside.unlink(missing_ok=True)
    if file_kind is None:
        semantic_ids.save(path)
    else:
        file_kind.write(semantic_ids, path)
        _warn_of_lost_sizes(semantic_ids, path)
    return [Path(path), *([beside] if beside.is_file() else [])]


def _warn_of_lost_sizes(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    """Say which sizes a reader cannot infer from the codes in a file of others."""
    inferred = tuple((semantic_ids.codes.max(axis=0) + 1).tolist())
    if inferred != semantic_ids.codebook_sizes:
        sizes = f"[{','.join(map(str, semantic_ids.codebook_sizes))}]"
        getLogger().warning(
            f"'{path}' holds codes but no codebook sizes, and by its codes they are {list(inferred)}: import it with "
            f"--codebook_sizes={sizes} to have these again."
        )


def _load(
    path: str | os.PathLike[str], item_tokens: Sequence[str] | np.ndarray | None, dataset: str | None
) -> SemanticIDs:
    semantic_ids = SemanticIDs.load(path)
    made_for = semantic_ids.recipe.get("dataset")
    if dataset is not None and made_for not in (None, dataset):
        raise InputError(
            f"The semantic IDs in '{path}' were made for dataset '{made_for}' and this is '{dataset}': use semantic "
            "IDs made for this dataset."
        )
    if item_tokens is not None:
        semantic_ids.table(item_tokens)  # refuses what is missing
        if len(semantic_ids.item_tokens) > len(item_tokens):
            _warn_of_surplus(Coverage.of(semantic_ids.item_tokens, np.asarray(item_tokens, dtype=str)), path)
    return semantic_ids


def _renamed(table: CodeTable, numbering: str | os.PathLike[str], path: str | os.PathLike[str]) -> CodeTable:
    """Return `table` with item numbers replaced by the lines of the file `numbering`."""
    try:
        names = token_array(Path(numbering).read_text(encoding="utf-8").splitlines(), f"'{numbering}'")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{numbering}' is no text file with one item token a line ({error}).") from error
    row = match_rows(np.arange(len(names)).astype(str), table.items)
    if (row < 0).any():
        raise InputError(
            f"'{numbering}' has {len(names)} lines, none for {(row < 0).sum()} items of '{path}' "
            f"(for example '{table.items[row < 0][0]}'): it must name item 0 in its first line, item 1 in its second."
        )
    if len(np.unique(names[row])) < len(row):
        raise InputError(f"'{numbering}' names an item twice: every line must be another item token.")
    return replace(table, items=names[row])


def _warn_of_numbers(table: CodeTable, path: str | os.PathLike[str]) -> None:
    """Say that item numbers 0 to n - 1 are taken for tokens: those of another dataset would do as well."""
    n_items = len(table.items)
    if (match_rows(table.items, np.arange(n_items).astype(str)) >= 0).all():
        getLogger().warning(
            f"'{path}' numbers its items 0 to {n_items - 1}, which are taken for the dataset's item tokens: make sure "
            "that it was made for this dataset, or name its items by --numbering=FILE of `recbole-sid import`."
        )


def _warn_of_unique_levels(codes: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Say which levels give every item a code of its own: one that does is an item number rather than a level."""
    n_items, n_levels = codes.shape
    if n_items < _FEW or n_levels == 1:
        return
    for level in range(n_levels):
        if len(np.unique(codes[:, level])) == n_items:
            getLogger().warning(
                f"'{path}' gives each of its {n_items:,} items another code at level {level + 1}: make sure that this "
                "is a level of semantic IDs and no number of the items or rows."
            )


def _in_order(table: CodeTable, item_tokens: np.ndarray, path: str | os.PathLike[str]) -> CodeTable:
    """Return the rows of the dataset's items, in their order."""
    _check_coverage(table.items, item_tokens, path)
    return replace(table, items=item_tokens, codes=table.codes[match_rows(table.items, item_tokens)])


def _check_coverage(known: np.ndarray, item_tokens: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Refuse semantic IDs that leave out items of the dataset; warn of those that are of no item.

    Raises:
        InputError: counts both, with examples.
    """
    found = Coverage.of(known, item_tokens)
    if len(found.items_without):
        raise InputError(
            f"{len(found.items_without)} of the dataset's {len(item_tokens)} items have no semantic ID "
            f"(for example {_examples(found.items_without)}), and {_surplus(found, path)}: use semantic IDs made for "
            "this dataset or, where they number the items, name those by --numbering=FILE of `recbole-sid import`."
        )
    _warn_of_surplus(found, path)


def _warn_of_surplus(found: Coverage, path: str | os.PathLike[str]) -> None:
    if len(found.without_item):
        getLogger().warning(f"{_surplus(found, path)}: they are left out.")


def _surplus(found: Coverage, path: str | os.PathLike[str]) -> str:
    examples = f" (for example {_examples(found.without_item)})" if len(found.without_item) else ""
    return f"{len(found.without_item)} semantic IDs in '{path}' are of no item of the dataset{examples}"


def _examples(names: np.ndarray) -> str:
    return ", ".join(f"'{name}'" for name in names[:_EXAMPLES])


def _filled_up(
    codes: np.ndarray, codebook_sizes: Sequence[int] | None, path: str | os.PathLike[str]
) -> tuple[np.ndarray, tuple[int, ...], list[int]]:
    """Give absent levels a code of their own, one more than the level's codes.

    Returns:
        codes [n, L] without `ABSENT`, sizes, and the levels (from 1) that got such a code.
    """
    if codebook_sizes is not None and len(codebook_sizes) != codes.shape[1]:
        raise InputError(
            f"codebook_sizes={list(codebook_sizes)} names {len(codebook_sizes)} levels, '{path}' has {codes.shape[1]}."
        )
    largest = codes.max(axis=0) + 1
    sizes = largest if codebook_sizes is None else np.asarray(codebook_sizes)
    if sizes.max() > LARGEST_SIZE:
        raise InputError(f"codebook_sizes={sizes.tolist()} must be at most {LARGEST_SIZE:,} each.")
    small = np.flatnonzero(largest > sizes)
    if len(small):
        raise InputError(
            f"'{path}' has code {largest[small[0]] - 1} at level {small[0] + 1}, where codebook_sizes says "
            f"{sizes[small[0]]}: codes count from 0 within each level."
        )
    absent = codes == ABSENT
    padded = absent.any(axis=0)
    if padded.any():
        reserved = ", ".join(f"{sizes[level]} at level {level + 1}" for level in np.flatnonzero(padded))
        getLogger().warning(
            f"{absent.any(axis=1).sum()} of {len(codes)} semantic IDs in '{path}' have fewer than {codes.shape[1]} "
            f"codes: they are filled up with a code that stands for 'none' ({reserved})."
        )
    levels = (np.flatnonzero(padded) + 1).tolist()
    return np.where(absent, sizes, codes), tuple((sizes + padded).tolist()), levels
