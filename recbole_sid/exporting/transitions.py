"""The form of a TransitionMemory."""

from __future__ import annotations

from typing import Any

from recbole_sid.exporting.code_models import array, form_of_memory
from recbole_sid.exporting.forms import Form


def form_of_transitions(model: Any, config: Any, dataset: Any) -> Form:
    """Return the form of a TransitionMemory."""
    arrays, numbers = form_of_memory(model.memory, model.max_seq_length)
    base = {"base.probabilities": array(model.base.probabilities), "base.order": array(model.base.order)}
    sizes = {"n_items": model.n_items, "max_history": model.max_seq_length, "beam_size": model.beam_size}
    return Form("transitions", {**arrays, **base}, {**sizes, **numbers, "memory_sharpness": 0.0})
