"""Collaborative features: the item embedding of a trained model, or, without one, positive pointwise mutual information
of item co-occurrence, reduced by truncated SVD.

O. Levy, Y. Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014. Only the training part of
each sequence is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from recbole_sid.errors import InputError
from recbole_sid.features.base import FeatureSource
from recbole_sid.features.checkpoint import checkpoint_features
from recbole_sid.settings import Settings, declare


@dataclass(frozen=True)
class CollaborativeSettings(Settings):
    """Keys of the collaborative feature."""

    collaborative_window: int = declare(5, "Items at most this many positions apart in a training sequence co-occur.")
    collaborative_dim: int = declare(64, "Dimension of the PPMI-SVD features.")
    collaborative_checkpoint: str | None = declare(
        None, "Trained RecBole model whose item embedding is the collaborative feature instead.", file=True
    )
    collaborative_weight: str = declare(
        "item_embedding.weight", "Name of that embedding in the checkpoint.", file=False
    )


class CollaborativeFeatures(FeatureSource):
    """The item embedding in ``collaborative_checkpoint``, or `ppmi_svd` where none is named."""

    settings = CollaborativeSettings

    def fit_encode(self, dataset: Any) -> np.ndarray:
        if self.config["collaborative_checkpoint"]:
            return checkpoint_features(self.config, dataset)
        return ppmi_svd(self.config, dataset)

    def read(self, item_tokens: np.ndarray) -> Any:
        """Refuse: nobody has interacted with new items in the training part."""
        raise InputError(
            "New items have no 'collaborative' features, which are learnt from interactions in training: make the "
            "semantic IDs of a catalogue that grows from features=[text] or [file]."
        )

    def encode(self, raw: Any) -> np.ndarray:
        """Refuse, as `read`."""
        return self.read(raw)


def ppmi_svd(config: Any, dataset: Any) -> np.ndarray:
    """Return float32 [n_items, collaborative_dim]; items unseen in training get zeros."""
    items, offsets = dataset.training_sequences()
    ppmi = positive_pmi(co_occurrence(items, offsets, config["collaborative_window"], dataset.item_num))[1:, 1:]
    return truncated_svd(ppmi, config["collaborative_dim"], config["seed"])


def co_occurrence(items: np.ndarray, offsets: np.ndarray, window: int, n_items: int) -> sparse.csr_matrix:
    """Count ordered pairs of different items at most `window` positions apart in a sequence, both ways round.

    Args:
        items: int [n], sequences one after another.
        offsets: int [n_sequences + 1].
        window: positions, >= 1.
        n_items: size of the result.

    Returns:
        float64 [n_items, n_items], symmetric.
    """
    if window < 1:
        raise InputError(f"collaborative_window={window} must be at least 1.")
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = sparse.csr_matrix((n_items, n_items))
    for gap in range(1, min(window, max(len(items) - 1, 0)) + 1):
        same = (sequence[gap:] == sequence[:-gap]) & (items[gap:] != items[:-gap])
        left, right = items[:-gap][same], items[gap:][same]
        counts = counts + sparse.coo_matrix((np.ones(len(left)), (left, right)), shape=counts.shape).tocsr()
    return (counts + counts.T).tocsr()


def positive_pmi(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return max(0, log(p(i, j) / (p(i) p(j)))) where `counts` is not zero."""
    total = counts.sum()
    if total == 0:
        raise InputError("No two items co-occur in a training sequence: use text or file features instead.")
    marginal = np.asarray(counts.sum(axis=1)).ravel()
    pairs = counts.tocoo()
    values = np.log(pairs.data * total / (marginal[pairs.row] * marginal[pairs.col])).clip(min=0)
    result = sparse.csr_matrix((values, (pairs.row, pairs.col)), shape=counts.shape)
    result.eliminate_zeros()
    return result


def truncated_svd(matrix: sparse.spmatrix, dim: int, seed: int) -> np.ndarray:
    """Return U * sqrt(S) of the `dim` largest singular values, signs fixed so that the same input gives the same.

    Args:
        matrix: [n, m].
        dim: cut to min(n, m) - 1, which is all that the solver offers.
        seed: starts the solver.

    Returns:
        float32 [n, min(dim, min(n, m) - 1)].
    """
    rank = min(dim, min(matrix.shape) - 1)
    if rank < 1:
        raise InputError(f"A feature dimension of {dim} over {matrix.shape[0]} items cannot be computed: raise it.")
    start = np.random.default_rng(seed).uniform(-1, 1, min(matrix.shape))
    left, singular, _ = svds(matrix.astype(np.float64), k=rank, v0=start)
    order = np.argsort(-singular)
    left, singular = left[:, order], singular[order]
    sign = np.sign(left[np.abs(left).argmax(axis=0), np.arange(rank)])
    return (left * sign * np.sqrt(singular)).astype(np.float32)
