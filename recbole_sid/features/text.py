"""Text features: fields of the ``.item`` file, encoded by a sentence encoder, or by TF-IDF and truncated SVD."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.catalogue import match_rows
from recbole_sid.errors import InputError, nearest
from recbole_sid.features.scaling import training_items
from recbole_sid.features.sentence import sentence_embeddings


def text_features(config: Any, dataset: Any) -> np.ndarray:
    """Return the encoded texts of the items: float32 [n_items, d].

    d is the width of ``text_model``, or at most ``text_dim`` where no model is named.
    """
    texts = item_texts(config, dataset.item_tokens())
    if config["text_model"]:
        return sentence_embeddings(config, texts)
    return tfidf_svd(texts, training_items(dataset), config)


def tfidf_svd(texts: Sequence[str], train_items: np.ndarray, config: Any) -> np.ndarray:
    """Return the truncated SVD of sublinear TF-IDF weights.

    Args:
        texts: of all items.
        train_items: int [n], those that words, weights and SVD are learnt from.
        config: reads ``text_dim``, ``seed``.

    Returns:
        float32 [n_texts, text_dim]; fewer columns where there are not so many words or training items.

    Raises:
        InputError: if the texts of training items hold no word.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        learnt_from = vectorizer.fit_transform(np.asarray(texts, dtype=object)[train_items])
    except ValueError as error:
        raise InputError(
            f"The text fields {config['text_fields']} hold no word at all: choose other fields."
        ) from error
    dim = max(1, min(config["text_dim"], min(learnt_from.shape) - 1))
    svd = TruncatedSVD(dim, random_state=config["seed"]).fit(learnt_from)
    return svd.transform(vectorizer.transform(texts)).astype(np.float32)


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
    item_field = config["text_item_field"] or config["ITEM_ID_FIELD"]
    for name in [item_field, *fields]:
        if name not in table.columns:
            raise InputError(
                f"'{path}' has no field '{name}'{nearest(name, table.columns)}; it has {', '.join(table.columns)}."
            )
    rows = match_rows(table[item_field].to_numpy(dtype=str), item_tokens)
    missing = rows < 0
    if missing.any():
        raise InputError(f"{missing.sum()} items are not in '{path}' (for example '{item_tokens[missing][0]}').")
    texts = table[fields[0]].str.cat([table[name] for name in fields[1:]], sep=" ")
    return texts.iloc[rows].tolist()
