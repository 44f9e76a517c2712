"""Means over instances whose spread is that over users: what one user does is not independent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ByUser(NamedTuple):
    """Values of users with one or several instances each.

    Attributes:
        sums: float [u], over each user's instances.
        counts: int [u], how many they are.
    """

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, users: np.ndarray | None) -> ByUser:
        """Gather values float [n] of instances by their users [n]; None: each instance is a user's only one."""
        names, place = np.unique(np.arange(len(values)) if users is None else users, return_inverse=True)
        if len(names) == len(values):
            return cls(values, np.ones(len(values), dtype=np.int64))
        return cls(np.bincount(place, values, len(names)), np.bincount(place, minlength=len(names)))

    @property
    def have_one(self) -> bool:
        """Whether each user has one instance."""
        return bool((self.counts == 1).all())

    def linearised(self) -> np.ndarray:
        """Return float [u] whose mean is that of the instances, and whose spread is the mean's over users."""
        if self.have_one:
            return self.sums
        mean = self.sums.sum() / self.counts.sum()
        return mean + (self.sums - mean * self.counts) / self.counts.mean()
