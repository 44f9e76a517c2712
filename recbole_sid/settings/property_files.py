"""Writes the property files that ship with the package, and docs/settings.md, from the declarations of the keys.

``python -m recbole_sid.settings.property_files`` in a checkout; a test says when it is due.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from recbole_sid.capabilities import capabilities_of
from recbole_sid.property_files import PROPERTIES
from recbole_sid.registry import MODELS, get_model
from recbole_sid.settings.declared import Settings, short_type
from recbole_sid.settings.semantic_ids import semantic_id_settings
from recbole_sid.util.files import write_text

_COMMENT_COLUMN = 32


def shipped_files() -> dict[Path, str]:
    """Return the text of each property file that is written from declarations, by path below ``properties``."""
    head = (
        "# How items get their semantic IDs. Part of every model's defaults that needs them (and of their lineage).\n"
    )
    lines = [line for declared in filter(_ships, semantic_id_settings()) for line in property_lines(declared)]
    files = {Path("semantic_ids.yaml"): head + "".join(lines)}
    for name in filter(lambda name: _ships(get_model(name)), MODELS):
        declared = capabilities_of(get_model(name)).settings
        files[Path("model") / f"{name}.yaml"] = f"# {title(declared)}\n" + "".join(property_lines(declared))
    return files


def _ships(declared: type) -> bool:
    """Say whether a class is of this package, not of one that adds to it."""
    return declared.__module__.startswith("recbole_sid.")


def title(declared: type[Settings]) -> str:
    """Return the first line of a declaration's docstring."""
    return (declared.__doc__ or "").strip().splitlines()[0]


def property_lines(declared: type[Settings]) -> Iterator[str]:
    """Yield the lines of a property file: key, default, type and help."""
    for name, said in declared.declarations().items():
        value = declared.default(name)
        text = f"{name}: {_as_yaml(value)}"
        kind = short_type(declared.types()[name])
        comment = " ".join(part for part in (f"({kind})" if kind and said.help else "", said.help) if part)
        yield f"{text:<{_COMMENT_COLUMN - 1}} # {comment}\n" if comment else f"{text}\n"


def _as_yaml(value: Any) -> str:
    if value is None:
        return "~"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace("true", "True").replace("false", "False")


def main(files: Mapping[Path, str] | None = None) -> None:
    """Write the files."""
    for file, text in (shipped_files() if files is None else files).items():
        write_text(PROPERTIES / file, text)


if __name__ == "__main__":
    main()
