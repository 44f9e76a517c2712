"""Semantic-ID generative recommendation for RecBole: TIGER, SID-MLP and SID-MLP++.

Importing the package imports neither RecBole nor torch, so that help and version are quick; RecBole is checked and
patched when the first module that needs it imports `recbole_sid.compat`. `compare`, `reproduce`, `tune`, `tokenize` and
`analyze` come from `recbole_sid.api` when they are asked for.
"""

from importlib import import_module

__version__ = "0.5.0"

_FUNCTIONS = ("analyze", "compare", "reproduce", "tokenize", "tune")
__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        return getattr(import_module("recbole_sid.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS})
