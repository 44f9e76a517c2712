"""Why an item is recommended after a history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True)
class Level:
    """A level of the item's semantic ID.

    Attributes:
        code: of the item.
        probability: of the code among those that may follow the codes before it.
        siblings: the likeliest codes in its place, with their probabilities, falling.
    """

    code: int
    probability: float
    siblings: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Explanation:
    """What the score of an item after a history is made of.

    Attributes:
        item: its id.
        score: as `Recommendations.scores` has it.
        probability: that it comes next, as the model sees it.
        levels: of its semantic ID, the first first; none for a model without.
        parts: by name, the probability that each head gives it, and what the memory adds to their mixture.
        remembered: ids of the history's items that the memory saw it follow.
        unknown: how many items of the history are not in the catalogue; they were skipped.
    """

    item: str
    score: float
    probability: float
    levels: tuple[Level, ...]
    parts: Mapping[str, float]
    remembered: tuple[str, ...]
    unknown: int

    @property
    def memory_share(self) -> float:
        """How much of the probability the memory of transitions gives, from 0 to 1; 0 for a model without."""
        return self.parts.get("memory", 0.0) / self.probability if self.probability > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it, with `memory_share`, as values that JSON can hold; a score that is none is None."""
        return {
            **asdict(self),
            "score": self.score if isfinite(self.score) else None,
            "memory_share": self.memory_share,
        }
