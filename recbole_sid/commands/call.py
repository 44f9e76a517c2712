"""How a command is declared, its parsed command line, and what every command does with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recbole_sid import __version__
from recbole_sid.errors import InputError
from recbole_sid.util.files import write_json
from recbole_sid.util.values import parse_value

SEPARATOR = "\0"  # of the words of one option: no word of a command line has it


class Call(NamedTuple):
    """A parsed command line: the command, those of its own options that were given, and configuration overrides."""

    command: str
    options: dict[str, Any]
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: with underscores; hyphens may stand for them on the command line.
        help: one sentence.
        type: reads the text that was given.
        default: what it is when it is not given, for the help.
        metavar: stands for the value in the help.
        alone: the text that it stands for when it is given without a value; None: it needs one.
        output: ``file`` or ``folder`` if it names what the command writes, else empty.
        key: it is a configuration key too, and goes with these.
        several: as a command's input, it is all words before the options, with `SEPARATOR` between them.
    """

    name: str
    help: str
    type: Callable[[str], Any] = str
    default: Any = None
    metavar: str = "VALUE"
    alone: str | None = None
    output: str = ""
    key: bool = False
    several: bool = False


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: on the command line.
        help: one line.
        run: does it; returns nothing, or the exit status.
        options: those of its own.
        example: a command line.
        input: the option that may also be given as the word behind the command.
        keys: it takes configuration keys, as ``--KEY=VALUE``.
        in_group: it runs in several processes too, those of ``nproc`` or torchrun.
        starts_groups: it runs in one, but each of its trainings in ``nproc``.
    """

    name: str
    help: str
    run: Callable[[Call], int | None]
    options: tuple[Option, ...]
    example: str
    input: Option | None = None
    keys: bool = True
    in_group: bool = False
    starts_groups: bool = False


MODEL = Option("model", "model class, ours or RecBole's", metavar="NAME")
DATASET = Option("dataset", "name of the dataset", metavar="NAME")
CONFIG_FILES = Option("config_files", 'property files, as "A.yaml B.yaml"; later ones win', metavar="FILES")
JSON = Option("json", "write the result as one JSON object", metavar="FILE", output="file")


def input_file(call: Call) -> str:
    """Return the file that the command works on.

    Raises:
        InputError: if none is given.
    """
    if "input" not in call.options:
        raise InputError(f"{call.command} needs a file: recbole-sid {call.command} FILE.")
    return call.options["input"]


def is_set(call: Call, name: str) -> bool:
    """Say whether a switch is on: given without a value, or with that of True.

    Raises:
        InputError: if its value is neither True nor False.
    """
    value = parse_value(call.options.get(name, "False"))
    if not isinstance(value, bool):
        raise InputError(f"--{name}={value} must be True or False.")
    return value


def config_files(call: Call) -> list[str]:
    """Return the property files given, later ones win."""
    return call.options.get("config_files", "").split()


def command_line(call: Call, apart: Collection[str] = ()) -> str:
    """Return the command line that says what `call` does, quoted for a shell, without the options `apart`."""
    given = {**call.options, **call.overrides}
    words = [f"--{key}={value}" for key, value in given.items() if key not in apart]
    return shlex.join(["recbole-sid", call.command, *words])


def result_object(
    call: Call, settings: Any, rows: Sequence[Any], details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the object that every command writes as JSON, with `details` beside its rows."""
    return {
        "command": call.command,
        "version": __version__,
        "seed": settings["seed"],
        "device": str(settings["device"]),
        **(details or {}),
        "rows": list(rows),
    }


def write_result(call: Call, settings: Any, rows: Sequence[Any], details: Mapping[str, Any] | None = None) -> None:
    """Write `result_object` to ``--json``, if given."""
    if "json" in call.options:
        write_json(call.options["json"], result_object(call, settings, rows, details))
