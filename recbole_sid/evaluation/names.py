"""Names of models as papers write them."""

from __future__ import annotations

from collections.abc import Iterable

_AS_WRITTEN = {
    "SIDMLP": "SID-MLP",
    "SIDMLPPlusPlus": "SID-MLP++",
    "SIDMLPHybrid": "SID-MLP hybrid",
    "TransitionMemory": "Transition memory",
    "AdaptiveEnsemble": "Adaptive ensemble",
    "Pop": "Popularity",
}


def display_name(name: str) -> str:
    """Return a row's name as it is read: ``SIDMLPPlusPlus-item`` is ``SID-MLP++ (item)``.

    What follows the first hyphen tells variants of a model apart; a name that does not begin with a class's stays.
    """
    model, _, variant = name.partition("-")
    if not model.isidentifier() or not model[0].isupper():
        return name
    written = _AS_WRITTEN.get(model, model)
    return f"{written} ({variant.replace('-', ', ')})" if variant else written


def display_names(names: Iterable[str]) -> dict[str, str]:
    """Return name -> display name; two that would read the same keep their own."""
    found = {name: display_name(name) for name in names}
    shown = list(found.values())
    return {name: text if shown.count(text) == 1 else name for name, text in found.items()}
