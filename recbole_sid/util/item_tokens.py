"""Matching item tokens between a dataset and what was made for its items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.util.hashing import DIGITS

LONGEST_TOKEN = 4096  # bytes of an item token
LARGEST_ARRAY = 1 << 33  # bytes of a catalogue's tokens, each as wide as the longest
CHARACTER = np.dtype("U1").itemsize


def token_array(tokens: Sequence[Any] | np.ndarray, source: str) -> np.ndarray:
    """Return item tokens as an array of text: str [n].

    numpy gives every token the width of the longest, so a single long one is refused before the array is made.

    Args:
        tokens: the tokens, [n].
        source: what messages call the file or object they are from.

    Raises:
        InputError: if one has more than `LONGEST_TOKEN` bytes or half a character, or all take too much memory.
    """
    if isinstance(tokens, np.ndarray) and tokens.dtype.kind == "U" and tokens.dtype.itemsize <= LONGEST_TOKEN:
        points = np.ascontiguousarray(tokens).view(np.uint32)
        if not ((points >= 0xD800) & ((points <= 0xDFFF) | (points > 0x10FFFF))).any():
            return tokens
        raise InputError(f"{source} has an item id with half a character (a lone surrogate): mend it.")
    texts = [token if isinstance(token, str) else str(token) for token in tokens]
    longest = max(texts, key=len, default="")
    try:
        too_long = len(longest) > LONGEST_TOKEN or any(len(text.encode()) > LONGEST_TOKEN for text in texts)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{source} has the item id {error.object[:50]!a} with half a character (a lone surrogate): mend it."
        ) from None
    if too_long:
        longest = max(texts, key=lambda text: len(text[: LONGEST_TOKEN + 1].encode()))
        raise InputError(
            f"{source} has an item id of over {LONGEST_TOKEN:,} bytes ({longest[:30]!r}...): shorten it, or use the "
            "right column."
        )
    if len(texts) * len(longest) * CHARACTER > LARGEST_ARRAY:
        raise InputError(
            f"{source} has {len(texts):,} item ids of up to {len(longest):,} characters, each of which takes the "
            "longest one's memory: shorten the longest."
        )
    return np.array(texts, dtype=str)


def match_rows(known: Sequence[str] | np.ndarray, wanted: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return for each of `wanted` its row in `known`, or -1: int64 [len(wanted)]."""
    known, wanted = np.asarray(known, dtype=str), np.asarray(wanted, dtype=str)
    if len(known) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(known, kind="stable")
    row = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[row] == wanted, row, -1)


def hash_tokens(item_tokens: Sequence[str] | np.ndarray) -> str:
    """Return 16 hex digits over item tokens and their order."""
    return hashlib.sha256("\n".join(np.asarray(item_tokens, dtype=str).tolist()).encode()).hexdigest()[:DIGITS]
