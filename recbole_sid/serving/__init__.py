"""Answers from a trained model outside of the laboratory: a bundle, its recommender, a server, batch scoring.

Nothing here imports RecBole, pandas, faiss or scikit-learn; torch and Ray only where a model or a cluster needs them.
What is named here is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_sid.serving.bundle import Bundle as Bundle
    from recbole_sid.serving.explain import Explanation as Explanation
    from recbole_sid.serving.recommendations import Recommendations as Recommendations
    from recbole_sid.serving.recommender import Recommender as Recommender

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
