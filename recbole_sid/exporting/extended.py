"""A bundle whose catalogue has grown: weights belong to codes, so that items that have codes are ranked at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.exporting.card import model_card
from recbole_sid.exporting.code_models import trie_arrays
from recbole_sid.exporting.kept_ids import arrays_of, semantic_ids_in
from recbole_sid.fast.compiled_scorer import compiled_prefixes, means_of_children
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.extend import extend
from recbole_sid.serving.bundle import CARD, HISTORIES, ITEMS, SEMANTIC_IDS, WEIGHTS, Bundle
from recbole_sid.serving.bundle_files import write_bundle
from recbole_sid.util.files import check_absent
from recbole_sid.util.item_tokens import hash_tokens

_OF_MANIFEST = ("model", "engine", "settings", "n_items", "fields", "sizes", "fingerprints", "metrics", "protocol")


class Grown(NamedTuple):
    """What became of a bundle.

    Attributes:
        path: of the new one.
        n_new: items that joined.
        left_out: files of the old one that know its items only, such as graphs.
    """

    path: Path
    n_new: int
    left_out: list[str]


def extend_bundle(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    item_tokens: Sequence[str] | np.ndarray,
    features: Mapping[str, Any] | np.ndarray,
    shown: Mapping[str, Sequence[str]] | None = None,
) -> Grown:
    """Write a bundle with further items, of the same weights.

    Old items keep their numbers, codes and scores' parts; new ones have none of a memory's transitions and no part in a
    head over items, which only training gives them.

    Args:
        bundle: directory of the old one.
        output: directory of the new one, which must not be there yet.
        item_tokens: [n], new ones and, if at hand, known ones: by these the features are checked.
        features: of them, as of `recbole_sid.semantic_ids.extend.extend`.
        shown: display fields of them by name, [n] each; those that are missing stay empty.

    Raises:
        InputError: if the bundle cannot be extended, the features do not fit, or no item is new.
    """
    check_absent(output)
    old = Bundle.load(bundle)
    grow = growing(old)
    source = f"'{old.path / SEMANTIC_IDS}'"
    before = semantic_ids_in(old.arrays(SEMANTIC_IDS), source)
    tokens = np.asarray(item_tokens, dtype=str)
    semantic_ids = extend(before, features, tokens)
    catalogue = old.catalogue
    new = np.flatnonzero(catalogue.numbers(tokens.tolist()) == 0)
    if not len(new):
        raise InputError(f"'{old.path}' knows all of these {len(tokens):,} items already: there is nothing to add.")
    fields = {
        name: [values[row] for row in new.tolist()]
        for name, values in (shown or {}).items()
        if name in catalogue.fields
    }
    catalogue = catalogue.with_items(tokens[new].tolist(), fields)
    all_tokens = np.array(catalogue.tokens(np.arange(1, catalogue.n_items)), dtype=str)
    arrays = {
        WEIGHTS: grow(old.arrays(WEIGHTS), semantic_ids, all_tokens),
        ITEMS: catalogue.arrays(),
        SEMANTIC_IDS: arrays_of(semantic_ids),
    }
    if HISTORIES in old:
        arrays[HISTORIES] = old.arrays(HISTORIES)
    described = {key: old.manifest[key] for key in _OF_MANIFEST}  # type: ignore[literal-required]
    described |= {
        "n_items": catalogue.n_items,
        "settings": {**old.manifest["settings"], "n_items": catalogue.n_items},
        "sizes": {
            **old.manifest["sizes"],
            "items": catalogue.n_items - 1,
            "items_without_training": _count(old, "items_without_training") + len(new),
        },
        "fingerprints": {
            **old.manifest["fingerprints"],
            "item tokens": hash_tokens(all_tokens),
            "semantic IDs": semantic_ids.fingerprint,
            "extended bundle": old.identity,
        },
    }
    left_out = sorted(set(old.manifest["files"]) - {*arrays, CARD})
    write_bundle(output, described, arrays, {}, model_card)
    return Grown(Path(output), len(new), left_out)


def _count(bundle: Bundle, name: str) -> int:
    found = bundle.manifest["sizes"].get(name, 0)
    return found if type(found) is int else 0


Grow = Callable[[Mapping[str, np.ndarray], SemanticIDs, np.ndarray], dict[str, np.ndarray]]


def growing(bundle: Bundle) -> Grow:
    """Return what makes the weights of a bundle's engine fit more items.

    Raises:
        InputError: if nothing does.
    """
    manifest = bundle.manifest
    grow = _GROW.get(manifest["engine"])
    if grow is None or SEMANTIC_IDS not in bundle:
        why = "its model knows items by what followed them, not by semantic IDs"
        if grow is not None or "semantic IDs" in manifest["fingerprints"]:
            why = "it does not hold what gives them semantic IDs, or its engine cannot grow"
        raise InputError(f"New items cannot join '{bundle.path}' ({why}): export the model again, on data with them.")
    if manifest["settings"].get("sid_heads") is False:
        raise InputError(
            f"New items cannot join '{bundle.path}': its model ranks by a head over items, which knows those of its "
            "training only; train it again."
        )
    return grow


def grown_codes(
    arrays: Mapping[str, np.ndarray], semantic_ids: SemanticIDs, tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the arrays of engines whose decoder is SID-MLP's, of which only trie, means and memory know items."""
    trie = semantic_ids.trie_of(tokens)
    n_items = len(tokens) + 1
    found = {**arrays, **trie_arrays(trie, n_items), **_grown_memory(arrays, n_items)}
    if "heads.mean_rows" in arrays and trie.n_levels > 1:
        first, second = semantic_ids.codebook_sizes[:2]
        rows, bias = (arrays[name][first : first + second] for name in ("heads.weight", "heads.bias"))
        found["heads.mean_rows"], found["heads.mean_bias"] = means_of_children(rows, bias, compiled_prefixes(trie))
    return found


def _grown_memory(arrays: Mapping[str, np.ndarray], n_items: int) -> dict[str, np.ndarray]:
    """Return a memory's table with empty rows for further items."""
    found = {}
    for name, mode, length in (
        ("memory.starts", "edge", n_items + 1),
        ("memory.row_sums", "constant", n_items),
        ("memory.left_out", "constant", n_items),
    ):
        if name in arrays:
            found[name] = np.pad(arrays[name], (0, length - len(arrays[name])), mode=mode)  # type: ignore[call-overload]
    return found


# By the name of the engine.
_GROW: dict[str, Grow] = dict.fromkeys(("items", "mlp", "t5"), grown_codes)
