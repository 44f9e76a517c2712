"""The best prefixes of each user and the items under them: the trie as an index for other ways to score items."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recbole_sid.decoding.children import children
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie


def best_prefixes(scorer: LevelScorer, trie: Trie, widths: Sequence[int], normaliser: str = "children") -> torch.Tensor:
    """Return the best prefixes int64 [B, K] of as many codes as there are `widths`, -1 for none; K <= widths[-1].

    Args:
        widths: how many prefixes are kept at each level.
        normaliser: as of `beam_search`.
    """
    state = scorer.start()
    nodes = torch.zeros(scorer.n_users, 1, dtype=torch.int64, device=scorer.device)
    scores = torch.zeros(scorer.n_users, 1, device=scorer.device)
    for level, width in enumerate(widths):
        nodes, parents, scores = children(scorer, trie, level, state, nodes, scores, normaliser).best(width)
        if level + 1 < len(widths):
            state = scorer.extend(state, parents, trie.code(level)[nodes.clamp(min=0)].long())
    return nodes


def items_under(trie: Trie, depth: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (row, item), both int64 [P], rows rising, of all items under prefixes.

    Args:
        depth: codes of a prefix.
        nodes: int64 [B, K], -1 for none.
    """
    first, end = nodes.clamp(min=0), nodes + 1
    for level in range(depth, trie.n_levels + 1):
        first, end = trie.start(level)[first].long(), trie.start(level)[end].long()
    count = (end - first).masked_fill(nodes < 0, 0).flatten()
    of_prefix = torch.repeat_interleave(count)
    place = torch.arange(len(of_prefix), device=nodes.device) - (count.cumsum(0) - count - first.flatten())[of_prefix]
    return of_prefix // max(1, nodes.shape[1]), trie.item[place].long()
