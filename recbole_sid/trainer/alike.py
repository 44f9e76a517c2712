"""Which items are alike, for a memory that may give these a weight."""

from __future__ import annotations

from logging import getLogger
from typing import Any

from scipy.sparse import csr_matrix

from recbole_sid.errors import InputError, first_line
from recbole_sid.features import item_features
from recbole_sid.features.alike import alike


def known_alike(config: Any, dataset: Any) -> csr_matrix | None:
    """Return which items are alike by the run's features (`features.alike`); None if they have no weight.

    Args:
        config: of the run; ``memory_text_weight`` is empty where the weight is to be chosen.
        dataset: the training split.

    Raises:
        InputError: if a weight is set and the features cannot be had. If it is to be chosen, a line says so, and it is
            0.
    """
    weight = config["memory_text_weight"]
    if weight == 0:
        return None
    try:
        return alike(item_features(config, dataset))
    except InputError as error:
        if weight is not None:
            raise InputError(f"memory_text_weight={weight:g} needs the items' features. {error}") from error
        getLogger().warning(f"The memory goes without likeness of items (memory_text_weight=0): {first_line(error)}")
        return None
