"""Items found by words of their titles: for the page, where somebody picks a history by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from recbole_sid.serving.catalogue import Catalogue

_TITLES = ("title", "item_title", "movie_title", "name", "text")  # fields that hold one, the best first
_MATCHES = 2000  # of which the most popular are shown
_LOOKED_AT = 20_000  # titles with the longest word, in which the others are looked for
_CHUNK = 1 << 21  # bytes that are searched at once: between two, other threads may go on


class Titles:
    """The titles of a catalogue; the index for searching is made by the first search, and takes as much as they do.

    Args:
        catalogue: of a bundle.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        known = [name for name in _TITLES if name in catalogue.fields]
        self._field = [*known, *catalogue.fields, None][0]

    def of(self, numbers: np.ndarray) -> list[str]:
        """Return the titles of items int [n], or their ids where the bundle has no titles."""
        if self._field is None:
            return self._catalogue.tokens(numbers)
        return self._catalogue.shown(numbers, self._field)

    def search(self, words: str, limit: int) -> np.ndarray:
        """Return numbers int64 [n], n <= limit, of items whose titles hold all words, by falling popularity.

        An item whose id is asked for comes first; without words it is the most popular.
        """
        wanted = sorted(words.casefold().encode("utf-8", "ignore").split(), key=len, reverse=True)
        if not wanted:
            return np.asarray(self._catalogue.popular[:limit], dtype=np.int64)
        found = np.fromiter(self._matches(wanted), dtype=np.int64)
        found = found[np.argsort(self._rank[found], kind="stable")]
        itself = self._catalogue.numbers([words.strip()])
        itself = itself[itself > 0]
        return np.concatenate([itself, found[~np.isin(found, itself)]])[:limit]

    def _matches(self, wanted: list[bytes]) -> Iterator[int]:
        """Yield numbers of items whose titles hold all words, in the catalogue's order, as far as is looked at."""
        text, starts = self._index
        first, others = wanted[0], wanted[1:]
        n_found = n_looked = done = 0
        for begin in range(0, len(text), _CHUNK):
            end, place = begin + _CHUNK + len(first) - 1, max(begin, done) - 1
            while (place := text.find(first, place + 1, end)) >= 0:
                item = int(starts.searchsorted(place, side="right")) - 1
                n_looked += 1
                if item and all(word in text[starts[item] : starts[item + 1]] for word in others):
                    n_found += 1
                    yield item
                if n_found == _MATCHES or n_looked == _LOOKED_AT:
                    return
                done = int(starts[item + 1])
                place = done - 1

    @cached_property
    def _index(self) -> tuple[bytes, np.ndarray]:
        """All titles without upper case, a line each, and where each begins, int64 [n_items + 1]."""
        texts = (
            self._catalogue.fields[self._field]
            if self._field
            else self._catalogue.texts(np.arange(self._catalogue.n_items))
        )
        spaced = np.maximum(texts.text, ord(" "))  # a title has no line breaks
        lines = np.insert(spaced, texts.starts[1:], ord("\n")).tobytes()
        text = lines.decode("utf-8", "replace").casefold().encode()
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
        return text, np.concatenate([np.zeros(1, np.int64), ends])

    @cached_property
    def _rank(self) -> np.ndarray:
        """The place of each item by popularity, int64 [n_items]."""
        rank = np.empty(self._catalogue.n_items, dtype=np.int64)
        rank[0] = len(rank)
        rank[self._catalogue.popular] = np.arange(len(rank) - 1)
        return rank
