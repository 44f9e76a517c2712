"""Beam search over semantic IDs, for any model that gives level logits for prefixes."""

from __future__ import annotations

from typing import Protocol

import torch

from recbole_sid.decoding.trie import Trie


class LevelScorer(Protocol):
    """A model's view of a batch of users while their beams grow; one call per level."""

    def first(self) -> torch.Tensor:
        """Return the logits of the first level: [B, 1, size of level 0]."""

    def next(self, parents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Extend beams and return the next level's logits.

        Args:
            parents: int64 [B, K], which beam of the last call each new beam extends.
            codes: int64 [B, K], the code it is extended by.

        Returns:
            [B, K, size of the next level].
        """


def constrained_beam_search(scorer: LevelScorer, trie: Trie, beam_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Search valid semantic IDs only; probability is renormalised over a prefix's valid children.

    Returns:
        leaves of `trie` int64 [B, K] by falling score, -1 where fewer than K are reachable; log-probabilities [B, K],
        -inf there. K <= beam_size.
    """
    logits = scorer.first()
    nodes = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    scores = torch.zeros(logits.shape[:2], device=logits.device)
    for level in range(trie.n_levels):
        log_probs = masked_log_softmax(logits, trie.child_mask(level, nodes))
        scores, parents, codes = _best(scores, log_probs, beam_size)
        nodes = trie.child(level, nodes.gather(1, parents), codes)
        nodes = torch.where(scores > -torch.inf, nodes, -1)
        if level + 1 < trie.n_levels:
            logits = scorer.next(parents, codes)
    return nodes, scores


def unconstrained_beam_search(scorer: LevelScorer, trie: Trie, beam_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Search all code combinations, as TIGER's authors do; beams that are no item's semantic ID come back as -1.

    Returns:
        leaves of `trie` int64 [B, K], -1 and score -inf where the beam is invalid; log-probabilities [B, K].
    """
    logits = scorer.first()
    scores = torch.zeros(logits.shape[:2], device=logits.device)
    prefixes = torch.zeros(*logits.shape[:2], 0, dtype=torch.int64, device=logits.device)
    for level in range(trie.n_levels):
        scores, parents, codes = _best(scores, logits.float().log_softmax(-1), beam_size)
        kept = prefixes.gather(1, parents.unsqueeze(-1).expand(-1, -1, level))
        prefixes = torch.cat([kept, codes.unsqueeze(-1)], dim=-1)
        if level + 1 < trie.n_levels:
            logits = scorer.next(parents, codes)
    leaves = trie.find(prefixes)
    return leaves, torch.where(leaves >= 0, scores, -torch.inf)


def masked_log_softmax(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the fp32 log-softmax over the entries that `mask` keeps, -inf elsewhere (also where it keeps none)."""
    log_probs = logits.float().masked_fill(~mask, -torch.inf).log_softmax(-1)
    return log_probs.masked_fill(~mask, -torch.inf)


def _best(
    scores: torch.Tensor, log_probs: torch.Tensor, beam_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return scores, parents and codes, each [B, K], of the best extensions of scores [B, K'] by [B, K', V]."""
    size = log_probs.shape[-1]
    total = (scores.unsqueeze(-1) + log_probs).flatten(1)
    best, index = total.topk(min(beam_size, total.shape[1]), dim=1)
    return best, index // size, index % size
