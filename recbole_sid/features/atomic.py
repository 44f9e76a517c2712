"""RecBole's atomic files, as RecBole itself reads them."""

from __future__ import annotations

import csv
from typing import Any

import pandas as pd

from recbole_sid.errors import InputError, first_line


def read_atomic(path: str, config: Any) -> pd.DataFrame:
    """Return all columns as text, named ``field:type``, by the call of RecBole's `_load_feat`.

    Args:
        path: the file.
        config: reads ``field_separator`` and ``encoding``.

    Raises:
        InputError: if the file cannot be read with these two.
    """
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
