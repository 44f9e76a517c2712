"""What an unfinished training continues from: whether it is the one wanted, and its random numbers."""

from __future__ import annotations

import os
import random
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_sid.checkpoint import check_lineage, hash_state, load_checkpoint
from recbole_sid.distributed.group import Group
from recbole_sid.errors import InputError


def unfinished(
    last_file: Path, best_file: str | os.PathLike[str], model: str, lineage: dict[str, str]
) -> dict[str, Any] | None:
    """Return the state in `last_file` of an interrupted training, or None if there is no such file.

    Args:
        last_file: of the configuration that is trained.
        best_file: with the best weights of the training so far.
        model: its name.
        lineage: of the training that wants to continue.

    Raises:
        InputError: if it is the state of a training of another lineage, or of one with other best weights.
    """
    if not last_file.is_file():
        return None
    state = load_checkpoint(last_file, model)
    try:
        check_lineage(last_file, state["lineage"], lineage)
    except InputError as error:
        raise InputError(f"{error} To train anew, delete '{last_file}'.") from error
    if not _has_best_of(state, best_file, model):
        raise InputError(
            f"'{last_file}' continues a training whose best weights are not those in '{best_file}': put them back, or "
            f"delete '{last_file}' to train anew."
        )
    getLogger().info(f"Resuming after epoch {state['epoch'] + 1} from {last_file}")
    return state


def _has_best_of(state: dict[str, Any], best_file: str | os.PathLike[str], model: str) -> bool:
    """Say whether `best_file` holds the best weights of the training that `state` continues.

    Those of the epoch after it count too: the training was interrupted after writing them and will do so again.
    """
    if state.get("best_weights") == "":  # none yet: those that are there are of another training
        return True
    if "best_weights" not in state or not os.path.isfile(best_file):
        return False
    best = load_checkpoint(best_file, model)
    same = hash_state(best["state_dict"]) == state["best_weights"]
    return same or best.get("follows") == hash_state(state["state_dict"])


def random_states(device: torch.device, loader: torch.Generator, group: Group) -> dict[str, Any]:
    """Return the states of all random numbers that a training on `device` draws, in types that need no pickle.

    In the main process of a group those of the others are among them: ``others``, in the order of their ranks. All draw
    the same from `loader`.
    """
    main, *others = group.to_main(_own_states(device)) or [{}]
    return {**main, "others": others, "loader_rng": loader.get_state()}


def _own_states(device: torch.device) -> dict[str, Any]:
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002 (RecBole samples from the global state)
    return {
        "python_rng": [version, list(words), gauss],
        "numpy_rng": [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
    }


def set_random_states(state: dict[str, Any], device: torch.device, loader: torch.Generator, group: Group) -> None:
    """Set what `random_states` returned; a process that its group did not have then keeps its own."""
    loader.set_state(state["loader_rng"])
    known = [state, *state.get("others", [])]
    if len(known) != group.size:
        getLogger().warning(
            f"The training began in {len(known)} processes and goes on in {group.size}: its batches are the same, its "
            "other random numbers, such as those of dropout, are not those of an uninterrupted one."
        )
    if group.rank < len(known):
        _set_own_states(known[group.rank], device)


def _set_own_states(state: dict[str, Any], device: torch.device) -> None:
    version, words, gauss = state["python_rng"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy_rng"]))  # noqa: NPY002
    torch.set_rng_state(state["torch_rng"])
    _set_cuda_states(state["cuda_rng"], device)


def _set_cuda_states(states: list[torch.Tensor], device: torch.device) -> None:
    """Set the random states of the GPUs that there are, of those that the interrupted training had."""
    for number, state in enumerate(states[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, number)
    on_gpu = device.type == "cuda"
    if on_gpu != bool(states) or (on_gpu and (device.index or 0) >= len(states)):
        getLogger().warning(
            f"The training began on {len(states) or 'no'} GPUs and goes on on another device: its random numbers, "
            "such as those of dropout, are not those of an uninterrupted one."
        )
