"""`compare`, `reproduce`, `tune`, `tokenize` and `analyze` as functions: what these commands do, as DataFrames.

``from recbole_sid import compare, reproduce, tune, tokenize, analyze``. What each returns has a ``table``, which a
notebook shows; further tables and files are attributes. `config_file_list` and `config_dict` are RecBole's: property
files, later ones win, and settings over them, which is what ``--config_files`` and ``--KEY=VALUE`` are on the command
line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_sid.api_tables import AnalysisTables, ComparisonTables, ReproductionTables, SearchTables, SemanticIDTables
from recbole_sid.comparison.comparison_files import write_comparison
from recbole_sid.comparison.groups import in_plan_order
from recbole_sid.comparison.job import make_jobs
from recbole_sid.comparison.latex import METRICS, check_columns
from recbole_sid.comparison.panel import standing_of
from recbole_sid.comparison.plan import Plan, check_baseline, make_plan, read_plan, with_tuned_files
from recbole_sid.comparison.runner import RayOptions, run_jobs, run_jobs_on_ray
from recbole_sid.comparison.sheet import check_data, check_runs, compared, other_versions, read_sheet, write_sheet
from recbole_sid.comparison.summary import summarise
from recbole_sid.config import Config
from recbole_sid.data.dataset import check_folder, create_history_dataset
from recbole_sid.errors import InputError, require_known
from recbole_sid.evaluation.recorded_data import data_config
from recbole_sid.evaluation.runs import FinishedRun, find_runs
from recbole_sid.generalization.analysis import analyze as analysis_of
from recbole_sid.generalization.analysis import label_split, run_semantic_ids
from recbole_sid.generalization.analysis_files import TABLES, write_analysis
from recbole_sid.property_files import PROPERTIES, space_file
from recbole_sid.semantic_ids.build import build_semantic_ids, semantic_id_recipe, semantic_ids_file
from recbole_sid.semantic_ids.report import report_of_config, sid_report, write_report
from recbole_sid.util.files import locked
from recbole_sid.util.hashing import content_hash
from recbole_sid.util.reading import read_yaml
from recbole_sid.util.values import PropertyLoader

__all__ = [
    *("AnalysisTables", "ComparisonTables", "ReproductionTables", "SearchTables", "SemanticIDTables"),
    *("analyze", "compare", "reproduce", "tokenize", "tune"),
]

FIRST_SEED = 2020
FileName = str | Path


def compare(
    models: str | Sequence[str] | Mapping[str, Mapping[str, Any] | None] | None = None,
    dataset: str | None = None,
    *,
    plan: FileName | None = None,
    seeds: int | Sequence[int] | None = None,
    baseline: str | None = None,
    columns: str | Sequence[str] = METRICS,
    config_file_list: Sequence[str] = (),
    config_dict: Mapping[str, Any] | None = None,
    workers: float = 1,
    gpus: float = 0,
    address: str | None = None,
    output: FileName | None = None,
    command: str = "",
    report: Callable[[str], None] = print,
) -> ComparisonTables:
    """Train several models with several seeds and compare them: means, tests over users, breakdowns.

    Finished trainings in `output` are reused. Each training has a process of its own.

    Args:
        models: classes in the order of their rows, as ``["Pop", "TIGER"]`` or ``"Pop,TIGER"``; or name -> settings,
            with the keys that an entry of a plan may have (docs/comparing.md).
        dataset: its name.
        plan: a YAML file in place of `models` and `dataset`.
        seeds: how many, from 2020 on, or which; None: the plan's, else 2020.
        baseline: the row that the tests compare with; None: the first.
        columns: of the LaTeX table (`recbole_sid.comparison.latex`).
        config_file_list, config_dict: settings of all models that know them.
        workers: models trained at a time, as Ray tasks.
        gpus: of a model, in Ray tasks.
        address: of a running Ray cluster.
        output: folder for tables, picture and runs; None: ``saved/comparison/<dataset>``.
        command: what the page says was asked for.
        report: told what begins and what ended, a line each.

    Raises:
        InputError: for input that the user can mend, or if no model could be trained.
    """
    planned = _plan(models, dataset, plan, _seeds(seeds), config_file_list, config_dict or {}, report)
    folder = Path(output if output is not None else Path("saved") / "comparison" / planned.dataset)
    options = None
    if workers > 1 or address is not None:
        cpus = 1 if address is not None else max(1, (os.cpu_count() or 1) // max(1, int(workers)))
        options = RayOptions(address, cpus, gpus)
    return _compared(planned, baseline, folder, _names(columns) or [METRICS], options, command, report)


def _compared(
    planned: Plan,
    baseline: str | None,
    folder: Path,
    columns: Sequence[str],
    on_ray: RayOptions | None,
    command: str,
    report: Callable[[str], None],
) -> ComparisonTables:
    """Run a plan and write what was found; the arguments are those of `compare`."""
    check_baseline(planned, baseline)
    jobs = make_jobs(planned, folder / "runs")
    config = jobs[0].config()
    check_columns(columns, [f"{name.lower()}@{k}" for name in config["metrics"] for k in config["topk"]])
    if on_ray is None:
        with standing_of(jobs, report, bool(config["show_progress"])) as standing:
            outcomes = run_jobs(jobs, report=report, standing=standing)
    else:  # in lines alone: when a task of Ray begins is not told here
        outcomes = run_jobs_on_ray(jobs, on_ray, report)
    summary = summarise(outcomes, baseline)
    details: dict[str, Any] = {"dataset": planned.dataset, "seeds": list(planned.seeds)}
    details["runs"] = [job.folder for job in jobs]
    if command:
        details["command"] = command
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    files = write_comparison(summary, folder, details, columns, results)
    files.append(write_sheet(folder / "comparison.yaml", planned, baseline, summary, results, command))
    table, tests, breakdown = map(pd.DataFrame, (summary.rows, summary.tests, summary.breakdown))
    reused = sum(outcome.reused for outcome in outcomes)
    return ComparisonTables(table, tests, breakdown, summary.failures, files, details, summary, config, reused)


def reproduce(
    sheet: FileName,
    *,
    config_dict: Mapping[str, Any] | None = None,
    output: FileName | None = None,
    report: Callable[[str], None] = print,
) -> ReproductionTables:
    """Run a comparison again from the sheet that it wrote, ``comparison.yaml``, and compare.

    All is trained anew in a folder of its own; the same call goes on there after an interruption.

    Args:
        sheet: the file.
        config_dict: settings over those of its plan, such as ``{"data_path": ...}``.
        output: folder for tables, picture, runs and checkpoints; None: ``saved/reproduced/<dataset>-<hash>``.
        report: told what begins and what ended, a line each.

    Raises:
        InputError: if the sheet cannot be read, lies in `output`, or the data are not those that it names.
    """
    stated = read_sheet(sheet, config_dict)
    name = f"{stated.plan.dataset}-{content_hash(sheet)}"
    folder = Path(output if output is not None else Path("saved") / "reproduced" / name)
    if folder.resolve() == Path(sheet).resolve().parent:
        raise InputError(
            f"output={folder} holds the sheet, whose runs would be reused and their results overwritten: name another "
            "folder."
        )
    check_data(stated)
    there = {"checkpoint_dir": str(folder / "checkpoints")}
    entries = tuple(entry._replace(settings={**entry.settings, **there}) for entry in stated.plan.entries)
    plan = stated.plan._replace(entries=entries)
    check_runs(stated, make_jobs(plan, folder / "runs"))
    if versions := other_versions(stated):
        report(versions)
    found = _compared(plan, stated.baseline, folder, [METRICS], None, "", report)
    return ReproductionTables(pd.DataFrame(compared(stated, found.summary)), found)


def _plan(
    models: str | Sequence[str] | Mapping[str, Mapping[str, Any] | None] | None,
    dataset: str | None,
    plan: FileName | None,
    seeds: Sequence[int] | None,
    files: Sequence[str],
    overrides: Mapping[str, Any],
    report: Callable[[str], None],
) -> Plan:
    if plan is not None:
        for key, value in (("models", models), ("dataset", dataset)):
            if value is not None:
                raise InputError(f"{key} is part of the plan: leave it out, or leave out the plan.")
        return read_plan(Path(plan), overrides, seeds, files)
    if not dataset or not models:
        raise InputError("compare needs models and a dataset (--models=A,B --dataset=NAME), or a plan (--plan=FILE).")
    given = models if isinstance(models, Mapping) else dict.fromkeys(_names(models))
    entries = with_tuned_files(dataset, given, files, None, overrides, report)
    return make_plan(dataset, entries, seeds or [FIRST_SEED], files, None, overrides)


def _names(names: str | Sequence[str]) -> list[str]:
    """Return names that may be written as "A,B"."""
    words = names.strip("[]").split(",") if isinstance(names, str) else names
    return [word.strip() for word in words if word.strip()]


def _seeds(seeds: Any) -> Sequence[int] | None:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
        return list(range(FIRST_SEED, FIRST_SEED + seeds))
    if seeds is None or (isinstance(seeds, (list, tuple, range)) and seeds):
        return seeds if seeds is None else list(seeds)
    raise InputError(f"seeds={seeds} must be how many, such as 5, or a list, such as [2020,2021].")


def tune(
    model: str | None = None,
    dataset: str | None = None,
    *,
    space: FileName | Mapping[str, Any] | None = None,
    config_file_list: Sequence[str] = (),
    config_dict: Mapping[str, Any] | None = None,
    storage_path: FileName | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
    **options: Any,
) -> SearchTables:
    """Search hyper-parameters on Ray Tune; the test split is read once, for the winner.

    Args:
        model, dataset: their names.
        space: what is searched (docs/tuning.md): a file, or key -> ``{"choice": [...]}``,
            ``{"loguniform": [low, high]}``, ...; None: the model's own.
        config_file_list, config_dict: settings below the space.
        storage_path: where searches are kept; None: ``checkpoint_dir/tune``.
        resume: go on with an interrupted search of the same configuration, space and options.
        report: told where things stand, in lines.
        options: of `recbole_sid.tuning.search.Options`: samples (trials at most), scheduler, searcher, min_epochs,
            cpus and gpus (of a trial, or of each of its `nproc` processes), concurrency, retries, address.

    Raises:
        InputError: for input that the user can mend, or if no trial came to a score.
    """
    from recbole_sid.tuning.search import Options
    from recbole_sid.tuning.space import read_space, space_of
    from recbole_sid.tuning.tuning import search

    for name in options:
        require_known("option of tune", name, Options._fields)
    if not isinstance(resume, bool):
        raise InputError(f"resume={resume!r} must be True or False.")
    config = Config(model, dataset, list(config_file_list), config_dict)
    if isinstance(space, Mapping):
        searched = space_of(space, "The search space")
    else:
        searched = read_space(space or _shipped_space(config["model"], config["size"]))
    storage = None if storage_path is None else os.fspath(storage_path)
    outcome = search(config, searched, Options(**options), storage, resume, tell=report)
    folder = Path(outcome.plan.folder)
    return SearchTables(
        pd.read_parquet(folder / "trials.parquet"),
        pd.read_csv(folder / "curves.csv"),
        outcome.result["test_result"],
        read_yaml(folder / "best.yaml", PropertyLoader),
        folder,
        outcome,
        config,
    )


def _shipped_space(model: str, size: str) -> str:
    """Return the space that comes with the package for a `model` of this size."""
    file = space_file(model, size)
    if file is None:
        known = ", ".join(sorted(path.stem for path in (PROPERTIES / "tune").glob("*.yaml")))
        raise InputError(f"There is no search space for {model}: name one by --space=FILE (shipped: {known}).")
    return str(file)


def tokenize(
    dataset: str | None = None,
    model: str = "TIGER",
    *,
    config_file_list: Sequence[str] = (),
    config_dict: Mapping[str, Any] | None = None,
    output: FileName | None = None,
    report: bool | FileName = False,
) -> SemanticIDTables:
    """Make semantic IDs from item features, and say how good they are.

    Args:
        dataset: its name.
        model: the one whose property file says how, unless other settings do.
        config_file_list, config_dict: the settings: features, tokenizer, codebook_sizes, ...
        output: the file (.npz); None: where a run of the same settings looks for it.
        report: write the report with what codes mean in this dataset: True, beside the file, or a folder.

    Raises:
        InputError: for input that the user can mend.
    """
    config = Config(model, dataset, list(config_file_list), config_dict)
    if config["semantic_ids_path"]:
        raise InputError(
            "tokenize makes semantic IDs and semantic_ids_path names ready-made ones: leave it out, or make one of our "
            "files of them with `recbole-sid import`."
        )
    train_dataset = create_history_dataset(config).build()[0]
    recipe = semantic_id_recipe(config, train_dataset)
    path = Path(output if output is not None else semantic_ids_file(config, recipe))
    with nullcontext() if output is not None else locked(path):  # runs that want the same meanwhile wait for it
        semantic_ids, features = build_semantic_ids(config, train_dataset, recipe)
        semantic_ids.save(path)
    if report is False:
        found, folder = sid_report(semantic_ids), None
    else:
        found = report_of_config(semantic_ids, train_dataset, features, config)
        folder = Path(f"{path}.report" if report is True else report)
        write_report(found, semantic_ids, folder)
    return SemanticIDTables(pd.DataFrame(found["rows"]), found, semantic_ids, path, folder, config)


def analyze(
    runs: FileName | Sequence[FileName] = (),
    dataset: str | None = None,
    *,
    id_model: str | None = None,
    hops: int = 4,
    split: str = "test",
    config_file_list: Sequence[str] = (),
    config_dict: Mapping[str, Any] | None = None,
    output: FileName | None = None,
) -> AnalysisTables:
    """Say what the instances of a split need, memorization or generalization, and how finished runs do on each.

    Args:
        runs: folders of runs that `compare` finished (``saved/comparison/<dataset>/runs``); none: instances are
            labelled only.
        dataset: its name; None: that of the runs.
        id_model: the model among the runs whose indicator of memorization is shown; None: the first that fits.
        hops: the longest chain of items that counts.
        split: test, or valid without runs.
        config_file_list, config_dict: settings of the data, where they are other than the runs'.
        output: folder for tables and pictures; None: ``saved/analysis/<dataset>`` with runs, else nothing is written.

    Raises:
        InputError: for input that the user can mend.
    """
    names = [runs] if isinstance(runs, (str, Path)) else list(runs)
    finished = in_plan_order(find_runs([os.fspath(name) for name in names])) if names else []
    if finished and split != "test":
        raise InputError(f"split={split} has no runs: their results are of the test split (add --labels-only).")
    changes = dict(config_dict or {})
    config = _data_config(finished, dataset, config_file_list, changes)
    labelled = label_split(config, split, hops, run_semantic_ids(config, finished, changes), changes.keys())
    found = analysis_of(labelled, finished, config["show_progress"], id_model)
    details = {"dataset": config["dataset"], "split": split, "instances": len(labelled.labels), "hops": labelled.hops}
    if finished:
        details["runs"] = [str(run.per_user) for run in finished]
        output = output if output is not None else Path("saved") / "analysis" / config["dataset"]
    files = write_analysis(found, labelled, output, details) if output is not None else []
    tables = {name: pd.DataFrame(getattr(found, name)) for name in TABLES if name != "shares"}
    table = pd.DataFrame(found.shares)
    return AnalysisTables(
        table, **tables, labels=labelled.frame, files=files, details=details, analysis=found, config=config
    )


def _data_config(
    runs: Sequence[FinishedRun], dataset: str | None, files: Sequence[str], changes: dict[str, Any]
) -> Config:
    """Return a sequential model's configuration of the data: as given, else as the runs recorded it."""
    if not runs:
        return Config("SASRec", dataset, list(files), changes)
    recorded = runs[0].result
    if dataset not in (None, recorded["dataset"]):
        raise InputError(f"dataset={dataset} but the runs are of {recorded['dataset']}: leave it out.")
    config = data_config(recorded, list(files), changes)
    check_folder(config)
    return config
