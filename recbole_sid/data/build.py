"""From a dataset's training part to semantic IDs: features, tokenizer, collision rule; built once and reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

import recbole_sid
from recbole_sid.catalogue import hash_tokens
from recbole_sid.config import fingerprint, semantic_id_keys
from recbole_sid.data.ready_made import read_semantic_ids
from recbole_sid.data.semantic_ids import SemanticIDs, read_recipe
from recbole_sid.features import feature_names, item_features
from recbole_sid.features.sources import feature_sources
from recbole_sid.features.text import item_texts
from recbole_sid.registry import COLLISIONS, TOKENIZERS, resolve
from recbole_sid.tokenizer.base import reconstruction_error
from recbole_sid.tokenizer.collisions import CollisionContext, summary

# Known only once the semantic IDs are built, and decided by the rest of the recipe.
_RESULTS = ("features_hash", "reconstruction_error", "before_collision_rule")


def semantic_ids_for(config: Any, train_dataset: Any) -> SemanticIDs:
    """Return the semantic IDs that the configuration asks for.

    ``semantic_ids_path`` names a file to load; without it the file of the same recipe under
    ``checkpoint_dir/semantic_ids`` is reused, or built and written there. Which of these happened is logged, and what
    of the recipe differs from the file that is nearest.

    Raises:
        InputError: if the file is of another dataset or does not cover the dataset's items, or features or parameters
            are wrong.
    """
    log = getLogger()
    if config["semantic_ids_path"]:
        semantic_ids = read_semantic_ids(
            config["semantic_ids_path"],
            train_dataset.item_tokens(),
            collision=config["collision"],
            rank_size=config["rank_size"],
            popularity=training_popularity(train_dataset),
            dataset=config["dataset"],
        )
        log.info(f"Semantic IDs {semantic_ids.fingerprint} loaded from {config['semantic_ids_path']}")
    else:
        recipe = semantic_id_recipe(config, train_dataset)
        path = semantic_ids_file(config, recipe)
        if path.is_file() and not differences(read_recipe(path), recipe):
            semantic_ids = SemanticIDs.load(path)
            log.info(f"Semantic IDs {semantic_ids.fingerprint} of the same recipe reused from {path}")
        else:
            why = _nearest_recipe(path, recipe)
            semantic_ids = build_semantic_ids(config, train_dataset, recipe)
            semantic_ids.save(path)
            log.info(f"Semantic IDs {semantic_ids.fingerprint} built and written to {path}{why}")
    semantic_ids.table(train_dataset.item_tokens())
    return semantic_ids


def build_semantic_ids(config: Any, train_dataset: Any, recipe: dict[str, Any] | None = None) -> SemanticIDs:
    """Compute features, fit the tokenizer on items that occur in training, encode all items, resolve collisions."""
    tokenizer = resolve(TOKENIZERS, config["tokenizer"], "tokenizer").from_config(config)
    collision = resolve(COLLISIONS, config["collision"], "collision rule")
    features = item_features(config, train_dataset)
    popularity = training_popularity(train_dataset)
    tokenizer.fit(features, np.flatnonzero(popularity))
    raw = tokenizer.encode(features)
    context = CollisionContext(config["rank_size"], features, tokenizer)
    codes, sizes = collision(raw, tokenizer.codebook_sizes, context)
    recipe = {
        **(recipe or semantic_id_recipe(config, train_dataset)),
        "features_hash": hashlib.sha256(features.tobytes()).hexdigest()[:8],
        "reconstruction_error": reconstruction_error(tokenizer, features, codes),
        "before_collision_rule": summary(raw),
    }
    return SemanticIDs(
        codes,
        sizes,
        train_dataset.item_tokens(),
        recipe,
        popularity=popularity if config["collision"] == "keep" else None,
        tokenizer_state=tokenizer.state(),
    )


def training_popularity(train_dataset: Any) -> np.ndarray:
    """Return how often each item occurs in the training part: int64 [n_items]."""
    items, _ = train_dataset.training_sequences()
    return np.bincount(items - 1, minlength=len(train_dataset.item_tokens()))


def semantic_id_recipe(config: Any, train_dataset: Any) -> dict[str, Any]:
    """Return everything the codes depend on, as JSON types."""
    items, offsets = train_dataset.training_sequences()
    training = hashlib.sha256(items.tobytes() + offsets.tobytes()).hexdigest()[:8]
    unused = {"semantic_ids_path", *_keys_of_other_tokenizers(config["tokenizer"])}
    recipe = {key: config[key] for key in semantic_id_keys() if key not in unused}
    recipe |= feature_sources(config)  # by content, wherever the files lie
    if "text" in feature_names(config):
        recipe["texts"] = hash_tokens(item_texts(config, train_dataset.item_tokens()))
    lineage = {
        **recipe,
        "dataset": config["dataset"],
        "item_tokens": hash_tokens(train_dataset.item_tokens()),
        "training_part": training,
        "seed": config["seed"],
        "package_version": recbole_sid.__version__,
    }
    return json.loads(json.dumps(lineage))


def semantic_ids_file(config: Any, recipe: dict[str, Any]) -> Path:
    """Return where the semantic IDs of `recipe` are kept."""
    return Path(config["checkpoint_dir"]) / "semantic_ids" / f"{config['dataset']}-{fingerprint(recipe)}.npz"


def differences(stored: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """Return ``key: stored -> wanted`` for every part of two recipes that differs, in the order of `recipe`."""
    keys = [*recipe, *(key for key in stored if key not in recipe and key not in _RESULTS)]
    return [f"{key}: {stored.get(key)} -> {recipe.get(key)}" for key in keys if stored.get(key) != recipe.get(key)]


def _nearest_recipe(path: Path, recipe: Mapping[str, Any]) -> str:
    """Say how `recipe` differs from that of the nearest file beside `path`; empty without such a file."""
    others = sorted(path.parent.glob(f"{recipe['dataset']}-*.npz"))
    found = [(differences(read_recipe(other), recipe), other) for other in others]
    if not found:
        return ""
    changed, other = min(found, key=lambda pair: len(pair[0]))
    return f", because it differs from {other.name} in {'; '.join(changed)}"


def _keys_of_other_tokenizers(tokenizer: str) -> list[str]:
    """Return the configuration keys that belong to tokenizers other than `tokenizer`, by their prefix."""
    owners = {
        key: max((name for name in TOKENIZERS if key.startswith(f"{name}_")), key=len, default=tokenizer)
        for key in semantic_id_keys()
    }
    return [key for key, owner in owners.items() if owner != tokenizer]
