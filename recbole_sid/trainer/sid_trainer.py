"""The trainer of SID models: RecBole's, with schedules, `best` and `last` checkpoints, and true resume."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.utils import calculate_valid_score, early_stopping
from torch.nn.utils import clip_grad_norm_

from recbole_sid.checkpoint import hash_state, lineage, load_checkpoint, load_weights, save_checkpoint
from recbole_sid.data.batch import portion_of
from recbole_sid.errors import InputError, require_known
from recbole_sid.trainer.captured_loss import CapturedLosses
from recbole_sid.trainer.epoch_log import EpochLog
from recbole_sid.trainer.forecast import Forecast, advice_for
from recbole_sid.trainer.last_state import random_states, set_random_states, unfinished
from recbole_sid.trainer.optimizers import DEVICES, fused_optimizer, load_optimizer
from recbole_sid.trainer.parallel import ParallelLoss, seed_apart
from recbole_sid.trainer.ranking import RankingTrainer
from recbole_sid.trainer.remembering import check_choice, decides_after_training, finished_without, remember, undecide
from recbole_sid.trainer.schedule import SHAPES, learning_rate_schedule
from recbole_sid.trainer.stage import Stage
from recbole_sid.util import hardware
from recbole_sid.util.hardware import cpu_has_fast_bfloat16, release_free_memory
from recbole_sid.util.progress import progress

# Those that RecBole's trainer knows; it takes Adam for any other.
_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")


def amp_dtype(device: torch.device) -> torch.dtype:
    """Return the type that ``enable_amp`` computes in on `device`."""
    return torch.bfloat16 if device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16


class SIDTrainer(RankingTrainer):
    """Trains a SID model by its `calculate_loss`, selects on validation, and can be interrupted and resumed.

    The best weights are in ``saved_model_file``; beside it ``*.last.pth`` holds all that a resume needs and exists only
    from the start of training to its end. It names the best weights that it belongs to by their hash, and others are
    refused. Both load without pickle.

    Every row of an epoch weighs the same: a step on fewer rows than the others has a loss that is smaller by as much.

    In a group of processes each does its share of every batch; gradients, losses and metrics are those of the whole,
    and the main process writes all files.

    Configuration beyond RecBole's: lr_scheduler, warmup_steps, resume, accumulation_steps (batches a step),
    decay_norms_and_biases.

    Attributes:
        train_s: seconds of training and validation so far, over all resumes.
        clock: seconds, for the forecast of what is left.
    """

    clock: Callable[[], float] = staticmethod(perf_counter)

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.saved_model_file = os.path.join(self.checkpoint_dir, f"{config.run_name()}.pth")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler or self._needs_scaler())
        pays = self.device.type != "cpu" or not self.enable_amp or cpu_has_fast_bfloat16()
        self.amp_pays = self.group.from_main(pays)  # on the CPU it is measured
        if not self.amp_pays:
            self.logger.warning("enable_amp is left out: this processor has no fast bf16, and would be slower with it.")
        self.epoch_log = EpochLog(self.tensorboard, self.wandblogger)
        self.stage = self.stages()[0]
        self.loss: Callable[..., torch.Tensor] = model
        self.best_epoch = -1
        self.best_weights: str | None = None  # hash of what this training wrote to saved_model_file
        self.last_weights: str | None = None  # and to last_file
        self.best_valid_result: Any = None
        self.train_s = 0.0
        self.show_progress = False

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise InputError for values of `config` that cannot be trained with; a `Config` is checked when made."""
        require_known("lr_scheduler", config["lr_scheduler"], SHAPES)
        require_known("learner", config["learner"].lower(), _LEARNERS)

    @property
    def last_file(self) -> Path:
        """The file that an unfinished training continues from."""
        return Path(self.saved_model_file).with_suffix(".last.pth")

    def is_finished(self, train_data: Any) -> bool:
        """Say whether a training of this configuration on this data ran to its end and its weights are there."""
        return self._holds_finished(Path(self.saved_model_file), train_data)

    def _holds_finished(self, file: Path, train_data: Any) -> bool:
        if not file.is_file() or file.with_suffix(".last.pth").is_file():
            return False
        checkpoint = load_checkpoint(file, self.config["model"])
        return checkpoint["finished"] and checkpoint["lineage"] == self.lineage_of(train_data)

    def lineage_of(self, train_data: Any) -> dict[str, str]:
        """Return what a training on `train_data` depends on beside its configuration."""
        dataset = train_data._dataset
        return {**lineage(self.config, dataset), **self.model.start_lineage(self.config, dataset)}

    @classmethod
    def stages_of(cls, config: Any) -> list[Stage]:
        """Return the training stages of a run in order; a subclass may have several."""
        return [Stage("train", config["model"], config["epochs"], config["learning_rate"], config["schedule_epochs"])]

    def stages(self) -> list[Stage]:
        """Return the training stages in order."""
        return self.stages_of(self.config)

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, Any]:
        """Train with early stopping, as RecBole's `fit`.

        With ``resume: True`` an interrupted training of this configuration continues, and a finished one is reused.

        Returns:
            best validation score of the last stage, and the result it is of.
        """
        if self._reuses_finished(train_data, valid_data, show_progress):
            return self.best_valid_score, self.best_valid_result
        check_choice(self.model, self.config, valid_data)
        if not self._takes_up_finished(train_data):
            self._train(train_data, valid_data, verbose, saved, callback_fn)
        self._decide(train_data, valid_data, verbose)
        if saved:
            self._save_checkpoint(self.best_epoch, finished=True)
            self._forget_last()
        return self.best_valid_score, self.best_valid_result

    def _train(
        self,
        train_data: Any,
        valid_data: Any,
        verbose: bool,
        saved: bool,
        callback_fn: Callable[[int, float], None] | None,
    ) -> None:
        """Train all stages from where they stand, and end with the best weights."""
        undecide(self.model)
        stages = self.stages()
        resumed = None
        if self.config["resume"]:
            resumed = unfinished(self.last_file, self.saved_model_file, self.config["model"], self.lineage)
        if not resumed:
            self.best_weights = self.last_weights = None
            if saved:
                self._forget_last()  # of another training: nothing may continue from it
            with self.group.main_first():  # which writes what it computes of texts
                self.model.start_from_data(self.config, train_data._dataset)
            seed_apart(self.group, self.config["seed"], self.config["reproducibility"])
        for number in range(resumed["stage"] if resumed else 0, len(stages)):
            started = perf_counter()
            if resumed:
                load_weights(self.model, resumed["state_dict"], self.last_file)
            self.start_stage(stages[number], train_data)
            self.forecast.silent = not verbose
            if resumed:
                self._restore(resumed, train_data)
                resumed = None
            elif saved:  # even before the first epoch: weights that are there already are not this training's
                self._save_last(number, -1, False, train_data)
            for epoch in range(self.start_epoch, self.stage.epochs):
                stop = self._run_epoch(epoch, train_data, valid_data, verbose, saved, callback_fn)
                self.train_s += perf_counter() - started
                started = perf_counter()
                if saved:
                    self._save_last(number, epoch, stop, train_data)
                if stop:
                    break
            if saved:
                self._read_best()
                if hash_state(self.model.state_dict()) != self.best_weights:
                    raise InputError(
                        f"'{self.saved_model_file}' does not hold the best weights of this training (no epoch could be "
                        "measured, or another process wrote there): train again, alone."
                    )

    def _forget_last(self) -> None:
        """Delete the last state, when no process reads it any more."""
        self.group.barrier()
        if self.group.is_main:
            self.last_file.unlink(missing_ok=True)
        self.group.barrier()

    def _takes_up_finished(self, train_data: Any) -> bool:
        """With ``resume: True`` load the finished training that differs in what is decided after it, if it is there."""
        file = finished_without(self) if self.config["resume"] and not self.last_file.is_file() else None
        if file is None or not self._holds_finished(file, train_data):
            return False
        self.logger.info(f"Taking up the finished training in {file}")
        checkpoint = load_checkpoint(file, self.config["model"], self.device)
        load_weights(self.model, self.model.trained_state(checkpoint["state_dict"]), file)
        self._take_best(checkpoint)
        return True

    def _decide(self, train_data: Any, valid_data: Any, verbose: bool) -> None:
        """Set what is decided after training; the best validation result is then that with it."""
        if not decides_after_training(self.model) or not self.stages()[-1].ranks:
            return
        started, before = perf_counter(), dict(self.best_valid_result or {})
        message = remember(self.model, self.config, train_data, valid_data, self.show_progress)
        if valid_data:
            self.best_valid_score, self.best_valid_result = self.validate(valid_data)
        self.train_s += perf_counter() - started
        if verbose:
            self.logger.info(f"Decided after training: {message}")
            for what, result in (("before", before), ("after", self.best_valid_result or {})):
                values = "  ".join(f"{name} {value:.4f}" for name, value in result.items())
                self.logger.info(f"Validation {what}: {values}")

    def _reuses_finished(self, train_data: Any, valid_data: Any, show_progress: bool) -> bool:
        """Take up the data of `fit`; with ``resume: True`` read the finished training and say whether there is one."""
        self.lineage = self.lineage_of(train_data)
        self.show_progress = show_progress
        self.eval_collector.data_collect(train_data)
        if valid_data:
            self._check_metrics(valid_data)
        if not self.config["resume"] or not self.is_finished(train_data):
            return False
        self.logger.info(f"Reusing the finished training in {self.saved_model_file}")
        self._read_best()
        return True

    def _read_best(self) -> None:
        """Load the best weights so far, and what is known of them, from ``saved_model_file``."""
        self.group.barrier()  # written by the main process
        checkpoint = load_checkpoint(self.saved_model_file, self.config["model"], self.device)
        load_weights(self.model, checkpoint["state_dict"], self.saved_model_file)
        self._take_best(checkpoint)

    def _take_best(self, checkpoint: dict[str, Any]) -> None:
        self.best_epoch, self.best_valid_score = checkpoint["epoch"], checkpoint["best_valid_score"]
        self.best_valid_result = checkpoint["best_valid_result"] or None
        self.epoch_log.take_up(self.epoch_log.curve or checkpoint.get("curve"))
        self.train_s = max(self.train_s, checkpoint["train_s"])

    def start_stage(self, stage: Stage, train_data: Any) -> None:
        """Make a fresh optimizer and schedule for the parameters that require gradients."""
        self.stage = stage
        self.epoch_log.start(stage.name)
        self.forecast = Forecast(
            stage.name, stage.epochs, len(train_data), self.eval_step, advice_for(self.config), self.clock
        )
        self.model.zero_grad(set_to_none=True)  # clipping would count what is left of the stage before
        self.optimizer = self._build_optimizer(params=self._parameters(), learning_rate=stage.learning_rate)
        n_rows = len(train_data._dataset)
        self.rows_per_step = max(1, min(n_rows, self.accumulation_steps * train_data.step))
        self.epoch_weight = n_rows / self.rows_per_step
        warmup = self.config["warmup_steps"]
        total = (stage.schedule_epochs or stage.epochs) * self.n_steps(train_data)
        self.scheduler = learning_rate_schedule(self.optimizer, self.config["lr_scheduler"], warmup, total)
        if warmup >= total:
            self.logger.warning(
                f"{stage.name}: warmup_steps={warmup} of {total} steps in all, so that the learning rate never reaches "
                "its peak; lower warmup_steps."
            )
        if self.config["compile_model"]:
            self.model.compile()
        self.loss = self._stage_loss()
        self.start_epoch, self.cur_step, self.best_epoch = 0, 0, -1
        self.best_valid_score = -np.inf if self.valid_metric_bigger else np.inf
        self.best_valid_result = None

    def _stage_loss(self) -> Callable[..., torch.Tensor]:
        """Return the model's loss, as it is to be called in training."""
        loss: Callable[..., torch.Tensor] = self.model
        if self.captures and hardware.has_graphs(self.device) and not self.scaler.is_enabled():
            learning = [weight for weight in self.model.parameters() if weight.requires_grad]
            loss = CapturedLosses(self.model, learning)
        return ParallelLoss(loss, self.model) if self.group.size > 1 else loss

    @property
    def captures(self) -> bool:
        """Whether loss and gradients are to be captured where there are graphs."""
        return bool(self.config["capture_training"])

    def _build_optimizer(self, **kwargs: Any) -> Any:
        """Return RecBole's optimizer, as one kernel if there is such a form."""
        if not kwargs or self.device.type not in DEVICES:  # RecBole's constructor asks without any, of weights to come
            return super()._build_optimizer(**kwargs)
        fused = fused_optimizer(self.learner, kwargs["params"], kwargs["learning_rate"], self.weight_decay)
        return fused or super()._build_optimizer(**kwargs)

    @property
    def accumulation_steps(self) -> int:
        """How many batches make one step of the optimizer."""
        return self.config["accumulation_steps"] or 1

    def n_steps(self, train_data: Any) -> int:
        """Return the optimizer's steps an epoch."""
        return math.ceil(len(train_data) / self.accumulation_steps)

    def batch_loss(self, interaction: Any) -> torch.Tensor:
        """Return the model's loss of a batch on its device, a mean over rows."""
        return self.loss(interaction)

    def batch_weight(self, batch: Any) -> float:
        """Return what a batch's loss, a mean over its rows, weighs in its step: its share of a full step's rows."""
        return portion_of(batch).own.rows / self.rows_per_step

    def _parameters(self) -> list[Any]:
        """Return the parameters that require gradients, in groups if norms and biases are not to decay."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if self.config["decay_norms_and_biases"] is not False:
            return parameters
        matrices = [parameter for parameter in parameters if parameter.dim() > 1]
        vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def validate(self, valid_data: Any) -> tuple[float, Any]:
        """Return the score that selects the best epoch (its sign as ``valid_metric_bigger`` says) and its details."""
        result = self.evaluate(valid_data, load_best_model=False, show_progress=self.show_progress)
        return calculate_valid_score(result, self.valid_metric), result

    def _run_epoch(
        self,
        epoch: int,
        train_data: Any,
        valid_data: Any,
        verbose: bool,
        saved: bool,
        callback_fn: Callable[[int, float], None] | None,
    ) -> bool:
        """Train and validate once, write the best checkpoint if this is it; return whether to stop."""
        started = perf_counter()
        loss = self._train_epoch(train_data, epoch, show_progress=self.show_progress)
        release_free_memory()
        self.train_loss_dict[epoch] = loss
        message = f"{self.stage.name} epoch {epoch + 1}: loss {loss:.4f}, {perf_counter() - started:.1f}s"
        validates = bool(valid_data) and self.eval_step > 0
        stop, improved, score = False, not validates, None
        result: dict[str, Any] = {}
        is_last = epoch + 1 == self.stage.epochs  # a decaying learning rate makes it the best, more often than not
        if validates and (is_last or (epoch + 1) % self.eval_step == 0):
            started = perf_counter()
            score, result = self.validate(valid_data)
            release_free_memory()
            shown = "  ".join(f"{name} {value:.4f}" for name, value in result.items())
            seconds = perf_counter() - started
            self.forecast.validated(seconds)
            message += f"; validation {shown}, {seconds:.1f}s"
            self.best_valid_score, self.cur_step, stop, improved = early_stopping(
                score, self.best_valid_score, self.cur_step, self.stopping_step, self.valid_metric_bigger
            )
            if improved:
                self.best_valid_result = result
        self.epoch_log.write(self.stage.name, epoch, loss, result)
        if verbose:
            self.logger.info(message)
        if improved:
            self.best_epoch = epoch
            if saved:
                self._save_checkpoint(epoch)
        if score is not None and callback_fn:  # after the checkpoint: a callback may end the training
            callback_fn(epoch, score)
        return stop

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float:
        """Train one epoch and return the mean loss per row."""
        self.model.train()
        loss_func = loss_func or self.batch_loss
        total = torch.zeros((), device=self.device)
        label = f"{self.stage.name} {epoch_idx + 1}/{self.stage.epochs}"
        self.forecast.start_epoch(epoch_idx)
        for number, batch in enumerate(progress(train_data, label, show_progress)):
            if number % self.accumulation_steps == 0:
                self.optimizer.zero_grad(set_to_none=True)
            is_step = (number + 1) % self.accumulation_steps == 0 or number + 1 == len(train_data)
            with nullcontext() if is_step else self._gradients_kept_back():
                with self._autocast():
                    loss = loss_func(batch.to(self.device)) * self.batch_weight(batch)
                self._backward(loss)
            total += loss.detach()
            if is_step:
                self._step()
            self.forecast.batch_done()
        total = self.group.sum(total)
        if not torch.isfinite(total):
            raise InputError(
                f"The loss of {self.stage.name} is no longer finite: lower learning_rate or set clip_grad_norm."
            )
        return total.item() / self.epoch_weight

    def _backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a batch's weighed loss; they are summed over the processes of the group."""
        whole = loss * self.group.size if self.group.size > 1 else loss  # `ParallelLoss` takes means
        self.scaler.scale(whole).backward()

    def _gradients_kept_back(self) -> AbstractContextManager[None]:
        """Let gradients stay in this process until the step: there they are summed over the group, once."""
        return self.loss.kept_back() if isinstance(self.loss, ParallelLoss) else nullcontext()

    def _step(self) -> None:
        """Change the weights by the gradients of the batches since the last step."""
        if self.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.enable_amp or not self.amp_pays:
            return nullcontext()
        return torch.autocast(self.device.type, amp_dtype(self.device))

    def _needs_scaler(self) -> bool:
        """Say whether small gradients would vanish without one: float16 has none below 6e-8."""
        needed = self.enable_amp and not self.enable_scaler and amp_dtype(self.device) == torch.float16
        if needed:
            self.logger.warning("enable_amp computes in float16 on this device, so enable_scaler is taken as True.")
        return needed

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write the best weights; `finished` marks a training that ran to its end."""
        # `follows` lets a resume know the weights of an epoch that it has to repeat.
        content = {
            **self._content(epoch),
            "finished": kwargs.get("finished", False),
            "follows": self.last_weights or "",
        }
        if self.group.is_main:
            save_checkpoint(kwargs.get("saved_model_file", self.saved_model_file), content)
        self.best_weights = hash_state(content["state_dict"])

    def _content(self, epoch: int) -> dict[str, Any]:
        from recbole_sid import __version__

        return {
            "package_version": __version__,
            "model": self.config["model"],
            "config": self.config.plain(),
            "lineage": self.lineage,
            "epoch": epoch,
            "train_s": self.train_s,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": {name: float(value) for name, value in (self.best_valid_result or {}).items()},
            "chosen": self.model.chosen,
            "curve": self.epoch_log.curve,
            "state_dict": self.model.state_dict(),
        }

    def _save_last(self, stage: int, epoch: int, stopped: bool, train_data: Any) -> None:
        """Write everything that continuing after `epoch` of the stage with this number needs."""
        content = self._content(epoch)
        self.last_weights = hash_state(content["state_dict"])
        content |= {
            "best_weights": self.best_weights or "",
            "stage": stage,
            "stopped": stopped,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "cur_step": self.cur_step,
            "best_epoch": self.best_epoch,
            **random_states(self.device, train_data.generator, self.group),
        }
        if self.group.is_main:
            save_checkpoint(self.last_file, content)

    def _restore(self, state: dict[str, Any], train_data: Any) -> None:
        """Set optimizer, schedule, random states and the best so far to what they were."""
        load_optimizer(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.start_epoch = self.stage.epochs if state["stopped"] else state["epoch"] + 1
        self.cur_step, self.train_s = state["cur_step"], state["train_s"]
        self.best_weights, self.last_weights = state["best_weights"] or None, hash_state(state["state_dict"])
        self.best_valid_score, self.best_epoch = state["best_valid_score"], state["best_epoch"]
        self.best_valid_result = state["best_valid_result"] or None
        self.epoch_log.take_up(state.get("curve"))
        seed_apart(self.group, self.config["seed"], self.config["reproducibility"], self.start_epoch)
        set_random_states(state, self.device, train_data.generator, self.group)

    def resume_checkpoint(self, resume_file: str | os.PathLike[str]) -> None:
        """Make `fit` continue from `resume_file`, a ``*.last.pth`` of this configuration, as RecBole's method does.

        Raises:
            InputError: if it is the state of another configuration.
        """
        if Path(resume_file).resolve() != self.last_file.resolve():
            raise InputError(f"This configuration resumes from '{self.last_file}', not from '{resume_file}'.")
        self.config["resume"] = True
