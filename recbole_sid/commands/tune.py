"""``recbole-sid tune``."""

from __future__ import annotations

from typing import Any

from recbole_sid.commands.call import (
    CONFIG_FILES,
    DATASET,
    JSON,
    MODEL,
    Call,
    Command,
    Option,
    config_files,
    write_result,
)
from recbole_sid.util.values import parse_value

_TEXTS = ("model", "dataset", "space", "storage_path", "scheduler", "searcher", "address")
_NUMBERS = ("samples", "min_epochs", "concurrency", "retries", "cpus", "gpus")


def tune(call: Call) -> None:
    """Search hyper-parameters and write the report."""
    from recbole_sid.api import tune as tuned
    from recbole_sid.evaluation.tables import markdown_table

    chosen: dict[str, Any] = {key: parse_value(call.options[key]) for key in _NUMBERS if key in call.options}
    chosen |= {key: call.options[key] for key in _TEXTS if key in call.options}
    settings = dict(call.overrides)
    resume = settings.pop("resume", False)
    files = config_files(call)
    found = tuned(**chosen, resume=resume, config_file_list=files, config_dict=settings)
    result = found.outcome.result
    row = {"model": found.config["model"], **found.test}
    write_result(call, found.config, [row], {key: value for key, value in result.items() if key != "test_result"})
    names = ", ".join(file.name for file in found.outcome.files)
    ends = ", ".join(f"{count} {status}" for status, count in result["trials"].items())
    print(f"\n{found.outcome.table}\n\n{ends}; {result['restarts']} restarts. On test, {result['best_trial']}:\n")
    print(f"{markdown_table([row])}\n\nWritten to {found.folder}: {names}")


TUNE = Command(
    "tune",
    "search hyper-parameters on Ray Tune",
    tune,
    (
        MODEL,
        DATASET,
        Option("space", "search space, YAML or RecBole's hyper.test lines; by default the model's own", metavar="FILE"),
        Option("samples", "trials at most; by default 20, and all of a grid", metavar="N"),
        Option("scheduler", "asha, hyperband, median or none", default="asha", metavar="NAME"),
        Option("searcher", "random, grid, optuna or hyperopt", default="random", metavar="NAME"),
        Option("min_epochs", "epochs before a trial may be stopped; by default a twentieth", metavar="N"),
        Option("cpus", "of a trial, or of each of its processes", default=1, metavar="N"),
        Option("gpus", "of a trial; several may share one", default=0, metavar="N"),
        Option("concurrency", "trials at a time; by default as many as fit", metavar="N"),
        Option("retries", "how often a trial that crashes is started again", default=1, metavar="N"),
        Option("resume", "go on with an interrupted search", default=False, alone="True", key=True),
        Option("storage_path", "of searches; by default checkpoint_dir/tune", metavar="FOLDER", output="folder"),
        Option("address", "of a running Ray cluster", metavar="HOST:PORT"),
        CONFIG_FILES,
        JSON,
    ),
    "recbole-sid tune --model=SIDMLP --dataset=ml-100k --samples=20",
    starts_groups=True,
)
