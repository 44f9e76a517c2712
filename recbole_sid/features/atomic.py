"""RecBole's atomic files, as RecBole itself reads them."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection
from typing import Any

import pandas as pd

from recbole_sid.errors import InputError, first_line
from recbole_sid.util.atomic_files import PARQUET, parquet_columns, read_parquet_columns, texts_of


def read_atomic(path: str | os.PathLike[str], config: Any, wanted: Collection[str]) -> pd.DataFrame:
    """Return all columns as text, named ``field:type``, by the call of RecBole's `_load_feat`, or of a Parquet file.

    Columns of a Parquet file that no text stands for, such as structs, are left out.

    Args:
        path: the file.
        config: reads ``field_separator`` and ``encoding``; of a Parquet file ``seq_separator`` and the fields of ids.
        wanted: fields that are not left out.

    Raises:
        InputError: if the file cannot be read with these, or is damaged, or a wanted field is no text.
    """
    if os.fspath(path).endswith(PARQUET):
        ids = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"])
        columns = [column for column in parquet_columns(path, ids) if column.type or column.field in wanted]
        found = read_parquet_columns(path, columns, config["seq_separator"])
        names = [f"{column.field}:{column.type}" for column in columns]
        texts = [texts_of(values, config["seq_separator"]) for values in found]
        return pd.DataFrame(dict(zip(names, texts, strict=True)))
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    try:
        return pd.read_csv(
            path, delimiter=separator, dtype=str, keep_default_na=False, encoding=encoding, engine="python"
        )
    except (ValueError, LookupError, pd.errors.ParserError, csv.Error) as error:
        raise InputError(
            f"'{path}' cannot be read with field_separator={separator!r} and encoding={encoding} "
            f"({first_line(error)}): set these two keys to what the file uses."
        ) from error
