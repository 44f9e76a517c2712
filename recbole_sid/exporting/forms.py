"""What a bundle keeps of a trained model: its engine, and that engine's arrays and settings.

To add a model, write a function as in `FormOf` and add its line to `FORMS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.util.installed import imported, with_installed


@dataclass(frozen=True)
class Form:
    """A model as its engine wants it.

    Attributes:
        engine: name in `recbole_sid.serving.engine.ENGINES`.
        arrays: by name, of the engine.
        settings: JSON values.
        files: further files of the bundle by name, as bytes.
    """

    engine: str
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


class FormOf(Protocol):
    """Makes the form of a trained model."""

    def __call__(self, model: Any, config: Any, dataset: Any) -> Form:
        """Return it; `model` is in evaluation mode, on the CPU."""
        ...


# By the class of the model: "module:function".
FORMS: dict[str, str] = with_installed(
    "forms",
    {
        "SIDMLPHybrid": "recbole_sid.exporting.items:form_of_hybrid",
        "SIDMLP": "recbole_sid.exporting.tokens:form_of_student",
        "TIGER": "recbole_sid.exporting.torch_models:form_of_tiger",
        "CausalSID": "recbole_sid.exporting.torch_models:form_of_causal",
        "SequentialRecommender": "recbole_sid.exporting.scores:form_of_scores",
        "TransitionMemory": "recbole_sid.exporting.transitions:form_of_transitions",
    },
)


def form_of(model: Any, config: Any, dataset: Any) -> Form:
    """Return the form of a trained model.

    Raises:
        InputError: if there is none for its class.
    """
    for model_class in type(model).__mro__:
        if model_class.__name__ in FORMS:
            return imported(FORMS[model_class.__name__])(model, config, dataset)
    raise InputError(
        f"{type(model).__name__} cannot be exported: bundles are made of {', '.join(sorted(FORMS)) or 'no model yet'}."
    )
