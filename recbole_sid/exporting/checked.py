"""Whether a bundle's engine ranks as the model does, asked before the bundle is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_sid.exporting.agreement import ListAgreement, RankedItems, compared
from recbole_sid.exporting.forms import Form
from recbole_sid.exporting.trained import TrainedEngine
from recbole_sid.serving.engine import Engine, Histories, Prepares, engine_named
from recbole_sid.serving.histories import KnownUsers

# Users whose lists are compared, and items of a list.
_USERS, _WIDTH = 1024, 20


def check_form(form: Form, config: Any, model: Any, dataset: Any, users: KnownUsers) -> ListAgreement:
    """Compare the lists of a form's engine with the model's own, after what users of the dataset took.

    What the engine compiles for any request is compiled then, and kept: the bundle's first answer here is quick.

    Args:
        form: of `model`.
        config, model, dataset: of the training; `dataset` its training split.
        users: all of the dataset; some, evenly chosen, are asked about.

    Raises:
        InputError: if the engine ranks otherwise.
    """
    files = {name: np.frombuffer(content, np.uint8) for name, content in form.files.items()}
    engine = engine_named(form.engine).of({**files, **form.arrays}, form.settings)
    trained = TrainedEngine(config, model, dataset)
    numbers = np.unique(np.linspace(1, users.n_users, min(_USERS, users.n_users)).astype(np.int64))
    histories = users.last(numbers, min(engine.max_history, trained.max_history))
    width = min(_WIDTH, engine.n_items - 1)
    found = compared(_lists(trained, histories, width), _lists(engine, histories, width))
    found.require(f"The bundle's engine '{form.engine}'")
    if isinstance(engine, Prepares):
        engine.prepare()
    return found


def _lists(engine: Engine, histories: Histories, width: int) -> RankedItems:
    if engine.beam_size:
        items, scores = engine.rank(histories, width)
    else:  # a model without a search of its own
        every = engine.all_scores(histories)
        items = np.argsort(-every, axis=1, kind="stable")[:, :width]
        scores = np.take_along_axis(every, items, axis=1)
        items = np.where(np.isfinite(scores), items, 0)
    return RankedItems(torch.from_numpy(items), torch.from_numpy(scores))
