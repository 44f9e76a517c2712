"""Semantic IDs for items that came after training, without touching those that a model has learnt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from recbole_sid.config import PROPERTIES
from recbole_sid.errors import InputError
from recbole_sid.features import FeaturePipeline
from recbole_sid.features.sources import file_keys
from recbole_sid.registry import COLLISIONS, TOKENIZERS, resolve
from recbole_sid.semantic_ids.artefact import EXTENDED_AT, SemanticIDs
from recbole_sid.settings.known import semantic_id_keys
from recbole_sid.tokenizer.base import Tokenizer
from recbole_sid.tokenizer.collisions import CollisionContext
from recbole_sid.util.item_tokens import hash_tokens, match_rows

# Share of the known items that must get their first code again from the features given.
_AGREEMENT = 0.99
_CHECKED = 1000  # known items whose features are read again for that, at most


def extend(
    semantic_ids: SemanticIDs,
    features: Mapping[str, Any] | np.ndarray,
    item_tokens: Sequence[str] | np.ndarray,
) -> SemanticIDs:
    """Give semantic IDs to the items that have none, by the fitted tokenizer and the same collision rule.

    Models trained with `semantic_ids` load with the result and can recommend the new items at once. Codes of known
    items stay as they are: ranks go on, `nearest` and `sinkhorn` take free codes, `keep` shares.

    Args:
        semantic_ids: made by `recbole-sid tokenize` or a run.
        features: raw input of `item_tokens` for each feature that `semantic_ids` were made from, encoded, normalised
            and reduced by what was learnt then: ``{"text": one string an item (its text_fields joined by a space),
            "file": rows [n, d]}``. An array float32 [n, d] is taken for the outcome of all that.
        item_tokens: raw item ids [n], new ones and, if at hand, known ones: by these the features are checked.

    Returns:
        `semantic_ids` with the new items behind the old ones; itself if no item is new.

    Raises:
        InputError: if `semantic_ids` hold no tokenizer or nothing of their features, these are collaborative or not of
            the same space, or there is no code left for a new item.
    """
    tokens = np.asarray(item_tokens, dtype=str)
    row = match_rows(semantic_ids.item_tokens, tokens)
    new = row < 0
    if not new.any():
        return semantic_ids
    tokenizer = fitted_tokenizer(semantic_ids)
    if isinstance(features, Mapping):
        features = fitted_features(semantic_ids).encode(features, tokens)
    features = np.ascontiguousarray(features, dtype=np.float32)
    _check_features(features, tokens)
    raw = _encode(tokenizer, features)
    if tokenizer.reconstruct(semantic_ids.codes[:1]) is not None:  # random codes have no space to keep to
        _check_space(raw[~new], semantic_ids.codes[row[~new]], semantic_ids.recipe["collision"])
    rule = resolve(COLLISIONS, semantic_ids.recipe["collision"], "collision rule")
    context = CollisionContext(semantic_ids.codebook_sizes[-1], features[new], tokenizer, kept=semantic_ids.codes)
    codes, _ = rule(raw[new], tokenizer.codebook_sizes, context)
    popularity = semantic_ids.popularity
    all_tokens = np.concatenate([semantic_ids.item_tokens, tokens[new]])
    n_known = len(semantic_ids.codes)
    return SemanticIDs(
        np.concatenate([semantic_ids.codes, codes]),
        semantic_ids.codebook_sizes,
        all_tokens,
        {
            **semantic_ids.recipe,
            "item_tokens": hash_tokens(all_tokens),
            EXTENDED_AT: [*semantic_ids.recipe.get(EXTENDED_AT, ()), n_known],
        },
        popularity=None if popularity is None else np.pad(popularity, (0, len(codes))),
        tokenizer_state=semantic_ids.tokenizer_state,
        feature_state=semantic_ids.feature_state,
    )


def extend_to_items(semantic_ids: SemanticIDs, config: Any, item_tokens: np.ndarray) -> SemanticIDs:
    """`extend` by those of `item_tokens` that have no semantic ID, from the files that a configuration names.

    Args:
        semantic_ids: made by `recbole-sid tokenize` or a run.
        config: a `Config`; says where the ``.item`` file (``data_path``), ``feature_file`` and ``text_model`` are. What
            the features are is as it was.
        item_tokens: str [n], all items of the dataset.

    Raises:
        InputError: as `extend`, or if the files lack an item, or `config` sets what was decided otherwise.
    """
    known = match_rows(semantic_ids.item_tokens, item_tokens) >= 0
    if known.all():
        return semantic_ids
    pipeline = fitted_features(semantic_ids, config)
    checked = item_tokens[known][:: math.ceil(known.sum() / _CHECKED) or 1]
    tokens = np.concatenate([item_tokens[~known], checked])
    return extend(semantic_ids, pipeline.encode(pipeline.read(tokens), tokens), tokens)


def fitted_features(semantic_ids: SemanticIDs, config: Any = None) -> FeaturePipeline:
    """Return the features that `semantic_ids` were made from, as they were fitted then.

    Args:
        semantic_ids: made by `recbole-sid tokenize` or a run.
        config: a `Config` that says where files lie now; None: there is nothing to read.

    Raises:
        InputError: if `semantic_ids` hold nothing of their features, or `config` sets what was decided otherwise.
    """
    if not semantic_ids.feature_state:
        raise InputError(
            "These semantic IDs do not hold what was learnt to compute their features (ready-made ones never do): make "
            "them again with `recbole-sid tokenize`, or give `extend` features computed as then."
        )
    recipe, files = semantic_ids.recipe, file_keys()  # which say where things lie now, not what the features are
    decided = {key: recipe[key] for key in semantic_id_keys() if key in recipe and key not in files}
    places: dict[str, Any] = {**dict.fromkeys(files), "device": "cpu", "show_progress": False, "checkpoint_dir": None}
    if config is not None:
        _check_same(decided, config)
        places = config.final_config_dict
    try:
        return FeaturePipeline({**_defaults(), **places, **decided, "seed": recipe["seed"]}).load_state(
            semantic_ids.feature_state
        )
    except KeyError as error:
        raise InputError(
            f"The semantic IDs lack {error} of their features: make them again with `recbole-sid tokenize`."
        ) from error


def fitted_tokenizer(semantic_ids: SemanticIDs) -> Tokenizer:
    """Return the tokenizer that made `semantic_ids`, as it was fitted then.

    Raises:
        InputError: if they hold none: ready-made ones, or ones written by version 0.1.
    """
    name = semantic_ids.recipe.get("tokenizer")
    if name is None or not semantic_ids.tokenizer_state:
        raise InputError(
            "These semantic IDs hold no fitted tokenizer (ready-made ones never do): make them with `recbole-sid "
            "tokenize` to encode further items."
        )
    settings = {**_defaults(), **semantic_ids.recipe, "device": "cpu", "show_progress": False}
    tokenizer = resolve(TOKENIZERS, name, "tokenizer").from_config(settings)
    try:
        return tokenizer.load_state(semantic_ids.tokenizer_state)
    except KeyError as error:
        raise InputError(
            f"The semantic IDs lack {error} of their tokenizer '{name}': make them again with `recbole-sid tokenize`."
        ) from error


def _defaults() -> dict[str, Any]:
    """Return the keys of other tokenizers and later versions, which a recipe lacks."""
    return yaml.safe_load((PROPERTIES / "semantic_ids.yaml").read_text(encoding="utf-8"))


def _check_same(decided: Mapping[str, Any], config: Any) -> None:
    """Refuse settings of the user that differ from what the semantic IDs were made with."""
    for key, value in decided.items():
        given = json.loads(json.dumps(config.external_config_dict.get(key)))
        if given not in (None, value):
            raise InputError(f"The semantic IDs were made with {key}={value}, not {given}: leave it out.")


def _check_features(features: np.ndarray, tokens: np.ndarray) -> None:
    if features.ndim != 2 or len(features) != len(tokens):
        raise InputError(f"Features {features.shape} must have one row for each of the {len(tokens)} item tokens.")
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise InputError(f"The features of {bad.sum()} items are not finite (for example '{tokens[bad][0]}').")
    if len(np.unique(tokens)) != len(tokens):
        raise InputError("item_tokens name an item twice: every item token must occur once.")


def _encode(tokenizer: Tokenizer, features: np.ndarray) -> np.ndarray:
    try:
        return tokenizer.encode(features)
    except (ValueError, RuntimeError, AssertionError, IndexError) as error:  # numpy's, torch's and faiss's of a width
        raise InputError(
            f"The tokenizer cannot encode features of width {features.shape[1]}: compute them as those that the "
            "semantic IDs were made from."
        ) from error


def _check_space(raw: np.ndarray, known: np.ndarray, rule: str) -> None:
    """Refuse features that no longer give the known items the codes that the tokenizer gave them.

    Collision rules leave these alone, or change only the last (nearest, sinkhorn).
    """
    n_levels = raw.shape[1] - (rule in ("nearest", "sinkhorn"))
    if len(known) == 0 or n_levels == 0:
        return
    agreement = float((raw[:, :n_levels] == known[:, :n_levels]).all(1).mean())
    if agreement < _AGREEMENT:
        raise InputError(
            f"Only {agreement:.0%} of the known items get their codes again from these features: give features in the "
            "space that the semantic IDs were made from (the same texts, text model or vectors, normalised and reduced "
            "as then, not fitted anew)."
        )
