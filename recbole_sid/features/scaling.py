"""What happens to features after they are computed: normalisation of each part, PCA of them all.

Both are fitted on the items that occur in training, so that items that arrive later change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from recbole_sid.errors import InputError, nearest
from recbole_sid.features.base import Learnt


def training_items(dataset: Any) -> np.ndarray:
    """Return the rows of features whose items occur in the training part: int64, ascending."""
    return np.unique(dataset.training_sequences()[0]) - 1


class Unchanged(Learnt):
    """Leaves a part as it is."""

    def fit(self, part: np.ndarray) -> Unchanged:
        """Learn from `part`, float32 [n, d] of items that occur in training."""
        return self

    def transform(self, part: np.ndarray) -> np.ndarray:
        """Return `part` normalised: float32 [n, d]."""
        return part


class UnitRows(Unchanged):
    """Makes rows of norm 1; rows of zeros stay."""

    def transform(self, part: np.ndarray) -> np.ndarray:
        from sklearn.preprocessing import normalize

        return normalize(part)


class Scaled(Unchanged):
    """Divides by the number that makes the mean squared norm of training items 1."""

    LEARNT: ClassVar[tuple[str, ...]] = ("norm",)
    norm: Any

    def fit(self, part: np.ndarray) -> Scaled:
        norm = np.sqrt(np.mean(np.sum(part**2, axis=1)))
        self.norm = norm if norm > 0 else np.float32(1)
        return self

    def transform(self, part: np.ndarray) -> np.ndarray:
        return part / self.norm


class Standardized(Scaled):
    """Makes columns of mean 0 and variance 1 over training items (0 if constant), then scales."""

    LEARNT = ("mean", "deviation", "norm")
    mean: np.ndarray
    deviation: np.ndarray

    def fit(self, part: np.ndarray) -> Standardized:
        from sklearn.preprocessing import StandardScaler

        columns = StandardScaler().fit(part)
        self.mean, self.deviation = columns.mean_, columns.scale_
        super().fit(self._columns(part))
        return self

    def transform(self, part: np.ndarray) -> np.ndarray:
        return super().transform(self._columns(part))

    def _columns(self, part: np.ndarray) -> np.ndarray:
        result = part.copy()
        result -= self.mean  # in place, so that float32 stays float32
        result /= self.deviation
        return result


NORMALIZERS: Mapping[str, type[Unchanged]] = {
    "scale": Scaled,
    "standard": Standardized,
    "rows": UnitRows,
    "none": Unchanged,
}


def normalizers(names: str | Sequence[str], n_parts: int) -> list[Unchanged]:
    """Return a normaliser for each part, not fitted yet: one name for all of them, or a list with one for each.

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
    return [NORMALIZERS[name]() for name in given]


class Reduction(Learnt):
    """The first principal components of the items that occur in training.

    Args:
        dim: number of components.
        whiten: scale each component to variance 1 over the training items.
        seed: of the solver, where it draws numbers.

    Raises:
        InputError: if `dim` is no number of at least 1.
    """

    LEARNT = ("mean", "components")
    mean: np.ndarray
    components: np.ndarray  # [dim, d], whitened

    def __init__(self, dim: int, whiten: bool, seed: int) -> None:
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
            raise InputError(f"feature_pca={dim!r} must be a whole number of at least 1, or empty.")
        self.dim, self.whiten, self.seed = dim, whiten, seed

    def fit(self, features: np.ndarray) -> Reduction:
        """Learn from `features`, float [n, d] of items that occur in training.

        Raises:
            InputError: if `dim` is larger than the number of features or of training items.
        """
        from sklearn.decomposition import PCA

        if self.dim > min(features.shape):
            raise InputError(
                f"feature_pca={self.dim} is more than {features.shape[0]} training items of {features.shape[1]} "
                f"features allow: choose at most {min(features.shape)}."
            )
        pca = PCA(self.dim, random_state=self.seed).fit(features)
        deviation = np.sqrt(pca.explained_variance_)[:, None] if self.whiten else np.ones((self.dim, 1))
        smallest = np.finfo(features.dtype).eps  # components of no variance stay finite
        self.mean = pca.mean_.astype(np.float32)
        self.components = (pca.components_ / deviation.clip(min=smallest)).astype(np.float32)
        return self

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Return float32 [n, dim]."""
        return ((features - self.mean) @ self.components.T).astype(np.float32)


def reduction(config: Any) -> Reduction | None:
    """Return what ``feature_pca`` and ``feature_whiten`` ask for, not fitted yet.

    Raises:
        InputError: if ``feature_pca`` is no number of at least 1, or there is something to whiten but no PCA.
    """
    dim, whiten = config["feature_pca"], config["feature_whiten"]
    if dim is None and whiten:
        raise InputError("feature_whiten=True whitens a PCA: set feature_pca to its dimension.")
    return None if dim is None else Reduction(dim, whiten, config["seed"])
