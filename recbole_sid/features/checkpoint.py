"""The item embedding of a model that RecBole trained (SASRec, BPR, LightGCN ...), matched to the dataset by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset

from recbole_sid.checkpoint import data_difference
from recbole_sid.compat import load_recbole_checkpoint
from recbole_sid.config import Config
from recbole_sid.errors import InputError, first_line
from recbole_sid.util.item_tokens import match_rows


def checkpoint_features(config: Any, dataset: Any) -> np.ndarray:
    """Return the rows of ``collaborative_weight`` in ``collaborative_checkpoint`` for the dataset's items.

    Items that do not occur in training keep the row that the checkpoint has for them.

    Returns:
        float32 [n_items, d].

    Raises:
        InputError: if the file is no checkpoint of RecBole, was trained on another dataset or split (which might hold
            the items to be predicted here), or has no such weight.
    """
    path = config["collaborative_checkpoint"]
    content = load_recbole_checkpoint(path, map_location="cpu")
    recorded = content["config"].final_config_dict
    _check_same_data(path, recorded, config)
    tokens = recorded_item_tokens(path, recorded, config)
    weight = _weight(path, content["state_dict"], config["collaborative_weight"], len(tokens))
    rows = match_rows(tokens, dataset.item_tokens())
    missing = rows < 0
    if missing.any():
        raise InputError(
            f"'{path}' knows no embedding of {missing.sum()} items (for example "
            f"'{dataset.item_tokens()[missing][0]}'): train it on this dataset."
        )
    return weight[1:][rows]


def _check_same_data(path: str, recorded: dict[str, Any], config: Any) -> None:
    difference = data_difference(recorded, config.final_config_dict)
    if difference:
        key, their, our = difference
        raise InputError(
            f"'{path}' was trained with {key}={their} but this run has {key}={our}: train it with the data "
            "settings of this run, or it may have seen the items to predict."
        )


def recorded_item_tokens(path: str, recorded: dict[str, Any], config: Any) -> np.ndarray:
    """Return the item tokens by the checkpoint's own ids, which RecBole does not save: its data are read again."""
    settings = {key: recorded[key] for key in config.parameters["Dataset"] if key in recorded}
    settings |= {key: config[key] for key in ("eval_args", "show_progress", "state")}
    settings["use_gpu"] = False  # nothing to compute
    settings["data_path"] = str(Path(config["data_path"]).parent)
    try:
        source = Dataset(Config(config["model"], config["dataset"], config_dict=settings))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The data that '{path}' was trained on cannot be read again ({first_line(error)})."
        ) from error
    return np.asarray(source.field2id_token[source.iid_field][1:], dtype=str)


def _weight(path: str, state: dict[str, torch.Tensor], name: str, n_items: int) -> np.ndarray:
    """Return a weight with a row for padding, each item, and at most one token beyond (BERT4Rec's mask)."""
    sizes = (n_items + 1, n_items + 2)
    fitting = [key for key, value in state.items() if value.dim() == 2 and value.shape[0] in sizes]
    if name in fitting:
        return state[name][: n_items + 1].float().numpy()
    if name in state:
        raise InputError(
            f"{name} in '{path}' has shape {tuple(state[name].shape)}, not one row for each of {n_items} items and the "
            "padding: train it on this dataset."
        )
    mend = f"set collaborative_weight to one of {', '.join(fitting)}" if fitting else "use a model with item embeddings"
    raise InputError(f"'{path}' holds no weight '{name}' of one row an item: {mend}.")
