"""From a dataset's training part to semantic IDs: features, tokenizer, collision rule; built once and reused."""

from __future__ import annotations

import hashlib
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.catalogue import hash_tokens
from recbole_sid.config import fingerprint, semantic_id_keys
from recbole_sid.data.semantic_ids import SemanticIDs
from recbole_sid.features import feature_names, item_features
from recbole_sid.features.text import item_texts
from recbole_sid.registry import COLLISIONS, TOKENIZERS, resolve


def semantic_ids_for(config: Any, train_dataset: Any) -> SemanticIDs:
    """Return the semantic IDs that the configuration asks for.

    ``semantic_ids_path`` names a file to load; without it the file of the same recipe under
    ``checkpoint_dir/semantic_ids`` is reused, or built and written there. Which of these happened is logged.

    Raises:
        InputError: if the file does not cover the dataset's items, or features or parameters are wrong.
    """
    log = getLogger()
    if config["semantic_ids_path"]:
        semantic_ids = SemanticIDs.load(config["semantic_ids_path"])
        log.info(f"Semantic IDs {semantic_ids.fingerprint} loaded from {config['semantic_ids_path']}")
    else:
        recipe = semantic_id_recipe(config, train_dataset)
        path = semantic_ids_file(config, recipe)
        if path.is_file():
            semantic_ids = SemanticIDs.load(path)
            log.info(f"Semantic IDs {semantic_ids.fingerprint} of the same recipe reused from {path}")
        else:
            semantic_ids = build_semantic_ids(config, train_dataset, recipe)
            semantic_ids.save(path)
            log.info(f"Semantic IDs {semantic_ids.fingerprint} built and written to {path}")
    semantic_ids.table(train_dataset.item_tokens())
    return semantic_ids


def build_semantic_ids(config: Any, train_dataset: Any, recipe: dict[str, Any] | None = None) -> SemanticIDs:
    """Compute features, fit the tokenizer on items that occur in training, encode all items, resolve collisions."""
    tokenizer = resolve(TOKENIZERS, config["tokenizer"], "tokenizer").from_config(config)
    collision = resolve(COLLISIONS, config["collision"], "collision rule")
    features = item_features(config, train_dataset)
    items, _ = train_dataset.training_sequences()
    tokenizer.fit(features, np.unique(items) - 1)
    codes, sizes = collision(tokenizer.encode(features), tokenizer.codebook_sizes, config["rank_size"])
    recipe = dict(recipe or semantic_id_recipe(config, train_dataset))
    recipe["features_hash"] = hashlib.sha256(features.tobytes()).hexdigest()[:8]
    return SemanticIDs(codes, sizes, train_dataset.item_tokens(), recipe)


def semantic_id_recipe(config: Any, train_dataset: Any) -> dict[str, Any]:
    """Return everything the codes depend on, as JSON types."""
    items, offsets = train_dataset.training_sequences()
    training = hashlib.sha256(items.tobytes() + offsets.tobytes()).hexdigest()[:8]
    recipe = {key: config[key] for key in semantic_id_keys() if key != "semantic_ids_path"}
    for key in ("feature_file", "feature_tokens"):  # by content, wherever the files lie
        if config[key] and Path(config[key]).is_file():
            recipe[key] = hashlib.sha256(Path(config[key]).read_bytes()).hexdigest()[:8]
    if "text" in feature_names(config):
        recipe["texts"] = hash_tokens(item_texts(config, train_dataset.item_tokens()))
    return {
        **recipe,
        "dataset": config["dataset"],
        "item_tokens": hash_tokens(train_dataset.item_tokens()),
        "training_part": training,
        "seed": config["seed"],
    }


def semantic_ids_file(config: Any, recipe: dict[str, Any]) -> Path:
    """Return where the semantic IDs of `recipe` are kept."""
    return Path(config["checkpoint_dir"]) / "semantic_ids" / f"{config['dataset']}-{fingerprint(recipe)}.npz"
