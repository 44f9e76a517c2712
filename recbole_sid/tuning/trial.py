"""One trial: trains a model with sampled settings and reports the validation score after every epoch."""

from __future__ import annotations

import getpass
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from recbole_sid.capabilities import capabilities_of, lacks_teacher
from recbole_sid.config import Config
from recbole_sid.distributed.group import current_group
from recbole_sid.distributed.joining import join
from recbole_sid.trainer.remembering import decides_after_training
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.tuning.space import Space
from recbole_sid.util.files import check_only_mine, locked, replacing, write_json

SCORE = "score"  # the validation score of an epoch; what schedulers and searchers see
SAMPLE = "sample"  # what a trial was given: searched key -> sampled value
FINISHED = "finished.json"  # in a trial's folder: it trained to its end


class SearchPlan(NamedTuple):
    """What all trials of a search have in common.

    Attributes:
        model, dataset: names.
        settings: configuration under the sampled one, with absolute paths.
        space: the search space.
        given: settings that conditions of the space look at.
        folder: of the search; a path that every node sees.
        cpus, gpus: of a trial, or of each of its processes; a GPU may be shared by trials.
        processes: that train a trial together.
    """

    model: str
    dataset: str
    settings: dict[str, Any]
    space: Space
    given: dict[str, Any]
    folder: str
    cpus: float
    gpus: float
    processes: int = 1

    def trial_folder(self, name: str) -> Path:
        """Return where trial `name` keeps its checkpoints."""
        return Path(self.folder) / "trials" / name

    def settings_of(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the trial with this sample."""
        return self.space.settings(sample, self.settings, self.given)


class ReadyTrial(NamedTuple):
    """A trial before training: its configuration, loaders and trainer."""

    config: Config
    train_data: Any
    valid_data: Any
    test_data: Any
    trainer: Any


def train_trial(
    plan: SearchPlan, sample: Mapping[str, Any], name: str, report: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train one trial, from where an earlier attempt at it stopped; never touches the test split.

    Returns:
        what ``finished.json`` in its folder says too: model_file, best score and train_s.
    """
    prepared = prepare(plan, sample, name)
    trainer, started = prepared.trainer, perf_counter()
    last = 0

    def after_epoch(epoch: int, score: float) -> None:
        nonlocal last
        before = _epochs_before(trainer)
        if before is not None:
            last = before + epoch + 1
            report({"epoch": last, SCORE: float(score), "model_file": trainer.saved_model_file})

    best, _ = trainer.fit(prepared.train_data, prepared.valid_data, saved=True, callback_fn=after_epoch)
    if last and isinstance(trainer, SIDTrainer) and decides_after_training(trainer.model):
        report({"epoch": last + 1, SCORE: float(best), "model_file": trainer.saved_model_file})
    elif not last:  # trained to its end before, or a trainer that reports nothing on the way
        best_epoch = max(0, trainer.best_epoch) if isinstance(trainer, SIDTrainer) else 0
        epoch = (_epochs_before(trainer) or 0) + best_epoch + 1
        report({"epoch": epoch, SCORE: float(best), "model_file": trainer.saved_model_file})
    result = {
        "model_file": trainer.saved_model_file,
        SCORE: float(best),
        "train_s": trainer.train_s if isinstance(trainer, SIDTrainer) else perf_counter() - started,
    }
    if current_group().is_main:
        drop_caches(plan.trial_folder(name))
        write_json(plan.trial_folder(name) / FINISHED, result)
    return result


def prepare(plan: SearchPlan, sample: Mapping[str, Any], name: str) -> ReadyTrial:
    """Load the data and build the trial's model and trainer.

    Semantic IDs, teacher and distillation cache are shared by all trials of the same settings: whichever comes first
    makes them while the others wait.
    """
    from recbole_sid.quick_start import make_trainer

    config = Config(plan.model, plan.dataset, config_dict=plan.settings_of(sample))
    shared = Path(config["checkpoint_dir"])
    loaders = prepare_data(config)
    if capabilities_of(config.model_class).learns_with(config) and not config["distill_cache_dir"]:
        config["distill_cache_dir"] = str(shared / "distill_cache")
    config["checkpoint_dir"] = str(plan.trial_folder(name))
    return ReadyTrial(config, *loaders, make_trainer(config, loaders[0]))


def prepare_data(config: Config) -> tuple[Any, Any, Any]:
    """Join the processes that train together, load the data, give a student its teacher; return the loaders."""
    from recbole.utils import init_seed

    from recbole_sid.compat import start_log
    from recbole_sid.data import create_dataset, data_preparation

    group = join(config["device"])
    init_seed(config["seed"], config["reproducibility"])
    if group.is_main:
        start_log(config)
    loaders = data_preparation(config, create_dataset(config))
    _prepare_teacher(config, loaders[0], loaders[1])
    return loaders


def _prepare_teacher(config: Config, train_data: Any, valid_data: Any) -> None:
    """Give a student its teacher, trained by one process only where several want the same; else do nothing."""
    from recbole_sid.model.teacher import teacher_config
    from recbole_sid.quick_start import ensure_teacher

    if lacks_teacher(config):
        wanted = teacher_config(config)
        file = Path(config["checkpoint_dir"]) / f"{wanted['model']}-{config['dataset']}-{wanted.fingerprint()}"
        with locked(file) if current_group().is_main else nullcontext():  # the others wait for the main process
            current_group().barrier()  # and see what it sees
            ensure_teacher(config, train_data, valid_data)


def drop_caches(folder: Path) -> None:
    """Delete what a trial cached for itself alone."""
    shutil.rmtree(folder / "distill_cache", ignore_errors=True)


def read_data(folder: str | Path) -> dict[str, Any]:
    """Return file name -> content (uint8 array) of a dataset's folder."""
    return {path.name: np.fromfile(path, dtype=np.uint8) for path in sorted(Path(folder).iterdir()) if path.is_file()}


def place_data(dataset: str, data: Mapping[str, Any]) -> str:
    """Write a dataset's files on this node, unless a trial did so before; return the data_path to use."""
    digest = hashlib.sha256()
    for name, content in data.items():
        digest.update(name.encode() + content.tobytes())
    own = Path(tempfile.gettempdir()) / f"recbole_sid-{getpass.getuser()}"
    own.mkdir(mode=0o700, exist_ok=True)
    check_only_mine(own)  # its name can be foretold
    root = own / digest.hexdigest()[:16]
    with locked(root / dataset):
        for name, content in data.items():
            target = root / dataset / name
            if not target.is_file():
                with replacing(target) as temporary:
                    content.tofile(temporary)
    return str(root)


def _epochs_before(trainer: Any) -> int | None:
    """Return how many epochs of ranking stages come before the present one; None in a stage that does not rank."""
    if not isinstance(trainer, SIDTrainer):
        return 0
    if not trainer.stage.ranks:
        return None
    before = 0
    for stage in trainer.stages():
        if stage.key == trainer.stage.key:
            return before
        before += stage.epochs if stage.ranks else 0
    return before
