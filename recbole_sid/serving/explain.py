"""Why an item is recommended after a history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
        parts: what each head, or the memory, gives to the probability, by name.
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

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return asdict(self)
