"""From a dataset's training part to semantic IDs: features, tokenizer, collision rule; built once and reused."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

import recbole_sid
from recbole_sid.checkpoint import training_part
from recbole_sid.features import FeaturePipeline, feature_names
from recbole_sid.features.sources import feature_sources, file_keys, growing_keys, source_files
from recbole_sid.features.text import item_texts
from recbole_sid.registry import COLLISIONS, TOKENIZERS, resolve
from recbole_sid.semantic_ids.artefact import EXTENDED_AT, SemanticIDs, read_recipe
from recbole_sid.semantic_ids.formats.registered import format_of
from recbole_sid.semantic_ids.quality import collisions, level_rows, warnings_of
from recbole_sid.semantic_ids.ready_made import Coverage, read_semantic_ids
from recbole_sid.settings.known import semantic_id_keys
from recbole_sid.tokenizer.base import reconstruction_error
from recbole_sid.tokenizer.collisions import CollisionContext, summary
from recbole_sid.util.files import locked
from recbole_sid.util.hashing import DIGITS, fingerprint, is_same_hash
from recbole_sid.util.item_tokens import hash_tokens

# Known only once the semantic IDs are built, and decided by the rest of the recipe.
_RESULTS = ("features_hash", "reconstruction_error", "before_collision_rule", EXTENDED_AT)
# What, with the features' own files, may have grown with the dataset when semantic IDs were extended by later items.
_GROWING = ("item_tokens", "training_part", "texts")


def semantic_ids_for(config: Any, train_dataset: Any, keep: bool = True) -> SemanticIDs:
    """Return the semantic IDs that the configuration asks for.

    ``semantic_ids_path`` names a file to load; without it the file of the same recipe under
    ``checkpoint_dir/semantic_ids`` is reused, also one extended since by later items, or built and, with `keep`,
    written there; without it nothing is written, embeddings of texts neither. Of processes that want the same at one
    time, one builds and the others wait.
    Which of these happened is logged, and what of the recipe differs from the file that is nearest; for a file that is
    named or built also what is wrong with its quality.

    Raises:
        InputError: if the file is of another dataset or does not cover the dataset's items, or features or parameters
            are wrong.
    """
    log = getLogger()
    if config["semantic_ids_path"]:
        semantic_ids = semantic_ids_from_file(config, train_dataset, config["semantic_ids_path"])
        log.info(f"Semantic IDs {semantic_ids.fingerprint} loaded from {config['semantic_ids_path']}")
        _warn_of_quality(semantic_ids)
        return semantic_ids
    recipe = semantic_id_recipe(config, train_dataset)
    path = semantic_ids_file(config, recipe)
    kept = _kept(path, recipe, train_dataset.item_tokens())  # without a lock, which a folder to read only may not hold
    if kept is not None:
        return kept
    if not keep:
        semantic_ids, _ = build_semantic_ids(_placeless(config), train_dataset, recipe)
        log.info(f"Semantic IDs {semantic_ids.fingerprint} built{_nearest_recipe(path, recipe)}")
        _warn_of_quality(semantic_ids)
        return semantic_ids
    with locked(path):
        kept = _kept(path, recipe, train_dataset.item_tokens())  # written while this process waited
        if kept is not None:
            return kept
        why = _nearest_recipe(path, recipe)
        semantic_ids, _ = build_semantic_ids(config, train_dataset, recipe)
        semantic_ids.save(path)
    log.info(f"Semantic IDs {semantic_ids.fingerprint} built and written to {path}{why}")
    _warn_of_quality(semantic_ids)
    return semantic_ids


def kept_semantic_ids(config: Any, train_dataset: Any) -> SemanticIDs | None:
    """Return the semantic IDs of the configuration's recipe that are in ``checkpoint_dir/semantic_ids``; None without.

    Raises:
        InputError: if a file is not what its recipe says, or one that features are made of is missing.
    """
    recipe = semantic_id_recipe(config, train_dataset)
    return _kept(semantic_ids_file(config, recipe), recipe, train_dataset.item_tokens())


def _kept(path: Path, recipe: Mapping[str, Any], item_tokens: np.ndarray) -> SemanticIDs | None:
    """Return the semantic IDs of `recipe` in `path`, or those that were extended since, and log which; None without.

    Raises:
        InputError: if a file is not what its recipe says.
    """
    log = getLogger()
    if path.is_file() and not differences(read_recipe(path), recipe):
        semantic_ids = SemanticIDs.load(path)
        semantic_ids.table(item_tokens)
        log.info(f"Semantic IDs {semantic_ids.fingerprint} of the same recipe reused from {path}")
        return semantic_ids
    extension = _extension(path, recipe, item_tokens)
    if extension is None:
        return None
    semantic_ids, file = extension
    log.info(f"Semantic IDs {semantic_ids.fingerprint}, since extended by later items, reused from {file}")
    return semantic_ids


def _placeless(config: Any) -> Any:
    """Return `config` without a folder to keep anything in."""
    placeless = copy.copy(config)
    placeless.final_config_dict = {**config.final_config_dict, "checkpoint_dir": None}
    return placeless


def _warn_of_quality(semantic_ids: SemanticIDs) -> None:
    """Say before hours of training what `recbole-sid report` warns of."""
    for sentence in warnings_of(semantic_ids, level_rows(semantic_ids), collisions(semantic_ids)):
        getLogger().warning(f"Semantic IDs {semantic_ids.fingerprint}: {sentence}")


def semantic_ids_from_file(
    config: Any, train_dataset: Any, path: str | os.PathLike[str], **options: Any
) -> SemanticIDs:
    """Read semantic IDs for a dataset, by the configuration's collision rule; warn of what the file decides otherwise.

    Args:
        config: reads ``collision``, ``rank_size`` and ``dataset``.
        train_dataset: the training split.
        path: a file of any format.
        options: ``file_format``, ``numbering`` and ``codebook_sizes`` of `read_semantic_ids`.

    Raises:
        InputError: as `read_semantic_ids`.
    """
    semantic_ids = read_semantic_ids(
        path,
        train_dataset.item_tokens(),
        collision=config["collision"],
        rank_size=config["rank_size"],
        popularity=training_popularity(train_dataset),
        dataset=config["dataset"],
        **options,
    )
    is_ours = (options.get("file_format") or format_of(path)) == "npz"
    decided = [] if options.get("codebook_sizes") and not is_ours else ["codebook_sizes"]
    _warn_of_unused_settings(config, semantic_ids, path, [*decided, *(("collision", "rank_size") if is_ours else ())])
    if is_ours:
        warn_of_other_training(train_dataset, semantic_ids, path)
    return semantic_ids


def _warn_of_unused_settings(
    config: Any, semantic_ids: SemanticIDs, path: str | os.PathLike[str], keys: Sequence[str]
) -> None:
    """Say which of the user's settings `keys` have no effect because the file decides them otherwise.

    Those that are as by default may well come with a checkpoint's configuration and are passed over.
    """
    recipe, sizes = semantic_ids.recipe, list(semantic_ids.codebook_sizes)
    own = {
        "codebook_sizes": sizes,
        "collision": recipe.get("collision") if "before_collision_rule" in recipe else None,  # else none was needed
        "rank_size": sizes[-1] if recipe.get("collision") == "rank" else None,
    }
    for key in keys:
        given, default = (settings.get(key) for settings in (config.external_config_dict, config.internal_config_dict))
        same = (None, default, own[key], recipe.get(key), sizes[:-1])  # sizes: the last level may be the rank
        if own[key] is not None and given not in same:
            getLogger().warning(f"{key}={given} has no effect: '{path}' has its own, {own[key]}.")


def warn_of_other_training(train_dataset: Any, semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    """Say that a tokenizer may have learnt from interactions that are held out here."""
    theirs, ours = semantic_ids.recipe.get("training_part"), training_part(train_dataset)
    if theirs is None or is_same_hash(theirs, ours):
        return
    if EXTENDED_AT in semantic_ids.recipe:
        getLogger().info(f"'{path}' was made from training part {theirs} before it was extended; here it is {ours}.")
        return
    getLogger().warning(
        f"'{path}' was made from another training part ({theirs}) than this run's ({ours}), and may know interactions "
        "that are held out here: make semantic IDs anew with the same filters and split, unless this is meant."
    )


def build_semantic_ids(
    config: Any, train_dataset: Any, recipe: dict[str, Any] | None = None
) -> tuple[SemanticIDs, np.ndarray]:
    """Compute features, fit the tokenizer on items that occur in training, encode all items, resolve collisions.

    Returns:
        the semantic IDs, and the features that they were made of: float32 [n_items, d].
    """
    tokenizer = resolve(TOKENIZERS, config["tokenizer"], "tokenizer").from_config(config)
    collision = resolve(COLLISIONS, config["collision"], "collision rule")
    pipeline = FeaturePipeline(config)
    features = pipeline.fit_encode(train_dataset)
    popularity = training_popularity(train_dataset)
    tokenizer.fit(features, np.flatnonzero(popularity))
    raw = tokenizer.encode(features)
    context = CollisionContext(config["rank_size"], features, tokenizer)
    codes, sizes = collision(raw, tokenizer.codebook_sizes, context)
    recipe = {
        **(recipe or semantic_id_recipe(config, train_dataset)),
        "features_hash": hashlib.sha256(features.tobytes()).hexdigest()[:DIGITS],
        "reconstruction_error": reconstruction_error(tokenizer, features, codes),
        "before_collision_rule": summary(raw),
    }
    semantic_ids = SemanticIDs(
        codes,
        sizes,
        train_dataset.item_tokens(),
        recipe,
        popularity=popularity if config["collision"] == "keep" else None,
        tokenizer_state=tokenizer.state(),
        feature_state=pipeline.state(),
    )
    return semantic_ids, features


def training_popularity(train_dataset: Any) -> np.ndarray:
    """Return how often each item occurs in the training part: int64 [n_items]."""
    items, _ = train_dataset.training_sequences()
    return np.bincount(items - 1, minlength=len(train_dataset.item_tokens()))


def used_semantic_id_keys(config: Any) -> list[str]:
    """Return the keys that decide the semantic IDs of `config`: all but those of other tokenizers."""
    unused = _keys_of_other_tokenizers(config["tokenizer"])
    return [key for key in semantic_id_keys() if key not in unused]


def semantic_id_recipe(config: Any, train_dataset: Any) -> dict[str, Any]:
    """Return everything the codes depend on, as JSON types."""
    recipe = {key: config[key] for key in used_semantic_id_keys(config) if key != "semantic_ids_path"}
    used = source_files(config)
    recipe |= {key: None for key in file_keys() if key in recipe and key not in used}  # files of no effect
    recipe |= feature_sources(config)  # by content, wherever the files lie
    if "text" in feature_names(config):
        recipe["texts"] = hash_tokens(item_texts(config, train_dataset.item_tokens()))
    lineage = {
        **recipe,
        "dataset": config["dataset"],
        "item_tokens": hash_tokens(train_dataset.item_tokens()),
        "training_part": training_part(train_dataset),
        "seed": config["seed"],
        "package_version": recbole_sid.__version__,
    }
    return json.loads(json.dumps(lineage))


def semantic_ids_file(config: Any, recipe: dict[str, Any]) -> Path:
    """Return where the semantic IDs of `recipe` are kept."""
    return Path(config["checkpoint_dir"]) / "semantic_ids" / f"{config['dataset']}-{fingerprint(recipe)}.npz"


def differences(stored: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """Return ``key: stored -> wanted`` for every part of two recipes that differs, in the order of `recipe`."""
    return [f"{key}: {stored.get(key)} -> {recipe.get(key)}" for key in _changed(stored, recipe)]


def _changed(stored: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    keys = [*recipe, *(key for key in stored if key not in recipe and key not in _RESULTS)]
    return [key for key in keys if not is_same_hash(stored.get(key), recipe.get(key))]


def _extension(path: Path, recipe: Mapping[str, Any], item_tokens: np.ndarray) -> tuple[SemanticIDs, Path] | None:
    """Return semantic IDs of `recipe` that were extended by later items, and their file; None if there are none.

    They are `path` itself, or a file beside it from when the dataset was smaller, and hold all items. Only where the
    training part is the same may they hold more: else they are those of another selection of items.
    """
    may_have_grown = {*_GROWING, *growing_keys()}
    for file in (path, *sorted(path.parent.glob(f"{recipe['dataset']}-*.npz"))):
        stored = read_recipe(file)
        changed = _changed(stored, recipe)
        if EXTENDED_AT in stored and set(changed) <= may_have_grown:
            semantic_ids = SemanticIDs.load(file)
            found = Coverage.of(semantic_ids.item_tokens, item_tokens)
            may_have_more = "training_part" not in changed
            if not len(found.items_without) and (may_have_more or not len(found.without_item)):
                return semantic_ids, file
    return None


def _nearest_recipe(path: Path, recipe: Mapping[str, Any]) -> str:
    """Say how `recipe` differs from that of the nearest file beside `path`; empty without such a file."""
    others = sorted(path.parent.glob(f"{recipe['dataset']}-*.npz"))
    found = [(differences(read_recipe(other), recipe), other) for other in others]
    if not found:
        return ""
    changed, other = min(found, key=lambda pair: len(pair[0]))
    return f", because it differs from {other.name} in {'; '.join(changed)}"


def _keys_of_other_tokenizers(tokenizer: str) -> set[str]:
    """Return the keys that other tokenizers declare and `tokenizer` does not."""
    declared = {name: set(resolve(TOKENIZERS, name, "tokenizer").settings.declarations()) for name in TOKENIZERS}
    return set().union(*declared.values()) - declared.get(tokenizer, set())
