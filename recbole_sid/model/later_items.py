"""Weights for a catalogue that has grown since: those of codes stay, a memory of items is counted anew."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import torch
from scipy.sparse import csr_matrix

from recbole_sid.checkpoint import lineage
from recbole_sid.errors import InputError, first_line
from recbole_sid.features import item_features
from recbole_sid.features.alike import alike
from recbole_sid.features.sources import check_recorded_files, model_keys
from recbole_sid.memory import Numbers
from recbole_sid.util.hashing import is_same_hash


def weights_for(
    model: Any,
    state: Mapping[str, torch.Tensor],
    recorded: Mapping[str, str],
    config: Any,
    train_dataset: Any,
) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint for `model`, whose semantic IDs are the checkpoint's or extend them.

    A model's memory is of the items that there were. Where there are others now, it is counted anew from the training
    part as it is now, by the recorded numbers.

    Args:
        model: built for `train_dataset`; its memory is changed where it is counted anew.
        state: of the checkpoint.
        recorded: the checkpoint's lineage, which was checked.
        config: of the run.
        train_dataset: the training split.
    """
    memory, settings = getattr(model, "memory", None), state.get("memory.settings")
    current = lineage(config, train_dataset)["item tokens"]
    if memory is None or settings is None or is_same_hash(recorded.get("item tokens"), current):
        return dict(state)
    numbers = Numbers.read(settings.flatten().tolist()) if settings.dtype == torch.float64 else "no numbers"
    if isinstance(numbers, str):
        return dict(state)  # refused as that of any damaged file is
    if numbers.text_weight:
        memory.alike = _known_alike(config, train_dataset)
        numbers = numbers if memory.alike is not None else numbers._replace(text_weight=0.0)
    memory.learn(*train_dataset.training_sequences(), numbers)
    counted = {f"memory.{name}": value for name, value in memory.state_dict().items()}
    return {**state, **counted}


def _known_alike(config: Any, train_dataset: Any) -> csr_matrix | None:
    """Return which items are alike by the features of recorded settings; None, with a warning, if they cannot be had
    or a model, which stands in the file only, would have to be loaded for them.
    """
    try:
        check_recorded_files(config, ())
        models = [f"{key}={config[key]}" for key in model_keys(config)]
        if models:
            raise InputError(f"{', '.join(models)} stands in the checkpoint only and is not loaded.")
        return alike(item_features(config, train_dataset))
    except InputError as error:
        getLogger().warning(f"The memory of the new items goes without likeness of items: {first_line(error)}")
        return None
