"""RQ-VAE: an autoencoder whose bottleneck is residually quantised (vector-quantize-pytorch).

D. Lee et al., "Autoregressive Image Generation using Residual Quantization", CVPR 2022; as the tokenizer of TIGER,
S. Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_sid.progress import progress
from recbole_sid.tokenizer.base import Tokenizer


class RQVAE(Tokenizer):
    """MLP encoder, residual quantiser with k-means initialisation, EMA and dead-code revival, mirrored MLP decoder.

    Args:
        hidden: widths of the encoder's hidden layers.
        dim: width of the quantised vector.
        beta: weight of the commitment loss.

    Attributes:
        encoder_, decoder_, quantizer_: the learnt modules.
        mean_, scale_: centre [d] and scale of the training rows.
        losses_: mean reconstruction error per epoch.
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        seed: int = 0,
        hidden: Sequence[int] = (256, 128),
        dim: int = 32,
        epochs: int = 200,
        learning_rate: float = 1e-3,
        batch_size: int = 1024,
        beta: float = 0.25,
        show_progress: bool = False,
    ) -> None:
        super().__init__(codebook_sizes, seed)
        self.hidden = tuple(hidden)
        self.dim = dim
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.beta = beta
        self.show_progress = show_progress

    @classmethod
    def from_config(cls, config: Any) -> RQVAE:
        """Read ``codebook_sizes``, ``seed``, ``show_progress`` and the ``rq_vae_*`` keys."""
        return cls(
            config["codebook_sizes"],
            config["seed"],
            hidden=config["rq_vae_hidden"],
            dim=config["rq_vae_dim"],
            epochs=config["rq_vae_epochs"],
            learning_rate=config["rq_vae_learning_rate"],
            batch_size=config["rq_vae_batch_size"],
            beta=config["rq_vae_beta"],
            show_progress=bool(config["show_progress"]),
        )

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> RQVAE:
        """Train on the rows of `train_items`; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            rows = torch.from_numpy(np.asarray(features[train_items], dtype=np.float32))
            self.mean_, self.scale_ = rows.mean(0), rows.std().clamp(min=1e-12)
            self._train(self._standardise(rows))
        return self

    @torch.no_grad()
    def encode(self, features: np.ndarray) -> np.ndarray:
        """Return each level's nearest code of the encoder's output, residually."""
        self.encoder_.eval()
        self.quantizer_.eval()
        batches = torch.from_numpy(np.asarray(features, dtype=np.float32)).split(65536)
        return torch.cat([self.quantizer_(self.encoder_(self._standardise(batch)))[1] for batch in batches]).numpy()

    def _standardise(self, rows: torch.Tensor) -> torch.Tensor:
        """Centre, and scale by one number: features whose mean outweighs their differences collapse the codebooks."""
        return (rows - self.mean_) / self.scale_

    def _train(self, rows: torch.Tensor) -> None:
        from vector_quantize_pytorch import ResidualVQ

        widths = (rows.shape[1], *self.hidden, self.dim)
        self.encoder_, self.decoder_ = _mlp(widths), _mlp(widths[::-1])
        self.quantizer_ = ResidualVQ(
            dim=self.dim,
            codebook_size=self.codebook_sizes,
            kmeans_init=True,
            decay=0.99,
            threshold_ema_dead_code=1,
        )
        optimizer = torch.optim.AdamW([*self.encoder_.parameters(), *self.decoder_.parameters()], self.learning_rate)
        # k-means initialisation wants a first batch with more rows than the largest codebook has codes.
        batch_size = min(len(rows), max(self.batch_size, *self.codebook_sizes))
        self.losses_: list[float] = []
        for _ in progress(range(self.epochs), "RQ-VAE", self.show_progress, unit="epoch"):
            total = 0.0
            for index in torch.randperm(len(rows)).split(batch_size):
                batch = rows[index]
                quantised, _, commitment = self.quantizer_(self.encoder_(batch))
                error = nn.functional.mse_loss(self.decoder_(quantised), batch)
                optimizer.zero_grad()
                (error + self.beta * commitment.sum()).backward()
                optimizer.step()
                total += error.item() * len(batch)
            self.losses_.append(total / len(rows))


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
