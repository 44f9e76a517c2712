"""The artefact: which codes each item has, over which codebooks, and how they were made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from recbole_sid.decoding.trie import LARGEST_SIZE, MOST_LEVELS, Trie
from recbole_sid.errors import InputError, first_line
from recbole_sid.util.files import prefixed, replacing, with_prefix
from recbole_sid.util.hashing import DIGITS, EARLIER_DIGITS
from recbole_sid.util.item_tokens import LONGEST_TOKEN, hash_tokens, match_rows, token_array
from recbole_sid.util.reading import Arrays, open_arrays, parse_json

_LARGEST_RECIPE = 1 << 26  # bytes
# What the arrays of the trie, the tokenizer and the features are called in a file.
_TRIE = "trie_"
_TOKENIZER = "tokenizer_"
_FEATURES = "features_"
EXTENDED_AT = "extended_at"  # in the recipe: the numbers of items before each extension


@dataclass(frozen=True)
class SemanticIDs:
    """Codes of every item of a catalogue (padding is no item).

    Attributes:
        codes: int64 [n_items, L], ``0 <= codes[:, t] < codebook_sizes[t]``; 1 <= L <= `MOST_LEVELS`.
        codebook_sizes: number of codes per level, length L, at most `LARGEST_SIZE`; levels may differ.
        item_tokens: str [n_items], the raw item ids the rows belong to, unique.
        recipe: how the codes were made (dataset, features, tokenizer, parameters, hashes), JSON types only.
        popularity: int64 [n_items], how often each item occurs in training; orders the items that share a semantic ID,
            then their row number does. None: the row number alone.
        tokenizer_state: the fitted tokenizer's arrays, for items that come later; may be empty.
        feature_state: what was learnt to compute the features, for the same; may be empty.

    Raises:
        InputError: if shapes disagree, a code is no integer or out of range, or an item occurs twice.
    """

    codes: np.ndarray
    codebook_sizes: tuple[int, ...]
    item_tokens: np.ndarray
    recipe: Mapping[str, Any] = field(default_factory=dict)
    popularity: np.ndarray | None = None
    tokenizer_state: Mapping[str, np.ndarray] = field(default_factory=dict)
    feature_state: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not np.issubdtype(np.asarray(self.codes).dtype, np.integer):
            raise InputError("Semantic IDs are integers: the codes given are not.")
        codes = np.ascontiguousarray(self.codes, dtype=np.int64)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "codebook_sizes", tuple(int(size) for size in self.codebook_sizes))
        object.__setattr__(self, "item_tokens", token_array(self.item_tokens, "The semantic IDs"))
        if codes.ndim != 2 or codes.shape[1] != len(self.codebook_sizes) or codes.shape[1] == 0:
            raise InputError(
                f"Semantic IDs need codes [n_items, L] and L codebook sizes, L >= 1; got {codes.shape} "
                f"and {len(self.codebook_sizes)} sizes."
            )
        check_levels(codes.shape[1], "The semantic IDs")
        if not 1 <= min(self.codebook_sizes) <= max(self.codebook_sizes) <= LARGEST_SIZE:
            raise InputError(
                f"Semantic IDs have codebook_sizes={list(self.codebook_sizes)}: each from 1 to {LARGEST_SIZE:,}."
            )
        if codes.shape[0] != len(self.item_tokens) or codes.shape[0] == 0:
            raise InputError(f"Semantic IDs hold {codes.shape[0]} rows for {len(self.item_tokens)} item tokens.")
        outside = (codes < 0) | (codes >= np.asarray(self.codebook_sizes))
        if outside.any():
            row, level = np.argwhere(outside)[0]
            raise InputError(
                f"Item '{self.item_tokens[row]}' has code {codes[row, level]} at level {level + 1}, outside "
                f"0..{self.codebook_sizes[level] - 1}."
            )
        if len(np.unique(self.item_tokens)) != len(self.item_tokens):
            raise InputError("Semantic IDs name an item twice: every item token must occur once.")
        if self.popularity is not None:
            object.__setattr__(self, "popularity", np.asarray(self.popularity, dtype=np.int64))
            if self.popularity.shape != (len(codes),):
                raise InputError(f"Semantic IDs hold {len(codes)} rows but popularity {self.popularity.shape}.")

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return self.codes.shape[1]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over codes, codebook sizes, item tokens and popularity: what checkpoints record."""
        return self._fingerprint_of_first(len(self.codes))

    @property
    def extends(self) -> tuple[str, ...]:
        """Fingerprints of the semantic IDs that these continue, oldest first: their first rows are those."""
        earlier = (int(n_items) for n_items in self.recipe.get(EXTENDED_AT, ()))
        return tuple(self._fingerprint_of_first(n_items) for n_items in earlier)

    def _fingerprint_of_first(self, n_items: int) -> str:
        """Hash the first rows. Version 0.1 recorded eight digits, over eight digits of the tokens' hash: they come
        first, so that its checkpoints are known again; the others are over the whole of it.
        """
        tokens = hash_tokens(self.item_tokens[:n_items])
        found = ""
        for part, n_digits in ((tokens[:EARLIER_DIGITS], EARLIER_DIGITS), (tokens, DIGITS - EARLIER_DIGITS)):
            digest = hashlib.sha256(self.codes[:n_items].tobytes())
            digest.update(json.dumps(self.codebook_sizes).encode())
            digest.update(part.encode())
            if self.popularity is not None:
                digest.update(self.popularity[:n_items].tobytes())
            found += digest.hexdigest()[:n_digits]
        return found

    @cached_property
    def trie(self) -> Trie:
        """The trie of these semantic IDs; its items are row numbers. Saved with them, so that it is sorted once."""
        rows = np.arange(len(self.codes))
        return _trie(self.codes, self.codebook_sizes, rows, self.popularity)

    def trie_of(self, item_tokens: Sequence[str] | np.ndarray) -> Trie:
        """Return the trie of a dataset's items; its items are RecBole's internal item ids.

        Raises:
            InputError: as `table`.
        """
        if len(item_tokens) == len(self.item_tokens):
            row = match_rows(np.asarray(item_tokens, dtype=str), self.item_tokens)
            if (row >= 0).all():
                return self.trie.relabelled(row + 1)
        row = self.rows_of(item_tokens)
        popularity = None if self.popularity is None else self.popularity[row]
        return _trie(self.codes[row], self.codebook_sizes, np.arange(1, len(row) + 1), popularity)

    def table(self, item_tokens: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the codes in the order of `item_tokens`, with a row of zeros in front for padding.

        Returns:
            int64 [len(item_tokens) + 1, L], indexed by RecBole's internal item id.

        Raises:
            InputError: if an item of the dataset has no semantic ID; says how many and names one.
        """
        codes = self.codes[self.rows_of(item_tokens)]
        return np.concatenate([np.zeros((1, self.n_levels), dtype=np.int64), codes])

    def rows_of(self, item_tokens: Sequence[str] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(item_tokens, dtype=str)
        row = match_rows(self.item_tokens, wanted)
        missing = row < 0
        if missing.any():
            raise InputError(
                f"{missing.sum()} of the dataset's {len(wanted)} items have no semantic ID "
                f"(for example '{wanted[missing][0]}'): use semantic IDs made for this dataset, or give the new items "
                "theirs by `recbole-sid extend`."
            )
        return row

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file that loads without pickle."""
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(
                stream,
                codes=self.codes,
                codebook_sizes=np.asarray(self.codebook_sizes, dtype=np.int64),
                item_tokens=self.item_tokens,
                recipe=np.asarray(json.dumps(dict(self.recipe))),
                **prefixed(_TRIE, self.trie.arrays()),
                **prefixed(_TOKENIZER, self.tokenizer_state),
                **prefixed(_FEATURES, self.feature_state),
                **({} if self.popularity is None else {"popularity": self.popularity}),  # type: ignore[arg-type]
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SemanticIDs:
        """Read a file written by `save`.

        Raises:
            InputError: if the file is missing or is not such a file.
        """
        if not os.path.isfile(path):
            raise InputError(f"There is no semantic-ID file at '{path}': write one with `recbole-sid tokenize`.")
        try:
            with open_arrays(path) as data:
                _check_headers(data, path)
                semantic_ids = cls(
                    codes=data["codes"],
                    codebook_sizes=tuple(data["codebook_sizes"].tolist()),
                    item_tokens=data["item_tokens"],
                    recipe=_recipe(data, path),
                    popularity=data.get("popularity"),
                    tokenizer_state=with_prefix(_TOKENIZER, data),
                    feature_state=with_prefix(_FEATURES, data),
                )
                saved = with_prefix(_TRIE, data)
            if saved:  # files of version 0.1 have none
                _check_trie(saved, *semantic_ids.codes.shape)
                trie = Trie.from_arrays(saved, semantic_ids.codebook_sizes)
                if not np.array_equal(trie.codes().numpy(), semantic_ids.codes[saved["item"]]):
                    raise ValueError("its trie is not that of its codes")
                semantic_ids.__dict__["trie"] = trie
            return semantic_ids
        except InputError:
            raise
        except Exception as error:  # a damaged file fails in zipfile, zlib, numpy or json, each with its own
            raise InputError(
                f"'{path}' is not a semantic-ID file written by `recbole-sid tokenize` ({first_line(error)})."
            ) from error


def check_levels(n_levels: int, source: str) -> None:
    """Refuse more levels than `MOST_LEVELS`; `source` is what the message calls the file."""
    if n_levels > MOST_LEVELS:
        raise InputError(
            f"{source} has {n_levels:,} levels, where semantic IDs have at most {MOST_LEVELS}: this is something else, "
            "such as features."
        )


def _check_headers(data: Arrays, path: str | os.PathLike[str]) -> None:
    """Refuse arrays of other shapes than semantic IDs have, before they are read."""
    shape = data.headers["codes"].shape
    if len(shape) != 2:
        raise ValueError(f"its codes have shape {shape}, not [items, levels]")
    check_levels(shape[1], f"'{path}'")
    expected = {"codebook_sizes": (shape[1],), "item_tokens": (shape[0],)}
    for name, of_items in expected.items():
        if data.headers[name].shape != of_items:
            raise ValueError(f"its {name} have shape {data.headers[name].shape}, its codes {shape}")
    if data.headers["item_tokens"].dtype.itemsize > 4 * LONGEST_TOKEN:
        raise InputError(f"'{path}' has an item id of over {LONGEST_TOKEN:,} bytes: shorten it.")


def _recipe(data: Arrays, path: str | os.PathLike[str]) -> dict[str, Any]:
    header = data.headers["recipe"]
    if header.shape != () or header.dtype.itemsize > _LARGEST_RECIPE:
        raise ValueError("its recipe is no text, or too long")
    return dict(parse_json(str(data["recipe"]), f"The recipe in '{path}'"))


def _check_trie(arrays: Mapping[str, np.ndarray], n_items: int, n_levels: int) -> None:
    """Refuse the arrays of a saved trie whose nodes do not partition those of the next level, and so could multiply."""
    n_nodes = 1
    for level in range(n_levels + 1):
        start = arrays[f"start_{level}"]
        n_next = len(arrays[f"code_{level}"]) if level < n_levels else len(arrays["item"])
        if start.shape != (n_nodes + 1,) or start[0] != 0 or start[-1] != n_next or (np.diff(start) < 0).any():
            raise ValueError("its trie is damaged")
        n_nodes = n_next
    if n_nodes != n_items:
        raise ValueError("its trie is of another number of items")


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the recipe in a file written by `SemanticIDs.save`, without reading the codes; empty if there is none."""
    try:
        with open_arrays(path) as data:
            return _recipe(data, path)
    except Exception:  # a damaged file fails in zipfile, zlib, numpy or json, each with its own
        return {}


def _trie(codes: np.ndarray, sizes: tuple[int, ...], items: np.ndarray, popularity: np.ndarray | None) -> Trie:
    """Return the trie of `items`, of which the most popular comes first in a leaf, then the one of the first row."""
    if popularity is None:
        return Trie(codes, sizes, items=items)
    order = np.argsort(-popularity, kind="stable")
    return Trie(codes[order], sizes, items=items[order])
