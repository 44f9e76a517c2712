"""Histories of a file answered batch by batch: reading, answering and writing apart, so that work can be spread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.errors import InputError
from recbole_sid.serving.history_files import HistoryBatch, read_histories
from recbole_sid.serving.list_files import writing_lists
from recbole_sid.serving.recommendations import Recommendations
from recbole_sid.serving.recommender import Recommender
from recbole_sid.util.progress import progress

BATCH = 1024  # users in memory at a time, fewer if their lists are long
_LISTED = 1 << 22  # items of the lists of a batch


@dataclass(frozen=True)
class Wish:
    """What is asked for after every history.

    Attributes:
        k, exclude, items, on_unknown: as of `Recommender.recommend`.
    """

    k: int = 20
    exclude: Any = "seen"
    items: Sequence[str] | None = None
    on_unknown: str = "popularity"


class Count(NamedTuple):
    """How many users there were, those among them that got what is popular, and how many items were unknown."""

    users: int = 0
    popular: int = 0
    unknown: int = 0

    def plus(self, found: Recommendations) -> Count:
        """Return it with more users."""
        popular = int((found.how == "popularity").sum())
        return Count(self.users + len(found), self.popular + popular, self.unknown + int(found.unknown.sum()))

    @property
    def summary(self) -> str:
        """What to tell."""
        return (
            f"{self.users:,} users, of whom {self.popular:,} have no known item and got the most popular; "
            f"{self.unknown:,} unknown items skipped"
        )


def answer(recommender: Recommender, batch: HistoryBatch, wish: Wish) -> Recommendations:
    """Return the lists of a batch of users."""
    return recommender.recommend(batch.histories, wish.k, wish.exclude, wish.items, wish.on_unknown, batch.users)


def batch_size(recommender: Recommender, wish: Wish) -> int:
    """Return how many users are answered at a time."""
    return max(1, min(BATCH, _LISTED // min(wish.k, recommender.engine.n_items)))


def answer_file(
    recommender: Recommender, histories: str | Path, output: str | Path, wish: Wish, show_progress: bool = True
) -> Count:
    """Write the lists of all histories of a file, `BATCH` users in memory at a time.

    Raises:
        InputError: if a file is of the wrong kind, or a row cannot be used (names file and row); nothing is written.
    """
    answers = (answer(recommender, batch, wish) for batch in read_histories(histories, batch_size(recommender, wish)))
    return _written(answers, output, show_progress)


def answer_users(
    recommender: Recommender, users: Sequence[str] | None, output: str | Path, wish: Wish, show_progress: bool = True
) -> Count:
    """Write the lists of users that the bundle knows; None: of all that it knows.

    Raises:
        InputError: if it holds no histories, or the output is of the wrong kind.
    """
    size = batch_size(recommender, wish)
    parts = _parts(users, size) if users is not None else recommender.known_users(size)
    answers = (recommender.recommend_users(part, wish.k, wish.exclude, wish.items, wish.on_unknown) for part in parts)
    return _written(answers, output, show_progress)


def _parts(users: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (users[start : start + size] for start in range(0, len(users), size))


def _written(answers: Iterable[Recommendations], output: str | Path, show_progress: bool) -> Count:
    count = Count()
    with writing_lists(output) as write:
        for found in progress(answers, "recommending", show_progress):
            write(found)
            count = count.plus(found)
        if not count.users:
            raise InputError("There is no history to recommend for: the file has no rows.")
    return count
