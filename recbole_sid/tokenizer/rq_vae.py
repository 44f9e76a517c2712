"""RQ-VAE: an autoencoder whose bottleneck is residually quantised (vector-quantize-pytorch).

D. Lee et al., "Autoregressive Image Generation using Residual Quantization", CVPR 2022; as the tokenizer of TIGER,
S. Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_sid.errors import InputError, nearest
from recbole_sid.settings import Settings, declare
from recbole_sid.tokenizer import residual as rq
from recbole_sid.tokenizer.base import Tokenizer
from recbole_sid.util.progress import progress

# How codebooks are learnt -> arguments of the library.
CODEBOOKS: dict[str, dict[str, Any]] = {
    "ema": {"ema_update": True, "learnable_codebook": False, "decay": 0.99},
    "gradient": {"ema_update": False, "learnable_codebook": True},
}
_ROWS = 65536  # encoded or decoded at a time
_MODULES = ("encoder", "decoder", "quantizer")


@dataclass(frozen=True)
class RQVAESettings(Settings):
    """Keys of the RQ-VAE."""

    rq_vae_hidden: list[int] = declare([256, 128], "Hidden widths of the RQ-VAE's encoder (mirrored in its decoder).")
    rq_vae_dim: int = declare(32, "Width of the quantised vector.")
    rq_vae_epochs: int = declare(200, "Epochs over the items, at most.")
    rq_vae_patience: int | None = declare(
        50, "Epochs without a smaller reconstruction error before it stops; empty: never."
    )
    rq_vae_learning_rate: float = declare(0.001, "AdamW learning rate.")
    rq_vae_batch_size: int = declare(1024, "Items a batch.")
    rq_vae_beta: float = declare(0.25, "Weight of the commitment loss.")
    rq_vae_codebook: str = declare(
        "ema", "How codebooks are learnt: ema (moving averages) or gradient.", choices=lambda: CODEBOOKS
    )
    rq_vae_kmeans_init: bool = declare(True, "Start the codebooks at the k-means of the first batch.")
    rq_vae_dead_code: float = declare(1.0, "Codes that fewer items a batch take are put on a random item; 0: never.")
    rq_vae_rotation_trick: bool = declare(
        True, "Pass gradients through the quantiser by rotation instead of straight through."
    )


class RQVAE(Tokenizer):
    """MLP encoder, residual quantiser, mirrored MLP decoder.

    Args:
        hidden: widths of the encoder's hidden layers.
        dim: width of the quantised vector.
        epochs: at most.
        patience: epochs without a smaller reconstruction error after which training stops and the best weights are
            taken; None trains all epochs and takes the last.
        beta: weight of the commitment loss (for gradient codebooks, of their loss too).
        codebook: how codebooks are learnt, ``ema`` (moving averages of what they encode) or ``gradient``.
        kmeans_init: start codebooks at the k-means of the first batch.
        dead_code: codes that fewer items of a batch (moving average) take are put on a random item; 0 leaves them.
        rotation_trick: pass gradients through the quantiser by rotation (C. Fifty et al., ICLR 2025) instead of
            straight through.
        device: where it is trained.

    Attributes:
        encoder_, decoder_, quantizer_: the learnt modules, on the CPU.
        mean_, scale_: centre [d] and scale [] of the training rows.
        losses_: mean reconstruction error per epoch.

    Raises:
        InputError: for an unknown `codebook`.
    """

    settings = RQVAESettings

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        seed: int = 0,
        hidden: Sequence[int] = (256, 128),
        dim: int = 32,
        epochs: int = 200,
        patience: int | None = None,
        learning_rate: float = 1e-3,
        batch_size: int = 1024,
        beta: float = 0.25,
        codebook: str = "ema",
        kmeans_init: bool = True,
        dead_code: float = 1,
        rotation_trick: bool = True,
        device: str | torch.device = "cpu",
        show_progress: bool = False,
    ) -> None:
        super().__init__(codebook_sizes, seed)
        if codebook not in CODEBOOKS:
            raise InputError(
                f"rq_vae_codebook='{codebook}'{nearest(str(codebook), CODEBOOKS)} must be one of "
                f"{', '.join(CODEBOOKS)}."
            )
        self.hidden = tuple(hidden)
        self.dim = dim
        self.epochs = epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.beta = beta
        self.codebook = codebook
        self.kmeans_init = kmeans_init
        self.dead_code = dead_code
        self.rotation_trick = rotation_trick
        self.device = torch.device(device)
        self.show_progress = show_progress

    @classmethod
    def from_config(cls, config: Any) -> RQVAE:
        """Read ``codebook_sizes``, ``seed``, ``device``, ``show_progress`` and the ``rq_vae_*`` keys."""
        settings = RQVAESettings.of(config)
        return cls(
            config["codebook_sizes"],
            config["seed"],
            hidden=settings.rq_vae_hidden,
            dim=settings.rq_vae_dim,
            epochs=settings.rq_vae_epochs,
            patience=settings.rq_vae_patience,
            learning_rate=settings.rq_vae_learning_rate,
            batch_size=settings.rq_vae_batch_size,
            beta=settings.rq_vae_beta,
            codebook=settings.rq_vae_codebook,
            kmeans_init=settings.rq_vae_kmeans_init,
            dead_code=settings.rq_vae_dead_code,
            rotation_trick=settings.rq_vae_rotation_trick,
            device=config["device"],
            show_progress=bool(config["show_progress"]),
        )

    def fit(self, features: np.ndarray, train_items: np.ndarray) -> RQVAE:
        """Train on the rows of `train_items`; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            rows = torch.from_numpy(np.asarray(features[train_items], dtype=np.float32))
            self.mean_, self.scale_ = rows.mean(0), rows.std().clamp(min=1e-12)
            self._build(rows.shape[1])
            self._move(self.device)
            self._train(self._standardise(rows).to(self.device))
            self._move(torch.device("cpu"))
        return self

    @torch.no_grad()
    def encode(self, features: np.ndarray) -> np.ndarray:
        """Return each level's nearest code of the encoder's output, residually."""
        return torch.cat([self.quantizer_(latent)[1] for latent in self._latents(features)]).numpy()

    @torch.no_grad()
    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Return the decoder's output."""
        batches = torch.from_numpy(rq.total(self._codebooks(), codes)).split(_ROWS)
        return torch.cat([self.decoder_(batch) * self.scale_ + self.mean_ for batch in batches]).numpy()

    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return squared errors of the encoder's output."""
        latents = torch.cat(list(self._latents(features))).numpy()
        return rq.last_level_distortions(latents, self._codebooks(), codes)

    def state(self) -> dict[str, np.ndarray]:
        """Return the weights of all modules, centre and scale."""
        state = {f"{name}.{key}": value.numpy() for name in _MODULES for key, value in self._weights(name).items()}
        return {"mean": self.mean_.numpy(), "scale": self.scale_.numpy(), **state}

    def load_state(self, state: Mapping[str, np.ndarray]) -> RQVAE:
        """Take over the weights, centre and scale."""
        self.mean_, self.scale_ = (torch.from_numpy(np.array(state[name])) for name in ("mean", "scale"))
        with torch.random.fork_rng(devices=[]):
            self._build(len(self.mean_))
        for name in _MODULES:
            weights = {key: torch.from_numpy(np.array(state[f"{name}.{key}"])) for key in self._weights(name)}
            getattr(self, f"{name}_").load_state_dict(weights)
        return self

    def _latents(self, features: np.ndarray) -> list[torch.Tensor]:
        with torch.no_grad():
            batches = torch.from_numpy(np.asarray(features, dtype=np.float32)).split(_ROWS)
            return [self.encoder_(self._standardise(batch)) for batch in batches]

    def _codebooks(self) -> list[np.ndarray]:
        return [layer._codebook.embed[0].detach().numpy() for layer in self.quantizer_.layers]

    def _weights(self, name: str) -> dict[str, torch.Tensor]:
        return getattr(self, f"{name}_").state_dict()

    def _standardise(self, rows: torch.Tensor) -> torch.Tensor:
        """Centre, and scale by one number: features whose mean outweighs their differences collapse the codebooks."""
        return (rows - self.mean_) / self.scale_

    def _build(self, width: int) -> None:
        from vector_quantize_pytorch import ResidualVQ

        widths = (width, *self.hidden, self.dim)
        self.encoder_, self.decoder_ = _mlp(widths), _mlp(widths[::-1])
        self.quantizer_ = ResidualVQ(
            dim=self.dim,
            codebook_size=self.codebook_sizes,
            kmeans_init=self.kmeans_init,
            threshold_ema_dead_code=self.dead_code,
            rotation_trick=self.rotation_trick and self.dim > 1,
            **CODEBOOKS[self.codebook],
        )
        self._modules = nn.ModuleList([self.encoder_, self.decoder_, self.quantizer_]).eval()

    def _move(self, device: torch.device) -> None:
        self._modules.to(device)

    def _train(self, rows: torch.Tensor) -> None:
        self._modules.train()
        optimizer = torch.optim.AdamW(self._modules.parameters(), self.learning_rate)
        self.losses_: list[float] = []
        best: dict[str, Any] = {}
        for _ in progress(range(self.epochs), "RQ-VAE", self.show_progress, unit="epoch"):
            self.losses_.append(self._epoch(rows, optimizer))
            if self.patience is None:
                continue
            since = len(self.losses_) - 1 - int(np.argmin(self.losses_))
            if since == 0:
                best = copy.deepcopy(self._modules.state_dict())
            elif since >= self.patience:
                break
        if best:
            self._modules.load_state_dict(best)
        self._modules.eval()

    def _epoch(self, rows: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
        """Train on every row once; return the mean reconstruction error."""
        # k-means initialisation wants a first batch with more rows than the largest codebook has codes.
        batch_size = min(len(rows), max(self.batch_size, *self.codebook_sizes))
        total = torch.zeros((), device=rows.device)
        for index in torch.randperm(len(rows)).split(batch_size):
            batch = rows[index.to(rows.device)]
            quantised, _, commitment = self.quantizer_(self.encoder_(batch))
            error = nn.functional.mse_loss(self.decoder_(quantised), batch)
            optimizer.zero_grad()
            (error + self.beta * commitment.sum()).backward()
            optimizer.step()
            total += error.detach() * len(batch)
        return float(total) / len(rows)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
