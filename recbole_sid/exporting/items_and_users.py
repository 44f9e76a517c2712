"""What a bundle keeps of a dataset: its items, and on request its users' histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sid.data.dataset import HistoryDataset
from recbole_sid.errors import InputError, nearest
from recbole_sid.features.atomic import read_atomic
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.histories import KnownUsers
from recbole_sid.util.atomic_files import atomic_path
from recbole_sid.util.item_tokens import match_rows

# Fields of the .item file that are titles by their name, the first that is there is shown.
_TITLES = ("title", "movie_title", "name", "item_name", "product_name")
_LONGEST_SHOWN = 200  # characters of a display field: pages show titles, not descriptions


def require_histories(dataset: Any, model: str) -> None:
    """Refuse a dataset without whole sequences.

    Raises:
        InputError: if it is one.
    """
    if not isinstance(dataset, HistoryDataset):
        raise InputError(
            f"{model} does not answer for a history of items: neither a bundle nor lists after histories come of it."
        )


def catalogue_of(config: Any, train_dataset: HistoryDataset, fields: Sequence[str] | None = None) -> Catalogue:
    """Return the items of a dataset, popularity counted in its training part.

    Args:
        config: of the run; says where the ``.item`` file lies.
        train_dataset: the training split.
        fields: of the ``.item`` file, to be shown; None: the title, if it has one.

    Raises:
        InputError: if a field is asked for that is not there.
    """
    tokens = train_dataset.item_tokens()
    items, _ = train_dataset.training_sequences()
    popularity = np.bincount(items, minlength=len(tokens) + 1)[1:]
    return Catalogue.of(tokens, popularity, display_fields(config, tokens, fields))


def display_fields(config: Any, tokens: np.ndarray, fields: Sequence[str] | None) -> dict[str, list[str]]:
    """Return fields of the ``.item`` file for `tokens`, cut to 200 characters; empty for an item that it lacks.

    Raises:
        InputError: if a field is asked for that is not there.
    """
    path = atomic_path(config["data_path"], config["dataset"], "item")
    if not path.is_file():
        if fields:
            raise InputError(f"fields={list(fields)} are to be shown and there is no file '{path}': leave them out.")
        return {}
    if fields is not None and not fields:
        return {}
    table = read_atomic(path, config, fields or ())
    table.columns = [column.split(":")[0] for column in table.columns]
    if fields is None:
        fields = [name for name in _TITLES if name in table.columns][:1]
    for name in (config["ITEM_ID_FIELD"], *fields):
        if name not in table.columns:
            raise InputError(
                f"'{path}' has no field '{name}'{nearest(name, table.columns)}; it has {', '.join(table.columns)}."
            )
    rows = match_rows(table[config["ITEM_ID_FIELD"]].to_numpy(dtype=str), tokens)
    found = {}
    for name in fields:
        values = np.append(table[name].to_numpy(dtype=object), "")  # the last, for row -1
        found[name] = [_shown(value) for value in values[rows]]
    return found


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


def known_users_of(dataset: HistoryDataset) -> KnownUsers:
    """Return all users with all that the dataset holds of each: what is trained on, validated and tested by.

    Args:
        dataset: any of its splits.
    """
    users, items = (dataset.sequences[field].numpy() for field in (dataset.uid_field, dataset.iid_field))
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    tokens = np.asarray(dataset.field2id_token[dataset.uid_field], dtype=str)[users[starts]]
    return KnownUsers.of(tokens, np.append(starts, len(users)), items)
