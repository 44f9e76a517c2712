"""A student's ranking as one CUDA graph: fixed shapes, one launch, no synchronisation before results are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch

from recbole_sid.nn.vocabulary import PAD

# Runs before the capture, in which libraries choose kernels and allocate workspaces.
_WARM_UP = 3
# Graphs that a model holds, each with memory of its own, and how much larger than a batch one that serves it may be.
_MOST_GRAPHS, _SPARE = 8, 4


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


class CapturedSearches:
    """A model's graphs by batch size and settings, with the weights as they are; few serve all batches.

    Capturing takes as long as ranking some batches, so it is done when a size comes for the second time: the odd last
    batch of an evaluation runs operation by operation, or in the graph of the others. The least recently used is
    dropped where there would be too many.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[tuple[Hashable, int], CapturedSearch] = OrderedDict()
        self._met: set[tuple[Hashable, int]] = set()

    def rank(self, model: Any, tokens: torch.Tensor, settings: Hashable) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what ``model.rank_eagerly(tokens)`` does, for serialised histories int64 [B, S].

        Args:
            settings: of the model: what a graph holds beside the weights.
        """
        key = settings, captured_size(len(tokens))
        found = self._fitting(*key)
        if found is not None:
            self._graphs.move_to_end(found)
            return self._graphs[found](tokens)
        if key not in self._met:
            self._met.add(key)
            return model.rank_eagerly(tokens)
        while len(self._graphs) >= _MOST_GRAPHS:
            self._graphs.popitem(last=False)
        self._graphs[key] = CapturedSearch(model, key[1], tokens.device)
        return self._graphs[key](tokens)

    def _fitting(self, settings: Hashable, size: int) -> tuple[Hashable, int] | None:
        """Return the key of the smallest graph that serves batches of `size` without much waste; None if none does."""
        keys = [key for key in self._graphs if key[0] == settings and size <= key[1] <= _SPARE * size]
        return min(keys, key=lambda key: key[1], default=None)


def captured_size(n_users: int) -> int:
    """Return the size of the graph for a batch: the next power of two, so that few graphs serve all batches."""
    return 1 << (n_users - 1).bit_length()
