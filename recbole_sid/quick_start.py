"""Running a model from its configuration: train, select, test; for our models and RecBole's."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from logging import getLogger
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter
from typing import Any, NamedTuple

import torch
from recbole.utils import init_seed

from recbole_sid.capabilities import capabilities_of, lacks_teacher
from recbole_sid.checkpoint import check_lineage, is_checkpoint, lineage, load_checkpoint, load_weights
from recbole_sid.compat import load_recbole_checkpoint, start_log
from recbole_sid.config import Config, plain_settings
from recbole_sid.data import create_dataset, data_preparation, training_loader
from recbole_sid.data.dataset import TimeOrderedDataset, check_folder
from recbole_sid.distributed.attempts import goes_on
from recbole_sid.distributed.group import Group
from recbole_sid.distributed.joining import join
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import launched_place, silence_others
from recbole_sid.errors import InputError, first_line
from recbole_sid.model.later_items import weights_for
from recbole_sid.model.teacher import teacher_config
from recbole_sid.registry import get_model, get_trainer, is_ours
from recbole_sid.semantic_ids.recorded import Recorded, recorded_semantic_ids
from recbole_sid.settings.known import flagged
from recbole_sid.settings.recbole_checks import refuse_launch
from recbole_sid.settings.run import LaunchSettings
from recbole_sid.settings.whole_data import warn_if_seen
from recbole_sid.trainer.forecast import advice_for, say_by_epochs
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.trainer.training_panel import TrainingStanding
from recbole_sid.util.panel import panel


class Run(NamedTuple):
    """A trained model with what is needed to evaluate it.

    Attributes:
        config, trainer: RecBole's or ours; ``trainer.model`` holds the best weights.
        test_data: the loader of the test split.
        best_valid_score, best_valid_result, test_result: as RecBole's; the last is None if there is no test part.
        train_s: seconds of training and validation.
        curve: a row for each epoch: stage, epoch (from 1), loss, and metrics of validation where there was one.
    """

    config: Config
    trainer: Any
    test_data: Any
    best_valid_score: float
    best_valid_result: Any
    test_result: Any
    train_s: float
    curve: list[dict[str, Any]]


def run_recbole_sid(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Train and test `model` on `dataset`, as RecBole's `run_recbole`.

    A student without ``teacher_path`` first trains its teacher, or reuses the finished one of the same configuration.
    With ``nproc`` it is trained by as many new processes, and under torchrun by those that there are
    (docs/scaling.md).

    Returns:
        RecBole's result: best_valid_score, valid_score_bigger, best_valid_result, test_result; and model_file,
        teacher_file (students, else None), parameters, train_s (seconds of training and validation).

    Raises:
        InputError: for any input that the user can mend.
    """
    silence_others()
    config = Config(model, dataset, config_file_list, config_dict)
    if is_launcher(config):
        arguments = (model, dataset, config_file_list, config_dict, saved)
        return launch(run_recbole_sid, arguments, LaunchSettings.of(config).processes())
    run = run_model(config, saved)
    return {
        "best_valid_score": run.best_valid_score,
        "valid_score_bigger": run.config["valid_metric_bigger"],
        "best_valid_result": run.best_valid_result,
        "test_result": run.test_result,
        "model_file": run.trainer.saved_model_file if saved else None,
        "teacher_file": run.config["teacher_path"],
        "parameters": count_parameters(run.trainer.model),
        "train_s": run.train_s,
    }


def is_launcher(config: Config) -> bool:
    """Say whether the configuration asks for several processes, and this is none of them.

    Raises:
        InputError: if it does for a model of RecBole's, or torchrun has started them too.
    """
    if LaunchSettings.of(config).processes().n_all == 1:
        return False
    if not is_ours(config.model_class):
        refuse_launch(config, f"{config['model']} is RecBole's and trains")
    return launched_place().size == 1


def run_model(config: Config, saved: bool = True) -> Run:
    """Prepare the data, train and test the configured model; students get their teacher first.

    A process that was launched as one of several joins these.
    """
    run = train_model(config, saved)
    log = getLogger()
    if not run.test_data:
        log.info(f"{config['model']} is not tested: eval_args.split={config['eval_args']['split']} has no test part.")
        return run
    result = run.trainer.evaluate(run.test_data, load_best_model=saved, show_progress=config["show_progress"])
    shown = "  ".join(f"{name} {value:.4f}" for name, value in result.items())
    log.info(f"{config['model']} test result: {shown}")
    return run._replace(test_result=result)


def train_model(config: Config, saved: bool = True) -> Run:
    """Do as `run_model`, but leave the test split alone: the run has no test result.

    The model of one of RecBole's trainers holds its last weights: its trainer's ``evaluate`` reads the best.
    """
    config.settle_name()
    if is_launcher(config) or not is_ours(config.model_class):
        refuse_launch(config, f"{config['model']} trains here")
    group = join(config["device"])
    _check_same_run(config, group)
    init_seed(config["seed"], config["reproducibility"])
    if group.is_main:
        start_log(config)
    log = getLogger()
    log.info(config)
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    ensure_teacher(config, train_data, valid_data)
    if config["resume"] and not is_ours(config.model_class):
        log.warning(f"{config['model']} is trained by RecBole's trainer, which starts afresh in spite of resume.")
    trainer = make_trainer(config, train_data)
    started = perf_counter()
    noted = _Scores(config)
    with _packages_of(config), panel(TrainingStanding(trainer), bool(config["show_progress"])):
        best_valid_score, best_valid_result = trainer.fit(
            train_data, valid_data, saved=saved, show_progress=config["show_progress"], **noted.for_fit(trainer)
        )
    ours = isinstance(trainer, SIDTrainer)
    train_s = trainer.train_s if ours else perf_counter() - started
    curve = trainer.epoch_log.curve if ours else noted.curve(trainer)
    return Run(config, trainer, test_data, best_valid_score, best_valid_result, None, train_s, curve)


class _Scores:
    """Notes the validation scores of one of RecBole's trainers, which keeps the losses alone; after the first it says
    what the rest takes.
    """

    def __init__(self, config: Config) -> None:
        self.by_epoch: dict[int, float] = {}
        self.config, self.began, self.epochs = config, perf_counter(), 1

    def for_fit(self, trainer: Any) -> dict[str, Any]:
        """Return the further argument of the trainer's `fit`: none for ours, and those that take none (trees)."""
        self.epochs = getattr(trainer, "epochs", 1)  # one for models that are computed at once
        takes_it = "callback_fn" in inspect.signature(trainer.fit).parameters
        return {"callback_fn": self.note} if takes_it and not isinstance(trainer, SIDTrainer) else {}

    def note(self, epoch: int, score: float) -> None:
        if not self.by_epoch and epoch + 1 < self.epochs:
            seconds = perf_counter() - self.began
            say_by_epochs(self.config["model"], seconds, epoch + 1, self.epochs, advice_for(self.config))
        self.by_epoch[epoch] = float(score)

    def curve(self, trainer: Any) -> list[dict[str, Any]]:
        """Return a row for each epoch: stage (the model), epoch (from 1), loss and, where there was one, the score."""
        losses = getattr(trainer, "train_loss_dict", {})
        name, metric = trainer.config["model"], trainer.config["valid_metric"].lower()
        return [
            {
                "stage": name,
                "epoch": epoch + 1,
                "loss": float(loss),
                **({metric: self.by_epoch[epoch]} if epoch in self.by_epoch else {}),
            }
            for epoch, loss in losses.items()
        ]


def _check_same_run(config: Config, group: Group) -> None:
    """Raise InputError, in every process, if their settings, their data or the files that they read differ."""
    names = group.gather(config.run_name())
    if len(set(names)) > 1:
        raise InputError(
            "The processes of the group were given different settings, or find other data or files on their machines: "
            "give all the same, on a disk that they share."
        )


def make_trainer(config: Config, train_data: Any) -> Any:
    """Build the configured model on its device, seeded, and its trainer."""
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, train_data._dataset)
    trainer = _trainer_of(config, model)
    # RecBole's trainers name it by the second, so that two that start together would write over each other.
    trainer.saved_model_file = os.path.join(config["checkpoint_dir"], f"{config.run_name()}.pth")
    if isinstance(trainer, SIDTrainer) and goes_on(trainer.last_file, Path(trainer.saved_model_file)):
        config["resume"] = True
    return trainer


def _trainer_of(config: Config, model: Any) -> Any:
    make = get_trainer(config)
    if not config["log_wandb"]:
        return make(config, model)
    import wandb

    try:
        return make(config, model)
    except wandb.Error as error:  # no key, no network
        raise InputError(
            f"wandb cannot log ({first_line(error)}): run `wandb login`, set WANDB_MODE=offline, or "
            "leave log_wandb out."
        ) from error


def build_model(config: Config, dataset: Any) -> Any:
    """Build the configured model, untrained, on its device.

    Raises:
        InputError: if it needs a package that is not installed, as KGAT needs dgl, or cannot start from the pretrained
            file that it names.
    """
    try:
        with _packages_of(config):
            return config.model_class(config, dataset).to(config["device"])
    except (UnpicklingError, LookupError, RuntimeError, TypeError, EOFError, MemoryError) as error:
        if _is_want_of_memory(error):
            raise InputError(
                f"{config['model']} as configured does not fit into the memory ({first_line(error)}): lower its sizes."
            ) from error
        files = config.pretrained_files()
        if not files or isinstance(error, InputError):
            raise
        shown = ", ".join(f"{key}='{file}'" for key, file in files.items())
        raise InputError(f"{config['model']} cannot start from {shown} ({first_line(error)}).") from error


def _is_want_of_memory(error: Exception) -> bool:
    by_torch = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return by_torch or isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))


@contextmanager
def _packages_of(config: Config) -> Iterator[None]:
    """Name what a model of RecBole asks for when it is built or trained and that is not there: a package, a field."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{config['model']} needs the package {error.name}, which is not installed: pip install {error.name}."
        ) from error
    except KeyError as error:
        if is_ours(config.model_class) or config.pretrained_files():  # these may lack a key themselves
            raise
        raise InputError(
            f"{config['model']} asks for {error}, which is no field of the data or key of the configuration: if it is "
            "a field, name it in load_col, or name another in the key that asks for it (a label comes of threshold)."
        ) from error


def ensure_teacher(config: Config, train_data: Any, valid_data: Any) -> None:
    """Give a student without ``teacher_path`` its teacher: the finished one that matches, else a new one.

    Does nothing for other models.
    """
    if not lacks_teacher(config):
        return
    settings = teacher_config(config)
    settings["resume"] = config["resume"]
    # Does it fit such a teacher? Built before the teacher's random numbers begin.
    config.model_class(config, train_data._dataset)
    trainer = make_trainer(settings, train_data)
    log = getLogger()
    if trainer.is_finished(train_data):
        log.info(
            f"{config['model']} has no teacher_path: reusing the {settings['model']} in {trainer.saved_model_file}"
        )
    else:
        log.info(f"{config['model']} has no teacher_path: training its teacher {settings['model']} first")
        loader = training_loader(settings, train_data._dataset)
        with panel(TrainingStanding(trainer), bool(settings["show_progress"])):
            trainer.fit(loader, valid_data, show_progress=settings["show_progress"])
        log.info(f"Teacher written to {trainer.saved_model_file}")
    config["teacher_path"] = trainer.saved_model_file


def load_data_and_model(
    model_file: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    model_class: type | None = None,
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Load a checkpoint of our models or RecBole's with its data, as RecBole's `load_data_and_model`.

    Args:
        model_file: the checkpoint.
        overrides: settings in place of those recorded, such as the data_path of data that has moved. Semantic IDs
            that have to be built are kept if a checkpoint_dir is among them; nothing else is written. A text_model
            that they have to be built with is loaded only if it is among them.
        model_class: the user's own class that was trained; models of ours and RecBole's are found by their name.

    Returns:
        config, model, dataset, train_data, valid_data, test_data.

    Raises:
        InputError: if the file is missing or damaged, or its data or semantic IDs are no longer the same.
    """
    if not os.path.isfile(model_file):
        raise InputError(f"There is no checkpoint at '{model_file}'.")
    load = _load_ours if is_checkpoint(model_file) else _load_recbole
    return load(model_file, overrides or {}, model_class)


def _load_ours(
    model_file: str | os.PathLike[str], overrides: Mapping[str, Any], model_class: type | None
) -> tuple[Any, Any, Any, Any, Any, Any]:
    checkpoint = load_checkpoint(model_file)
    _check_class(checkpoint["model"], model_class, model_file)
    settings = {**checkpoint["config"], **overrides}
    for key in capabilities_of(model_class or get_model(checkpoint["model"])).made_of:
        settings[key] = None  # the checkpoint holds what it keeps of the models that it was made from
    if settings.get("sid_model_config"):  # an ensemble's semantic IDs are those of its member
        files = {key: overrides[key] for key in flagged("file") if key in overrides}
        settings["sid_model_config"] = {**settings["sid_model_config"], **files}
    config = Config(model_class or checkpoint["model"], settings["dataset"], config_dict=settings)
    recorded = Recorded(
        overrides.keys(),
        checkpoint["lineage"].get("semantic IDs"),
        [Path(model_file).parent / "semantic_ids"],
        keep="checkpoint_dir" in overrides,
    )
    dataset, loaders = _load_data(config, recorded)
    train_dataset = loaders[0]._dataset
    check_lineage(model_file, checkpoint["lineage"], lineage(config, train_dataset))
    warn_if_seen(model_file, checkpoint["config"], config)
    model = build_model(config, train_dataset)
    _check_decided({"memory": checkpoint["config"].get("memory") or "none"}, overrides, model_file)
    weights = weights_for(model, checkpoint["state_dict"], checkpoint["lineage"], config, train_dataset)
    load_weights(model, weights, model_file)
    _check_decided(getattr(model, "chosen", {}), overrides, model_file)
    return config, model.eval(), dataset, *loaders


def _check_decided(
    decided: Mapping[str, Any], overrides: Mapping[str, Any], model_file: str | os.PathLike[str]
) -> None:
    """Raise InputError if settings are given in place of what was decided in training, where they would do nothing."""
    for key, value in decided.items():
        given = overrides.get(key)
        same = math.isclose(given, value, rel_tol=1e-6) if isinstance(given, (int, float)) else given in (None, value)
        if not same:
            shown = f"{value:g}" if isinstance(value, float) else value
            raise InputError(
                f"{key}={given} cannot be given to '{model_file}', which holds {key}={shown} as decided after its "
                "training: leave it out, or run the model with it (resume=True takes up a training that is finished)."
            )


def _load_recbole(
    model_file: str | os.PathLike[str], overrides: Mapping[str, Any], model_class: type | None
) -> tuple[Any, Any, Any, Any, Any, Any]:
    checkpoint = load_recbole_checkpoint(model_file, map_location="cpu")
    recorded = checkpoint["config"].final_config_dict
    if not isinstance(checkpoint["state_dict"], dict):
        raise InputError(
            f"RecBole keeps the trees of {recorded['model']} in a file of their own, not in '{model_file}': open "
            f"'{checkpoint['state_dict']}' with the library that trained them."
        )
    _check_class(recorded["model"], model_class, model_file)
    settings = {**plain_settings(recorded), **overrides}
    config = Config(model_class or recorded["model"], recorded["dataset"], config_dict=settings)
    warn_if_seen(model_file, recorded, config)
    dataset, loaders = _load_data(config, Recorded(overrides.keys()))
    if (
        not checkpoint["config"].is_ours
        and isinstance(dataset, TimeOrderedDataset)
        and dataset.recbole_orders_otherwise
    ):
        getLogger().warning(
            f"'{model_file}' was written by RecBole itself, which orders interactions by the time in float32. Here "
            "they are ordered by the whole time and so split otherwise: the model may have seen what it is tested on. "
            "Train it through recbole_sid for metrics that can be compared."
        )
    model = build_model(config, loaders[0]._dataset)
    load_weights(model, checkpoint["state_dict"], model_file)
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, *loaders


def _check_class(recorded: str, model_class: type | None, model_file: str | os.PathLike[str]) -> None:
    """Raise InputError if a checkpoint is not of the class given, or of one that nobody can find by its name."""
    if model_class is not None:
        if model_class.__name__ != recorded:
            raise InputError(f"'{model_file}' holds a {recorded}, not a {model_class.__name__}.")
        return
    try:
        get_model(recorded)
    except InputError as error:
        raise InputError(f"'{model_file}' holds a {recorded}, a class of your own: give it as model_class.") from error


def _load_data(config: Any, recorded: Recorded) -> tuple[Any, tuple[Any, Any, Any]]:
    """Return dataset and loaders; nothing is written but semantic IDs that are to be kept."""
    check_folder(config)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    return dataset, data_preparation(config, dataset, partial(recorded_semantic_ids, recorded=recorded))


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of weights of `model`, frozen ones included, shared ones once; 0 for trees (LightGBM)."""
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, torch.nn.Module) else 0
