"""Values as they are written on the command line and in property files: typed once, and never run."""

from __future__ import annotations

import ast
import re
from typing import Any

import yaml

from recbole_sid.errors import InputError, first_line

_LONGEST_LITERAL = 1_000_000


class PropertyLoader(yaml.SafeLoader):
    """YAML's safe loader that also reads 1e-3 as a number, as RecBole's loader does."""


PropertyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+"),
    list("-+.0123456789"),
)


def parse_value(text: str) -> Any:
    """Read a command-line value: a Python literal, true/false, ~ for None as in property files, a YAML list or
    dictionary, else the text itself.
    """
    if text == "~":
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return parse_literal(text)
    except ValueError:
        pass
    from recbole_sid.util.reading import parse_yaml  # which imports numpy: help needs neither

    try:  # lists and dictionaries also without quotes, as in property files: [collaborative, text]
        return parse_yaml(text, "The value", PropertyLoader) if text[:1] in ("[", "{") else text
    except InputError:
        return text


def parse_literal(text: str) -> Any:
    """Return the value of a Python literal.

    Raises:
        ValueError: if it is none, too long or nests too deeply.
    """
    if len(text) > _LONGEST_LITERAL:
        raise ValueError(f"longer than {_LONGEST_LITERAL} characters")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:  # MemoryError: what the parser says of depth
        raise ValueError(first_line(error)) from error
