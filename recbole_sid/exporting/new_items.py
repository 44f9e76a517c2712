"""New items of a bundle, read from a table of texts and a file of vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.data.convert.chunks import read_chunks
from recbole_sid.errors import InputError
from recbole_sid.exporting.extended import growing
from recbole_sid.exporting.kept_ids import semantic_ids_in
from recbole_sid.features.file import read_rows
from recbole_sid.serving.bundle import SEMANTIC_IDS, Bundle
from recbole_sid.util.item_tokens import match_rows, token_array

ITEM = "item_id"
_NO_ATOMIC = {"field_separator": "\t", "encoding": "utf-8", "ITEM_ID_FIELD": ITEM, "seq_separator": " "}


class NewItems(NamedTuple):
    """What `recbole_sid.exporting.extended.extend_bundle` takes of items."""

    item_tokens: np.ndarray
    features: dict[str, Any]
    shown: dict[str, list[str]]


def read_new_items(
    bundle: str | os.PathLike[str], items: str | os.PathLike[str], vectors: str | os.PathLike[str] | None = None
) -> NewItems:
    """Read what a bundle's semantic IDs were made from, for items.

    Args:
        bundle: its directory; says which features these are.
        items: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` with the column ``item_id``, the text fields and the
            display fields.
        vectors: rows of the ``file`` feature, of the items in their order, or naming them.

    Raises:
        InputError: if items cannot join the bundle, a column or the vectors are missing, or a file is damaged.
    """
    loaded = Bundle.load(bundle)
    growing(loaded)
    recipe = semantic_ids_in(loaded.arrays(SEMANTIC_IDS), f"'{loaded.path / SEMANTIC_IDS}'").recipe
    names, text_fields = recipe.get("features") or [], recipe.get("text_fields") or []
    text_fields = [text_fields] if isinstance(text_fields, str) else text_fields
    text_fields = text_fields if "text" in names else []
    columns = [ITEM, *text_fields, *loaded.manifest["fields"]]
    table = pd.concat(read_chunks(os.fspath(items), columns)) if columns else pd.DataFrame()
    tokens = token_array([str(token) for token in table[ITEM]], f"'{items}'")
    features: dict[str, Any] = {}
    if text_fields:
        features["text"] = _joined(table, text_fields)
    if "file" in names:
        if vectors is None:
            raise InputError(
                f"The semantic IDs of '{bundle}' were made from vectors: name those of the items (--vectors)."
            )
        features["file"] = _rows(vectors, tokens)
    elif vectors is not None:
        raise InputError(f"The semantic IDs of '{bundle}' were made from {', '.join(names)}: leave the vectors out.")
    features |= {name: None for name in names if name not in ("text", "file")}
    return NewItems(tokens, features, {name: _joined(table, [name]) for name in loaded.manifest["fields"]})


def _joined(table: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    """Return fields joined by a space, as the text feature joins them."""
    texts = [table[name].fillna("").astype(str) for name in fields]
    return texts[0].str.cat(texts[1:], sep=" ").tolist()


def _rows(vectors: str | os.PathLike[str], tokens: np.ndarray) -> np.ndarray:
    matrix, named = read_rows(os.fspath(vectors), None, _NO_ATOMIC)
    if named is None:
        if len(matrix) != len(tokens):
            raise InputError(f"'{vectors}' has {len(matrix):,} rows for {len(tokens):,} items: give a row for each.")
        return matrix
    rows = match_rows(named, tokens)
    if (rows < 0).any():
        raise InputError(f"'{vectors}' has no row of {(rows < 0).sum():,} items (for example '{tokens[rows < 0][0]}').")
    return matrix[rows]
