"""A feature with a file: the prices of items. Semantic IDs are built anew when the file changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.features.base import FeatureSource
from recbole_sid.settings import Settings, declare


@dataclass(frozen=True)
class PriceSettings(Settings):
    """Keys of the feature `prices`."""

    price_file: str | None = declare(None, "A line `item,price` for each item.", file=True, growing=True)
    price_powers: int = declare(2, "The price and its powers up to this one.", most=8)


class Prices(FeatureSource):
    """Powers of the logarithm of an item's price."""

    settings = PriceSettings

    def fit_encode(self, dataset: Any) -> np.ndarray:
        return self.encode(self.read(dataset.item_tokens()))

    def read(self, item_tokens: np.ndarray) -> list[float]:
        file = PriceSettings.of(self.config).price_file
        if file is None:
            raise InputError("features has 'prices', which needs price_file: a line `item,price` for each item.")
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        prices = {item: float(price) for item, _, price in (line.partition(",") for line in lines)}
        missing = [token for token in item_tokens if token not in prices]
        if missing:
            raise InputError(f"'{file}' has no price of {len(missing)} items (for example '{missing[0]}'): add them.")
        return [prices[token] for token in item_tokens]

    def encode(self, raw: Any) -> np.ndarray:
        powers = np.arange(1, PriceSettings.of(self.config).price_powers + 1)
        return (np.log1p(np.asarray(raw))[:, None] ** powers).astype(np.float32)
