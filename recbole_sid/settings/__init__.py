"""Configuration keys, each declared once: the field of a dataclass, with its type, default, bounds, help and flags.

Defaults, checks, fingerprints, the shipped property files, ``--help`` and docs/settings.md come from these.
"""

from recbole_sid.settings.declared import Key, Settings, declare

__all__ = ["Key", "Settings", "declare"]
