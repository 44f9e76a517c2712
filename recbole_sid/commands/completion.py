"""``recbole-sid completion``: what a shell needs to complete command lines."""

from __future__ import annotations

import importlib.util

from recbole_sid.commands.call import Call, Command, Option, input_file
from recbole_sid.errors import missing, require_known

_SHELLS = ("bash", "zsh", "tcsh")


def completion(call: Call) -> None:
    """Print the completion script of a shell."""
    require_known("shell", input_file(call), _SHELLS)
    if importlib.util.find_spec("shtab") is None:
        raise missing("completion needs shtab", "completion")
    import shtab

    from recbole_sid.cli import whole_parser

    print(shtab.complete(whole_parser(), shell=call.options["input"]))


COMPLETION = Command(
    "completion",
    "print the completion script of a shell: bash, zsh or tcsh",
    completion,
    (),
    'eval "$(recbole-sid completion bash)"',
    Option("input", "bash, zsh or tcsh", metavar="SHELL"),
    keys=False,
)
