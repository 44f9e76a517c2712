"""Weights for a catalogue that has grown since: those of codes stay, a memory of items is counted anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recbole_sid.checkpoint import lineage
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
    hops, hop_decay, window, *others = settings.tolist()
    numbers = Numbers(hops, hop_decay, window, *others)
    if numbers.problem() is not None:
        return dict(state)  # refused as that of any damaged file is
    numbers = numbers._replace(hops=int(hops), window=int(window))
    memory.learn(*train_dataset.training_sequences(), numbers)
    counted = {f"memory.{name}": value for name, value in memory.state_dict().items()}
    return {**state, **counted}
