"""One step down the trie: log-probabilities of the children of prefixes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie, at
from recbole_sid.util import hardware

# How a prefix's probability is shared: among its valid children (as in the SID-MLP paper), or among all codes.
NORMALISERS = ("children", "codes")

# A child costs `_ragged` what so many places, held or not, cost `_padded` (benchmarks/RESULTS.md, "Crowded tries"),
# from so many places a prefix on: with fewer both take next to nothing.
_PLACES_A_CHILD = 2
_CROWDED_WIDTH = 32


class Children(NamedTuple):
    """Valid extensions of a batch's beams: at most C a user, P in all.

    Attributes:
        scores: log-probabilities [B, C], -inf where there is no child.
        first: int64 [B], where each user's children begin among the P.
        nodes: prefixes int64 [P].
        parents: the beam int64 [P] that each extends.
    """

    scores: torch.Tensor
    first: torch.Tensor
    nodes: torch.Tensor
    parents: torch.Tensor

    def best(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return nodes (-1 where dead), parents and scores [B, K] of the best, by falling score; K <= k."""
        scores, place = self.scores.topk(min(k, self.scores.shape[1]), dim=1)
        if self.nodes.shape[0] == 0:
            return torch.full_like(place, -1), torch.zeros_like(place), scores
        place = (place + self.first.unsqueeze(1)).clamp_(max=self.nodes.shape[0] - 1)
        return torch.where(scores > -torch.inf, at(self.nodes, place), -1), at(self.parents, place), scores


def children(
    scorer: LevelScorer,
    trie: Trie,
    level: int,
    state: Any,
    nodes: torch.Tensor,
    scores: torch.Tensor,
    normaliser: str,
) -> Children:
    """Return the children of the prefixes `nodes` int64 [B, K] (-1: dead) with log-probabilities `scores` [B, K]."""
    step = _ragged if hardware.on_cpu(nodes) and not _crowded(trie, level, nodes) else _padded
    return step(scorer, trie, level, state, nodes, scores, normaliser)


def _crowded(trie: Trie, level: int, nodes: torch.Tensor) -> bool:
    """Return whether so many of the places that `_padded` gives hold a child that it is the faster on a CPU too."""
    if trie.widths[level] < _CROWDED_WIDTH:
        return False
    return int(trie.n_children(level, nodes).sum()) * _PLACES_A_CHILD > nodes.numel() * trie.widths[level]


def _padded(
    scorer: LevelScorer,
    trie: Trie,
    level: int,
    state: Any,
    nodes: torch.Tensor,
    scores: torch.Tensor,
    normaliser: str,
) -> Children:
    """Give every beam as many places as any prefix of the trie has children.

    Shapes depend on nothing but the trie: the step needs no synchronisation and can be captured in a CUDA graph.
    """
    width = trie.widths[level]
    place, exists = trie.children_of(level, nodes.flatten(), width)  # [B * K, width]
    if width == 1 and normaliser == "children":  # an only child takes all of its prefix's probability unasked
        log_probs = torch.zeros_like(place, dtype=scores.dtype)
    else:
        logits = scorer.logits(state, None).float()
        chosen = logits.gather(1, at(trie.code(level), place).long()).masked_fill(~exists, -torch.inf)
        log_probs = chosen - (chosen if normaliser == "children" else logits).logsumexp(-1, keepdim=True)
    log_probs = log_probs.masked_fill(~exists, -torch.inf).view(*nodes.shape, width)
    n_users, n_beams = nodes.shape
    first = torch.arange(n_users, device=nodes.device) * (n_beams * width)
    parents = (torch.arange(n_beams * width, device=nodes.device) // width).repeat(n_users)
    return Children((log_probs + scores.unsqueeze(-1)).flatten(1), first, place.flatten(), parents)


def _ragged(
    scorer: LevelScorer,
    trie: Trie,
    level: int,
    state: Any,
    nodes: torch.Tensor,
    scores: torch.Tensor,
    normaliser: str,
) -> Children:
    """Work on the (prefix, child) pairs there are; an only child takes all of its prefix's probability unasked."""
    n_users, n_beams = nodes.shape
    count = trie.n_children(level, nodes).flatten()
    beam, child = trie.pairs(level, nodes.flatten(), count)
    reached = scores.flatten().index_select(0, beam)
    asked = count > (1 if normaliser == "children" else 0)
    rows = asked.nonzero().squeeze(1)
    if len(rows):
        logits = scorer.logits(state, rows).float()
        pairs = asked.index_select(0, beam).nonzero().squeeze(1)
        sizes = count.index_select(0, rows)
        row = torch.repeat_interleave(sizes)
        code = trie.code(level).index_select(0, child.index_select(0, pairs))
        chosen = logits.flatten().index_select(0, row * logits.shape[1] + code)
        total = segment_logsumexp(chosen, row, sizes) if normaliser == "children" else logits.logsumexp(-1)
        reached.index_add_(0, pairs, chosen - total.index_select(0, row))
    per_user = count.view(n_users, n_beams).sum(1)
    width = max(1, int(per_user.max()))
    first = per_user.cumsum(0) - per_user
    shift = torch.arange(n_users) * width - first
    slot = torch.repeat_interleave(shift, per_user).add_(torch.arange(len(beam)))
    padded = reached.new_full((n_users * width,), -torch.inf).index_copy_(0, slot, reached)
    return Children(padded.view(n_users, width), first, child, beam % n_beams)


def segment_logsumexp(values: torch.Tensor, segment: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return the log-sum-exp [n, ...] of neighbouring values [P, ...]: the same at every call, on any device.

    Args:
        segment: int64 [P], rising, of each value.
        sizes: int64 [n], values of each segment, at least one.
    """
    peak = torch.segment_reduce(values, "max", lengths=sizes, unsafe=True)  # unsafe: the sizes are not looked at
    shifted = (values - peak.index_select(0, segment)).exp_()
    return torch.segment_reduce(shifted, "sum", lengths=sizes, unsafe=True).log_().add_(peak)


def masked_log_softmax(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the fp32 log-softmax over the entries that `mask` keeps, -inf elsewhere (also where it keeps none)."""
    log_probs = logits.float().masked_fill(~mask, -torch.inf).log_softmax(-1)
    return log_probs.masked_fill(~mask, -torch.inf)
