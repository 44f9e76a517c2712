"""Code embeddings that start from the features of the items that have the codes, in place of random ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from recbole_sid.data.vocabulary import TokenVocabulary
from recbole_sid.features.scaling import Reduction
from recbole_sid.tokenizer import residual as rq

CODE_INITS = ("random", "features")


@torch.no_grad()
def start_from_features(
    embedding: nn.Embedding, vocabulary: TokenVocabulary, features: np.ndarray, codes: np.ndarray, seed: int
) -> None:
    """Overwrite the embeddings of codes with `code_means`, each scaled to the root mean square of its level's before.

    Codes of no item, and those whose mean is zero, stay as they are.

    Args:
        embedding: token embedding [vocabulary, d].
        vocabulary: where each level's codes are in it.
        features: float32 [n_items, D]; their first d principal components are taken, and zeros after D.
        codes: int64 [n_items, L].
        seed: of the solver of the principal components, where it draws numbers.
    """
    width = min(embedding.embedding_dim, *features.shape)
    reduced = Reduction(width, whiten=False, seed=seed).fit(features).transform(features)
    for level, means in enumerate(code_means(reduced, codes, vocabulary.codebook_sizes)):
        start = vocabulary.level_offsets[level]
        rows = embedding.weight[start : start + vocabulary.codebook_sizes[level]]
        started = torch.zeros_like(rows)
        started[:, :width] = torch.from_numpy(means)
        size = started.square().mean(1, keepdim=True).sqrt()
        scale = rows.square().mean().sqrt() / size
        rows.copy_(torch.where(size > 0, started * scale, rows))


def code_means(features: np.ndarray, codes: np.ndarray, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield per level the mean of what earlier levels' means leave of the features of each code's items.

    For residual quantisers' semantic IDs these are about their codebooks; for others, their nearest likeness.

    Args:
        features: float32 [n_items, d].
        codes: int64 [n_items, L].
        sizes: codes per level.

    Yields:
        float32 [size, d]; zeros for codes of no item.
    """
    residual = features.copy()
    for level, size in enumerate(sizes):
        means = rq.means(residual, codes[:, level], np.zeros((size, features.shape[1]), dtype=np.float32))
        residual -= means[codes[:, level]]
        yield means
