"""Where recommendation needs memorization and where generalization, and what models make of it (arXiv 2603.19809)."""

from recbole_sid.generalization.labels import label_instances, shares
from recbole_sid.generalization.tokens import label_tokens

__all__ = ["label_instances", "label_tokens", "shares"]
