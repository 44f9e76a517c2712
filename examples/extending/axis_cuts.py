"""A tokenizer: each level cuts one principal axis of the features into ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.settings import Settings, declare
from recbole_sid.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class AxisCutsSettings(Settings):
    """Keys of the tokenizer that cuts principal axes."""

    axis_cuts: str = declare(
        "even", "Ranges of a level: even (equally many items in each) or wide (equally wide).", choices=("even", "wide")
    )


class AxisCuts(Tokenizer):
    """Level t is the range of the item's place on principal axis t, the first being that of largest variance."""

    settings = AxisCutsSettings
    cuts = "even"

    @classmethod
    def from_config(cls, config: Any) -> AxisCuts:
        tokenizer = cls(config["codebook_sizes"], config["seed"])
        tokenizer.cuts = AxisCutsSettings.of(config).axis_cuts
        return tokenizer

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> AxisCuts:
        rows = features[train_items].astype(np.float64)
        if min(rows.shape) < len(self.codebook_sizes):
            raise InputError(
                f"Features {rows.shape} have no {len(self.codebook_sizes)} axes: give axis_cuts fewer levels."
            )
        self.mean = rows.mean(0)
        self.axes = np.linalg.svd(rows - self.mean, full_matrices=False)[2][: len(self.codebook_sizes)]
        places, self.centres = self._places(rows), []
        for level, size in enumerate(self.codebook_sizes):
            between = (np.arange(size) + 0.5) / size
            low, high = places[:, level].min(), places[:, level].max()
            even = np.quantile(places[:, level], between)
            self.centres.append(even if self.cuts == "even" else low + between * (high - low))
        return self

    def encode(self, features: np.ndarray) -> np.ndarray:
        levels = [self._squared(features, level).argmin(1) for level in range(len(self.codebook_sizes))]
        return np.stack(levels, axis=1)

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        places = np.stack([centres[codes[:, level]] for level, centres in enumerate(self.centres)], axis=1)
        return (self.mean + places @ self.axes).astype(np.float32)

    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return self._squared(features, len(self.codebook_sizes) - 1).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        centres = {f"centres_{level}": values for level, values in enumerate(self.centres)}
        return {"mean": self.mean, "axes": self.axes, **centres}

    def load_state(self, state: Mapping[str, np.ndarray]) -> AxisCuts:
        self.mean, self.axes = state["mean"], state["axes"]
        self.centres = [state[f"centres_{level}"] for level in range(len(self.codebook_sizes))]
        return self

    def _places(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) @ self.axes.T

    def _squared(self, features: np.ndarray, level: int) -> np.ndarray:
        return (self._places(features)[:, level : level + 1] - self.centres[level]) ** 2
