"""RecBole's ways of splitting interactions, for all users at once: the same rows in the same order, without a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_PARTS = 3
_LEFT_OUT = {"valid_and_test": 2, "valid_only": 1, "test_only": 1}


def split_rows(
    users: np.ndarray, times: np.ndarray, split: Mapping[str, Any], group_by: str | None
) -> list[np.ndarray] | None:
    """Return the rows of training, validation and test, int64 each; None for a split that RecBole does not know.

    RecBole sorts all rows by time, groups them by user in the order of the first of each, and divides each group
    (recbole/data/dataset/dataset.py, `Dataset.build`).

    Args:
        users: int [n], of rows by user and time.
        times: float32 [n], as RecBole sorts by them.
        split: a mode and how, as in ``eval_args.split``.
        group_by: ``user`` or None, as in ``eval_args.group_by``.
    """
    if len(split) != 1:
        return None
    ((mode, how),) = split.items()
    if mode == "LS":
        if how not in _LEFT_OUT:
            return None
    elif mode not in ("RS", "TS") or not isinstance(how, list) or len(how) != _PARTS:
        return None
    if not len(users):
        return [np.zeros(0, dtype=np.int64)] * _PARTS
    if mode == "RS" and (group_by is None or group_by.lower() == "none"):
        return np.split(np.argsort(times, kind="stable"), _ends(len(users), how))
    if mode == "RS" and group_by != "user":
        return None
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    by_time = np.argsort(times[starts], kind="stable")
    opens, lengths = starts[by_time], np.diff(np.append(starts, len(users)))[by_time]
    if mode == "LS":
        left_out = np.minimum(_LEFT_OUT[how], lengths - 1)
        training = lengths - left_out
        validation = {"valid_only": left_out, "test_only": 0, "valid_and_test": left_out == 2}[how]
        ends = training, training + validation
    elif mode == "RS":
        different, which = np.unique(lengths, return_inverse=True)
        ends = tuple(np.array([_ends(int(length), how) for length in different]).T[:, which])
    else:
        ends = _ends_by_time(times, opens, lengths, how)
    begins = np.cumsum(lengths) - lengths
    rows = np.repeat(opens - begins, lengths) + np.arange(len(users))
    place = rows - np.repeat(opens, lengths)
    first, second = (np.repeat(end, lengths) for end in ends)
    return [rows[place < first], rows[(place >= first) & (place < second)], rows[place >= second]]


def _ends(total: int, shares: list[float]) -> list[int]:
    """Return where the first two parts of so many rows end (`Dataset._calcu_split_ids`)."""
    ratios = [share / sum(shares) for share in shares]
    counts = [int(ratio * total) for ratio in ratios]
    counts[0] = total - sum(counts[1:])
    for part in range(1, len(counts)):
        if counts[0] <= 1:
            break
        if 0 < ratios[-part] * total < 1:
            counts[-part] += 1
            counts[0] -= 1
    return [counts[0], counts[0] + counts[1]]


def _ends_by_time(
    times: np.ndarray, opens: np.ndarray, lengths: np.ndarray, shares: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return where each user's training and validation end (`Dataset.time_based_split`)."""
    ratios = [share / sum(shares) for share in shares]
    known = np.concatenate([[0], np.cumsum(times <= np.percentile(times, 100 * (1 - ratios[-1])))])
    before = known[opens + lengths] - known[opens]
    return (before * (ratios[0] / (1 - ratios[2]))).astype(np.int64), before
