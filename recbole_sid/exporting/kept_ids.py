"""Semantic IDs as a bundle keeps them, with what gives codes to items that come later."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from recbole_sid.errors import InputError, first_line
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.serving.texts import Texts
from recbole_sid.util.files import prefixed, with_prefix
from recbole_sid.util.reading import parse_json

_TOKENIZER, _FEATURES = "tokenizer.", "features."
_SHAPE = ".shape"  # beside the texts of an array of text


def arrays_of(semantic_ids: SemanticIDs) -> dict[str, np.ndarray]:
    """Return them as numbers and bytes, which lie in a file that shares its beginning with that of fewer items."""
    recipe = json.dumps(dict(semantic_ids.recipe)).encode()
    popularity = {} if semantic_ids.popularity is None else {"popularity": semantic_ids.popularity}
    state = {
        **prefixed(_TOKENIZER, semantic_ids.tokenizer_state),
        **prefixed(_FEATURES, semantic_ids.feature_state),
    }
    found = {
        "codes": semantic_ids.codes,
        "codebook_sizes": np.asarray(semantic_ids.codebook_sizes, dtype=np.int64),
        "recipe": np.frombuffer(recipe, np.uint8),
        **popularity,
        **Texts.of(semantic_ids.item_tokens.tolist()).arrays("tokens"),
    }
    for name, values in state.items():
        found |= _plain(name, np.asarray(values))
    return found


def semantic_ids_in(arrays: Mapping[str, np.ndarray], source: str) -> SemanticIDs:
    """Return what `arrays_of` was given.

    Raises:
        InputError: if something is missing or damaged.
    """
    try:
        recipe = parse_json(arrays["recipe"].tobytes().decode(), f"The recipe in {source}")
        tokens = Texts.read(arrays, "tokens", len(arrays["codes"]), source).tolist()
        return SemanticIDs(
            arrays["codes"],
            tuple(arrays["codebook_sizes"].tolist()),
            np.array(tokens, dtype=str),
            recipe,
            arrays.get("popularity"),
            _as_before(with_prefix(_TOKENIZER, arrays), source),
            _as_before(with_prefix(_FEATURES, arrays), source),
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source} is damaged: it holds no semantic IDs ({first_line(error)}).") from error


def _plain(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    if values.dtype.kind != "U":
        return {name: values}
    return {**Texts.of(values.ravel().tolist()).arrays(name), name + _SHAPE: np.array(values.shape, np.int64)}


def _as_before(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    texts = {name.removesuffix(_SHAPE) for name in arrays if name.endswith(_SHAPE)}
    parts = {f"{name}.{part}" for name in texts for part in (*Texts._fields, "shape")}
    found = {name: values for name, values in arrays.items() if name not in parts}
    for name in texts:
        shape = tuple(arrays[name + _SHAPE].tolist())
        starts = arrays.get(f"{name}.starts", np.zeros(1))
        found[name] = np.array(Texts.read(arrays, name, len(starts) - 1, source).tolist(), dtype=str).reshape(shape)
    return found
