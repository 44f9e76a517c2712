"""Features from a ``.npy`` file, matched to the dataset by item token."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from recbole_sid.catalogue import match_rows
from recbole_sid.errors import InputError


def file_features(config: Any, dataset: Any) -> np.ndarray:
    """Return the rows of ``feature_file`` for the dataset's items: float32 [n_items, d].

    Row r belongs to the token in line r of ``feature_tokens``; without that file, to the item whose token is ``r``.

    Raises:
        InputError: if a file is missing or no such array, or an item has no row.
    """
    path = config["feature_file"]
    if not path:
        raise InputError("The file feature needs feature_file, a .npy of shape [n_items, d].")
    matrix = _load(path)
    tokens = _tokens(config["feature_tokens"], len(matrix))
    if len(tokens) != len(matrix):
        raise InputError(f"'{path}' has {len(matrix)} rows but feature_tokens names {len(tokens)} items.")
    wanted = dataset.item_tokens()
    rows = match_rows(tokens, wanted)
    missing = rows < 0
    if missing.any():
        raise InputError(f"'{path}' has no row for {missing.sum()} items (for example '{wanted[missing][0]}').")
    return matrix[rows].astype(np.float32)


def _load(path: str) -> np.ndarray:
    if not os.path.isfile(path):
        raise InputError(f"There is no feature file at '{path}'.")
    try:
        matrix = np.load(path, allow_pickle=False)
    except Exception as error:  # damaged files make numpy raise many kinds
        raise InputError(f"'{path}' is not a .npy array ({error}).") from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.number):
        raise InputError(f"'{path}' must hold numbers of shape [n_items, d].")
    return matrix


def _tokens(path: str | None, n_rows: int) -> np.ndarray | list[str]:
    if not path:
        return np.arange(n_rows).astype(str)
    if not os.path.isfile(path):
        raise InputError(f"There is no feature_tokens file at '{path}'.")
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text file with one item token a line ({error}).") from error
