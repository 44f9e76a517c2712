"""One training of a comparison and its evaluations, kept in a folder by configuration so that none is done twice."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid import __version__
from recbole_sid.capabilities import capabilities_of
from recbole_sid.comparison.plan import Entry, Plan
from recbole_sid.compat import start_log
from recbole_sid.config import Config
from recbole_sid.data.dataset import check_files, left_empty
from recbole_sid.distributed.place import launched_place
from recbole_sid.errors import InputError
from recbole_sid.evaluation.one_pass import RankedSplit, rank_split
from recbole_sid.evaluation.runs import (
    RESULT,
    KeptEvaluation,
    RunResult,
    per_user_file,
    read_result,
    write_per_user,
    write_result,
)
from recbole_sid.features.pipeline import check_sources
from recbole_sid.identity import data_hash
from recbole_sid.quick_start import Run, count_parameters, train_model
from recbole_sid.registry import get_model, is_ours
from recbole_sid.semantic_ids.build import used_semantic_id_keys
from recbole_sid.semantic_ids.report import sid_report
from recbole_sid.settings.known import flagged
from recbole_sid.settings.recbole_checks import processes_of_each
from recbole_sid.util.attributes import attributes_set
from recbole_sid.util.hardware import peak_memory
from recbole_sid.util.machine import machine


class Job(NamedTuple):
    """One entry of a plan with one seed, as plain types that another process can be given.

    Attributes:
        entry: what is trained.
        seed: of everything random.
        dataset: name of the dataset.
        settings: the entry's, with seed and teacher.
        folder: where its results are kept.
        data: hash of the data's files.
        made_by: key -> name of the run, of an entry before it, that makes the file which the key names.
        processes: that train it together, on one machine; one does what follows.
        trained_mb: the most memory, in MB, that one of them has held.
    """

    entry: Entry
    seed: int
    dataset: str
    settings: dict[str, Any]
    folder: str
    data: str
    made_by: dict[str, str] = {}  # never written to
    processes: int = 1
    trained_mb: float = 0.0

    @property
    def name(self) -> str:
        """What progress and messages call it."""
        return f"{self.entry.name}, seed {self.seed}"

    def config(self) -> Config:
        """Return its configuration."""
        config = Config(self.entry.model, self.dataset, self.entry.files, self.settings)
        config.made_by = self.made_by
        return config


def make_jobs(plan: Plan, folder: str | Path, resume: bool = True) -> list[Job]:
    """Return the jobs of `plan`, seed by seed, teachers before their students.

    All configurations are made here, so that wrong settings are refused before anything is trained.

    Args:
        plan: what to train.
        folder: of results; each job gets its own folder in it.
        resume: continue and reuse trainings of the same configuration that checkpoint_dir holds, if the plan does not
            say so itself.

    Raises:
        InputError: for wrong settings, a student of other semantic IDs than its teacher's, or missing files of the
            dataset; and for two entries that are the same run.
    """
    jobs = []
    for seed in plan.seeds:
        checkpoints: dict[str, str] = {}
        configs: dict[str, Config] = {}
        places: dict[str, str] = {}
        for entry in plan.entries:
            settings: dict[str, Any] = {**entry.settings, "seed": seed}
            if is_ours(get_model(entry.model)):
                settings.setdefault("resume", resume)
            if entry.teacher is not None:
                settings["teacher_path"] = checkpoints[entry.teacher]
            settings |= {key: places[member] for key, member in entry.members.items()}
            makers = {**entry.members, **({"teacher_path": entry.teacher} if entry.teacher is not None else {})}
            config = Config(entry.model, plan.dataset, entry.files, settings)
            config.made_by = {key: configs[maker].run_name() for key, maker in makers.items()}
            together = processes_of_each(config, "A model of a comparison")
            processes = together if is_ours(config.model_class) else 1
            check_files(config)
            _check_ranks_all(entry, config)
            _check_sources(entry, config)
            for changes in filter(None, entry.evaluations.values()):
                Config(entry.model, plan.dataset, entry.files, {**settings, **changes})
            if entry.teacher is not None:
                _check_same_semantic_ids(entry.name, config, entry.teacher, configs[entry.teacher])
            name = config.run_name()
            for other, place in places.items():
                if Path(place).name == name:
                    raise InputError(
                        f"{other} and {entry.name} are the same run: nothing that decides the result differs between "
                        "them. Leave out one, or name several ways to evaluate one run under its `evaluate`."
                    )
            configs[entry.name] = config
            checkpoints[entry.name] = str(Path(config["checkpoint_dir"]) / f"{name}.pth")
            places[entry.name] = str(Path(folder) / name)
            data = data_hash(config)
            alone = {**settings, "nproc": 1, "world_size": 1} if together > 1 else settings
            jobs.append(Job(entry, seed, plan.dataset, alone, places[entry.name], data, config.made_by, processes))
    return jobs


def _check_ranks_all(entry: Entry, config: Config) -> None:
    """Raise InputError if a model is not evaluated by ranking all items for users of a test part, as tests over users
    and breakdowns need it.
    """
    if config["benchmark_filename"]:
        raise InputError(
            "A comparison breaks results down by whole sequences of interactions: leave out benchmark_filename."
        )
    split = config["eval_args"]["split"]
    if isinstance(split, dict) and "test" in left_empty(split):
        raise InputError(
            f"eval_args.split={split} leaves no test part, on which models are compared: give it a share, or evaluate "
            "on it alone, as {LS: test_only}."
        )
    if config["eval_args"]["mode"]["test"] != "full":
        raise InputError(
            f"{entry.model} is evaluated on labels or samples (eval_args.mode={config['eval_args']['mode']['test']}), "
            "which cannot be compared over users: give it, or the plan's settings, eval_args: {split: {LS: "
            "valid_and_test}, order: TO, mode: full}, metrics: [Recall, NDCG] and valid_metric: NDCG@10."
        )


def _check_sources(entry: Entry, config: Config) -> None:
    """Raise InputError if a file that the job reads is missing, those aside that jobs before it write."""
    for key in ("student_path", "teacher_path", "semantic_ids_path"):
        written_before = key == "teacher_path" and entry.teacher is not None
        if config[key] and not written_before and not Path(config[key]).exists():
            raise InputError(f"{entry.name}: {key}='{config[key]}' does not exist.")
    if capabilities_of(config.model_class).uses_semantic_ids and not config["semantic_ids_path"]:
        check_sources(config)


def _check_same_semantic_ids(name: str, config: Config, teacher: str, teacher_config: Config) -> None:
    if config["semantic_ids_path"] and config["semantic_ids_path"] == teacher_config["semantic_ids_path"]:
        return
    for key in used_semantic_id_keys(config):
        if config[key] != teacher_config[key]:
            raise InputError(
                f"{name} has {key}={config[key]} but its teacher {teacher} has {teacher_config[key]}: give both the "
                "same, as a student needs its teacher's semantic IDs."
            )


def stored(job: Job) -> RunResult | None:
    """Return the result of `job` if it was run before on the same data, with all its evaluations; else None."""
    file = Path(job.folder) / RESULT
    if not file.is_file():
        return None
    result = read_result(job.folder)
    of_same = result["data"] == job.data and result["version"] == __version__
    complete = of_same and set(job.entry.evaluations) <= set(result["evaluations"])
    kept = {evaluation: Path(job.folder, per_user_file(evaluation)).is_file() for evaluation in job.entry.evaluations}
    same = complete and all(
        result["evaluations"][suffix]["settings"] == changes for suffix, changes in job.entry.evaluations.items()
    )
    return {**result, "name": job.entry.name} if same and all(kept.values()) else None


def run_of_other_version(job: Job) -> str | None:
    """Say where a finished run of the same settings lies that another version of the package trained; None: nowhere.

    Files are not compared: what else may have changed, a run of another version is not reused.
    """
    wanted = _compared_settings(job.config().plain())
    pattern = f"{glob.escape(f'{job.entry.model}-{job.dataset}-')}*/{RESULT}"
    for file in sorted(Path(job.folder).parent.glob(pattern)):
        try:
            result = read_result(file.parent)
        except InputError:  # damaged, and nothing that this job needs
            continue
        theirs = _compared_settings(result["settings"])
        both = wanted.keys() & theirs.keys()  # a version may have brought or dropped keys
        if result["version"] != __version__ and all(wanted[key] == theirs[key] for key in both):
            return f"the run in {file.parent} is of version {result['version']}: running again with {__version__}"
    return None


def _compared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    apart = {*flagged("volatile"), *flagged("file")}  # files lie elsewhere for each version's runs
    return {key: value for key, value in settings.items() if key not in apart}


def run_job(job: Job) -> RunResult:
    """Train and evaluate, each way to evaluate by one ranking of the test split, and write ``result.json`` and the
    results per user into the job's folder.
    """
    folder = Path(job.folder)
    run = train(job)
    found: dict[str, KeptEvaluation] = {}
    for evaluation, changes in job.entry.evaluations.items():
        ranked = _ranked(run, changes)
        found[evaluation] = {
            "settings": changes,
            "metrics": ranked.metrics,
            "users_per_s": ranked.users_per_s,
            "per_user": per_user_file(evaluation),
        }
        write_per_user(ranked.per_user, folder / per_user_file(evaluation))
    result = _result(job, run, found)
    write_result(folder, result)
    return result


def run_job_quietly(job: Job) -> RunResult:
    """Do as `run_job` in a process that does nothing else: of its log, only warnings go to the console."""
    _log_quietly(job.config())
    return run_job(job)


def train_quietly(job: Job) -> float:
    """Train the model of `job` as one of several processes, for `run_job` to take up.

    Returns:
        the most memory, in MB, that one of them has held.
    """
    if launched_place().rank == 0:
        _log_quietly(job.config())
    run = train(job)
    return max(run.trainer.group.gather(peak_memory(run.config["device"]) or 0.0))


def _log_quietly(config: Config) -> None:
    start_log(config)  # the log's file gets all; a second call changes nothing
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(max(handler.level, logging.WARNING))


def train(job: Job) -> Run:
    """Train the model of `job`, or reuse the training that is there.

    Raises:
        InputError: if the files that it reads are no longer those that its folder is named by.
    """
    config = job.config()
    if config.run_name() != Path(job.folder).name:
        raise InputError("A file that it reads has changed since the comparison began: start the comparison again.")
    return train_model(config)


def _result(job: Job, run: Run, evaluations: dict[str, KeptEvaluation]) -> RunResult:
    config = run.config
    held = peak_memory(config["device"])
    return {
        "name": job.entry.name,
        "model": config["model"],
        "dataset": job.dataset,
        "seed": job.seed,
        "fingerprint": config.fingerprint(),
        "settings": config.plain(),
        "data": job.data,
        "model_file": str(run.trainer.saved_model_file),
        "teacher_file": config["teacher_path"],
        "parameters": count_parameters(run.trainer.model),
        "train_s": run.train_s,
        "best_valid": {name: float(value) for name, value in (run.best_valid_result or {}).items()},
        "peak_memory_mb": None if held is None else max(held, job.trained_mb),
        "device": str(config["device"]),
        "version": __version__,
        "evaluations": evaluations,
        "curve": [row for row in run.curve if all(map(_is_finite, row.values()))],
        "semantic_ids": _quality(run.trainer.model),
        "machine": machine(config["device"]),
    }


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or isfinite(value)


def _quality(model: Any) -> dict[str, Any] | None:
    """Return the quality of a model's semantic IDs; None for one without."""
    semantic_ids = getattr(model, "semantic_ids", None)
    return None if semantic_ids is None else sid_report(semantic_ids)


def _ranked(run: Run, changes: dict[str, Any]) -> RankedSplit:
    """Rank the test split by the best weights, with `changes` set on the model."""
    with changed(run.trainer.model, changes):
        return rank_split(run.trainer, run.test_data, show_progress=run.config["show_progress"])


@contextmanager
def changed(model: Any, changes: dict[str, Any]) -> Iterator[None]:
    """Set attributes of `model` for the block, as an evaluation of a plan says.

    Raises:
        InputError: if it has no such attribute.
    """
    for key in changes:
        if not hasattr(model, key):
            raise InputError(f"{type(model).__name__} has no {key} that an evaluation could change.")
    with attributes_set(model, changes):
        yield
