"""Assembles a search: the plan from a configuration and a space, Ray, scheduler, searcher, and the run."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.capabilities import capabilities_of, lacks_teacher
from recbole_sid.cluster import check_own_gpus, check_resources
from recbole_sid.config import Config
from recbole_sid.data.dataset import left_empty
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Processes
from recbole_sid.errors import InputError, missing, require_known
from recbole_sid.registry import get_trainer, is_ours
from recbole_sid.settings.known import flagged
from recbole_sid.settings.recbole_checks import processes_of_each, refuse_launch
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.tuning.space import Space, check_space
from recbole_sid.tuning.trainable import run_trial
from recbole_sid.tuning.trial import SAMPLE, SCORE, SearchPlan, prepare_data, read_data
from recbole_sid.util.files import check_only_mine, write_json
from recbole_sid.util.hashing import fingerprint
from recbole_sid.util.processes import without_callers_script

SCHEDULERS = ("asha", "hyperband", "median", "none")
SEARCHERS = ("random", "grid", "optuna", "hyperopt")
_EXTRAS = {"optuna": "optuna", "hyperopt": "hyperopt"}
_REDUCTION = 3  # of the trials at a rung, one in three goes on
_SAMPLES = 20
RAY_FOLDER = "ray"  # folder of Ray's own files in a search's folder


class Options(NamedTuple):
    """How to search.

    Attributes:
        samples: trials, at most; None: 20, and all of a grid.
        scheduler: one of `SCHEDULERS`.
        searcher: one of `SEARCHERS`.
        min_epochs: epochs before a trial may be stopped; None: a twentieth of all.
        cpus, gpus: of a trial, or of each of its processes (``nproc``).
        concurrency: trials at a time, at most; None: as many as fit.
        retries: of a trial whose process dies or that raises.
        address: of a running Ray cluster; None: Ray is started on this machine.
    """

    samples: int | None = None
    scheduler: str = "asha"
    searcher: str = "random"
    min_epochs: int | None = None
    cpus: float = 1
    gpus: float = 0
    concurrency: int | None = None
    retries: int = 1
    address: str | None = None


def check_options(options: Options) -> None:
    """Raise InputError for a scheduler or searcher that is unknown or not installed, and for impossible numbers."""
    require_known("scheduler", options.scheduler, SCHEDULERS)
    require_known("searcher", options.searcher, SEARCHERS)
    extra = _EXTRAS.get(options.searcher)
    if extra and importlib.util.find_spec(extra) is None:
        raise missing(f"The searcher {extra} is not installed", extra)
    for key in ("samples", "min_epochs", "concurrency"):
        value = getattr(options, key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InputError(f"{key}={value!r} must be a whole number of at least 1.")
    if not isinstance(options.retries, int) or isinstance(options.retries, bool) or options.retries < 0:
        raise InputError(f"retries={options.retries!r} must be a whole number of at least 0.")
    for key, least in (("cpus", 0.01), ("gpus", 0)):
        value = getattr(options, key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < least:
            raise InputError(f"{key}={value!r} must be a number of at least {least}.")


def make_plan(config: Config, space: Space, options: Options, storage_path: str | None = None) -> SearchPlan:
    """Check the space and return the plan of a search below `config`.

    Args:
        config: the user's configuration.
        space: what to search.
        options: how; names the search's folder together with the rest.
        storage_path: where searches are kept; None: ``checkpoint_dir/tune``.

    Raises:
        InputError: for a key or value that the model refuses, or a storage path that is no folder.
    """
    check_options(options)
    if not is_ours(config.model_class):
        refuse_launch(config, f"{config['model']} is RecBole's and trains")
    processes = processes_of_each(config, "A trial")
    check_own_gpus(options.gpus, processes)
    check_space(space, config)
    if config["eval_step"] < 1:
        raise InputError("A search needs validation: set eval_step to 1, not 0.")
    split = config["eval_args"]["split"]
    if isinstance(split, dict) and left_empty(split):
        raise InputError(
            f"A search needs validation and test, and eval_args.split={split} leaves {' and '.join(left_empty(split))} "
            "empty: choose another split, such as {LS: valid_and_test}."
        )
    if storage_path and "://" in storage_path:
        raise InputError(f"storage_path='{storage_path}' must be a folder, on a cluster one that all nodes mount.")
    root = Path(storage_path) if storage_path else Path(config["checkpoint_dir"]) / "tune"
    settings = _absolute({key: value for key, value in config.plain().items() if key in _set_by_user(config)})
    settings |= {"nproc": 1, "world_size": 1} if processes > 1 else {}  # each of them is told its place
    settings.update(
        data_path=str(Path(config.plain()["data_path"]).resolve()),
        checkpoint_dir=str(Path(config["checkpoint_dir"]).resolve()),
        use_gpu=options.gpus > 0,
        show_progress=False,
        resume=True,
    )
    learns = capabilities_of(config.model_class).learns_with(config)
    if learns and "distill_cache" not in config.external_config_dict:
        settings["distill_cache"] = "disk"
    given = {key: config[key] for parameter in space.parameters for key in parameter.when if key in config}
    how = [options.samples, options.scheduler, options.searcher, options.min_epochs]
    name = f"{config['model']}-{config['dataset']}-{fingerprint([config.fingerprint(), list(space), how])}"
    return SearchPlan(
        config["model"], config["dataset"], settings, space, given, str((root / name).resolve()),
        options.cpus, options.gpus, processes,
    )  # fmt: skip


def _set_by_user(config: Config) -> set[str]:
    return set(config.external_config_dict) - {"model", "dataset"}


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` with files named from the root: trials run in folders of their own."""
    files = {*flagged("file"), "distill_cache_dir"}
    return {
        key: str(Path(value).resolve()) if key in files and isinstance(value, str) and os.path.exists(value) else value
        for key, value in settings.items()
    }


def run_search(
    plan: SearchPlan,
    config: Config,
    options: Options,
    resume: bool = False,
    trainable: Callable[..., None] = run_trial,
) -> Any:
    """Run the search, or what is left of it, inside `recbole_sid.cluster.ray_running`.

    Args:
        plan: what to search.
        config: the configuration below it.
        options: how to search.
        resume: continue an interrupted search of this plan.
        trainable: called as ``trainable({SAMPLE: sample}, plan=..., data=...)`` in Ray's workers.

    Returns:
        Ray's ResultGrid.

    Raises:
        InputError: if there is nothing to resume, or something that would be overwritten.
    """
    from ray import tune

    folder = Path(plan.folder)
    started = _was_started(folder / RAY_FOLDER)
    if started and not resume:
        raise InputError(
            f"This search was begun in '{folder}': --resume continues it; delete the folder to start anew."
        )
    if resume and not started:
        getLogger().warning(f"There is no search to resume in '{folder}': starting it.")
    resources = {"cpu": options.cpus * plan.processes, "gpu": options.gpus * plan.processes}
    check_resources("A trial", resources["cpu"], resources["gpu"])
    data = read_data(Path(plan.settings["data_path"]) / plan.dataset) if options.address else None
    # One bundle: the processes of a trial are on one machine, and its process sees the GPUs of all.
    bound = tune.with_resources(tune.with_parameters(trainable, plan=plan, data=data), resources)
    if started:
        check_only_mine(folder / RAY_FOLDER)  # Ray unpickles its state
        return tune.Tuner.restore(str(folder / RAY_FOLDER), bound).fit()
    shutil.rmtree(folder / RAY_FOLDER, ignore_errors=True)  # of a search that was killed before it had a trial
    write_json(folder / "search.json", {"plan": plan._asdict(), "options": options._asdict()})
    return _tuner(plan, config, options, bound).fit()


def _was_started(folder: Path) -> bool:
    """Say whether Ray's `folder` holds a search to restore: without the state of trials, Ray makes up empty ones."""
    return (folder / "tuner.pkl").is_file() and any(folder.glob("experiment_state-*.json"))


def _tuner(plan: SearchPlan, config: Config, options: Options, bound: Any) -> Any:
    from ray import tune

    from recbole_sid.tuning.progress import Progress

    samples = options.samples or _SAMPLES
    if options.searcher == "grid":
        param_space = {SAMPLE: tune.grid_search(plan.space.grid(plan.given)[: options.samples])}
        samples = 1  # of the grid
    else:
        param_space = {SAMPLE: plan.space.domains()}
    bigger = bool(config["valid_metric_bigger"])
    return tune.Tuner(
        bound,
        param_space=param_space,
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max" if bigger else "min",
            num_samples=samples,
            scheduler=scheduler(plan, config, options),
            search_alg=_searcher(config, options),
            max_concurrent_trials=options.concurrency if options.searcher in _EXTRAS else None,
            reuse_actors=True,  # a process that has loaded torch and RecBole runs the next trial too
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=plan.folder,
            failure_config=tune.FailureConfig(max_failures=options.retries),
            callbacks=[Progress(Path(plan.folder) / "trials")],
            verbose=0,
        ),
    )


def _trial_name(trial: Any) -> str:
    return trial.trial_id


def scheduler(plan: SearchPlan, config: Config, options: Options) -> Any:
    """Return Ray's scheduler for the epochs that trials of this plan have, or None."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

    epochs = most_epochs(plan, config)
    grace = min(epochs, options.min_epochs or max(1, round(epochs / 20)))
    if options.scheduler == "none":
        return None
    if options.scheduler == "median":
        # With a finite slice the rule pauses trials, and those of RecBole's models would begin anew.
        never: Any = math.inf
        return MedianStoppingRule("epoch", grace_period=grace, min_samples_required=3, min_time_slice=never)
    brackets = 3 if options.scheduler == "hyperband" else 1
    # One more than are reported, which is one after training for what is decided then.
    return AsyncHyperBandScheduler(
        time_attr="epoch", max_t=epochs + 2, grace_period=grace, reduction_factor=_REDUCTION, brackets=brackets
    )


def most_epochs(plan: SearchPlan, config: Config) -> int:
    """Return the largest number of ranked epochs that a trial of the plan can have."""
    epochs = [plan.space.constants.get("epochs", config["epochs"])]
    epochs += [
        value for parameter in plan.space.parameters if parameter.key == "epochs" for value in parameter.extremes()
    ]
    trainer = get_trainer(config)
    ranking = [stage for stage in trainer.stages_of(config) if stage.ranks] if issubclass(trainer, SIDTrainer) else []
    return int(max(epochs)) + sum(stage.epochs for stage in ranking[1:])  # the others have epochs of their own


def n_trials(plan: SearchPlan, options: Options) -> int:
    """Return how many trials the search has."""
    if options.searcher != "grid":
        return options.samples or _SAMPLES
    return len(plan.space.grid(plan.given)[: options.samples])


def _searcher(config: Config, options: Options) -> Any:
    """Return Ray's searcher, seeded."""
    if options.searcher == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=config["seed"]))
    if options.searcher == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(random_state_seed=config["seed"])
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(max_concurrent=options.concurrency or 0, random_state=config["seed"])


def train_common_teacher(plan: SearchPlan, config: Config) -> None:
    """Train the teacher before the search, with progress, if all trials have the same; else leave it to the trials."""
    if not lacks_teacher(config):
        return
    searched = {parameter.key.partition(".")[0] for parameter in plan.space.parameters}
    if searched & {*config.shared_with_teacher(), "teacher_config", "teacher_model"}:
        return
    given = {**plan.settings_of({}), "show_progress": config["show_progress"]}
    if plan.processes == 1:
        train_teacher(plan.model, plan.dataset, given)
        return
    with without_callers_script():
        launch(train_teacher, (plan.model, plan.dataset, given), Processes(plan.processes, plan.processes))


def train_teacher(model: str, dataset: str, settings: Mapping[str, Any]) -> None:
    """Train the teacher of a student as configured, or find it trained."""
    prepare_data(Config(model, dataset, config_dict=settings))
