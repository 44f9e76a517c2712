"""The true top-k of the whole catalogue, without beam error.

No child is more probable than its prefix, so a prefix's score bounds everything below it: once k leaves are known, only
prefixes that score at least as much as the k-th of them can hide a better one.
"""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.decoding.beam import beam_search
from recbole_sid.decoding.children import children
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie
from recbole_sid.util import hardware

# Prefixes are extended in chunks of this many beams (over all users), which bounds the memory.
_MAX_BEAMS = 1 << 15
# The bound's slack against rounding: a score may differ a little between products of different shapes.
_SLACK = 1e-4


def exact_search(
    scorer: LevelScorer, trie: Trie, k: int, normaliser: str = "children"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k best leaves int64 [B, K] of all, and their log-probabilities; arguments as `beam_search`.

    Fewer than k leaves in the trie give K columns fewer; leaves of probability 0 are -1.
    """
    leaves, scores = beam_search(scorer, trie, k, normaliser)
    if k >= trie.n_nodes(trie.n_levels):
        return leaves, scores
    search = _Descent(scorer, trie, k, normaliser, scores[:, -1:] - _SLACK)
    nodes = torch.zeros(scorer.n_users, 1, dtype=torch.int64, device=scorer.device)
    search.descend(0, scorer.start(), nodes, torch.zeros(nodes.shape, device=scorer.device))
    return search.leaves, search.scores


class _Descent:
    """Depth-first over chunks of prefixes, best first, with a bound that rises as leaves are found."""

    def __init__(self, scorer: LevelScorer, trie: Trie, k: int, normaliser: str, bound: torch.Tensor) -> None:
        self.scorer, self.trie, self.k, self.normaliser = scorer, trie, k, normaliser
        self.bound = bound  # [B, 1]
        self.leaves = torch.full((scorer.n_users, k), -1, dtype=torch.int64, device=scorer.device)
        self.scores = torch.full((scorer.n_users, k), -torch.inf, device=scorer.device)
        self.chunk = max(1, _MAX_BEAMS // max(1, scorer.n_users))

    def descend(self, level: int, state: Any, nodes: torch.Tensor, scores: torch.Tensor) -> None:
        """Search below the prefixes `nodes` [B, K] of depth `level`."""
        found = children(self.scorer, self.trie, level, state, nodes, scores, self.normaliser)
        if level + 1 == self.trie.n_levels and not hardware.on_cpu(nodes):
            self._keep(*found.best(self.k)[::2])  # no more of a user can matter, and the host need not wait for less
            return
        n_kept = int((found.scores >= self.bound).sum(1).max())
        if n_kept == 0:
            return
        nodes, parents, scores = found.best(n_kept)
        if level + 1 == self.trie.n_levels:
            self._keep(nodes, scores)
            return
        for first in range(0, n_kept, self.chunk):
            part = slice(first, first + self.chunk)
            below = torch.where(scores[:, part] >= self.bound, nodes[:, part], -1)
            codes = self.trie.code(level)[below.clamp(min=0)].long()
            extended = self.scorer.extend(state, parents[:, part], codes)
            self.descend(level + 1, extended, below, scores[:, part])

    def _keep(self, leaves: torch.Tensor, scores: torch.Tensor) -> None:
        """Merge found leaves into the best k and raise the bound."""
        together, nodes = torch.cat([self.scores, scores], dim=1), torch.cat([self.leaves, leaves], dim=1)
        self.scores, place = together.topk(self.k, dim=1)
        self.leaves = nodes.gather(1, place)
        self.bound = torch.maximum(self.bound, self.scores[:, -1:] - _SLACK)
