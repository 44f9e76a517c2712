"""What happens to features after they are computed: normalisation of each part, PCA of them all.

Both are fitted on the items that occur in training, so that items that arrive later change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recbole_sid.errors import InputError, nearest

# (part [n_items, d], rows of training items) -> the part normalised.
Normalizer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def training_items(dataset: Any) -> np.ndarray:
    """Return the rows of features whose items occur in the training part: int64, ascending."""
    return np.unique(dataset.training_sequences()[0]) - 1


def scaled(part: np.ndarray, train_items: np.ndarray) -> np.ndarray:
    """Return `part` times the number that makes the mean squared norm of training items 1."""
    norm = np.sqrt(np.mean(np.sum(part[train_items] ** 2, axis=1)))
    return part / norm if norm > 0 else part


def standardized(part: np.ndarray, train_items: np.ndarray) -> np.ndarray:
    """Return `part` with columns of mean 0 and variance 1 over training items (0 if constant), then `scaled`."""
    from sklearn.preprocessing import StandardScaler

    return scaled(StandardScaler().fit(part[train_items]).transform(part), train_items)


def unit_rows(part: np.ndarray, train_items: np.ndarray) -> np.ndarray:
    """Return `part` with rows of norm 1; rows of zeros stay."""
    from sklearn.preprocessing import normalize

    return normalize(part)


def unchanged(part: np.ndarray, train_items: np.ndarray) -> np.ndarray:
    """Return `part` itself."""
    return part


NORMALIZERS: Mapping[str, Normalizer] = {
    "scale": scaled,
    "standard": standardized,
    "rows": unit_rows,
    "none": unchanged,
}


def normalizers(names: str | Sequence[str], n_parts: int) -> list[Normalizer]:
    """Return the normaliser of each part: one name for all of them, or a list with one for each.

    Raises:
        InputError: for an unknown name, or as many names as there are no parts.
    """
    given = [names] * n_parts if isinstance(names, str) else list(names or ())
    if len(given) != n_parts:
        raise InputError(f"feature_normalize={names} must be one name, or one for each of the {n_parts} features.")
    for name in given:
        if name not in NORMALIZERS:
            close = nearest(str(name), NORMALIZERS)
            raise InputError(f"Unknown feature_normalize '{name}'{close}; known: {', '.join(NORMALIZERS)}.")
    return [NORMALIZERS[name] for name in given]


def check_reduction(dim: int | None, whiten: bool) -> None:
    """Refuse what `reduced` cannot do whatever the features are.

    Raises:
        InputError: if `dim` is no number of at least 1, or there is something to whiten but no PCA.
    """
    if dim is None and whiten:
        raise InputError("feature_whiten=True whitens a PCA: set feature_pca to its dimension.")
    if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool) or dim < 1):
        raise InputError(f"feature_pca={dim!r} must be a whole number of at least 1, or empty.")


def reduced(features: np.ndarray, train_items: np.ndarray, dim: int, whiten: bool, seed: int) -> np.ndarray:
    """Return the first principal components of the items that occur in training, for all items.

    Args:
        features: float [n_items, d].
        train_items: int [n], rows of items that occur in training.
        dim: number of components.
        whiten: scale each component to variance 1 over the training items.
        seed: of the solver, where it draws numbers.

    Returns:
        float32 [n_items, dim].

    Raises:
        InputError: if `dim` is larger than the number of features or of training items.
    """
    from sklearn.decomposition import PCA

    most = min(len(train_items), features.shape[1])
    if dim > most:
        raise InputError(
            f"feature_pca={dim} is more than {len(train_items)} training items of {features.shape[1]} features allow: "
            f"choose at most {most}."
        )
    pca = PCA(dim, whiten=whiten, random_state=seed).fit(features[train_items])
    return pca.transform(features).astype(np.float32)
