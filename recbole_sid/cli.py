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
  report        their quality:             recbole-sid report saved/semantic_ids/FILE.npz --dataset=ml-100k
  import        from others' files:        recbole-sid import FILE --dataset=ml-100k
  export        for others:                recbole-sid export FILE.npz --output=FILE.csv
  convert       raw data to atomic files:  recbole-sid convert --source=amazon2023 --interactions=DIR/Video_Games \\
                                           --items=DIR/meta_Video_Games.jsonl.gz --dataset=Video_Games --output=dataset
  bench         time the decoders:         recbole-sid bench --quick

Options of every command
  --config_files="A.yaml B.yaml"   property files, later ones win
  --json=FILE                      write the result as one JSON object
  --KEY=VALUE                      any configuration key, over the property files

All but run also take --output: a folder for tables and pictures, or the file to write.
tokenize --report (or --report=FOLDER) adds the quality report. report, import and export read semantic IDs of any
format (--format, by default by the file's ending; --numbering=FILE names numbered items, one a line); import with
--model=TIGER, SIDMLP or SIDMLPPlusPlus (and --encoder_file) reads others' weights.
convert takes no configuration keys but these: --interactions="A.csv B.csv" (CSV, JSON lines or Parquet, .gz too)
--user --item --time --rating (their columns) --items=FILE --item_id --item_fields=[title,brand] (its columns)
--separator --show_progress; --source=amazon2023 stands for the columns of Amazon Reviews 2023.
bench takes no configuration keys but these: --quick (under two minutes), --batches=[1,32,256] --threads=[1,all]
--histories=[natural,full] --items=25000 --rows=[sidmlp,sasrec] --beam_size=50 --rounds=40 --seconds=60 (of a setting)
--device=auto --seed=2020 --checkpoint=FILE (a trained model in place of random ones).
"""

_OWN_OPTIONS = ("model", "dataset", "config_files", "json", "output")
_NOT_TAKEN = {
    "quick-start": ("model", "dataset"),
    "run": ("output",),
    "bench": ("model", "dataset", "config_files"),
    "convert": ("model", "config_files"),
    "report": ("model",),
    "export": ("model", "dataset", "config_files", "json"),
}
# Options of one command, beside those of all; --input may be given as the word behind the command.
_COMMAND_OPTIONS = {
    "tokenize": ("report",),
    "report": ("input", "format", "numbering"),
    "import": ("input", "format", "numbering", "encoder_file"),
    "export": ("input", "format"),
}
_SWITCHES = ("quick", "report")  # options that may stand without a value


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
    if "input" in _COMMAND_OPTIONS.get(command, ()) and words and not words[0].startswith("-"):
        settings["input"] = words.pop(0)
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
    own = (*_OWN_OPTIONS, *_COMMAND_OPTIONS.get(command, ()))
    options = {key: settings.pop(key) for key in own if key in settings}
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
    from recbole_sid.evaluation.sid_report import report_text, sid_report, write_report

    config = Config(call.options.get("model", "TIGER"), call.options.get("dataset"), _files(call), call.overrides)
    train_dataset = create_dataset(config).build()[0]
    semantic_ids = build_semantic_ids(config, train_dataset)
    path = call.options.get("output") or semantic_ids_file(config, semantic_id_recipe(config, train_dataset))
    semantic_ids.save(path)
    written = [f"{path} ({semantic_ids.fingerprint})"]
    found = sid_report(semantic_ids)
    if "report" in call.options:
        found = _report_on(semantic_ids, train_dataset, config)
        folder = Path(f"{path}.report") if call.options["report"] == "True" else Path(call.options["report"])
        write_report(found, semantic_ids, folder)
        written.append(f"{folder}/report.md, .json, .png")
    details = {key: value for key, value in found.items() if key != "rows"}
    _write_json(call, config, found["rows"], {**details, "path": str(path)})
    print(f"{report_text(found)}\nWritten: {', '.join(written)}")


def report(call: Call) -> None:
    """Report on the quality of semantic IDs in a file, with a dataset also on what codes mean there."""
    from recbole_sid.data import create_dataset
    from recbole_sid.data.ready_made import read_semantic_ids
    from recbole_sid.evaluation.sid_report import report_text, sid_report, write_report

    file, settings = _input(call), {"seed": None, "device": "cpu"}
    options: dict[str, Any] = {"file_format": call.options.get("format"), "numbering": call.options.get("numbering")}
    if "dataset" in call.options:
        settings = config = Config("TIGER", call.options["dataset"], _files(call), call.overrides)
        train_dataset = create_dataset(config).build()[0]
        semantic_ids = read_semantic_ids(file, train_dataset.item_tokens(), dataset=config["dataset"], **options)
        found = _report_on(semantic_ids, train_dataset, config)
    elif call.overrides or _files(call):
        raise InputError("report needs --dataset for configuration keys to mean something: add it, or leave them out.")
    else:
        semantic_ids = read_semantic_ids(file, **options)
        found = sid_report(semantic_ids)
    folder = Path(call.options.get("output", Path("saved") / "reports" / Path(file).name))
    write_report(found, semantic_ids, folder)
    _write_json(call, settings, found["rows"], {key: value for key, value in found.items() if key != "rows"})
    print(f"{report_text(found)}\nWritten: {folder}/report.md, .json, .png")


def _report_on(semantic_ids: Any, train_dataset: Any, config: Config) -> dict[str, Any]:
    from recbole_sid.evaluation.sid_report import report_with_dataset
    from recbole_sid.features import feature_names, item_features

    features = item_features(config, train_dataset)
    return report_with_dataset(semantic_ids, train_dataset, features, feature_names(config), config["seed"])


def import_files(call: Call) -> None:
    """Make one of our files of others' semantic IDs or, if a model is named, of others' weights."""
    if "model" in call.options:
        _import_weights(call)
    else:
        _import_semantic_ids(call)


def _import_weights(call: Call) -> None:
    from recbole_sid.import_job import import_checkpoint

    target = import_checkpoint(
        _input(call),
        call.options["model"],
        call.options.get("dataset"),
        _files(call),
        call.overrides,
        encoder_file=call.options.get("encoder_file"),
        output=call.options.get("output"),
    )
    print(f"Written: {target}")


def _import_semantic_ids(call: Call) -> None:
    from recbole_sid.data import create_dataset
    from recbole_sid.data.build import training_popularity
    from recbole_sid.data.ready_made import read_semantic_ids
    from recbole_sid.evaluation.sid_report import report_text, sid_report

    config = Config("TIGER", call.options.get("dataset"), _files(call), call.overrides)
    train_dataset = create_dataset(config).build()[0]
    semantic_ids = read_semantic_ids(
        _input(call),
        train_dataset.item_tokens(),
        file_format=call.options.get("format"),
        numbering=call.options.get("numbering"),
        codebook_sizes=config.external_config_dict.get("codebook_sizes"),
        collision=config["collision"],
        rank_size=config["rank_size"],
        popularity=training_popularity(train_dataset),
        dataset=config["dataset"],
    )
    name = f"{config['dataset']}-{semantic_ids.fingerprint}.npz"
    path = call.options.get("output") or Path(config["checkpoint_dir"]) / "semantic_ids" / "imported" / name
    semantic_ids.save(path)
    found = sid_report(semantic_ids)
    details = {key: value for key, value in found.items() if key != "rows"}
    _write_json(call, config, found["rows"], {**details, "path": str(path)})
    print(f"{report_text(found)}\nWritten: {path} ({semantic_ids.fingerprint})")


def export(call: Call) -> None:
    """Write semantic IDs in another format."""
    from recbole_sid.data.ready_made import read_semantic_ids, write_semantic_ids

    if call.overrides:
        raise InputError(f"export takes no --{next(iter(call.overrides))}: give the file, --output and --format.")
    if "output" not in call.options:
        raise InputError("export needs --output=FILE: its ending says the format, or --format does.")
    beside = write_semantic_ids(read_semantic_ids(_input(call)), call.options["output"], call.options.get("format"))
    print(f"Written: {', '.join(str(file) for file in beside)}")


def convert(call: Call) -> None:
    """Write a dataset's atomic files from the files of a release."""
    from recbole_sid.data.convert import convert_dataset, convert_options, summary_rows
    from recbole_sid.evaluation.comparison import markdown_table

    options = convert_options(call.overrides, call.options.get("dataset"), call.options.get("output", "dataset"))
    result = convert_dataset(options)
    rows = summary_rows(options, result)
    files = [str(file) for file in result.files]
    details = {"items_without_text": result.items_without_text, "files": files}
    _write_json(call, {"seed": None, "device": "cpu"}, rows, details)
    missing = result.items_without_text or 0
    note = f"\n{missing:,} items have no row in the item file and got empty texts." if missing else ""
    print(f"\n{markdown_table(rows)}\n{note}\nWritten: {', '.join(files)}")


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
    "report": report,
    "import": import_files,
    "export": export,
    "convert": convert,
    "bench": bench,
}


def _input(call: Call) -> str:
    if "input" not in call.options:
        raise InputError(f"{call.command} needs a file: recbole-sid {call.command} FILE.")
    return call.options["input"]


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
