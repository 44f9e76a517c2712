"""The true top-k of the whole catalogue, without beam error.

No child is more probable than its prefix, so a prefix's score bounds everything below it: once k leaves are known, only
prefixes that score at least as much as the k-th of them can hide a better one. On the CPU these are searched, level by
level; another device is asked once, whether the beams of a wide search left out any such prefix, which few do.
"""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.decoding.beam import beam_search
from recbole_sid.decoding.children import children
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie, at
from recbole_sid.util import hardware

# Prefixes are extended in chunks of this many beams (over all users), which bounds the memory; by shapes alone of more,
# as few chunks keep a device busy.
_MAX_BEAMS, _MAX_BEAMS_BY_SHAPE = 1 << 15, 1 << 17
# Prefixes that a device other than the CPU keeps a level, for k leaves: so many times k, and so many more. That is more
# than any user of the trained models had to keep (benchmarks/RESULTS.md, "Exact search off the CPU").
_TIMES_K, _MORE = 4, 64
# The bound's slack against rounding: a score may differ a little between products of different shapes.
_SLACK = 1e-4


def exact_search(
    scorer: LevelScorer, trie: Trie, k: int, normaliser: str = "children"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k best leaves int64 [B, K] of all, and their log-probabilities; arguments as `beam_search`.

    Fewer than k leaves in the trie give K columns fewer; leaves of probability 0 are -1.
    """
    if k >= trie.n_nodes(trie.n_levels):
        return beam_search(scorer, trie, k, normaliser)
    if hardware.on_cpu(scorer.device):
        leaves, scores = beam_search(scorer, trie, k, normaliser)
    else:
        width = max(k, min(_TIMES_K * k + _MORE, _MAX_BEAMS_BY_SHAPE // max(1, scorer.n_users)))
        leaves, scores, proven = wide_search(scorer, trie, k, width, normaliser)
        if bool(proven.all()):
            return leaves, scores
    search = _Descent(scorer, trie, k, normaliser, scores[:, -1:] - _SLACK)
    nodes = torch.zeros(scorer.n_users, 1, dtype=torch.int64, device=scorer.device)
    search.descend(0, scorer.start(), nodes, torch.zeros(nodes.shape, device=scorer.device))
    return search.leaves, search.scores


def wide_search(
    scorer: LevelScorer, trie: Trie, k: int, width: int, normaliser: str = "children"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Do as `beam_search` with `width` prefixes a level, and see whether they are enough; by shapes alone.

    Args:
        k: leaves, fewer than the trie has.
        width: at least k.

    Returns:
        leaves int64 [B, k] and log-probabilities [B, k], as `beam_search`; bool [B]: no prefix that was left out can
        hide a better leaf.
    """
    state = scorer.start()
    nodes = torch.zeros(scorer.n_users, 1, dtype=torch.int64, device=scorer.device)
    scores = torch.zeros(nodes.shape, device=scorer.device)
    left_out = torch.full_like(scores, -torch.inf)  # [B, 1], the best score of all prefixes that are
    for level in range(trie.n_levels - 1):
        n_kept = min(width, trie.n_nodes(level + 1))
        best = children(scorer, trie, level, state, nodes, scores, normaliser).best(n_kept + 1)
        nodes, parents, scores = (part[:, :n_kept] for part in best)
        if best[2].shape[1] > n_kept:
            left_out = torch.maximum(left_out, best[2][:, n_kept:])
        state = scorer.extend(state, parents, at(trie.code(level), nodes.clamp(min=0)).long())
    found = children(scorer, trie, trie.n_levels - 1, state, nodes, scores, normaliser)
    leaves, _, scores = found.best(k)
    proven = (left_out < scores[:, -1:] - _SLACK) | left_out.isneginf()
    return leaves, scores, proven.squeeze(1)


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
