"""Code embeddings that start from the features of the items that have the codes, in place of random ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.features import item_features
from recbole_sid.features.scaling import Reduction, training_items
from recbole_sid.nn.vocabulary import TokenVocabulary
from recbole_sid.semantic_ids.build import semantic_id_recipe
from recbole_sid.tokenizer import residual as rq
from recbole_sid.util.hashing import fingerprint

NOISE = 1e-5  # means this much smaller than the features are what float32 leaves of zero


def start_codes_from_features(model: Any, config: Any, dataset: Any) -> None:
    """Let the code embeddings of a `SIDRecommender` start from the features of the items in the training part.

    Raises:
        InputError: if the run has no features.
    """
    try:
        features = item_features(config, dataset)
    except InputError as error:
        raise InputError(f"code_init=features starts code embeddings from the items' features. {error}") from error
    items = training_items(dataset)
    codes = model.item_codes[1:].cpu().numpy()[items]
    n_codes = start_from_features(model.token_embedding, model.vocabulary, features[items], codes, config["seed"])
    total = sum(model.vocabulary.codebook_sizes)
    model.logger.info(f"code_init=features: {n_codes} of {total} codes start from the features of their items.")


def features_lineage(config: Any, dataset: Any) -> dict[str, str]:
    """Return what `start_codes_from_features` depends on, as `SIDRecommender.start_lineage`."""
    return {"features at the start": fingerprint(semantic_id_recipe(config, dataset))}


@torch.no_grad()
def start_from_features(
    embedding: nn.Embedding, vocabulary: TokenVocabulary, features: np.ndarray, codes: np.ndarray, seed: int
) -> int:
    """Overwrite the embeddings of codes with `code_means`, each scaled to the root mean square of its level's before.

    Codes of no item, those whose mean is zero, and columns beyond the width of the features stay as they are.

    Args:
        embedding: token embedding [vocabulary, d].
        vocabulary: where each level's codes are in it.
        features: float32 [n, D] of the items that occur in training; their first d principal components are taken.
        codes: int64 [n, L] of the same items.
        seed: of the solver of the principal components, where it draws numbers.

    Returns:
        how many codes were overwritten.
    """
    width = min(embedding.embedding_dim, *features.shape)
    reduced = Reduction(width, whiten=False, seed=seed).fit(features).transform(features)
    least = NOISE * float(np.sqrt(np.square(reduced).mean()))
    changed = 0
    for level, means in enumerate(code_means(reduced, codes, vocabulary.codebook_sizes)):
        start = vocabulary.level_offsets[level]
        rows = embedding.weight[start : start + vocabulary.codebook_sizes[level], :width]
        started = torch.from_numpy(means).to(rows)
        size = started.square().mean(1, keepdim=True).sqrt()
        said = size > least
        rows.copy_(torch.where(said, started * (rows.square().mean().sqrt() / size), rows))
        changed += int(said.sum())
    return changed


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
