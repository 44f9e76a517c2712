"""Token-level memorization: which prefixes of the target's semantic ID followed one of the history's in training.

Source: "How Well Does Generative Recommendation Generalize?", arXiv 2603.19809, section 4. An instance is n-gram
memorized if, over the first n codes of all items, the target's prefix came at most h positions after the prefix of one
of the last h items of the history in some training sequence, for some h <= H. The h <= H that hold for a pair are
those from some h on, so that H decides alone.
"""

from __future__ import annotations

import numpy as np

from recbole_sid.generalization.transitions import Gaps, Ragged

UNSEEN = 0


def prefix_ids(codes: np.ndarray, n: int) -> np.ndarray:
    """Return numbers from 0 int64 [n_items] that are equal where the first `n` of the codes [n_items, L] are."""
    return np.unique(codes[:, :n], axis=0, return_inverse=True)[1].reshape(-1)


def label_tokens(
    codes: np.ndarray, train_sequences: Ragged, recent: np.ndarray, targets: np.ndarray, hops: int = 4
) -> np.ndarray:
    """Return the largest memorized prefix length of each instance.

    Args:
        codes: int64 [n_items, L], the semantic ID of each item; items may share one.
        train_sequences: row numbers of `codes`.
        recent: int64 [n, >= hops], the last items of each history, the most recent first, -1 beyond its first.
        targets: int64 [n].
        hops: H.

    Returns:
        int64 [n]: n where the first n codes are memorized and no longer prefix is; 0 if not even the first code is.
    """
    longest = np.full(len(targets), UNSEEN, dtype=np.int64)
    recent = recent[:, :hops]
    for n in range(1, codes.shape[1] + 1):
        prefix = prefix_ids(codes, n)
        sequences = Ragged(prefix[train_sequences.values], train_sequences.offsets)
        transitions = Gaps(sequences, int(prefix.max()) + 1, hops)
        of_recent = np.where(recent >= 0, prefix[recent], -1)
        gaps = transitions.gap(of_recent, prefix[targets][:, None])
        longest[(gaps <= hops).any(axis=1)] = n
    return longest
