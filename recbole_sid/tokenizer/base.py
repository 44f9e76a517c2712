"""What every tokenizer offers, in scikit-learn's manner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sid.errors import InputError


class Tokenizer(ABC):
    """Learns codebooks from item features and encodes features as codes.

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
