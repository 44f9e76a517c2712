"""Arithmetic of residual codebooks: an item is the sum of one centroid per level."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array

logging.getLogger("faiss").setLevel(logging.WARNING)  # its loader logs which instruction sets it tried


def nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return each point's nearest centroid: int64 [n], for points [n, d] and centroids [k, d]."""
    import faiss

    _, index = faiss.knn(np.ascontiguousarray(points), np.ascontiguousarray(centroids), 1)
    return index[:, 0].astype(np.int64)


def k_means(points: np.ndarray, size: int, seed: int, iterations: int) -> np.ndarray:
    """Return min(size, n) centroids float32 of points [n, d] (faiss; learns from at most 256 points a centroid)."""
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        min(size, len(points)),
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=256,
    )
    kmeans.train(np.ascontiguousarray(points))
    return np.array(kmeans.centroids, dtype=np.float32)


def squared_distances(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return squared distances float32 [n, k]."""
    product = points @ centroids.T
    lengths = np.square(points).sum(axis=1, keepdims=True)
    return np.maximum(lengths - 2 * product + np.square(centroids).sum(axis=1), 0)


def means(points: np.ndarray, codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the mean of each code's points; a code without points keeps its centroid.

    Args:
        points: float32 [n, d].
        codes: int64 [n].
        centroids: float32 [size, d].

    Returns:
        float32 [size, d].
    """
    ones, bounds = np.ones(len(codes), dtype=np.float32), np.arange(len(codes) + 1)
    members = csr_array((ones, codes, bounds), shape=(len(codes), len(centroids)))
    count = np.bincount(codes, minlength=len(centroids))[:, None]
    return np.where(count > 0, (members.T @ points) / np.maximum(count, 1), centroids).astype(np.float32)


def total(codebooks: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Return the sums [n, d] of the centroids that codes [n, at least len(codebooks)] name."""
    result = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
    for level, codebook in enumerate(codebooks):
        result += codebook[codes[:, level]]
    return result


def last_level_distortions(points: np.ndarray, codebooks: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Return squared errors [n, size of the last level] of every last code after the given codes of the others."""
    above = total(codebooks[:-1], codes) if len(codebooks) > 1 else 0
    return squared_distances(np.asarray(points, dtype=np.float32) - above, codebooks[-1])


def filled(codebooks: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """Return codebooks of whole size: codes for which there were too few training items stand for no change."""
    return [np.pad(book, ((0, size - len(book)), (0, 0))) for book, size in zip(codebooks, sizes, strict=True)]


def name_levels(name: str, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``{name_0: values[0], ...}``, to be saved."""
    return {f"{name}_{level}": value for level, value in enumerate(values)}


def read_levels(name: str, state: Mapping[str, np.ndarray], n_levels: int) -> list[np.ndarray]:
    """Return what `name_levels` was given."""
    return [state[f"{name}_{level}"] for level in range(n_levels)]
