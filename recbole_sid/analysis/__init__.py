"""Where recommendation needs memorization and where generalization, and what models make of it (arXiv 2603.19809)."""

from recbole_sid.analysis.labels import label_instances, shares
from recbole_sid.analysis.tokens import label_tokens

__all__ = ["label_instances", "label_tokens", "shares"]
