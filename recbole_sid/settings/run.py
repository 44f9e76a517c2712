"""Keys of every run: ours, and those of RecBole's of which we say more than its property files do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_sid.distributed.place import Processes
from recbole_sid.errors import InputError
from recbole_sid.property_files import sizes
from recbole_sid.settings.declared import FROM_RECBOLE, Settings, declare


@dataclass(frozen=True)
class RunSettings(Settings):
    """Keys of ours that every run has."""

    beam_size: int = declare(50, "Beams of SID models; at least the largest topk.", shared=True)
    n_user_tokens: int = declare(1, "User tokens; the user id modulo this is in front of the history.", shared=True)
    size: str = declare(
        "paper", "paper, or small: sizes for minutes on a CPU (properties/size/).", choices=sizes, shared=True
    )
    eval_users: int | dict[str, Any] | None = declare(
        None,
        "Users that validation and test are measured on, drawn at random, as in {valid: 10000}; empty: all.",
        least=1,
    )
    eval_users_seed: int = declare(0, "Decides which; the same in runs that are compared.", least=0)
    resume: bool = declare(False, "Continue an interrupted training of the same configuration.", volatile=True)

    def check(self) -> None:
        asked = self.eval_users
        if not isinstance(asked, dict):
            return
        counts = [count for count in asked.values() if count is not None]
        whole = all(isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in counts)
        if not asked.keys() <= {"valid", "test"} or not whole:
            raise InputError(
                f"eval_users={asked!r} must be a number of users, or one each for valid and test, as {{valid: 10000}}."
            )


_RECBOLES_PORT = 5678  # where the processes of several machines meet if nobody says
_MOST_PORT = 65535


@dataclass(frozen=True)
class LaunchSettings(Settings):
    """Keys of RecBole's `run`: which processes train together. Where a run was launched is no setting of its result."""

    nproc: int = declare(1, "Processes that train together on this machine.", most=1024, volatile=True)
    world_size: int = declare(-1, "Processes on all machines; -1: nproc.", least=-1, volatile=True)
    group_offset: int = declare(0, "Processes on the machines before this one.", least=0, volatile=True)
    ip: str = declare("localhost", "Address of the first machine.", file=False, volatile=True)
    port: int | str | None = declare(
        None, "Port of the first machine; empty: 5678, or any that is free if there is but one.",
        least=1, most=_MOST_PORT, file=False, volatile=True,
    )  # fmt: skip

    def check(self) -> None:
        if isinstance(self.port, str) and not (self.port.isdecimal() and 1 <= int(self.port) <= _MOST_PORT):
            raise InputError(f"port={self.port!r} must be a whole number of at least 1 and at most {_MOST_PORT}.")
        if self.world_size > 0 and self.world_size < self.nproc + self.group_offset:
            raise InputError(
                f"world_size={self.world_size} is the number of processes on all machines, and so at least "
                f"nproc={self.nproc} with group_offset={self.group_offset}: raise it, or leave it out for one machine."
            )
        if self.group_offset and self.world_size < 1:
            raise InputError(f"group_offset={self.group_offset} needs world_size, the number of all processes.")

    def processes(self) -> Processes:
        """Return which processes to start."""
        n_all = self.world_size if self.world_size > 0 else self.nproc
        port = int(self.port) if self.port is not None else None
        if n_all == self.nproc:
            return Processes(self.nproc, n_all, port=port)
        return Processes(self.nproc, n_all, self.ip, port or _RECBOLES_PORT, self.group_offset)


def _place(help: str = "", **said: Any) -> Any:
    return declare(FROM_RECBOLE, help, volatile=True, **said)


@dataclass(frozen=True)
class RecBoleSettings(Settings):
    """Keys of RecBole's of which more is to be said: counts, places and manners of a run, files."""

    epochs: int = declare(FROM_RECBOLE)
    train_batch_size: int = declare(FROM_RECBOLE)
    MAX_ITEM_LIST_LENGTH: int = declare(FROM_RECBOLE, most=100_000)  # batches are gathered in this width
    eval_batch_size: int = _place()
    gpu_id: Any = _place()
    use_gpu: bool = _place(shared=True)
    worker: int = _place(shared=True, least=0)
    state: Any = _place()
    data_path: str = _place()
    checkpoint_dir: str = _place()
    show_progress: bool = _place()
    save_dataset: bool = _place()
    dataset_save_path: Any = _place()
    save_dataloaders: bool = _place()
    dataloaders_save_path: Any = _place()
    log_wandb: bool = _place()
    wandb_project: Any = _place()
    device: Any = _place()
    single_spec: Any = _place()
    local_rank: Any = _place()
    offset: Any = _place()
    config_files: Any = _place()
    verbose: Any = _place()
    loss_decimal_place: Any = _place()
    metric_decimal_place: Any = _place()
    # Files that models give to `torch.load` (convncf.py, nais.py, ract.py, neumf.py, s3rec.py, kd_dagfm.py).
    pre_model_path: Any = declare(FROM_RECBOLE, file=True, tensors=True)
    pretrain_path: Any = declare(FROM_RECBOLE, file=True, tensors=True)
    mf_pretrain_path: Any = declare(FROM_RECBOLE, file=True, tensors=True)
    mlp_pretrain_path: Any = declare(FROM_RECBOLE, file=True, tensors=True)
    warm_up: Any = declare(FROM_RECBOLE, file=True, tensors=True)
