"""A decoder: a beam that is as wide as it is hard to tell its prefixes apart."""

from __future__ import annotations

import torch

from recbole_sid.decoding.children import children
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie

_MARGIN = 5.0  # of log-probability


def margin_search(
    scorer: LevelScorer, trie: Trie, k: int, normaliser: str = "children"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return leaves and scores [B, K] as beam search, which keeps all prefixes that are nearly as good as the k-th."""
    state = scorer.start()
    nodes = torch.zeros(scorer.n_users, 1, dtype=torch.int64, device=scorer.device)
    scores = torch.zeros(scorer.n_users, 1, device=scorer.device)
    for level in range(trie.n_levels - 1):
        found = children(scorer, trie, level, state, nodes, scores, normaliser)
        least = found.best(k)[2][:, -1:] - _MARGIN
        nodes, parents, scores = found.best(int((found.scores >= least).sum(1).max()))
        state = scorer.extend(state, parents, trie.code(level)[nodes.clamp(min=0)].long())
    leaves, _, scores = children(scorer, trie, trie.n_levels - 1, state, nodes, scores, normaliser).best(k)
    return leaves, scores
