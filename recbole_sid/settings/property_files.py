"""Writes the property files that ship with the package, and docs/settings.md, from the declarations of the keys.

``python -m recbole_sid.settings.property_files`` in a checkout; a test says when it is due.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from recbole_sid.capabilities import capabilities_of
from recbole_sid.property_files import PROPERTIES
from recbole_sid.registry import FEATURES, MODELS, TOKENIZERS, get_model, resolve
from recbole_sid.settings.declared import FROM_RECBOLE, Key, Settings, in_words, short_type, without_none
from recbole_sid.settings.run import LaunchSettings, RecBoleSettings, RunSettings
from recbole_sid.settings.semantic_ids import SemanticIDSettings, semantic_id_settings
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


def settings_page() -> str:
    """Return the text of docs/settings.md: a table for each class of settings."""
    parts = [_PAGE_HEAD]
    for declared, of in _documented().items():
        bases = [base for base in declared.__bases__ if base is not Settings]
        texts = [f"## {of or title(declared).removesuffix('.')}", *([title(declared)] if of else [])]
        texts += [f"Beside the keys of {' and '.join(_link(base) for base in bases)}."] if bases else []
        parts.append("\n\n".join([f'<a id="{declared.__name__}"></a>', *texts, _key_table(declared)]))
    return "\n\n".join(parts) + "\n"


_PAGE_HEAD = """\
# Configuration keys

Written by `python -m recbole_sid.settings.property_files` from the declarations beside the code that reads the keys.
Keys of RecBole's that are not here work as
[RecBole says](https://recbole.io/docs/user_guide/config_settings.html). The same, of one model:
`recbole-sid run --model=NAME --help`.

In the last column: **file**, it names a file or folder, and a run is known by what that holds, not by where it lies;
**model**, a model to load, which no settings in somebody's checkpoint alone make a run do; **place**, it says where and
how a run happens, not what it computes, so that runs that differ in it only are one; **shared**, a student's run and
its teacher's have it in common."""
_FLAGS = {"file": "file", "model": "model", "volatile": "place", "shared": "shared"}


def _documented() -> dict[type[Settings], str]:
    """Return all declarations, bases before what is made from them, with a heading where the class has none."""
    found: dict[type[Settings], str] = {RunSettings: "", LaunchSettings: "", SemanticIDSettings: ""}
    for kind, registry in (("Feature", FEATURES), ("Tokenizer", TOKENIZERS), ("Model", MODELS)):
        for name in registry:
            owner = resolve(registry, name, kind.lower())
            for base in reversed(owner.settings.__mro__):
                if issubclass(base, Settings) and base is not Settings and _ships(base):
                    found.setdefault(base, f"{kind} `{name}`" if base is owner.settings else "")
    return {**found, RecBoleSettings: ""}


def _link(declared: type[Settings]) -> str:
    return f"[{title(declared).removesuffix('.')}](#{declared.__name__})"


def _key_table(declared: type[Settings]) -> str:
    lines = ["| key | default | takes | what it is | |", "| --- | --- | --- | --- | --- |"]
    for name in inspect.get_annotations(declared):
        said, value = declared.declarations()[name], declared.default(name)
        default = "RecBole's" if value is FROM_RECBOLE else f"`{_as_yaml(value)}`"
        flags = ", ".join(word for flag, word in _FLAGS.items() if getattr(said, flag))
        cells = [f"`{name}`", default, _taken(declared.types()[name], said), said.help, flags]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _taken(kind: Any, said: Key) -> str:
    """Return in words what a key takes."""
    if kind is Any:
        return ""
    optional, kind = without_none(kind)
    words = f"one of {', '.join(said.names())}" if said.choices is not None else in_words(kind, said)
    return f"{words}; or empty" if optional else words


def _as_yaml(value: Any) -> str:
    if value is None:
        return "~"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace("true", "True").replace("false", "False")


def main() -> None:
    """Write the files."""
    for file, text in shipped_files().items():
        write_text(PROPERTIES / file, text)
    write_text(PROPERTIES.parent / "docs" / "settings.md", settings_page())


if __name__ == "__main__":
    main()
