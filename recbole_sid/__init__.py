"""Semantic-ID generative recommendation for RecBole: TIGER, SID-MLP and SID-MLP++."""

from recbole_sid import compat

__version__ = "0.1.0"

compat.require_recbole()
compat.apply()

__all__ = ["__version__"]
