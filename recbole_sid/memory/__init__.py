"""A memory of which item follows which: a table of transitions, and the mixture of it with a base measure."""

from recbole_sid.memory.memory import Memory, Recall
from recbole_sid.memory.mixture import BaseMeasure, best, ranks
from recbole_sid.memory.numbers import Numbers
from recbole_sid.memory.table import transition_table

__all__ = ["BaseMeasure", "Memory", "Numbers", "Recall", "best", "ranks", "transition_table"]
