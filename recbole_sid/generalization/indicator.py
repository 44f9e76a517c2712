"""The memorization-aware indicator of a trained item-ID model, and whether it indicates memorization.

Source: arXiv 2603.19809, section 5: the largest probability that the model gives an item; of TransitionMemory, the
evidence of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_sid.errors import InputError, nearest
from recbole_sid.evaluation.runs import FinishedRun, instance_index
from recbole_sid.generalization.id_answers import id_answers
from recbole_sid.generalization.members import is_id_model
from recbole_sid.registry import get_model, is_ours
from recbole_sid.util.progress import progress

BINS = 5


def id_run(runs: Sequence[FinishedRun], name: str | None = None) -> FinishedRun | None:
    """Return the run with the lowest seed among those of one item-ID model whose checkpoint is still there; None
    without one, with a warning if there are such runs.

    Args:
        runs: of any models.
        name: of the model's runs; None: the first sequential model of RecBole, or without one TransitionMemory.

    Raises:
        InputError: if no run of an item-ID model is called `name`.
    """
    trained = [run for run in runs if is_id_model(run.result["model"])]
    trained.sort(key=lambda run: is_ours(get_model(run.result["model"])))
    if name is not None:
        if name not in (names := list(dict.fromkeys(run.name for run in trained))):
            raise InputError(
                f"--id_model={name}{nearest(name, names)} must be one of {', '.join(names) or 'none here'}."
            )
        trained = [run for run in trained if run.name == name]
    found = [run for run in trained if Path(run.result["model_file"]).is_file()]
    if trained and not found:
        missing = trained[0]
        getLogger().warning(
            f"The indicator is left out: the checkpoint of {missing.name}, '{missing.result['model_file']}', is not "
            "there. Run analyze in the folder that compare ran in."
        )
    first = [run for run in found if run.name == found[0].name]
    return min(first, key=lambda run: run.result["seed"], default=None)


@torch.no_grad()
def confidence(
    run: FinishedRun, instances: pd.MultiIndex, overrides: Mapping[str, Any], show_progress: bool
) -> np.ndarray:
    """Return the indicator float64 [n] of a run's model for each of the test `instances`.

    Args:
        run: of an item-ID model.
        instances: of `instance_index`, n rows.
        overrides: settings in place of those recorded, where and how to run.
        show_progress: a bar over batches.
    """
    from recbole_sid.quick_start import load_data_and_model

    config, model, _, _, _, test = load_data_and_model(run.result["model_file"], overrides)
    model.eval()
    dataset, found, values = test._dataset, [], []
    users, items = (np.asarray(dataset.field2id_token[f], dtype=str) for f in (dataset.uid_field, dataset.iid_field))
    for batch in progress(test, f"confidence of {run.name}", show_progress):
        interaction = batch[0].to(config["device"])
        values.append(id_answers(model, interaction).indicator.double().cpu().numpy())
        user, target = (interaction[field].cpu().numpy() for field in (dataset.uid_field, dataset.iid_field))
        found.append(pd.DataFrame({"user": users[user], "target": items[target]}))
    return pd.Series(np.concatenate(values), instance_index(pd.concat(found))).loc[instances].to_numpy()


def quantile_bins(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the bin int64 [n] of each value, from 0: as equal in size as whole numbers allow, ties by position."""
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank * bins // max(1, len(values))
