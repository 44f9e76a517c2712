"""Beam search over semantic IDs, for any model that gives level logits for prefixes."""

from __future__ import annotations

import torch

from recbole_sid.decoding.children import children
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie, at


def beam_search(
    scorer: LevelScorer, trie: Trie, k: int, normaliser: str = "children"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search valid semantic IDs only.

    Args:
        k: prefixes kept per level, the beam's width.
        normaliser: ``children`` shares a prefix's probability among its valid children (as in the SID-MLP paper),
            ``codes`` among all codes.

    Returns:
        leaves of `trie` int64 [B, K] by falling score, -1 where fewer than K are reachable; log-probabilities [B, K],
        -inf there. K <= k.
    """
    state = scorer.start()
    nodes = torch.zeros(scorer.n_users, 1, dtype=torch.int64, device=scorer.device)
    scores = torch.zeros(scorer.n_users, 1, device=scorer.device)
    for level in range(trie.n_levels):
        found = children(scorer, trie, level, state, nodes, scores, normaliser)
        nodes, parents, scores = found.best(min(k, trie.n_nodes(level + 1)))
        if level + 1 < trie.n_levels:
            state = scorer.extend(state, parents, at(trie.code(level), nodes.clamp(min=0)).long())
    return nodes, scores


def unconstrained_beam_search(scorer: LevelScorer, trie: Trie, beam_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Search all code combinations, as TIGER's authors do; beams that are no item's semantic ID come back as -1.

    Returns:
        leaves of `trie` int64 [B, K], -1 and score -inf where the beam is invalid; log-probabilities [B, K].
    """
    state = scorer.start()
    scores = torch.zeros(scorer.n_users, 1, device=scorer.device)
    prefixes = torch.zeros(scorer.n_users, 1, 0, dtype=torch.int64, device=scorer.device)
    for level, size in enumerate(trie.codebook_sizes):
        log_probs = scorer.logits(state, None).float().log_softmax(-1).view(*scores.shape, size)
        total = (scores.unsqueeze(-1) + log_probs).flatten(1)
        scores, place = total.topk(min(beam_size, total.shape[1]), dim=1)
        parents, codes = place // size, place % size
        kept = prefixes.gather(1, parents.unsqueeze(-1).expand(-1, -1, level))
        prefixes = torch.cat([kept, codes.unsqueeze(-1)], dim=-1)
        if level + 1 < trie.n_levels:
            state = scorer.extend(state, parents, codes)
    leaves = trie.find(prefixes)
    return leaves, torch.where(leaves >= 0, scores, -torch.inf)
