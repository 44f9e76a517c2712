"""Item features: one file per source, registered in `recbole_sid.registry.FEATURES`.

A feature is a function ``(config, dataset) -> float32 [n_items, d]``, rows in the order of ``dataset.item_tokens()``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.registry import FEATURES, resolve


def item_features(config: Any, dataset: Any) -> np.ndarray:
    """Compute and concatenate the features that ``config['features']`` names.

    Each part is scaled so that its rows have a mean squared norm of 1, so that parts weigh the same.

    Args:
        config: reads ``features`` and each feature's own keys.
        dataset: the training split, a `HistoryDataset`.

    Returns:
        float32 [n_items, d].

    Raises:
        InputError: for an unknown feature, or features that are missing, constant or not finite.
    """
    parts = []
    for name in feature_names(config):
        part = np.asarray(resolve(FEATURES, name, "feature")(config, dataset), dtype=np.float32)
        _check(part, name, dataset.item_tokens())
        parts.append(part / np.sqrt(np.mean(np.sum(part**2, axis=1))))
    return np.concatenate(parts, axis=1)


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
