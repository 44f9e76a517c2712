"""Semantic IDs as one HTML page: their tree to walk through, items that share codes, and an item's neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.pages.page import write_page
from recbole_sid.pages.page_table import facts_of, table_of
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.quality import tokenizer_levels

MOST_ITEMS = 100_000  # of a page: some 10 MB with titles
_LONGEST = 120  # characters of a title


def write_tree_page(
    report: Mapping[str, Any],
    semantic_ids: SemanticIDs,
    path: str | Path,
    titles: np.ndarray | None = None,
    dataset: str = "",
    most_items: int = MOST_ITEMS,
) -> Path:
    """Write the page; return its path.

    Branches are made when they are opened, a few hundred at a time. Of larger catalogues the most popular items are
    shown (the first, where the popularity is not recorded), and the page says so.

    Args:
        report: of `recbole_sid.semantic_ids.report.sid_report`.
        semantic_ids: the codes.
        path: of the file.
        titles: str [n_items], in the order of ``semantic_ids.item_tokens``; None: items are shown by their ids alone.
        dataset: its name, if it is known.
        most_items: how many the page holds.
    """
    rows = shown_rows(semantic_ids, most_items)
    codes = semantic_ids.codes[rows]
    data = {
        "codes": codes.T.tolist(),
        "items": semantic_ids.item_tokens[rows].tolist(),
        "titles": None if titles is None else [str(title)[:_LONGEST] for title in titles[rows]],
        "tokenizer_levels": tokenizer_levels(semantic_ids),
    }
    lists = {key: value for key, value in report.items() if not isinstance(value, (list, Mapping))}
    return write_page(
        path,
        "tree",
        data,
        ("tree",),
        title=f"Semantic IDs of {dataset}" if dataset else "Semantic IDs",
        fingerprint=report["fingerprint"],
        n_items=len(semantic_ids.codes),
        n_shown=len(rows),
        by_popularity=semantic_ids.popularity is not None,
        warnings=report["warnings"],
        levels=table_of(report["rows"]),
        facts=facts_of(lists),
    )


def shown_rows(semantic_ids: SemanticIDs, most_items: int) -> np.ndarray:
    """Return the rows of the items that a page shows, in the order of the tree: int64 [at most most_items]."""
    order = semantic_ids.trie.arrays()["item"].astype(np.int64)
    if len(order) <= most_items:
        return order
    if semantic_ids.popularity is None:
        return order[order < most_items]
    chosen = np.zeros(len(order), dtype=bool)
    chosen[np.argsort(-semantic_ids.popularity, kind="stable")[:most_items]] = True
    return order[chosen[order]]
