"""The command line: ``recbole-sid COMMAND --key=value ...``, keys as in RecBole's property files."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from recbole_sid.commands.call import Call
from recbole_sid.config import parse_value
from recbole_sid.errors import InputError, nearest

HELP = """\
recbole-sid [COMMAND] [--key=value ...]

Commands
  quick-start   Pop, SASRec, TIGER, SID-MLP and SID-MLP++ on ml-100k, compared in one table (the default)
  run           train and test one model:  recbole-sid run --model=SIDMLP --dataset=ml-100k
  compare       several, with seeds:       recbole-sid compare --models=Pop,SASRec,TIGER --dataset=ml-100k --seeds=3
  tune          search parameters:         recbole-sid tune --model=SIDMLP --dataset=ml-100k --samples=20
  tokenize      make semantic IDs:         recbole-sid tokenize --dataset=ml-100k
  extend        for later items:           recbole-sid extend FILE.npz --dataset=ml-100k --output=FILE.npz
  report        their quality:             recbole-sid report saved/semantic_ids/FILE.npz --dataset=ml-100k
  analyze       where models differ:       recbole-sid analyze --runs=saved/comparison/ml-100k/runs
  import        from others' files:        recbole-sid import FILE --dataset=ml-100k
  export        for others:                recbole-sid export FILE.npz --output=FILE.csv
  convert       raw data to atomic files:  recbole-sid convert --source=amazon2023 --interactions=DIR/Video_Games \\
                                           --items=DIR/meta_Video_Games.jsonl.gz --dataset=Video_Games --output=dataset
  bench         time the decoders:         recbole-sid bench --quick

Options of every command
  --config_files="A.yaml B.yaml"   property files, later ones win
  --json=FILE                      write the result as one JSON object
  --KEY=VALUE                      any configuration key, over the property files

All but run and tune also take --output: a folder for tables and pictures, or the file to write.
tokenize --report (or --report=FOLDER) adds the quality report. report, import and export read semantic IDs of any
format, told by the file's ending (report and import: or by --format; --numbering=FILE names numbered items, one a
line); export writes any, told by the ending of --output or by --format. import with --model=TIGER, SIDMLP or
SIDMLPPlusPlus (and --encoder_file) reads others' weights.
compare: --seeds=5 or [2020,2021], --baseline=MODEL (of the tests; the first model by default), --plan=FILE in place of
--models and --dataset, --workers=2 (models at a time), --address (of a Ray cluster), --gpus=0.5 (of a model).
tune: --space=FILE (YAML, or RecBole's hyper.test lines; by default the model's own), --samples=20,
--scheduler=asha (hyperband, median, none), --searcher=random (grid, optuna, hyperopt), --min_epochs (before a stop),
--cpus=1 --gpus=0 (of a trial), --concurrency (trials at a time), --retries=1 (of a crashed trial), --resume (go on with
an interrupted search), --storage_path=FOLDER, --address=HOST:PORT (a running Ray cluster).
analyze: --runs="DIR ..." (of compare), or --labels-only; --hops=4, --split=test (or valid), semantic_ids_path
convert takes no configuration keys but these: --interactions="A.csv B.csv" (CSV, JSON lines or Parquet, .gz too)
--user --item --time --rating (their columns) --items=FILE --item_id --item_fields=[title,brand] (its columns)
--separator --show_progress; --source=amazon2023 stands for the columns of Amazon Reviews 2023.
bench takes no configuration keys but these: --quick (under two minutes), --batches=[1,32,256] --threads=[1,all]
--histories=[natural,full] --items=25000 --rows=[sidmlp,sasrec] --beam_size=50 --rounds=40 --seconds=60 (of a setting)
--device=auto --seed=2020 --checkpoint=FILE (a trained model in place of random ones).
"""

_OWN_OPTIONS = ("model", "dataset", "config_files", "json", "output")
_SWITCHES = ("quick", "report", "labels_only", "resume")  # options that may stand without a value


class Command(NamedTuple):
    """A command: its function as ``"module:function"``, and which options it takes.

    Attributes:
        function: imported on first use from ``recbole_sid.commands``; called with a `Call`.
        not_taken: options of all commands that this one refuses.
        options: options of this one alone; ``input`` may be given as the word behind the command.
    """

    function: str
    not_taken: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


COMMANDS = {
    "quick-start": Command("quick_start:quick_start", not_taken=("model", "dataset")),
    "run": Command("run:run", not_taken=("output",)),
    "compare": Command(
        "compare:compare",
        not_taken=("model",),
        options=("models", "seeds", "plan", "baseline", "workers", "address", "gpus"),
    ),
    "tune": Command(
        "tune:tune",
        not_taken=("output",),
        options=(
            *("space", "samples", "scheduler", "searcher", "min_epochs", "cpus", "gpus", "concurrency", "retries"),
            *("address", "storage_path"),
        ),
    ),
    "tokenize": Command("semantic_ids:tokenize", options=("report",)),
    "extend": Command("extend:extend", not_taken=("model",), options=("input",)),
    "report": Command("semantic_ids:report", not_taken=("model",), options=("input", "format", "numbering")),
    "analyze": Command("analyze:analyze", not_taken=("model",), options=("runs", "labels_only", "hops", "split")),
    "import": Command("semantic_ids:import_files", options=("input", "format", "numbering", "encoder_file")),
    "export": Command(
        "semantic_ids:export",
        not_taken=("model", "dataset", "config_files", "json"),
        options=("input", "format", "numbering"),
    ),
    "convert": Command("convert:convert", not_taken=("model", "config_files")),
    "bench": Command("bench:bench", not_taken=("model", "dataset", "config_files")),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 for wrong input, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in arguments):
        print(HELP)
        return 0
    try:
        call = parse(arguments)
        _function(call.command)(call)
    except InputError as error:
        print(f"recbole-sid: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"recbole-sid: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. --resume=True continues the training of our models.", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> Call:
    """Read ``[COMMAND] --key=value ...`` (``--key value`` too).

    Raises:
        InputError: for an unknown command or a word that is no ``--key=value``.
    """
    words = list(arguments)
    command = words.pop(0) if words and not words[0].startswith("-") else ""
    settings: dict[str, str] = {}
    if command in COMMANDS and "input" in COMMANDS[command].options and words and not words[0].startswith("-"):
        settings["input"] = words.pop(0)
    while words:
        key, value = _next_option(words)
        if settings.setdefault(key, value) != value:
            raise InputError(f"--{key} is given twice with different values.")
    command = command or ("run" if "model" in settings else "quick-start")
    if command not in COMMANDS:
        raise InputError(f"Unknown command '{command}'{nearest(command, COMMANDS)}; known: {', '.join(COMMANDS)}.")
    options = {key: settings.pop(key) for key in (*_OWN_OPTIONS, *COMMANDS[command].options) if key in settings}
    for key in options:
        if key in COMMANDS[command].not_taken:
            raise InputError(f"{command} takes no --{key}.")
    return Call(command, options, {key: parse_value(value) for key, value in settings.items()})


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


def _function(command: str) -> Callable[[Call], None]:
    module, _, name = COMMANDS[command].function.partition(":")
    return getattr(importlib.import_module(f"recbole_sid.commands.{module}"), name)
