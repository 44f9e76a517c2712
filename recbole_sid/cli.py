"""The command line: ``recbole-sid COMMAND --key=value ...``, keys as in RecBole's property files.

Commands declare their options in modules of their own; to add one, write a module and add its `Command` to `_COMMANDS`,
or name it in a package of your own (docs/extending.md).
Nothing here, nor at the top of those modules, imports RecBole or torch, so that help is quick.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from recbole_sid import __version__
from recbole_sid.capabilities import capabilities_of
from recbole_sid.commands.analyze import ANALYZE
from recbole_sid.commands.bench import BENCH
from recbole_sid.commands.bundles import APPLY_DELTA, EXTEND_BUNDLE
from recbole_sid.commands.call import SEPARATOR, Call, Command, Option
from recbole_sid.commands.compare import COMPARE
from recbole_sid.commands.completion import COMPLETION
from recbole_sid.commands.convert import CONVERT
from recbole_sid.commands.export_model import EXPORT_MODEL
from recbole_sid.commands.extend import EXTEND
from recbole_sid.commands.quick_start import QUICK_START
from recbole_sid.commands.recommend import RECOMMEND
from recbole_sid.commands.reproduce import REPRODUCE
from recbole_sid.commands.run import RUN
from recbole_sid.commands.semantic_ids import EXPORT, IMPORT, REPORT, TOKENIZE
from recbole_sid.commands.serve import SERVE
from recbole_sid.commands.tune import TUNE
from recbole_sid.distributed.place import launched_place, silence_others
from recbole_sid.errors import InputError, first_line, nearest
from recbole_sid.property_files import (
    PROPERTIES,
    DocumentedKey,
    all_keys,
    keys_of,
    model_file,
    model_names,
    parse_keys,
)
from recbole_sid.registry import MODELS, get_model
from recbole_sid.util.files import check_folder_writable, check_writable, full_disk, no_room
from recbole_sid.util.installed import imported, with_installed
from recbole_sid.util.values import parse_value

_COMMANDS = (
    *(QUICK_START, RUN, COMPARE, REPRODUCE, TUNE, TOKENIZE, EXTEND, REPORT, ANALYZE, IMPORT, EXPORT, CONVERT, BENCH),
    *(EXPORT_MODEL, EXTEND_BUNDLE, APPLY_DELTA, RECOMMEND, SERVE, COMPLETION),
)
COMMANDS: dict[str, Command] = {
    name: imported(command) if isinstance(command, str) else command
    for name, command in with_installed("commands", {command.name: command for command in _COMMANDS}).items()
}
_HELP = ("-h", "--help")
_LAUNCH_KEYS = ("nproc", "world_size", "group_offset", "ip", "port")  # serve has a port too, of its own
_SWITCHES = {option.name for command in COMMANDS.values() for option in command.options if option.alone}
_KEYS = """\
Configuration keys: any --KEY=VALUE of RecBole's and our property files, over those of --config_files.
Ours are listed, with defaults and comments, in
  {properties}: overall.yaml, semantic_ids.yaml, model/*.yaml
and, of one model, by
  recbole-sid {command} --model=NAME --help
"""


class _Parser(argparse.ArgumentParser):
    """Raises InputError in place of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help).")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, or print help; return the exit status: 0, 2 for wrong input, 130 when interrupted.

    Of several processes that torchrun started the main one prints, and the one that fails first says why.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        place = launched_place()
        silence_others()
        text = _information(arguments)
        if text is not None:
            if place.rank == 0:
                print(text)
            return 0
        call = parse(arguments)
        check_outputs(call)
        _check_group(call, place.size)
        return COMMANDS[call.command].run(call) or 0
    except InputError as error:
        _say(f"recbole-sid: {error}", error)
        return 2
    except Exception as error:
        cause = full_disk(error)
        if cause is not None or isinstance(error, OSError):
            _say(f"recbole-sid: {error if cause is None else no_room(cause)}", error)
            return 2
        if not isinstance(error, RuntimeError) or not _is_loss(error):
            raise
        lost = "Another process of the group is gone: --resume=True goes on from the last epoch"
        _say(f"recbole-sid: {lost} ({first_line(error)}).", error)
        return 2
    except KeyboardInterrupt as error:
        _say("\nInterrupted. --resume=True continues the training of our models.", error)
        return 130


def _check_group(call: Call, n_processes: int) -> None:
    """Raise InputError for several processes where a command runs in one."""
    command = COMMANDS[call.command]
    if command.in_group:
        return
    asked = [key for key in _LAUNCH_KEYS if key in call.overrides and not (key == "nproc" and command.starts_groups)]
    if asked:
        raise InputError(
            f"{call.command} is done by one process: leave out --{', --'.join(asked)}, or train by `recbole-sid run`."
        )
    if n_processes > 1:
        raise InputError(
            f"{call.command} is done by one process: start it without torchrun (`recbole-sid run` takes it)."
        )


def _say(sentence: str, error: BaseException) -> None:
    """Print what ended the command, once for all processes of a group."""
    if not _in_group():
        print(sentence, file=sys.stderr)
        return
    from recbole_sid.distributed.joining import say_once

    say_once(sentence, lost=_is_loss(error))


def _is_loss(error: BaseException) -> bool:
    """Say whether an exception only tells that another process of the group is gone."""
    if not _in_group():
        return False
    from recbole_sid.distributed.joining import is_loss

    return is_loss(error)


def _in_group() -> bool:
    try:
        return launched_place().size > 1
    except InputError:  # an environment that makes no sense
        return False


def parse(arguments: Sequence[str]) -> Call:
    """Read ``[COMMAND] --key=value ...`` (``--key value`` too).

    Without a command it is ``run`` if a model is named, else the quick start.

    Raises:
        InputError: for an unknown command, a word that is no ``--key=value``, or an option that the command has not.
    """
    words = list(arguments)
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    if name and name not in COMMANDS:
        raise InputError(f"Unknown command '{name}'{nearest(name, COMMANDS)}; known: {', '.join(COMMANDS)}.")
    given: dict[str, str] = {}
    if name and COMMANDS[name].input and words and not words[0].startswith("-"):
        last = len(words) if COMMANDS[name].input.several else 1  # type: ignore[union-attr]
        n_inputs = next((n for n, word in enumerate(words[:last]) if word.startswith("-")), last)
        given["input"] = SEPARATOR.join(words[:n_inputs])
        words = words[n_inputs:]
        if words and not words[0].startswith("-"):
            raise InputError(
                f"{name} takes one {COMMANDS[name].input.metavar}, and there are '{given['input']}' and '{words[0]}': "  # type: ignore[union-attr]
                "name one (a pattern with * stands for all files that it matches)."
            )
    while words:
        key, value = _next_option(words)
        if key == "input" and given.get(key, value) != value:
            raise InputError(f"--input={value} stands for '{given[key]}' in front: leave out one of them.")
        if given.setdefault(key, value) != value:
            raise InputError(f"--{key} is given twice with different values.")
    command = COMMANDS[name or ("run" if "model" in given else "quick-start")]
    declared = [*command.options, *([command.input] if command.input else [])]
    parsed, others = command_parser(command).parse_known_args([f"--{key}={value}" for key, value in given.items()])
    for word in others:
        _check_key(word[2:].partition("=")[0], command)
    own = {option.name: option for option in declared}
    found = {key: getattr(parsed, key) for key in given if key in own}
    options = {key: value for key, value in found.items() if not own[key].key}
    keys = {key: parse_value(given[key]) for key in given if key not in own or own[key].key}
    return Call(command.name, options, keys)


def check_outputs(call: Call) -> None:
    """Raise InputError if what the command line says to write to cannot be written to."""
    checks = {"file": check_writable, "folder": check_folder_writable}
    for option in COMMANDS[call.command].options:
        if option.output and option.name in call.options:
            checks[option.output](call.options[option.name])
    if call.options.get("report", "True") != "True":
        check_folder_writable(call.options["report"])


def command_parser(command: Command) -> argparse.ArgumentParser:
    """Return the parser of a command's own options, which also prints its help."""
    parser = _Parser(f"recbole-sid {command.name}", description=f"{command.help}.", add_help=False, allow_abbrev=False)
    _declare(parser, command)
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands: for the overview, and for completion."""
    parser = _Parser("recbole-sid", add_help=False, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="store_true", help="this page; behind a command, that command's")
    parser.add_argument("--version", action="store_true", help="versions of this package, RecBole and torch")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS.values():
        _declare(commands.add_parser(command.name, help=command.help, add_help=False), command)
    examples = "\n".join(f"  {command.example}" for command in COMMANDS.values())
    parser.epilog = f"examples:\n{examples}\n\nrecbole-sid COMMAND --help shows a command's options."
    return parser


def _declare(parser: argparse.ArgumentParser, command: Command) -> None:
    if command.input:
        _add(parser, command.input)
    for option in command.options:
        _add(parser, option)


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    text = option.help if option.default is None else f"{option.help} (default: {option.default})"
    parser.add_argument(
        f"--{option.name}",
        type=option.type,
        nargs="?" if option.alone else None,
        const=option.alone,
        metavar=option.metavar,
        help=text.replace("%", "%%"),
    )


def _information(arguments: list[str]) -> str | None:
    """Return the help or the versions if that is what `arguments` ask for; bare ``recbole-sid`` asks for help."""
    words = list(arguments)
    if words[:1] == ["--version"]:
        return _versions()
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words and not any(word in _HELP for word in words):
        return None
    name = next((word for word in words if not word.startswith("-")), "")
    if not words or (not words[0].startswith("-") and words[0] not in COMMANDS) or name not in COMMANDS:
        if name and words[0] == name:
            raise InputError(f"Unknown command '{name}'{nearest(name, COMMANDS)}; known: {', '.join(COMMANDS)}.")
        return whole_parser().format_help()
    return _command_help(COMMANDS[name], [word for word in words if word not in _HELP])


def _command_help(command: Command, words: list[str]) -> str:
    parser = command_parser(command)
    operand = f" {command.input.metavar}" if command.input else ""
    usage = f"usage: {parser.prog}{operand} [--option=value ...]"
    if command.keys:
        usage += " [--KEY=VALUE ...]"
    parser.usage = usage.removeprefix("usage: ")
    text = f"{parser.format_help()}\nexample:\n  {command.example}\n"
    if not command.keys:
        return text
    model = next((word.partition("=")[2] for word in words if word.startswith("--model=")), "")
    model = model or next((after for word, after in pairwise(words) if word == "--model"), "")
    if not model:
        return f"{text}\n{_KEYS.format(command=command.name, properties=PROPERTIES)}"
    parts = [_key_list(title, PROPERTIES / name) for title, name in _COMMON_KEYS.items()]
    return "\n".join([text, _keys_of_model(model), *parts])


_COMMON_KEYS = {"Keys of every model": "overall.yaml", "Keys of semantic IDs": "semantic_ids.yaml"}


def _keys_of_model(model: str) -> str:
    file = model_file(model)
    if file is not None:
        return _key_list(f"Keys of {model}", file)
    if model not in MODELS:
        raise InputError(f"There is no property file of a model '{model}'{nearest(model, [*model_names(), *MODELS])}.")
    from recbole_sid.settings.property_files import property_lines  # of another package: its class says its keys

    settings = capabilities_of(get_model(model)).settings
    return _listed(f"Keys of {model} ({MODELS[model]})", parse_keys(property_lines(settings)))


def _key_list(title: str, file: Path) -> str:
    return _listed(f"{title} ({file})", keys_of(file))


def _listed(title: str, keys: Iterable[DocumentedKey]) -> str:
    lines = [f"{f'  --{key.name}={key.default}':<44}  {key.comment}".rstrip() for key in keys]
    return "\n".join([f"{title}:", *lines, ""])


def _versions() -> str:
    found = []
    for package in ("recbole", "torch"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} is not installed")
    return f"recbole-sid {__version__} ({', '.join(found)})"


def _check_key(key: str, command: Command) -> None:
    """Raise InputError for what is neither an option of `command` nor, by its looks, a configuration key."""
    own = [option.name for option in command.options]
    elsewhere = any(key == option.name and not option.key for other in COMMANDS.values() for option in other.options)
    if elsewhere and (not command.keys or key not in all_keys() or key in ("model", "dataset")):
        raise InputError(f"{command.name} takes no --{key}.")
    if not command.keys:
        raise InputError(f"{command.name} has no option --{key}{nearest(key, own)}; it takes --{', --'.join(own)}.")
    match = nearest(key, own)
    if match and key not in all_keys() and nearest(key, [*all_keys(), *own]) == match:
        raise InputError(f"{command.name} has no option --{key}{match}.")


def _next_option(words: list[str]) -> tuple[str, str]:
    """Take one option off the front of `words`; hyphens in its name stand for underscores."""
    word = words.pop(0)
    if not word.startswith("--"):
        raise InputError(f"'{word}' is no option: write --key=value (see recbole-sid --help).")
    key, equals, value = word[2:].partition("=")
    key = key.replace("-", "_")
    if equals:
        return key, value
    if key in _SWITCHES and (not words or words[0].startswith("--")):
        return key, "True"
    if not words or words[0].startswith("--"):
        raise InputError(f"--{key} has no value: write --{key}=VALUE.")
    return key, words.pop(0)
