"""Features from a file, matched to the dataset by item token."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from recbole_sid.errors import InputError, first_line
from recbole_sid.features.atomic import read_atomic
from recbole_sid.features.base import FeatureSource
from recbole_sid.settings import Settings, declare
from recbole_sid.util.item_tokens import match_rows, token_array
from recbole_sid.util.reading import is_plain_tensor, load_tensors, open_arrays, read_array, read_parquet


class Rows(NamedTuple):
    """What a file holds: numbers [n_rows, d], and the item token of each row where the file names it."""

    matrix: np.ndarray
    tokens: np.ndarray | None


@dataclass(frozen=True)
class FileSettings(Settings):
    """Keys of the feature that is read from a file."""

    feature_file: str | None = declare(
        None,
        ".npy, .npz, .pt, .safetensors, .parquet or atomic file [n_items, d]; needed for the file feature.",
        file=True,
        growing=True,
    )
    feature_name: str | None = declare(
        None, "Array, tensor or column in feature_file; empty: the only one.", file=False
    )
    feature_tokens: str | None = declare(
        None,
        "Text file with one item token a line, row for row; empty: row number = item token.",
        file=True,
        growing=True,
    )


class FileFeatures(FeatureSource):
    """The rows of ``feature_file``."""

    settings = FileSettings

    @classmethod
    def source_files(cls, config: Any) -> dict[str, str | None]:
        return {**super().source_files(config), "feature_file": feature_file(config)}

    def fit_encode(self, dataset: Any) -> np.ndarray:
        return self.encode(rows_of_items(self.config, dataset.item_tokens(), whole_dataset=True))

    def read(self, item_tokens: np.ndarray) -> np.ndarray:
        return rows_of_items(self.config, item_tokens)

    def encode(self, raw: Any) -> np.ndarray:
        rows = np.asarray(raw)
        if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
            raise InputError("The 'file' features must be numbers of shape [n_items, d].")
        return rows.astype(np.float32)


def feature_file(config: Any) -> str | None:
    """Return ``feature_file``; where it is empty, the atomic file that ``additional_feat_suffix`` names, if any.

    Raises:
        InputError: if ``additional_feat_suffix`` names several.
    """
    suffixes = config["additional_feat_suffix"]
    if config["feature_file"] or not suffixes:
        return config["feature_file"]
    suffixes = [suffixes] if isinstance(suffixes, str) else list(suffixes)
    if len(suffixes) > 1:
        raise InputError(f"additional_feat_suffix={suffixes} names several files: name one of them in feature_file.")
    return str(Path(config["data_path"]) / f"{config['dataset']}.{suffixes[0]}")


def rows_of_items(config: Any, item_tokens: np.ndarray, whole_dataset: bool = False) -> np.ndarray:
    """Return the rows of ``feature_file`` for items: [n_items, d], numbers as the file holds them.

    A row belongs to the item that the file itself names (Parquet, atomic files), else to the token in that line of
    ``feature_tokens``, else to the item whose token is the row's number.

    Args:
        config: reads ``feature_*``, ``ITEM_ID_FIELD`` and the separators of atomic files.
        item_tokens: str [n_items].
        whole_dataset: `item_tokens` are all there are: warn of numbered rows beyond, which hint at another dataset.

    Raises:
        InputError: if a file is missing or of another kind, or an item has no row.
    """
    path = feature_file(config)
    if not path:
        raise InputError(
            f"The file feature needs feature_file ({', '.join(READERS)}, or an atomic file), rows of [n_items, d]."
        )
    matrix, named = read_rows(path, config["feature_name"], config)
    tokens = _tokens(config["feature_tokens"], len(matrix)) if named is None else named
    if named is not None and config["feature_tokens"]:
        getLogger().warning(f"feature_tokens has no effect: '{path}' names the item of each row itself.")
    if len(tokens) != len(matrix):
        raise InputError(f"'{path}' has {len(matrix)} rows but feature_tokens names {len(tokens)} items.")
    names, count = np.unique(tokens, return_counts=True)
    if (count > 1).any():
        raise InputError(f"The rows of '{path}' name item '{names[count > 1][0]}' twice: every item needs one row.")
    rows = match_rows(tokens, item_tokens)
    missing = rows < 0
    by_number = named is None and not config["feature_tokens"]
    remedy = ": rows are matched by their number; name the item of each row in feature_tokens" if by_number else ""
    if missing.any():
        raise InputError(
            f"'{path}' has no row for {missing.sum()} items (for example '{item_tokens[missing][0]}'){remedy}."
        )
    if whole_dataset and by_number and len(matrix) > len(item_tokens):
        getLogger().warning(
            f"'{path}' has {len(matrix):,} rows, matched by their number, for {len(item_tokens):,} items: make sure "
            "that it was made for this dataset, or name the item of each row in feature_tokens."
        )
    return matrix[rows]


def read_rows(path: str, name: str | None, config: Any) -> Rows:
    """Read a feature file by its suffix; a suffix that is not in `READERS` is an atomic file of RecBole.

    Args:
        path: the file.
        name: which array, tensor or column to read; None where there is only one.
        config: reads ``ITEM_ID_FIELD`` and the separators of atomic files.

    Raises:
        InputError: if the file is missing or damaged, or does not hold numbers [n_rows, d].
    """
    if not os.path.isfile(path):
        raise InputError(f"There is no feature file at '{path}'.")
    suffix = Path(path).suffix.lower()
    try:
        rows = READERS.get(suffix, _atomic)(path, name, config)
    except InputError:
        raise
    except Exception as error:  # damaged files make each library raise many kinds
        kind = (
            f"a {suffix} array" if suffix in READERS else f"an atomic file of RecBole, nor one of {', '.join(READERS)}"
        )
        raise InputError(f"'{path}' is not {kind} ({first_line(error)}).") from error
    matrix = rows.matrix
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.number):
        raise InputError(f"'{path}' must hold numbers of shape [n_items, d].")
    if np.issubdtype(matrix.dtype, np.complexfloating):
        raise InputError(f"'{path}' holds complex numbers: write real and imaginary parts as columns of their own.")
    return rows


def _npy(path: str, name: str | None, config: Any) -> Rows:
    return Rows(read_array(path), None)


def _npz(path: str, name: str | None, config: Any) -> Rows:
    with open_arrays(path) as arrays:
        return Rows(arrays[_choice(path, name, list(arrays))], None)


def _pt(path: str, name: str | None, config: Any) -> Rows:
    content = load_tensors(path)
    if isinstance(content, Mapping):
        tensors = [key for key, value in content.items() if isinstance(value, torch.Tensor)]
        content = content[_choice(path, name, tensors)]
    if not is_plain_tensor(content):
        raise InputError(f"'{path}' must hold numbers of shape [n_items, d].")
    return Rows(_as_numpy(content.detach()), None)


def _safetensors(path: str, name: str | None, config: Any) -> Rows:
    from safetensors.torch import load_file  # through torch, because numpy knows no bfloat16

    tensors = load_file(path)
    return Rows(_as_numpy(tensors[_choice(path, name, list(tensors))]), None)


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor if tensor.is_complex() else tensor.float()).numpy()  # numpy knows no bfloat16


def _parquet(path: str, name: str | None, config: Any) -> Rows:
    """Read the column `name` of lists, or all number columns; the column ITEM_ID_FIELD, if any, names the items."""
    table = read_parquet(path).to_pandas()
    item_field = config["ITEM_ID_FIELD"]
    tokens = token_array(table.pop(item_field).astype(str), f"'{path}'") if item_field in table else None
    words = [column for column in table.columns if pd.api.types.is_string_dtype(table[column])]
    if tokens is None and words and not config["feature_tokens"]:
        raise InputError(
            f"'{path}' has no column '{item_field}' to name the items but text in {', '.join(words)}: rename that "
            f"column to '{item_field}', or name the items of the rows in feature_tokens."
        )
    numbers = table.select_dtypes("number")
    if name is None and numbers.shape[1]:
        if left_out := [str(column) for column in table.columns if column not in numbers]:
            getLogger().warning(f"'{path}' has no numbers in {', '.join(left_out)}: these columns are no features.")
        return Rows(numbers.to_numpy(), tokens)
    return Rows(_stacked(path, table[_choice(path, name, list(table.columns))]), tokens)


def _atomic(path: str, name: str | None, config: Any) -> Rows:
    """Read RecBole's atomic file with a token column and a float_seq column, as `additional_feat_suffix` names it."""
    table = read_atomic(path, config, (name,) if name else ())
    types = dict(column.rsplit(":", 1) for column in table.columns)
    table.columns = list(types)
    token_fields = [field for field, kind in types.items() if kind == "token"]
    if len(token_fields) != 1:
        raise InputError(f"'{path}' must have one column of type token, which names the item; it has {token_fields}.")
    field = _choice(path, name, [field for field, kind in types.items() if kind == "float_seq"])
    values = table[field].str.split(config["seq_separator"])
    return Rows(_stacked(path, values).astype(np.float32), token_array(table[token_fields[0]], f"'{path}'"))


def _stacked(path: str, values: pd.Series) -> np.ndarray:
    """Return a column of lists of equal length as one array."""
    lengths = values.str.len()
    if lengths.nunique() != 1:
        raise InputError(
            f"'{path}' must hold vectors of one length; it has {lengths.min():g} to {lengths.max():g} numbers a row."
        )
    return np.stack(values.to_list())


def _choice(path: str, name: str | None, offered: list[str]) -> str:
    if name in offered:
        return name
    if name is None and len(offered) == 1:
        return offered[0]
    problem = f"has no '{name}'" if name else "does not hold just one array"
    raise InputError(f"'{path}' {problem}: set feature_name to one of {', '.join(offered) or '(it holds none)'}.")


READERS: Mapping[str, Callable[[str, str | None, Any], Rows]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}


def _tokens(path: str | None, n_rows: int) -> np.ndarray | list[str]:
    if not path:
        return np.arange(n_rows).astype(str)
    if not os.path.isfile(path):
        raise InputError(f"There is no feature_tokens file at '{path}'.")
    try:
        with open(path, encoding="utf-8") as stream:
            return token_array(stream.read().splitlines(), f"'{path}'")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text file with one item token a line ({error}).") from error
