"""Text features without a language model: TF-IDF over fields of the ``.item`` file, reduced by truncated SVD."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.catalogue import match_rows
from recbole_sid.errors import InputError, nearest


def text_features(config: Any, dataset: Any) -> np.ndarray:
    """Return float32 [n_items, text_dim]."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = item_texts(config, dataset.item_tokens())
    try:
        weights = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError as error:
        raise InputError(
            f"The text fields {config['text_fields']} hold no word at all: choose other fields."
        ) from error
    dim = min(config["text_dim"], min(weights.shape) - 1)
    return TruncatedSVD(dim, random_state=config["seed"]).fit_transform(weights).astype(np.float32)


def item_texts(config: Any, item_tokens: np.ndarray) -> list[str]:
    """Return one text per item: its `text_fields` joined by a space, in order.

    Raises:
        InputError: if no field is named, or the .item file, a field, or an item in it is missing.
    """
    fields = config["text_fields"]
    fields = [fields] if isinstance(fields, str) else list(fields or ())
    path = os.path.join(config["data_path"], f"{config['dataset']}.item")
    if not os.path.isfile(path):
        raise InputError(f"Text features need the file '{path}', which does not exist.")
    table = pd.read_csv(path, sep=config["field_separator"], dtype=str, keep_default_na=False, quoting=3)
    table.columns = [column.split(":")[0] for column in table.columns]
    if not fields:
        raise InputError(f"text_fields is empty: name fields of '{path}' ({', '.join(table.columns)}).")
    for name in fields:
        if name not in table.columns:
            raise InputError(
                f"'{path}' has no field '{name}'{nearest(name, table.columns)}; it has {', '.join(table.columns)}."
            )
    rows = match_rows(table[config["ITEM_ID_FIELD"]].to_numpy(dtype=str), item_tokens)
    missing = rows < 0
    if missing.any():
        raise InputError(f"{missing.sum()} items are not in '{path}' (for example '{item_tokens[missing][0]}').")
    texts = table[fields[0]].str.cat([table[name] for name in fields[1:]], sep=" ")
    return texts.iloc[rows].tolist()
