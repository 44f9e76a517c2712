"""A dataset's interactions divided at two moments, the same for all users.

Training are those before the first moment; targets of validation those from it until before the second; targets of test
all from the second on. What a target is predicted from is everything its user did before it, also after the first
moment: that is what a system in use would know. A user's first interaction is no target, as nothing precedes it.
"""

from __future__ import annotations

from logging import getLogger
from typing import NamedTuple

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.settings.time_split import Moments

TRAINING, VALIDATION, TEST = range(3)
LEFT_OUT = -1
_NAMES = ("training", "validation", "test")
_SUSPICIOUS = 0.5  # of all users begin at the same time


class TimeSplit(NamedTuple):
    """Which part each interaction belongs to.

    Attributes:
        part: int8 [n], of the interactions by user and time: 0 training, 1 validation, 2 test, -1 none of them.
        lone: int64 [m], those that are all of a user's training: no row has one as its target or in its history.
        items: int64 [n], the items of the interactions.
        starts: int64 [n], where the sequence of each interaction's user begins.
        description: what was counted, for the log.
    """

    part: np.ndarray
    lone: np.ndarray
    items: np.ndarray
    starts: np.ndarray
    description: str

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, times: np.ndarray, moments: Moments, name: str) -> TimeSplit:
        """Divide interactions, ordered by user and time.

        Args:
            users, items: int64 [n], internal numbers.
            times: float64 [n].
            moments: where to divide.
            name: of the dataset, for messages.

        Raises:
            InputError: if the times are positions in the users' sequences, or a part is empty.
        """
        _check_clock(users, times, name)
        first, second = _times_of(moments, times)
        opens = np.concatenate([[True], users[1:] != users[:-1]])
        part = ((times >= first).astype(np.int8) + (times >= second)).astype(np.int8)
        n_left_out = int((opens & (part > TRAINING)).sum())
        part[opens & (part > TRAINING)] = LEFT_OUT
        for number, empty in enumerate(_NAMES):
            if not (part == number).any():
                raise InputError(
                    f"The {empty} part of '{name}' is empty: move the moments of eval_args.split, as the times run "
                    f"from {times.min():.15g} to {times.max():.15g} and are divided at {first:.15g} and {second:.15g}."
                )
        starts = np.maximum.accumulate(np.where(opens, np.arange(len(users)), 0))
        trained = part == TRAINING
        lone = np.flatnonzero(opens & trained & ~np.append(trained[1:] & ~opens[1:], False))
        counted = _counted(users, items, part, n_left_out)
        at = f"{first:.15g} and {second:.15g}"
        return cls(part, lone, items, starts, f"'{name}' is split at the times {at}: {counted}")


def _times_of(moments: Moments, times: np.ndarray) -> tuple[float, float]:
    """Return the moments as times: a quantile is the first time before which at least that share lies, or ties do."""
    if not moments.are_quantiles:
        return moments.first, moments.second
    first, second = np.quantile(times, moments, method="higher")
    return float(first), float(second)


def _check_clock(users: np.ndarray, times: np.ndarray, name: str) -> None:
    """Refuse times that only count each user's interactions, and warn where they look like it.

    Raises:
        InputError: if every interaction of every user is exactly 1 after the one before.
    """
    follows = users[1:] == users[:-1]
    steps = (times[1:] - times[:-1])[follows]
    if follows.any() and not follows.all() and (steps == 1).all():
        raise InputError(
            f"The times of '{name}' are positions in each user's sequence (every interaction is exactly 1 after the "
            "one before) and no moments that users have in common: they cannot be split by; use {LS: valid_and_test}."
        )
    beginnings = times[np.concatenate([[True], ~follows])]
    together = float((beginnings == beginnings.min()).mean())
    if len(beginnings) > 1 and together > _SUSPICIOUS:
        getLogger().warning(
            f"{together:.0%} of the users of '{name}' begin at the same time, {beginnings.min():.15g}: if the times "
            "are positions in sequences and no clock, a split by time means nothing."
        )


def _counted(users: np.ndarray, items: np.ndarray, part: np.ndarray, n_left_out: int) -> str:
    trained = part == TRAINING
    sentences = [
        f"training on {trained.sum():,} interactions of {_distinct(users[trained]):,} users and "
        f"{_distinct(items[trained]):,} items"
    ]
    for number in (VALIDATION, TEST):
        here = part == number
        new_users, new_items = (~np.isin(values[here], values[trained]) for values in (users, items))
        sentences.append(
            f"{_NAMES[number]} of {here.sum():,} targets of {_distinct(users[here]):,} users ({new_users.sum():,} of "
            f"users and {new_items.sum():,} of items that training has not seen)"
        )
    return f"{'; '.join(sentences)}; {n_left_out:,} later ones are their user's first and so no targets."


def _distinct(values: np.ndarray) -> int:
    return len(np.unique(values))


def seen_before(split: TimeSplit, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what users had before each of some interactions, but for the items of these themselves.

    Args:
        rows: int64 [B], which interactions.

    Returns:
        places int64 [m] in `rows` and the items int64 [m].
    """
    lengths = rows - split.starts[rows]
    place = np.repeat(np.arange(len(rows)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    items = split.items[split.starts[rows][place] + within]
    other = items != split.items[rows][place]
    return place[other], items[other]
