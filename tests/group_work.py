"""What processes of a group do in tests: functions of a module that processes can import quickly."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from other_device import DoneAgain, OtherDevice

from recbole_sid.data.batch import Batch
from recbole_sid.distributed.group import current_group
from recbole_sid.distributed.joining import join
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Processes
from recbole_sid.errors import InputError
from recbole_sid.trainer.captured_loss import CapturedLosses
from recbole_sid.trainer.parallel import ParallelLoss


def add_ranks(label: str) -> dict[str, Any]:
    """Return the sum of the ranks, each one's threads, and what the main process says of itself."""
    group = join(torch.device("cpu"))
    return {
        "label": group.from_main(f"{label} of {group.rank}"),
        "sum": group.sum(torch.tensor([group.rank, 1])).tolist(),
        "threads": group.gather(torch.get_num_threads()),
        "pids": group.gather(os.getpid()),
    }


def refuse_second(before_joining: bool, seen: str) -> None:
    """Raise InputError in the second process, while the first waits for it."""
    if before_joining and os.environ["RANK"] == "1":
        raise InputError("The second process will not.")
    group = join(torch.device("cpu"))
    if group.rank == 1:
        raise InputError("The second process will not.")
    Path(seen).write_text(str(os.getpid()))
    group.barrier()


def kill_second(seen: str) -> None:
    group = join(torch.device("cpu"))
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    Path(seen).write_text(str(os.getpid()))
    group.barrier()


def interrupt_launcher(seen: str) -> None:
    group = join(torch.device("cpu"))
    Path(f"{seen}{group.rank}").write_text(str(os.getpid()))
    group.barrier()
    if group.is_main:
        os.kill(os.getppid(), signal.SIGINT)
    signal.pause()


def fail_second() -> None:
    if join(torch.device("cpu")).rank == 1:
        raise KeyError("a fault of the program")


def note_ranks(folder: str) -> list[int]:
    """Note which process this is, and return all ranks; nothing of it is pickled."""
    group = join(torch.device("cpu"))
    Path(folder, f"rank-{group.rank}").write_text(os.getcwd())
    print(f"process {group.rank} was here", file=sys.stderr)
    return group.gather(group.rank)


def train_and_lose(model: str, settings: dict[str, Any], noted: str, lost_after: int) -> dict[str, Any]:
    """Train; the second process is killed after epoch `lost_after`, the first time. Return the test result."""
    from recbole_sid.quick_start import run_recbole_sid
    from recbole_sid.trainer.sid_trainer import SIDTrainer

    run_epoch = SIDTrainer._run_epoch
    rank = os.environ["RANK"]

    def noted_epoch(trainer: Any, epoch: int, *rest: Any) -> bool:
        with open(f"{noted}-{rank}", "a") as stream:
            stream.write(f"{trainer.config['model']} {epoch}\n")
        lost = Path(f"{noted}-lost")
        if rank == "1" and epoch > lost_after and not lost.exists():
            lost.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return run_epoch(trainer, epoch, *rest)

    SIDTrainer._run_epoch = noted_epoch  # type: ignore[method-assign]
    found = run_recbole_sid(model, "tiny", config_dict=settings)
    return {name: float(value) for name, value in found["test_result"].items()}


def train_each(runs: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Train each model without dropout; return of each the loss of every batch, and what came of it."""
    return {name: _train_without_dropout(*run) for name, run in runs.items()}


def _train_without_dropout(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    from recbole_sid.evaluation.per_user import per_user_results
    from recbole_sid.trainer.sid_trainer import SIDTrainer

    losses: list[torch.Tensor] = []
    start_stage, backward = SIDTrainer.start_stage, SIDTrainer._backward

    def without_dropout(trainer: Any, *given: Any) -> None:
        for module in trainer.model.modules():
            if hasattr(module, "p"):
                module.p = 0.0
        start_stage(trainer, *given)

    def noted(trainer: Any, loss: torch.Tensor) -> None:
        losses.append(loss.detach().float())
        backward(trainer, loss)

    device = OtherDevice("cpu")
    with (
        device.entered() if settings.get("capture_training") else nullcontext(),
        mock.patch.object(SIDTrainer, "start_stage", without_dropout),
        mock.patch.object(SIDTrainer, "_backward", noted),
        # bf16 on any processor: where it is slow, enable_amp would be left out.
        mock.patch("recbole_sid.trainer.sid_trainer.cpu_has_fast_bfloat16", return_value=True),
    ):
        run = _run(model, settings)
    trainer = run.trainer
    users = per_user_results(trainer, run.test_data, size=10)
    return {
        "losses": trainer.group.sum(torch.stack(losses)).tolist() if losses else [],
        "best": trainer.best_epoch,
        "is mixed": trainer.enable_amp and trainer.amp_pays,
        "measured": {"valid": _plain(run.best_valid_result), "test": _plain(run.test_result)},
        "users": {column: users[column].tolist() for column in ("user", "target", "rank", "items")},
        "n_captured": device.n_captured,
        "chosen": dict(trainer.model.chosen),
        "weights": _hashes(run),
    }


def train_and_tell(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train as configured; return the loss of every epoch, the metrics, and the hash of each process's weights."""
    run = _run(model, settings)
    return {
        "losses": dict(run.trainer.train_loss_dict),
        "measured": {"valid": _plain(run.best_valid_result), "test": _plain(run.test_result)},
        "weights": _hashes(run),
    }


def _run(model: str, settings: dict[str, Any]) -> Any:
    from recbole_sid.config import Config
    from recbole_sid.quick_start import run_model

    return run_model(Config(model, "tiny", config_dict=settings))


def _plain(result: Any) -> dict[str, float]:
    return {name: float(value) for name, value in result.items()}


def _hashes(run: Any) -> list[str]:
    """Return the hash of the weights of each process."""
    from recbole_sid.checkpoint import hash_state

    return run.trainer.group.gather(hash_state(run.trainer.model.state_dict()))


def interrupt_and_resume(model: str, settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train whole, and interrupted before the third epoch, which is resumed and, in `folder`/left, left so."""
    whole = _hashes(_run(model, {**settings, "checkpoint_dir": f"{folder}/whole"}))
    for name in ("resumed", "left"):
        interrupted(model, {**settings, "checkpoint_dir": f"{folder}/{name}"}, 2)
    resumed = _run(model, {**settings, "checkpoint_dir": f"{folder}/resumed", "resume": True})
    return {"whole": whole, "resumed": _hashes(resumed), "epochs": list(resumed.trainer.train_loss_dict)}


def interrupted(model: str, settings: dict[str, Any], before: int) -> None:
    """Train until epoch `before` would begin."""
    from recbole_sid.trainer.sid_trainer import SIDTrainer

    run_epoch = SIDTrainer._run_epoch

    def until(trainer: Any, epoch: int, *rest: Any) -> bool:
        if epoch == before:
            raise KeyboardInterrupt
        return run_epoch(trainer, epoch, *rest)

    with mock.patch.object(SIDTrainer, "_run_epoch", until), suppress(KeyboardInterrupt):
        _run(model, settings)


class ThreeWeights(torch.nn.Module):
    """Weights that all processes use, that the first one uses, and that none does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.all, self.first, self.none = (torch.nn.Parameter(torch.randn(4)) for _ in range(3))

    def loss(self, batch: Any) -> torch.Tensor:
        own = self.all if current_group().rank else self.all * self.first
        return (batch["values"] * own).sum()


def gradients(captured: bool) -> list[list[float] | None]:
    """Return, in the main process, the gradients of `ThreeWeights` after three batches that are summed up."""
    group = join(torch.device("cpu"))
    module = ThreeWeights()
    loss: Any = module.loss
    with mock.patch("recbole_sid.trainer.captured_loss.Recording", DoneAgain):
        if captured:
            loss = CapturedLosses(loss, list(module.parameters()))
        parallel = ParallelLoss(loss, module)
        for number in range(1, 4):
            values = number * (1.0 + group.rank + torch.arange(4))
            with parallel.kept_back() if number < 3 else nullcontext():
                parallel(Batch({"values": values})).backward()
    assert len(loss._graphs) == 1 if captured else True
    return [None if weight.grad is None else weight.grad.tolist() for weight in module.parameters()]


def train_trial_of(plan: Any) -> list[dict[str, Any]]:
    """Train a trial of a search's `plan` by this group; return what it reported."""
    from recbole_sid.tuning.trial import train_trial

    reported: list[dict[str, Any]] = []
    train_trial(plan, {"learning_rate": 0.01}, "trial", reported.append)
    return reported


def do_all(works: list[tuple[str, list[Any]]]) -> list[Any]:
    """Call functions of this module, by name: a pair of processes is slow to start."""
    return [globals()[name](*arguments) for name, arguments in works]


if __name__ == "__main__":  # the second of two machines
    sys.exit(launch(add_ranks, ["there"], Processes(1, 2, "127.0.0.1", int(sys.argv[1]), 1))["sum"] != [1, 2])
