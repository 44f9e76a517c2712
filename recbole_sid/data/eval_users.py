"""Evaluation on a sample of users, by choice: the same users in every run, whatever its seed and model."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
from recbole.data.utils import get_dataloader

from recbole_sid.data.dataset import rows_at

_NAMES = {"valid": "Validation", "test": "Test"}


def on_sampled_users(loader: Any, config: Any, phase: str) -> Any:
    """Return a loader of all targets of as many users as ``eval_users`` says; `loader` itself if it has no more.

    Users are drawn from all of the dataset, in an order that ``eval_users_seed`` decides: those of a smaller sample,
    and of validation and test, are among those of a larger one. What is known of the others stays known.

    Args:
        loader: RecBole's of a part.
        config: reads ``eval_users`` and ``eval_users_seed``.
        phase: valid or test.
    """
    asked = config["eval_users"]
    wanted = asked.get(phase) if isinstance(asked, dict) else asked
    if not wanted:
        return loader
    dataset = loader._dataset
    users = dataset.inter_feat[dataset.uid_field].numpy()
    present = np.unique(users)
    if wanted >= len(present):
        return loader
    place = np.random.default_rng(config["eval_users_seed"]).permutation(dataset.user_num)
    drawn = np.zeros(dataset.user_num, dtype=bool)
    drawn[present[np.argsort(place[present])[:wanted]]] = True
    part = dataset.copy(rows_at(dataset.inter_feat, np.flatnonzero(drawn[users])))
    getLogger().info(f"{_NAMES[phase]} is measured on {wanted:,} of {len(present):,} users (eval_users).")
    return get_dataloader(config, phase)(config, part, getattr(loader, "_sampler", None), shuffle=False)
