"""Writes docs/cli.md from the commands' own declarations: ``python -m recbole_sid.commands.page`` in a checkout.

A test says when it is due. Commands of other packages are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from recbole_sid.cli import COMMANDS
from recbole_sid.commands.call import Command, Option
from recbole_sid.property_files import PROPERTIES
from recbole_sid.util.files import write_text

_HEAD = """\
# The command line

Written by `python -m recbole_sid.commands.page` from the declarations that `recbole-sid COMMAND --help` prints too.

`recbole-sid COMMAND --option=value ...`; `--option value` is the same, and hyphens may stand for the underscores of a
name. A command that takes **configuration keys** takes every key of [settings.md](settings.md), and of RecBole's, as
`--KEY=VALUE` over those of `--config_files`. `recbole-sid --version` says what is installed; without a command,
`--model` means `run`.

The exit status is 0, 1 where `reproduce` finds that something differs, 2 for input that the user can mend (one sentence
says how), 130 after an interruption."""


def cli_page() -> str:
    """Return the text of docs/cli.md: a section for each command."""
    ours = [command for command in COMMANDS.values() if command.run.__module__.startswith("recbole_sid.")]
    listed = "\n".join(f"| [{command.name}](#{command.name}) | {_cell(command.help)} |" for command in ours)
    overview = f"| command | what it does |\n| --- | --- |\n{listed}"
    return "\n\n".join([_HEAD, overview, *(part for command in ours for part in _section(command))]) + "\n"


def _section(command: Command) -> Iterator[str]:
    yield f"## {command.name}"
    yield f"{command.help[0].upper()}{command.help[1:]}."
    yield f"Such as `{command.example}`."
    options = [*([command.input] if command.input else []), *command.options]
    if options:
        lines = [_row(option, option is command.input) for option in options]
        yield "\n".join(["| option | what it is | default |", "| --- | --- | --- |", *lines])
    words = ["It takes configuration keys."] if command.keys else []
    words += ["Several processes may do it together (`nproc`, torchrun)."] if command.in_group else []
    words += ["Several processes may do each training together (`nproc`)."] if command.starts_groups else []
    if words:
        yield " ".join(words)


def _row(option: Option, is_input: bool) -> str:
    value = f"[={option.metavar}]" if option.alone else f"={option.metavar}"
    name = f"`{option.metavar}`, behind the command, or `--{option.name}={option.metavar}`"
    cells = [name if is_input else f"`--{option.name}{value}`", option.help]
    cells.append("" if option.default is None else f"`{option.default}`")
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write the file."""
    write_text(PROPERTIES.parent / "docs" / "cli.md", cli_page())


if __name__ == "__main__":
    main()
