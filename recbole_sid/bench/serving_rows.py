"""Rows of the benchmark that measure engines of bundles: a batch of histories to its lists."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from recbole_sid.bench.data import Workload
from recbole_sid.bench.timing import Task
from recbole_sid.exporting.forms import form_of
from recbole_sid.serving.engine import Histories, engine_named

# As many items as are asked for; the beam is the models'.
LIST = 20


def serving_problem(device: torch.device) -> str | None:
    """Return why engines cannot be measured there, a sentence; None if they can."""
    if device.type != "cpu":
        return "engines of bundles run on the CPU."
    return None if find_spec("numba") else 'numba is not installed: pip install -e ".[fast]".'


def serving_task(workload: Workload, kind: str, with_memory: bool) -> Task:
    """Return the task of the engine that a bundle of the model of `kind` would have, on as many threads as torch's."""
    model = workload.model(kind, decoding="beam")
    model.memory = None
    if with_memory:
        model.memory, sharpness = workload.memory
        model.sharpness = torch.tensor(sharpness)
    form = form_of(model, None, None)
    engine: Any = engine_named(form.engine).of(form.arrays, json.loads(json.dumps(form.settings)))

    def rank(batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        engine.n_threads = torch.get_num_threads()
        items, scores = engine.rank(Histories(batch[model.ITEM_SEQ].numpy(), batch[model.ITEM_SEQ_LEN].numpy()), LIST)
        rows = np.repeat(np.arange(len(items)), items.shape[1])
        return torch.from_numpy(rows), torch.from_numpy(items.ravel()), torch.from_numpy(scores.ravel())

    return Task(rank, {})
