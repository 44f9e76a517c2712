"""Random codes: the control that shows what similarity between semantic IDs is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_sid.tokenizer.base import Tokenizer


class RandomCodes(Tokenizer):
    """Codes that are uniform and tell nothing of an item's features but whether they are equal to another's.

    They are hashes of the features' bits and the seed, so that an item keeps its codes whatever it is encoded with.
    """

    @classmethod
    def from_config(cls, config: Any) -> RandomCodes:
        """Read ``codebook_sizes`` and ``seed``."""
        return cls(config["codebook_sizes"], config["seed"])

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> RandomCodes:
        """Learn nothing."""
        return self

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Return hashes of the rows."""
        bits = np.ascontiguousarray(features, dtype=np.float32).view(np.uint32).astype(np.uint64)
        rng = np.random.default_rng(self.seed)
        codes = np.empty((len(features), len(self.codebook_sizes)), dtype=np.int64)
        for level, size in enumerate(self.codebook_sizes):
            odd = rng.integers(0, 1 << 64, bits.shape[1], dtype=np.uint64) | np.uint64(1)
            codes[:, level] = _mixed((bits * odd).sum(axis=1, dtype=np.uint64)) % np.uint64(size)
        return codes

    def reconstruct(self, codes: np.ndarray) -> None:
        """Return None: codes stand for no features."""

    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return zeros: every code fits as well as any other."""
        return np.zeros((len(codes), self.codebook_sizes[-1]), dtype=np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return the seed: codes depend on nothing else."""
        return {"seed": np.asarray(self.seed)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> RandomCodes:
        """Take over the seed."""
        self.seed = int(state["seed"])
        return self


def _mixed(words: np.ndarray) -> np.ndarray:
    """Spread each word's bits over all of it (the last step of splitmix64; Steele et al., OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
