"""The command line: ``recbole-sid COMMAND --key=value ...``, keys as in RecBole's property files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from recbole_sid import __version__
from recbole_sid.config import Config, parse_value
from recbole_sid.errors import InputError, nearest
from recbole_sid.files import write_json, write_text

HELP = """\
recbole-sid [COMMAND] [--key=value ...]

Commands
  quick-start   Pop, SASRec, TIGER, SID-MLP and SID-MLP++ on ml-100k, compared in one table (the default)
  run           train and test one model:  recbole-sid run --model=SIDMLP --dataset=ml-100k
  tokenize      make semantic IDs:         recbole-sid tokenize --dataset=ml-100k
  bench         time the decoders:         recbole-sid bench --quick

Options of every command
  --config_files="A.yaml B.yaml"   property files, later ones win
  --json=FILE                      write the result as one JSON object
  --KEY=VALUE                      any configuration key, over the property files

quick-start, tokenize and bench also take --output: a folder for tables and pictures, or the file of semantic IDs.
bench takes no configuration keys but these: --quick (under two minutes), --batches=[1,32,256] --threads=[1,all]
--histories=[natural,full] --items=25000 --rows=[sidmlp,sasrec] --beam_size=50 --rounds=40 --seconds=60 (of a setting)
--device=auto --seed=2020 --checkpoint=FILE (a trained model in place of random ones).
"""

_OWN_OPTIONS = ("model", "dataset", "config_files", "json", "output")
_NOT_TAKEN = {
    "quick-start": ("model", "dataset"),
    "run": ("output",),
    "bench": ("model", "dataset", "config_files"),
}
_SWITCHES = ("quick",)  # options that may stand without a value


class Call(NamedTuple):
    """A parsed command line: the command, its own options, and configuration overrides."""

    command: str
    options: dict[str, str]
    overrides: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 for wrong input, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in arguments):
        print(HELP)
        return 0
    try:
        call = parse(arguments)
        COMMANDS[call.command](call)
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
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise InputError(f"'{word}' is no option: write --key=value (see recbole-sid --help).")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if key in _SWITCHES:
                value = "True"
            elif not words or words[0].startswith("--"):
                raise InputError(f"--{key} has no value: write --{key}=VALUE.")
            else:
                value = words.pop(0)
        if settings.setdefault(key, value) != value:
            raise InputError(f"--{key} is given twice with different values.")
    command = command or ("run" if "model" in settings else "quick-start")
    if command not in COMMANDS:
        raise InputError(f"Unknown command '{command}'{nearest(command, COMMANDS)}; known: {', '.join(COMMANDS)}.")
    options = {key: settings.pop(key) for key in _OWN_OPTIONS if key in settings}
    for key in options:
        if key in _NOT_TAKEN.get(command, ()):
            raise InputError(f"{command} takes no --{key}.")
    return Call(command, options, {key: parse_value(value) for key, value in settings.items()})


def quick_start(call: Call) -> None:
    """Run the main job and write its table, figure and JSON."""
    from recbole_sid.evaluation.comparison import accuracy_speed_figure, markdown_table
    from recbole_sid.main_job import QUICK_START, run_main_job

    files = _files(call)
    if len(files) > 1:
        raise InputError("quick-start takes one file in --config_files.")
    started = perf_counter()
    common: dict[str, Any] = {
        key: call.overrides[key] for key in ("seed", "use_gpu", "gpu_id", "checkpoint_dir") if key in call.overrides
    }
    config = Config("TIGER", "ml-100k", config_dict=common)
    rows = run_main_job(files[0] if files else QUICK_START, call.overrides)
    table = markdown_table(rows)
    folder = Path(call.options.get("output", Path(config["checkpoint_dir"]) / "quick_start"))
    write_text(folder / "table.md", table + "\n")
    accuracy_speed_figure(rows, folder / "accuracy_speed.png")
    _write_json(call, config, rows)
    print(f"\n{table}\n\nDone in {perf_counter() - started:.0f} s. Written: {folder}/table.md, accuracy_speed.png")


def run(call: Call) -> None:
    """Train and test one model."""
    from recbole_sid.evaluation.comparison import markdown_table
    from recbole_sid.evaluation.throughput import users_per_second
    from recbole_sid.quick_start import count_parameters, run_model

    config = Config(call.options.get("model"), call.options.get("dataset"), _files(call), call.overrides)
    result = run_model(config)
    constrained = getattr(result.trainer.model, "constrained", False)
    row = {
        "model": f"{config['model']}-constrained" if constrained else config["model"],
        **{name: float(value) for name, value in (result.test_result or {}).items()},
        "users_per_s": users_per_second(result.trainer, result.test_data, repeats=1),
        "parameters": count_parameters(result.trainer.model),
        "wall_s": result.train_s,
    }
    _write_json(call, config, [row])
    print(f"\n{markdown_table([row])}\n\nWritten: {result.trainer.saved_model_file}")


def tokenize(call: Call) -> None:
    """Make semantic IDs and show their quality."""
    from recbole_sid.data import create_dataset
    from recbole_sid.data.build import build_semantic_ids, semantic_id_recipe, semantic_ids_file
    from recbole_sid.data.quality import collisions, level_rows
    from recbole_sid.evaluation.comparison import markdown_table

    config = Config(call.options.get("model", "TIGER"), call.options.get("dataset"), _files(call), call.overrides)
    train_dataset = create_dataset(config).build()[0]
    semantic_ids = build_semantic_ids(config, train_dataset)
    path = call.options.get("output") or semantic_ids_file(config, semantic_id_recipe(config, train_dataset))
    semantic_ids.save(path)
    rows, collided = level_rows(semantic_ids), collisions(semantic_ids)
    _write_json(call, config, rows, {**collided, "path": str(path), "fingerprint": semantic_ids.fingerprint})
    print(
        f"{markdown_table(rows)}\n\n{len(semantic_ids.codes)} items; before the collision rule "
        f"{collided['collided_items']} items share their codes in {collided['groups']} groups, the largest of "
        f"{collided['largest_group']}.\nWritten: {path} ({semantic_ids.fingerprint})"
    )


def bench(call: Call) -> None:
    """Time every row of the benchmark and write table, figure and JSON."""
    from recbole_sid.bench.options import bench_options
    from recbole_sid.bench.report import figure, report, summary
    from recbole_sid.bench.run import run_bench

    started = perf_counter()
    options = bench_options(call.overrides)
    outcome = run_bench(options)
    folder = Path(call.options.get("output", Path("saved") / "bench"))
    words = [f"--{key}={value}".replace("'", "").replace(", ", ",") for key, value in call.overrides.items()]
    settings = {"seed": options.seed, "device": options.device}
    details = {**outcome.facts, "skipped": outcome.skipped}
    write_text(folder / "bench.md", report(outcome, " ".join(["recbole-sid bench", *words])))
    write_json(folder / "bench.json", _result(call, settings, outcome.rows, details))
    figure(outcome, folder / "bench.png")
    _write_json(call, settings, outcome.rows, details)
    print(f"\n{summary(outcome)}\n\nDone in {perf_counter() - started:.0f} s. Written: {folder}/bench.md, .json, .png")


COMMANDS: dict[str, Callable[[Call], None]] = {
    "quick-start": quick_start,
    "run": run,
    "tokenize": tokenize,
    "bench": bench,
}


def _files(call: Call) -> list[str]:
    return call.options.get("config_files", "").split()


def _result(call: Call, settings: Any, rows: Sequence[Any], details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the object that every command writes as JSON, with `details` beside its rows."""
    return {
        "command": call.command,
        "version": __version__,
        "seed": settings["seed"],
        "device": str(settings["device"]),
        **(details or {}),
        "rows": list(rows),
    }


def _write_json(call: Call, settings: Any, rows: Sequence[Any], details: Mapping[str, Any] | None = None) -> None:
    """Write `_result` to ``--json``, if given."""
    if "json" in call.options:
        write_json(call.options["json"], _result(call, settings, rows, details))
