"""A student's ranking as one CUDA graph: fixed shapes, one launch, no synchronisation before results are read."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.nn.vocabulary import PAD

# Runs before the capture, in which libraries choose kernels and allocate workspaces.
_WARM_UP = 3


class CapturedSearch:
    """Beam search of a fixed number of users, captured with the model's weights as they are.

    Args:
        model: a student on CUDA in eval mode, whose encoder and scorer use static shapes.
        n_users: rows of the captured batch; smaller batches are filled up.
        device: the CUDA device.
    """

    def __init__(self, model: Any, n_users: int, device: torch.device) -> None:
        vocabulary = model.vocabulary
        self.empty = torch.full((n_users, 2 + model.max_seq_length * vocabulary.n_levels), PAD, device=device)
        self.empty[:, 0] = vocabulary.user_offset  # a history without tokens would give NaN
        self.tokens = self.empty.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                model.rank_eagerly(self.tokens)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.leaves, self.scores = model.rank_eagerly(self.tokens)

    def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves and scores [b, K] of serialised histories int64 [b, S], b <= n_users."""
        n_users, n_tokens = tokens.shape
        self.tokens.copy_(self.empty)
        self.tokens[:n_users, :n_tokens].copy_(tokens)
        self.graph.replay()
        return self.leaves[:n_users].clone(), self.scores[:n_users].clone()


def captured_size(n_users: int) -> int:
    """Return the size of the graph for a batch: the next power of two, so that few graphs serve all batches."""
    return 1 << (n_users - 1).bit_length()
