"""A parsed command line, and what every command does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from recbole_sid import __version__
from recbole_sid.errors import InputError
from recbole_sid.files import write_json


class Call(NamedTuple):
    """A parsed command line: the command, its own options, and configuration overrides."""

    command: str
    options: dict[str, str]
    overrides: dict[str, Any]


def input_file(call: Call) -> str:
    """Return the file that the command works on.

    Raises:
        InputError: if none is given.
    """
    if "input" not in call.options:
        raise InputError(f"{call.command} needs a file: recbole-sid {call.command} FILE.")
    return call.options["input"]


def config_files(call: Call) -> list[str]:
    """Return the property files given, later ones win."""
    return call.options.get("config_files", "").split()


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
