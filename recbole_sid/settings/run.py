"""Keys of every run: ours, and those of RecBole's of which we say more than its property files do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    resume: bool = declare(False, "Continue an interrupted training of the same configuration.", volatile=True)


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
    nproc: Any = _place()
    world_size: Any = _place()
    ip: Any = _place()
    port: Any = _place()
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
