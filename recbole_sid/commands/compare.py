"""``recbole-sid compare``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from recbole_sid.commands.call import CONFIG_FILES, DATASET, JSON, Call, Command, Option, config_files, write_result
from recbole_sid.errors import InputError
from recbole_sid.util.values import parse_value

if TYPE_CHECKING:
    from recbole_sid.config import Config

_FIRST_SEED = 2020


def compare(call: Call) -> None:
    """Train several models with several seeds and compare them: means, tests over users, breakdowns."""
    from recbole_sid.comparison.comparison_files import markdown, write_comparison
    from recbole_sid.comparison.job import make_jobs
    from recbole_sid.comparison.plan import Plan, check_baseline, make_plan, read_plan, with_tuned_files
    from recbole_sid.comparison.runner import RayOptions, run_jobs, run_jobs_on_ray
    from recbole_sid.comparison.summary import summarise

    started = perf_counter()
    plan: Plan
    seeds = _seeds(call.options.get("seeds"))
    if "plan" in call.options:
        for key in ("models", "dataset"):
            if key in call.options:
                raise InputError(f"--{key} is part of the plan: leave it out, or leave out --plan.")
        plan = read_plan(call.options["plan"], call.overrides, seeds, config_files(call))
    else:
        dataset, models = call.options.get("dataset"), call.options.get("models")
        if not dataset or not models:
            raise InputError("compare needs --models=A,B and --dataset=NAME, or --plan=FILE.")
        names = [name.strip() for name in models.strip("[]").split(",") if name.strip()]
        entries = with_tuned_files(dataset, dict.fromkeys(names), config_files(call), None, call.overrides)
        plan = make_plan(dataset, entries, seeds or [_FIRST_SEED], config_files(call), None, call.overrides)
    check_baseline(plan, call.options.get("baseline"))
    folder = Path(call.options.get("output", Path("saved") / "comparison" / plan.dataset))
    jobs = make_jobs(plan, folder / "runs")
    columns = _columns(call, jobs[0].config())
    workers = _number(call, "workers", 1)
    if workers > 1 or "address" in call.options:
        cpus = 1 if "address" in call.options else max(1, (os.cpu_count() or 1) // max(1, int(workers)))
        options = RayOptions(call.options.get("address"), cpus, _number(call, "gpus", 0))
        outcomes = run_jobs_on_ray(jobs, options)
    else:
        outcomes = run_jobs(jobs)
    summary = summarise(outcomes, call.options.get("baseline"))
    details = {"dataset": plan.dataset, "seeds": list(plan.seeds), "runs": [job.folder for job in jobs]}
    written = write_comparison(summary, folder, details, columns)
    write_result(call, jobs[0].config(), summary.rows, {**details, "tests": summary.tests})
    files = f"{written[0]}, {', '.join(path.suffix for path in written[1:])}; results per user in {folder}/runs"
    print(f"\n{markdown(summary)}\nDone in {perf_counter() - started:.0f} s. Written: {files}")


def _columns(call: Call, config: Config) -> list[str]:
    """Read ``--columns``: those of the LaTeX table."""
    from recbole_sid.comparison.latex import METRICS, check_columns

    columns = [word.strip() for word in call.options.get("columns", METRICS).strip("[]").split(",") if word.strip()]
    metrics = [f"{name.lower()}@{k}" for name in config["metrics"] for k in config["topk"]]
    check_columns(columns, metrics)
    return columns or [METRICS]


def _number(call: Call, key: str, default: float) -> float:
    value = parse_value(call.options.get(key, str(default)))
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise InputError(f"--{key}={value} must be a number of at least 0.")
    return value


def _seeds(text: str | None) -> Sequence[int] | None:
    """Read ``--seeds``: how many, from 2020 on, or a list."""
    if text is None:
        return None
    value: Any = parse_value(text)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return list(range(_FIRST_SEED, _FIRST_SEED + value))
    if isinstance(value, (list, tuple)) and value:
        return list(value)
    raise InputError(f"--seeds={text} must be how many, such as 5, or a list, such as [2020,2021].")


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
        Option("gpus", "GPUs of a model, as 0.5, in Ray tasks", default=0, metavar="N"),
        Option("address", "of a running Ray cluster", metavar="HOST:PORT"),
        CONFIG_FILES,
        JSON,
        Option("output", "folder for tables, pictures and runs", metavar="FOLDER", output="folder"),
    ),
    "recbole-sid compare --models=Pop,SASRec,TIGER --dataset=ml-100k --seeds=3",
)
