"""Item features: one file per source, registered in `recbole_sid.registry.FEATURES`.

A feature is a function ``(config, dataset) -> float32 [n_items, d]``, rows in the order of ``dataset.item_tokens()``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.features.scaling import check_reduction, normalizers, reduced, training_items
from recbole_sid.registry import FEATURES, resolve


def item_features(config: Any, dataset: Any) -> np.ndarray:
    """Compute the features that ``config['features']`` names, normalise each, concatenate, and reduce them by PCA.

    Args:
        config: reads ``features``, each feature's own keys, ``feature_normalize``, ``feature_pca`` and
            ``feature_whiten``.
        dataset: the training split, a `HistoryDataset`.

    Returns:
        float32 [n_items, d].

    Raises:
        InputError: for an unknown feature or normalisation, a PCA that is not possible, or features that are missing,
            all zero or not finite.
    """
    names = feature_names(config)
    compute = [resolve(FEATURES, name, "feature") for name in names]
    normalize = normalizers(config["feature_normalize"], len(names))
    check_reduction(config["feature_pca"], config["feature_whiten"])
    train_items = training_items(dataset)
    parts = []
    for name, function, normal in zip(names, compute, normalize, strict=True):
        part = np.asarray(function(config, dataset), dtype=np.float32)
        _check(part, name, dataset.item_tokens())
        parts.append(normal(part, train_items))
    features = np.concatenate(parts, axis=1)
    if config["feature_pca"] is None:
        return features
    return reduced(features, train_items, config["feature_pca"], config["feature_whiten"], config["seed"])


def feature_names(config: Any) -> list[str]:
    """Return the names in ``config['features']``.

    Raises:
        InputError: if there are none.
    """
    names = config["features"]
    names = [names] if isinstance(names, str) else list(names or ())
    if not names:
        raise InputError("features is empty: name at least one of " + ", ".join(FEATURES) + ".")
    return names


def _check(part: np.ndarray, name: str, item_tokens: np.ndarray) -> None:
    bad = ~np.isfinite(part).all(axis=1)
    if bad.any():
        raise InputError(
            f"The '{name}' features of {bad.sum()} items are not finite (for example item '{item_tokens[bad][0]}'): "
            "remove NaN and infinity."
        )
    if not part.any():
        raise InputError(f"The '{name}' features are all zero: items cannot be told apart by them.")
