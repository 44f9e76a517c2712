"""Item features: one file per source, registered in `recbole_sid.registry.FEATURES`, and the pipeline over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.features.pipeline import FeaturePipeline
from recbole_sid.features.sources import feature_names

__all__ = ["FeaturePipeline", "feature_names", "item_features"]


def item_features(config: Any, dataset: Any) -> np.ndarray:
    """Return the features that the configuration asks for, fitted now: `FeaturePipeline.fit_encode`."""
    return FeaturePipeline(config).fit_encode(dataset)
