"""The few numbers of a memory of transitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LEAST_PSEUDO_COUNTS = 0.001  # with none at all, items that never followed would have no probability

# Successors of an item that are kept unless said otherwise: all, on ml-100k, scientific and beauty with up to 10 hops.
# 256 cost dense ml-100k 1% of its validation NDCG@10, and 64 the two others nothing. Of a million items, a popular one
# has a hundred thousand.
ROW_LIMIT = 1024

LARGEST = 1 << 30  # of hops, window and pseudo_counts


class Numbers(NamedTuple):
    """What decides a memory beside its training part.

    Attributes:
        hops: pairs up to so many positions apart count.
        hop_decay: a pair one position further apart counts so much of it, 0 to 1.
        window: so many last items of a history are looked up.
        window_decay: an item one position further back weighs so much of it, 0 to 1.
        pseudo_counts: of the base measure in each row.
        text_weight: so much the items most like the row's own count in it, by a table of likeness from 0 to 1.
    """

    hops: int = 3
    hop_decay: float = 0.3
    window: int = 5
    window_decay: float = 0.3
    pseudo_counts: float = 1.0
    text_weight: float = 0.0

    @classmethod
    def read(cls, recorded: Sequence[float]) -> Numbers | str:
        """Return the numbers that a file holds in their order, or in words what is wrong with them."""
        if len(recorded) != len(cls._fields):
            return f"there are {len(recorded)} numbers, not {len(cls._fields)}"
        numbers = cls._make(recorded)
        problem = numbers.problem()
        return problem or numbers._replace(hops=int(numbers.hops), window=int(numbers.window))

    @property
    def of_table(self) -> tuple[float, ...]:
        """Those that the table depends on."""
        return self.hops, self.hop_decay, self.text_weight

    def problem(self) -> str | None:
        """Return what is wrong with them in words, None if nothing is."""
        for name in ("hops", "window"):
            value = getattr(self, name)
            if not 1 <= value <= LARGEST or value % 1:  # not value < 1: NaN is refused too
                return f"{name}={value} is no whole number of at least 1"
        for name in ("hop_decay", "window_decay"):
            if not 0 <= getattr(self, name) <= 1:
                return f"{name}={getattr(self, name)} is not from 0 to 1"
        if not LEAST_PSEUDO_COUNTS <= self.pseudo_counts <= LARGEST:
            return f"pseudo_counts={self.pseudo_counts} is not from {LEAST_PSEUDO_COUNTS} to {LARGEST}"
        if not 0 <= self.text_weight <= LARGEST:
            return f"text_weight={self.text_weight} is not from 0 to {LARGEST}"
        return None
