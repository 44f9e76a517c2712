"""What every tokenizer offers, in scikit-learn's manner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.settings.declared import Settings


class Tokenizer(ABC):
    """Learns codebooks from item features and encodes features as codes.

    The codes of an item depend on its features only, not on the other rows that are encoded with it.

    Args:
        codebook_sizes: codes per level, length L >= 1; levels may differ.
        seed: decides every random choice.
    """

    def __init__(self, codebook_sizes: Sequence[int], seed: int = 0) -> None:
        if not codebook_sizes or any(int(size) < 1 for size in codebook_sizes):
            raise InputError(
                f"codebook_sizes={list(codebook_sizes)} must name at least one level of at least one code."
            )
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.seed = seed

    settings: ClassVar[type[Settings]] = Settings

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any) -> Tokenizer:
        """Build the tokenizer from its configuration keys."""

    @abstractmethod
    def fit(self, features: np.ndarray, train_items: np.ndarray) -> Tokenizer:
        """Learn the codebooks from the rows of items that occur in training.

        Args:
            features: float32 [n_items, d].
            train_items: int [n], rows that may be learnt from.
        """

    @abstractmethod
    def encode(self, features: np.ndarray) -> np.ndarray:
        """Return codes int64 [n_items, L]."""

    @abstractmethod
    def reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        """Return the features that codes stand for: float32 [n, d]; None if they stand for none.

        Args:
            codes: int64 [n, L or more]; what comes after the tokenizer's own levels (a rank) is ignored.
        """

    @abstractmethod
    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return how badly each code of the last level would fit, given the item's codes of the levels before.

        Returns:
            float32 [n, size of the last level], squared errors in the space that the last level quantises.
        """

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return what `fit` learnt, as arrays that need no pickle."""

    @abstractmethod
    def load_state(self, state: Mapping[str, np.ndarray]) -> Tokenizer:
        """Become the fitted tokenizer that `state` was called on.

        Raises:
            KeyError: if an array is missing.
        """


def reconstruction_error(tokenizer: Tokenizer, features: np.ndarray, codes: np.ndarray) -> float | None:
    """Return the mean squared error of the features that `codes` stand for, relative to the features' variance.

    0 is perfect, 1 as good as the mean of all items; None if the tokenizer reconstructs nothing or features are equal.
    """
    rebuilt = tokenizer.reconstruct(codes)
    variance = float(features.var(axis=0, dtype=np.float64).sum())
    if rebuilt is None or variance == 0:
        return None
    return float(np.square(features - rebuilt).sum(axis=1).mean(dtype=np.float64) / variance)
