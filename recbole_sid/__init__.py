"""Semantic-ID generative recommendation for RecBole: TIGER, SID-MLP and SID-MLP++.

Importing the package imports neither RecBole nor torch, so that help and version are quick; RecBole is checked and
patched when the first module that needs it imports `recbole_sid.compat`.
"""

__version__ = "0.4.0"

__all__ = ["__version__"]
