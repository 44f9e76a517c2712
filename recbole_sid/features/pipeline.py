"""From what files say about items to what a tokenizer reads, fitted once and kept for items that come later.

Everything is fitted on the items that occur in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.features.base import FeatureSource
from recbole_sid.features.scaling import normalizers, reduction, training_items
from recbole_sid.features.sources import feature_kind, feature_names, source_files
from recbole_sid.util.files import prefixed, with_prefix


class FeaturePipeline:
    """The features in ``config['features']``, each normalised, concatenated, and reduced by PCA.

    Args:
        config: reads ``features``, each feature's own keys, ``feature_normalize``, ``feature_pca``, ``feature_whiten``
            and ``seed``.

    Raises:
        InputError: for an unknown feature or normalisation, or a PCA that is not possible.
    """

    def __init__(self, config: Any) -> None:
        self.names = feature_names(config)
        kinds = [feature_kind(name) for name in self.names]
        self.normalizers = normalizers(config["feature_normalize"], len(self.names))
        self.reduction = reduction(config)
        self.sources: list[FeatureSource] = [kind(config) for kind in kinds]
        self.widths: list[int] = []

    def fit_encode(self, dataset: Any) -> np.ndarray:
        """Learn from the training part and return the features of all items.

        Args:
            dataset: the training split, a `HistoryDataset`.

        Returns:
            float32 [n_items, d], rows in the order of ``dataset.item_tokens()``.

        Raises:
            InputError: if features are missing, all zero or not finite, or too few for the PCA.
        """
        train_items = training_items(dataset)
        parts = []
        for name, source, normalizer in zip(self.names, self.sources, self.normalizers, strict=True):
            part = np.asarray(source.fit_encode(dataset), dtype=np.float32)
            _check_finite(part, name, dataset.item_tokens())
            if not part.any():
                raise InputError(f"The '{name}' features are all zero: items cannot be told apart by them.")
            parts.append(normalizer.fit(part[train_items]).transform(part))
        self.widths = [part.shape[1] for part in parts]
        features = np.concatenate(parts, axis=1)
        if self.reduction is None:
            return features
        return self.reduction.fit(features[train_items]).transform(features)

    def read(self, item_tokens: np.ndarray) -> dict[str, Any]:
        """Return the raw input of items, known or new, from the files of the configuration: what `encode` takes.

        Raises:
            InputError: if an item has none, or a feature cannot exist for new items.
        """
        return {name: source.read(item_tokens) for name, source in zip(self.names, self.sources, strict=True)}

    def encode(self, raw: Mapping[str, Any], item_tokens: np.ndarray) -> np.ndarray:
        """Return the features of items by what was learnt from others.

        Args:
            raw: for each feature its raw input of n items: ``text``, one string an item (its ``text_fields`` joined by
                a space); ``file``, rows [n, d].
            item_tokens: str [n], to name items in errors.

        Returns:
            float32 [n, d].

        Raises:
            InputError: if a feature is missing, unknown, of another width or number of items, not finite, or
                collaborative.
        """
        if set(raw) != set(self.names):
            raise InputError(
                f"The semantic IDs were made from {', '.join(self.names)} but raw input is given for "
                f"{', '.join(raw) or 'none'}: give each of the former."
            )
        parts = []
        for name, source, normalizer, width in zip(
            self.names, self.sources, self.normalizers, self.widths, strict=True
        ):
            part = np.asarray(source.encode(raw[name]), dtype=np.float32)
            if part.shape != (len(item_tokens), width):
                raise InputError(
                    f"The '{name}' features {part.shape} must be {(len(item_tokens), width)}: a row for each item, of "
                    "as many numbers as those that the semantic IDs were made from."
                )
            _check_finite(part, name, item_tokens)
            parts.append(normalizer.transform(part))
        features = np.concatenate(parts, axis=1)
        return features if self.reduction is None else self.reduction.transform(features)

    def state(self) -> dict[str, np.ndarray]:
        """Return what `fit_encode` learnt, as arrays that need no pickle."""
        state = {"widths": np.asarray(self.widths)}
        for number, (source, normalizer) in enumerate(zip(self.sources, self.normalizers, strict=True)):
            state |= prefixed(f"{number}_source_", source.state())
            state |= prefixed(f"{number}_normalizer_", normalizer.state())
        return state | ({} if self.reduction is None else prefixed("reduction_", self.reduction.state()))

    def load_state(self, state: Mapping[str, np.ndarray]) -> FeaturePipeline:
        """Become the fitted pipeline of the same configuration that `state` was called on.

        Raises:
            KeyError: if an array is missing.
            InputError: if a text model is not that of then.
        """
        self.widths = state["widths"].tolist()
        for number, (source, normalizer) in enumerate(zip(self.sources, self.normalizers, strict=True)):
            source.load_state(with_prefix(f"{number}_source_", state))
            normalizer.load_state(with_prefix(f"{number}_normalizer_", state))
        if self.reduction is not None:
            self.reduction.load_state(with_prefix("reduction_", state))
        return self


def check_sources(config: Any) -> None:
    """Raise InputError if the features' files are missing, before anything is read."""
    files = source_files(config)
    if "file" in feature_names(config) and not files["feature_file"]:
        raise InputError("features has 'file', which needs feature_file: a file with a row for each item.")
    for key, path in files.items():
        if path and not Path(path).exists():
            raise InputError(f"{key}='{path}' does not exist.")


def _check_finite(part: np.ndarray, name: str, item_tokens: np.ndarray) -> None:
    bad = ~np.isfinite(part).all(axis=1)
    if bad.any():
        raise InputError(
            f"The '{name}' features of {bad.sum()} items are not finite (for example item '{item_tokens[bad][0]}'): "
            "remove NaN and infinity."
        )
