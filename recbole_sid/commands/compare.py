"""``recbole-sid compare``."""

from __future__ import annotations

from time import perf_counter

from recbole_sid.commands.call import (
    CONFIG_FILES,
    DATASET,
    JSON,
    Call,
    Command,
    Option,
    command_line,
    config_files,
    write_result,
)
from recbole_sid.errors import InputError
from recbole_sid.util.values import parse_value


def compare(call: Call) -> None:
    """Train several models with several seeds and compare them: means, tests over users, breakdowns."""
    from recbole_sid.api import compare as compared
    from recbole_sid.comparison.comparison_files import markdown
    from recbole_sid.settings.known import flagged

    started = perf_counter()
    seeds = parse_value(call.options["seeds"]) if "seeds" in call.options else None
    names = ("models", "dataset", "plan", "baseline", "columns", "address", "output")
    chosen = {key: call.options[key] for key in names if key in call.options}
    found = compared(
        **chosen,
        seeds=seeds,
        workers=_number(call, "workers", 1),
        gpus=_number(call, "gpus", 0),
        config_file_list=config_files(call),
        config_dict=call.overrides,
        command=command_line(call, apart=("output", "json", "address", *flagged("volatile"))),
    )
    write_result(call, found.config, found.summary.rows, {**found.details, "tests": found.summary.tests})
    first, *others = found.files
    files = f"{first}, {', '.join(path.suffix for path in others)}; results per user in {first.parent}/runs"
    print(f"\n{markdown(found.summary)}\nDone in {perf_counter() - started:.0f} s. Written: {files}")


def _number(call: Call, key: str, default: float) -> float:
    value = parse_value(call.options.get(key, str(default)))
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise InputError(f"--{key}={value} must be a number of at least 0.")
    return value


COMPARE = Command(
    "compare",
    "train several models with several seeds and compare them",
    compare,
    (
        Option("models", "model classes in the order of their rows, as Pop,SASRec,TIGER", metavar="NAMES"),
        DATASET,
        Option("plan", "YAML plan in place of --models and --dataset (docs/comparing.md)", metavar="FILE"),
        Option("seeds", "how many, from 2020 on, or a list as [2020,2021]", default=1),
        Option("baseline", "row that the tests compare with; by default the first", metavar="NAME"),
        Option(
            "columns",
            "of the LaTeX table: metrics (all), one's name, speed, size, share, training, memory, seeds",
            default="metrics",
            metavar="NAMES",
        ),
        Option("workers", "models trained at a time, as Ray tasks", default=1, metavar="N"),
        Option("gpus", "GPUs of a model, as 0.5, in Ray tasks; with nproc of each process", default=0, metavar="N"),
        Option("address", "of a running Ray cluster", metavar="HOST:PORT"),
        CONFIG_FILES,
        JSON,
        Option("output", "folder for tables, pictures and runs", metavar="FOLDER", output="folder"),
    ),
    "recbole-sid compare --models=Pop,SASRec,TIGER --dataset=ml-100k --seeds=3",
    starts_groups=True,
)
