"""How much training backs what an instance asks for, and how much the codes blur it.

Two counts of the step from the last item d_1 to the target v. They are our reading of what the paper of the labels
(arXiv 2603.19809) argues, which is that memorization grows with repetition and that a semantic ID shares its prefixes:

- support: how often v came directly after d_1 in training;
- dilution at n: how many different item steps of training have the same first n codes on both sides as d_1 -> v.
"""

from __future__ import annotations

import numpy as np

from recbole_sid.generalization.tokens import prefix_ids
from recbole_sid.generalization.transitions import Ragged


def support(train_sequences: Ragged, last: np.ndarray, targets: np.ndarray, n_items: int) -> np.ndarray:
    """Return how often each target directly followed the last item in training.

    Args:
        train_sequences: item numbers below `n_items`.
        last: int64 [n], the last item of each history, -1 for none.
        targets: int64 [n].
        n_items: how many items there are.

    Returns:
        int64 [n].
    """
    steps, counts = np.unique(_steps(train_sequences, n_items), return_counts=True)
    return _look_up(steps, counts, np.where(last >= 0, last * n_items + targets, -1))


def dilution(train_sequences: Ragged, codes: np.ndarray, n: int, last: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return how many different item steps of training look like each instance's in the first `n` codes.

    Args:
        train_sequences: row numbers of `codes`.
        codes: int64 [n_items, L].
        n: prefix length.
        last, targets: as for `support`.

    Returns:
        int64 [n]; 1 for a step of training that no other resembles.
    """
    prefix, n_items = prefix_ids(codes, n), len(codes)
    first, second = np.divmod(np.unique(_steps(train_sequences, n_items)), n_items)
    n_prefixes = int(prefix.max()) + 1
    steps, counts = np.unique(prefix[first] * n_prefixes + prefix[second], return_counts=True)
    return _look_up(steps, counts, np.where(last >= 0, prefix[last] * n_prefixes + prefix[targets], -1))


def _steps(sequences: Ragged, n_items: int) -> np.ndarray:
    """Return the pairs of neighbours in `sequences` as numbers, first * n_items + second."""
    sequence = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
    together = sequence[1:] == sequence[:-1]
    values = sequences.values.astype(np.int64)
    return values[:-1][together] * n_items + values[1:][together]


def _look_up(keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, counts[place], 0)
