"""Residual quantisation with beam search (faiss's ResidualQuantizer): codes that are best together, not level by level.

A. Babenko, V. Lempitsky, "Additive Quantization for Extreme Vector Compression", CVPR 2014, names the beam encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.settings import Settings, declare
from recbole_sid.tokenizer import residual as rq
from recbole_sid.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class FaissRQSettings(Settings):
    """Keys of the residual quantiser of faiss."""

    faiss_rq_beam: int = declare(5, "Partial codes kept per item, in learning and in encoding.")
    faiss_rq_refine: bool = declare(False, "Fit all codebooks together once they are learnt.")


class FaissResidualQuantizer(Tokenizer):
    """faiss's residual quantiser; every size is a power of two.

    Args:
        beam: partial codes kept per item, in learning and in encoding.
        refine: whether codebooks are fitted together once all are learnt (least squares): smaller errors, but the first
            levels then depend on the later ones.

    Attributes:
        codebooks_: per level float32 [size, d].

    Raises:
        InputError: for a codebook size that is no power of two.
    """

    settings = FaissRQSettings

    def __init__(self, codebook_sizes: Sequence[int], seed: int = 0, beam: int = 5, refine: bool = False) -> None:
        super().__init__(codebook_sizes, seed)
        wrong = [size for size in self.codebook_sizes if size < 2 or size & (size - 1)]
        if wrong:
            raise InputError(
                f"faiss_rq makes codebooks of 2, 4, 8, ... codes and codebook_sizes has {wrong[0]}: use powers of two, "
                "or tokenizer=rq_kmeans."
            )
        if isinstance(beam, bool) or not isinstance(beam, int) or beam < 1:
            raise InputError(f"faiss_rq_beam={beam!r} must be a whole number of at least 1.")
        self.beam = beam
        self.refine = refine
        self.codebooks_: list[np.ndarray] = []

    @classmethod
    def from_config(cls, config: Any) -> FaissResidualQuantizer:
        """Read ``codebook_sizes``, ``seed``, ``faiss_rq_beam`` and ``faiss_rq_refine``."""
        settings = FaissRQSettings.of(config)
        return cls(config["codebook_sizes"], config["seed"], settings.faiss_rq_beam, settings.faiss_rq_refine)

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> FaissResidualQuantizer:
        """Learn one codebook per level from the residuals of beam search.

        Raises:
            InputError: if there are fewer training items than codes in a level.
        """
        import faiss

        rows = np.ascontiguousarray(features[train_items], dtype=np.float32)
        if len(rows) < max(self.codebook_sizes):
            raise InputError(
                f"faiss_rq cannot learn {max(self.codebook_sizes)} codes from the {len(rows)} items that occur in "
                "training: use smaller codebook_sizes, or tokenizer=rq_kmeans."
            )
        quantizer = self._quantizer(rows.shape[1])
        quantizer.train(rows)
        table = faiss.vector_to_array(quantizer.codebooks).reshape(-1, rows.shape[1])
        self.codebooks_ = np.split(table.copy(), np.cumsum(self.codebook_sizes)[:-1])
        return self

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Return the codes of least error that beam search finds."""
        import faiss

        rows = np.ascontiguousarray(features, dtype=np.float32)
        quantizer = self._quantizer(rows.shape[1])
        faiss.copy_array_to_vector(np.concatenate(self.codebooks_).ravel(), quantizer.codebooks)
        quantizer.is_trained = True
        packed = quantizer.compute_codes(rows)
        bits = np.array([size.bit_length() - 1 for size in self.codebook_sizes], dtype=np.int32)
        return faiss.unpack_bitstrings(packed, bits).astype(np.int64)

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Return the sum of the centroids."""
        return rq.total(self.codebooks_, codes)

    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return squared errors of the features."""
        return rq.last_level_distortions(features, self.codebooks_, codes)

    def state(self) -> dict[str, np.ndarray]:
        """Return the codebooks."""
        return rq.name_levels("codebook", self.codebooks_)

    def load_state(self, state: Mapping[str, np.ndarray]) -> FaissResidualQuantizer:
        """Take over the codebooks."""
        self.codebooks_ = rq.read_levels("codebook", state, len(self.codebook_sizes))
        return self

    def _quantizer(self, dim: int) -> Any:
        import faiss

        bits: Any = faiss.UInt64Vector()
        for size in self.codebook_sizes:
            bits.push_back(size.bit_length() - 1)
        quantizer = faiss.ResidualQuantizer(dim, bits)
        quantizer.max_beam_size = self.beam
        quantizer.cp.seed = self.seed + 1
        quantizer.cp.min_points_per_centroid = 1
        if self.refine:
            quantizer.train_type |= faiss.ResidualQuantizer.Train_refine_codebook
        return quantizer
