"""Item-level categories of test instances: memorization, generalization of four types, or neither.

Source: "How Well Does Generative Recommendation Generalize?", arXiv 2603.19809, section 3. For a history that ends in
.. d_2, d_1 and a target v, over A_h, the pairs of items at most h positions apart in some training sequence:

- memorization: v directly followed d_1 in training;
- otherwise generalization, by each type at its smallest hop h (histories of at least h items only) at which some
  d_k, k <= h, satisfies
    substitutability  A_h[d_k, v], h >= 2
    symmetry          A_h[v, d_k]
    transitivity      A_h[d_k, x] and A_h[x, v] for some x
    second symmetry   both of v and d_k are reached from some x, or reach it, or v reaches x and x reaches d_k;
- otherwise uncategorized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from recbole_sid.errors import InputError
from recbole_sid.generalization.transitions import Gaps, Ragged, last_items, ragged, share_a_neighbour

CLASSES = ("memorization", "generalization", "uncategorized")
TYPES = ("substitutability", "symmetry", "transitivity", "second_symmetry")

Sequences = Ragged | tuple[np.ndarray, np.ndarray] | Sequence[Sequence[Any] | np.ndarray]


def label_instances(
    train_sequences: Sequences, histories: Sequences, targets: Sequence[Any] | np.ndarray, hops: int = 4
) -> pd.DataFrame:
    """Label each instance (history, target) by what the training sequences hold of it.

    Args:
        train_sequences: the whole training part of each sequence, items in order: a list of arrays, or a tuple of all
            items and the offsets [n_sequences + 1] at which the sequences start.
        histories: the items before each target, in the same form; only the last `hops` matter.
        targets: [n] items. Items may be numbers or strings, seen in training or not.
        hops: the largest distance H that counts, from 1 to 127.

    Returns:
        [n] rows with ``category`` (memorization, generalization or uncategorized) and, per type of generalization, its
        smallest hop (int8, 0: none), all 0 for memorization.

    Raises:
        InputError: if there is not one target per history, or `hops` is out of range.
    """
    check_hops(hops)
    train, past = ragged(train_sequences), ragged(histories)
    targets = np.asarray(targets)
    if len(targets) != len(past.offsets) - 1:
        raise InputError(f"There are {len(past.offsets) - 1} histories but {len(targets)} targets: give one for each.")
    items, codes = np.unique(np.concatenate([train.values, past.values, targets]), return_inverse=True)
    in_train, in_past, targets = np.split(codes, [len(train.values), len(train.values) + len(past.values)])
    transitions = Gaps(Ragged(in_train, train.offsets), len(items), hops)
    return Labeller(transitions).label(last_items(Ragged(in_past, past.offsets), hops), targets)


def check_hops(hops: int) -> None:
    """Raise InputError unless `hops` is a whole number from 1 to 127."""
    if not isinstance(hops, int) or isinstance(hops, bool) or not 1 <= hops <= 127:
        raise InputError(f"hops={hops!r} must be a whole number from 1 to 127.")


class Labeller:
    """Labels instances over one transition graph."""

    def __init__(self, transitions: Gaps) -> None:
        self.transitions = transitions
        self.successors = {hop: transitions.successors(hop) for hop in range(1, transitions.hops + 1)}
        self.predecessors = {hop: matrix.T.tocsr() for hop, matrix in self.successors.items()}

    def label(self, recent: np.ndarray, targets: np.ndarray) -> pd.DataFrame:
        """Return the labels of instances as `label_instances` does.

        Args:
            recent: int64 [n, H], the last items of each history, the most recent first, -1 beyond its first.
            targets: int64 [n].
        """
        target = targets[:, None]
        after, before = self.transitions.gap(recent, target), self.transitions.gap(target, recent)
        memorized = after[:, 0] == 1 if after.size else np.zeros(len(targets), dtype=bool)
        hop_of = {
            "substitutability": _smallest_hop(after, recent),  # from 2 on: at 1 it is memorization
            "symmetry": _smallest_hop(before, recent),
            "transitivity": self._smallest_hop_shared(recent, targets, ~memorized, [("successors", "predecessors")]),
            "second_symmetry": self._smallest_hop_shared(
                recent,
                targets,
                ~memorized,
                [("predecessors", "successors"), ("successors", "successors"), ("predecessors", "predecessors")],
            ),
        }
        labels = pd.DataFrame({name: np.where(memorized, 0, hop_of[name]).astype(np.int8) for name in TYPES})
        generalized = (labels > 0).any(axis=1).to_numpy()
        labels.insert(0, "category", pd.Categorical.from_codes(_class_code(memorized, generalized), CLASSES))
        return labels

    def _smallest_hop_shared(
        self, recent: np.ndarray, targets: np.ndarray, wanted: np.ndarray, relations: list[tuple[str, str]]
    ) -> np.ndarray:
        """Return the smallest hop int8 [n] at which a neighbour of one of the items is a neighbour of the target.

        Args:
            recent, targets: as `label`.
            wanted: bool [n], the rows to look at; the others get 0.
            relations: which neighbours of the item and which of the target.
        """
        smallest = np.zeros(len(targets), dtype=np.int8)
        for hop in range(1, self.transitions.hops + 1):
            for k in range(hop):
                for of_item, of_target in relations:
                    open_rows = np.flatnonzero(wanted & (smallest == 0) & (recent[:, hop - 1] >= 0))
                    left, right = self._neighbours(of_item, hop), self._neighbours(of_target, hop)
                    shared = share_a_neighbour(left, recent[open_rows, k], right, targets[open_rows])
                    smallest[open_rows[shared]] = hop
        return smallest

    def _neighbours(self, which: str, hop: int) -> csr_matrix:
        return (self.successors if which == "successors" else self.predecessors)[hop]


def shares(labels: pd.DataFrame, hops: int) -> list[dict[str, Any]]:
    """Return per category and per type and hop how many instances have the label: rows of category, count and share.

    The three categories partition the instances; types overlap. Shares are of all instances, from 0 to 1.
    """
    counts = [(name, int((labels["category"] == name).sum())) for name in CLASSES]
    for name in TYPES:
        first = 2 if name == "substitutability" else 1
        counts += [(f"{name}_{hop}", int((labels[name] == hop).sum())) for hop in range(first, hops + 1)]
    total = max(1, len(labels))
    return [{"category": name, "count": count, "share": count / total} for name, count in counts]


def _smallest_hop(gaps: np.ndarray, recent: np.ndarray) -> np.ndarray:
    """Return the smallest hop int8 [n] at which the gap of one of the last `hop` items is within it; 0: none."""
    smallest = np.zeros(len(gaps), dtype=np.int8)
    for hop in range(1, gaps.shape[1] + 1):
        found = (recent[:, hop - 1] >= 0) & (gaps[:, :hop] <= hop).any(axis=1)
        smallest[found & (smallest == 0)] = hop
    return smallest


def _class_code(memorized: np.ndarray, generalized: np.ndarray) -> np.ndarray:
    return np.where(memorized, 0, np.where(generalized, 1, 2))
