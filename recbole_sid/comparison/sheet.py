"""A comparison's reproducibility sheet: all that is needed to run it again, and how near the same it has to come."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recbole_sid import __version__
from recbole_sid.comparison.job import Job
from recbole_sid.comparison.latex import metrics_of
from recbole_sid.comparison.machines import machines_of
from recbole_sid.comparison.plan import Plan, plan_of
from recbole_sid.comparison.summary import Summary
from recbole_sid.config import Config
from recbole_sid.errors import InputError, require_known
from recbole_sid.evaluation.runs import RunResult
from recbole_sid.identity import atomic_hashes
from recbole_sid.settings.known import flagged
from recbole_sid.util.files import write_text
from recbole_sid.util.hashing import as_json_type
from recbole_sid.util.machine import machine
from recbole_sid.util.reading import read_yaml
from recbole_sid.util.values import PropertyLoader

FORMAT = "recbole_sid comparison 1"
# What another processor's rounding does to trained models; those that train nothing come out the same.
TOLERANCE = {"absolute": 0.001, "relative": 0.05}
_COSTS = ("users_per_s", "parameters", "train_s", "peak_memory_mb")
# Of a run but not of what it computes, and other wherever it runs; data_path stays, without which nothing is found.
_LEFT_OUT = (
    *("checkpoint_dir", "dataset_save_path", "dataloaders_save_path", "distill_cache_dir", "config_files", "gpu_id"),
    *("resume", "show_progress", "state", "seed", "log_wandb", "wandb_project"),
)
_KEYS = (
    *("format", "recbole_sid", "command", "plan", "baseline", "data", "machines", "tolerance", "results"),
    *("deviations", "costs", "checklist"),
)


class Sheet(NamedTuple):
    """What a sheet says.

    Attributes:
        plan: what is run.
        baseline: of the tests; None: the first row.
        results: row -> metric -> mean over seeds.
        absolute, relative: a value may differ by the first plus the second times what the sheet has.
        files: of the dataset: name -> hash of its content.
        runs: entry -> hash of all files that its runs read their data from.
        versions: package, recbole_sid among them, or python -> those that its runs were made with.
    """

    plan: Plan
    baseline: str | None
    results: dict[str, dict[str, float]]
    absolute: float
    relative: float
    files: dict[str, str]
    runs: dict[str, str]
    versions: dict[str, set[str]]


def write_sheet(
    path: str | Path,
    plan: Plan,
    baseline: str | None,
    summary: Summary,
    results: Sequence[RunResult],
    command: str = "",
) -> Path:
    """Write the sheet of a finished comparison as YAML; return its path."""
    metrics = metrics_of(summary.rows)
    config = Config(plan.entries[0].model, plan.dataset, plan.entries[0].files, plan.entries[0].settings)
    content = {
        "format": FORMAT,
        "recbole_sid": __version__,
        "command": command,
        "plan": plan_content(plan),
        "baseline": baseline,
        "data": {
            "files": atomic_hashes(config),
            "runs": {result["name"]: result["data"] for result in results},
            **summary.data,
        },
        "machines": machines_of(results),
        "tolerance": dict(TOLERANCE),
        "results": {row["model"]: {metric: row[metric] for metric in metrics} for row in summary.rows},
        "deviations": {
            row["model"]: {metric: row[f"{metric}_sd"] for metric in metrics if row[f"{metric}_sd"] is not None}
            for row in summary.rows
        },
        "costs": {row["model"]: {key: row[key] for key in _COSTS} for row in summary.rows},
        "checklist": _checklist(plan, config, summary, results),
    }
    return write_content(path, content)


def write_content(path: str | Path, content: Mapping[str, Any], head: str = "") -> Path:
    """Write what a sheet holds, under what it is for and the comment `head`; return the path."""
    first = "recbole-sid reproduce FILE runs this comparison again and says what differs by more than the tolerance."
    comment = "".join(f"# {line}\n" for line in (first, *head.splitlines()))
    write_text(path, comment + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120))
    return Path(path)


def plan_content(plan: Plan) -> dict[str, Any]:
    """Return a plan as a plan's file holds it, with the content of property files in their place."""
    models = {}
    for entry in plan.entries:
        settings: dict[str, Any] = {}
        for file in entry.files:
            settings |= read_yaml(file, PropertyLoader) or {}
        settings |= entry.settings
        own: dict[str, Any] = {"model": entry.model, "evaluate": entry.evaluations}
        own |= {key.removesuffix("_path"): member for key, member in entry.members.items()}
        if entry.teacher is not None:
            own["teacher"] = entry.teacher
        models[entry.name] = own | {key: value for key, value in settings.items() if key not in _LEFT_OUT}
    content = {"dataset": plan.dataset, "seeds": list(plan.seeds), "models": models}
    return json.loads(json.dumps(content, default=as_json_type))


def _checklist(plan: Plan, config: Config, summary: Summary, results: Sequence[RunResult]) -> dict[str, str]:
    """Return what reviewers ask (after the checklist of Pineau and others, JMLR 22, 2021), with its answer."""
    hours = sum(result["train_s"] for result in results) / 3600
    seeds = len(plan.seeds)
    return {
        "settings of every model, those by default too": "comparison.html; result.json of each run",
        "how settings were selected": f"best epoch by {config['valid_metric']} of validation; settings as in the plan",
        "data, its split and what was left out": f"data above; eval_args={config['eval_args']}",
        "how many seeds, and the spread over them": f"{seeds}; {'deviations above' if seeds > 1 else 'no spread'}",
        "error bars and tests": "95% bootstrap interval over users; paired t-test and Wilcoxon test, Holm's adjustment",
        "metrics, and what is ranked": f"{', '.join(config['metrics'])} at {config['topk']}; the whole catalogue",
        "cost": f"{hours:.2f} hours of training in all; the machines above",
        "trainings that failed": "; ".join(summary.failures) or "none",
    }


def read_sheet(file: str | Path, overrides: Mapping[str, Any] | None = None) -> Sheet:
    """Read what `write_sheet` wrote.

    Args:
        file: the sheet.
        overrides: settings over those of its plan, such as the data_path of data that lie elsewhere.

    Raises:
        InputError: if the file is missing, no such sheet, has keys that no sheet has, or its plan cannot be run.
    """
    if not Path(file).is_file():
        raise InputError(f"The sheet '{file}' does not exist: `recbole-sid compare` writes one, comparison.yaml.")
    content = read_yaml(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"'{file}' is no sheet of a comparison (format: {FORMAT}), as `recbole-sid compare` writes it."
        )
    for key in content:
        require_known("key of a sheet", key, _KEYS)
    results, tolerance, data = (content.get(key) for key in ("results", "tolerance", "data"))
    files, runs = (data.get(key) if isinstance(data, dict) else None for key in ("files", "runs"))
    if not isinstance(results, dict) or not results or not all(map(_is_numbers, results.values())):
        raise InputError(f"'{file}' must hold results: model, metric and number.")
    if (
        not isinstance(tolerance, dict)
        or not _is_numbers(tolerance)
        or set(tolerance) != set(TOLERANCE)
        or min(tolerance.values()) < 0
    ):
        raise InputError(f"'{file}' must hold tolerance: {{absolute: 0.001, relative: 0.05}}, numbers of at least 0.")
    if not isinstance(files, dict) or not isinstance(runs, dict):
        raise InputError(f"'{file}' must hold data: files and runs, the hash of each.")
    plan = plan_of(content.get("plan"), f"The plan in '{file}'", overrides)
    return Sheet(
        plan, content.get("baseline"), results, **tolerance, files=files, runs=runs, versions=_versions(content, file)
    )


def _versions(content: Mapping[str, Any], file: str | Path) -> dict[str, set[str]]:
    machines = content.get("machines")
    if not isinstance(machines, list) or not all(
        isinstance(each, dict) and isinstance(each.get("versions", {}), dict) for each in machines
    ):
        raise InputError(f"'{file}' must hold machines: a list of what each is, its versions among it.")
    found: dict[str, set[str]] = {"recbole_sid": {str(content.get("recbole_sid"))}}
    for each in machines:
        for package, version in each.get("versions", {}).items():
            found.setdefault(str(package), set()).add(str(version))
    return found


def _is_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        for value in values.values()
    )


def check_data(sheet: Sheet) -> None:
    """Raise InputError if the dataset's files are not those of the sheet."""
    entry = sheet.plan.entries[0]
    found = atomic_hashes(Config(entry.model, sheet.plan.dataset, entry.files, entry.settings))
    for name, of_content in sheet.files.items():
        if found.get(name) != of_content:
            what = "has other content than" if name in found else "is not there, but"
            raise InputError(
                f"'{name}' {what} in the sheet: its results are of other data. Name the folder of "
                "the same by --data_path."
            )


def check_runs(sheet: Sheet, jobs: Sequence[Job]) -> None:
    """Raise InputError if a job reads other files than in the sheet, as those of features or ready-made codes."""
    for job in jobs:
        stated = sheet.runs.get(job.entry.name, job.data)  # of one that failed then, nothing is known
        if stated != job.data:
            config = job.config()
            files = ", ".join(
                f"{key}={config[key]}" for key in flagged("file") if config[key] and key != "teacher_path"
            )
            raise InputError(
                f"{job.entry.name} reads files of other content than in the sheet ({files or 'of its features'}): its "
                "results are of other data. Name the same files."
            )


def other_versions(sheet: Sheet) -> str:
    """Say which versions here are not among the sheet's; empty if all are."""
    here = {"recbole_sid": __version__, **machine("cpu")["versions"]}
    other = [
        f"{name} {version} (in the sheet {', '.join(sorted(sheet.versions[name]))})"
        for name, version in here.items()
        if name in sheet.versions and version not in sheet.versions[name]
    ]
    return f"Other versions than in the sheet: {'; '.join(other)}." if other else ""


def compared(sheet: Sheet, summary: Summary) -> list[dict[str, Any]]:
    """Return a row for each value of the sheet: model, metric, stated, found, difference, allowed and same (bool).

    What is not there any more, as a model that failed, has None for found and is not the same.
    """
    rows = {row["model"]: row for row in summary.rows}
    table = []
    for model, metrics in sheet.results.items():
        for metric, stated in metrics.items():
            found = rows.get(model, {}).get(metric)
            allowed = sheet.absolute + sheet.relative * abs(stated)
            difference = None if found is None else found - stated
            same = difference is not None and abs(difference) <= allowed
            values = {"stated": float(stated), "found": found, "difference": difference, "allowed": allowed}
            table.append({"model": model, "metric": metric, **values, "same": same})
    return table
