"""The items of a bundle: their tokens, how often they were taken, and what is shown of them.

Items are numbered 1 .. n_items - 1, as in the models' tables; 0 is padding, and stands for what is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.serving.texts import Index, Texts

_TOKENS, _FIELD = "tokens", "field."


class Catalogue:
    """Item tokens and numbers, popularity and display fields.

    Attributes:
        n_items: with padding.
        popularity: int64 [n_items], how often each occurs in the training part.
        popular: int32 or int64 [n_items - 1], the numbers by falling popularity, of equal ones the lower first.
        fields: by name, such as ``title``, the text of each number.
    """

    def __init__(self, index: Index, popularity: np.ndarray, popular: np.ndarray, fields: Mapping[str, Texts]) -> None:
        self._index = index
        self.n_items = index.texts.n_texts
        self.popularity, self.popular, self.fields = popularity, popular, dict(fields)

    @classmethod
    def of(
        cls,
        item_tokens: Sequence[str] | np.ndarray,
        popularity: np.ndarray,
        fields: Mapping[str, Sequence[str]] | None = None,
    ) -> Catalogue:
        """Make it.

        Args:
            item_tokens: [n_items - 1], by number from 1.
            popularity: int [n_items - 1].
            fields: by name, [n_items - 1] texts each.
        """
        counts = np.concatenate([np.zeros(1, np.int64), np.asarray(popularity, np.int64)])
        popular = np.argsort(-counts[1:], kind="stable") + 1
        texts = {name: Texts.of(["", *values]) for name, values in (fields or {}).items()}
        small = popular.astype(np.int32 if len(counts) < 1 << 31 else np.int64)
        return cls(Index.of(item_tokens), counts, small, texts)

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], n_items: int, fields: Sequence[str], source: str) -> Catalogue:
        """Take it from a bundle's arrays.

        Raises:
            InputError: if something is missing or damaged.
        """
        index = Index.read(arrays, _TOKENS, n_items, source)
        popularity, popular = arrays.get("popularity"), arrays.get("popular")
        if (
            popularity is None
            or (popularity.dtype, popularity.shape) != (np.int64, (n_items,))
            or popularity.min() < 0
            or popular is None
            or popular.dtype not in (np.int32, np.int64)
            or popular.shape != (n_items - 1,)
            or (len(popular) and (popular.min() < 1 or popular.max() >= n_items))
        ):
            raise InputError(f"{source} is damaged: its popularity is not of {n_items - 1:,} items.")
        shown = {name: Texts.read(arrays, _FIELD + name, n_items, source) for name in fields}
        return cls(index, popularity, popular, shown)

    def with_items(self, item_tokens: Sequence[str], fields: Mapping[str, Sequence[str]]) -> Catalogue:
        """Return this one with further items behind, which nobody took yet.

        Args:
            item_tokens: [n], of none that is there.
            fields: display fields of them by name, [n] each; those that are missing stay empty.
        """
        known = self._index.texts.tolist()[1:]
        shown = {
            name: [*texts.tolist()[1:], *fields.get(name, [""] * len(item_tokens))]
            for name, texts in self.fields.items()
        }
        popularity = np.concatenate([self.popularity[1:], np.zeros(len(item_tokens), np.int64)])
        return Catalogue.of([*known, *item_tokens], popularity, shown)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `read` takes."""
        found = {**self._index.arrays(_TOKENS), "popularity": self.popularity, "popular": self.popular}
        for name, texts in self.fields.items():
            found |= texts.arrays(_FIELD + name)
        return found

    def numbers(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the number of each item, 0 where it is unknown: int64 [n]. About 0.4 microseconds each."""
        return self._index.numbers(tokens)

    def tokens(self, numbers: np.ndarray) -> list[str]:
        """Return the item tokens of `numbers`, int [n]; empty for 0."""
        return self._index.texts.take(np.ravel(numbers)).tolist()

    def texts(self, numbers: np.ndarray) -> Texts:
        """Return the item tokens of `numbers`, int [n], in a row, as Arrow has them."""
        return self._index.texts.take(np.ravel(numbers))

    def shown(self, numbers: np.ndarray, field: str) -> list[str]:
        """Return a display field of `numbers`, int [n]; empty for 0, and where the bundle has no such field."""
        rows = np.ravel(numbers)
        return self.fields[field].take(rows).tolist() if field in self.fields else [""] * len(rows)
