"""Answers from a trained model outside of the laboratory: a bundle, its recommender, a server, batch scoring.

Nothing here imports RecBole, pandas, faiss or scikit-learn; torch and Ray only where a model or a cluster needs them.
What is named here is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Bundle": "bundle",
    "Recommender": "recommender",
    "Recommendations": "recommendations",
    "Explanation": "explain",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
