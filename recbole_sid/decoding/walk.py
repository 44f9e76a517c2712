"""Log-probabilities of given leaves, which a search may have missed: walked from the root, all users at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch

from recbole_sid.decoding.children import segment_logsumexp
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie, at
from recbole_sid.util import hardware

# Prefixes of all users that reach the model at a time: on any device, and where each leaf is a beam of its own.
_MAX_BEAMS, _MAX_BEAMS_BY_SHAPE = 1 << 14, 1 << 17


def walk(
    scorer: LevelScorer, trie: Trie, rows: torch.Tensor, leaves: torch.Tensor, normaliser: str = "children"
) -> torch.Tensor:
    """Return the log-probabilities [n], on the scorer's device, of leaves of users.

    Prefixes that leaves of a user share are computed once. What is computed for whom is arranged on the host, so that
    it never waits for a device.

    Args:
        rows: int64 [n], the user of each leaf, on the host; in any order.
        leaves: int64 [n], on the host; -1, of what has no semantic ID, gets -inf.
        normaliser: as in `beam_search`.
    """
    result = torch.full((len(rows),), -torch.inf, device=scorer.device)
    order = torch.argsort(rows * (trie.n_nodes(trie.n_levels) + 1) + leaves)
    order = order[leaves[order] >= 0]
    if not len(order):
        return result
    rows, leaves = rows[order], leaves[order]
    of_user = torch.bincount(rows, minlength=scorer.n_users)
    place = torch.arange(len(rows)) - (of_user.cumsum(0) - of_user)[rows]
    part = place // max(1, _MAX_BEAMS // scorer.n_users)
    start = scorer.start()
    for number in range(int(part.max()) + 1):
        chosen = (part == number).nonzero().squeeze(1)
        found = _walk_together(scorer, trie, start, rows[chosen], leaves[chosen], normaliser)
        result.index_copy_(0, hardware.moved(order[chosen], scorer.device), found)
    return result


def walk_all(scorer: LevelScorer, trie: Trie, leaves: torch.Tensor, normaliser: str = "children") -> torch.Tensor:
    """Return the log-probabilities [B, K] of leaves int64 [B, K] on the scorer's device, -inf for -1, by shapes alone.

    A beam is walked for each leaf, whether or not others share its prefixes: for devices whose values the host would
    have to wait for.
    """
    parts = leaves.split(max(1, _MAX_BEAMS_BY_SHAPE // max(1, scorer.n_users)), dim=1)
    return torch.cat([_walk_beams(scorer, trie, part, normaliser) for part in parts], dim=1)


def _walk_beams(scorer: LevelScorer, trie: Trie, leaves: torch.Tensor, normaliser: str) -> torch.Tensor:
    nodes = [*trie.path(leaves.clamp(min=0)), leaves.clamp(min=0)]
    state = scorer.start()
    scores = torch.zeros(leaves.shape, device=scorer.device)
    for level, (above, below) in enumerate(pairwise(nodes)):
        codes = at(trie.code(level), below).long()
        parents = torch.zeros_like(codes) if level == 0 else torch.arange(leaves.shape[1], device=leaves.device)
        parents = parents.expand_as(codes)
        width = trie.widths[level]
        if width > 1 or normaliser != "children":
            logits = scorer.logits(state, None).float().unflatten(0, (len(leaves), -1)).expand(*leaves.shape, -1)
            total = logits
            if normaliser == "children":
                child, exists = trie.children_of(level, above, width)
                total = logits.gather(2, at(trie.code(level), child).long()).masked_fill(~exists, -torch.inf)
            scores = scores + logits.gather(2, codes.unsqueeze(2)).squeeze(2) - total.logsumexp(2)
        if level + 1 < trie.n_levels:
            state = scorer.extend(state, parents, codes)
    return scores.masked_fill(leaves < 0, -torch.inf)


class _Prefixes(NamedTuple):
    """The distinct prefixes of one depth above sorted leaves, user by user; on the host.

    Attributes:
        rows: int64 [D], their users.
        nodes: int64 [D], in the trie.
        slots: int64 [D], which of the user's beams each is.
        width: beams of a user.
        above: int64 [n], the prefix above each leaf.
        leaf: int64 [D], the first leaf below each.
    """

    rows: torch.Tensor
    nodes: torch.Tensor
    slots: torch.Tensor
    width: int
    above: torch.Tensor
    leaf: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, nodes: torch.Tensor, n_users: int) -> _Prefixes:
        """Return those of `nodes` [n], the prefix above each leaf, of users `rows` [n]; equal ones are neighbours."""
        new = torch.ones(len(rows), dtype=torch.bool)
        new[1:] = (rows[1:] != rows[:-1]) | (nodes[1:] != nodes[:-1])
        leaf = new.nonzero().squeeze(1)
        of_user = torch.bincount(rows[leaf], minlength=n_users)
        slots = torch.arange(len(leaf)) - (of_user.cumsum(0) - of_user)[rows[leaf]]
        return cls(rows[leaf], nodes[leaf], slots, int(of_user.max()), new.cumsum(0) - 1, leaf)

    def beams(self) -> torch.Tensor:
        """Return the number of each among the beams of all users."""
        return self.rows * self.width + self.slots


def _walk_together(
    scorer: LevelScorer, trie: Trie, state: Any, rows: torch.Tensor, leaves: torch.Tensor, normaliser: str
) -> torch.Tensor:
    """Return the log-probabilities of leaves [n] that are sorted by user and number; `state` is the root's."""
    n_users = scorer.n_users
    depths = [_Prefixes.of(rows, nodes, n_users) for nodes in [*trie.host_path(leaves), leaves]]
    scores = torch.zeros(len(depths[0].rows), device=scorer.device)
    for level, (upper, lower) in enumerate(pairwise(depths)):
        parent = upper.above[lower.leaf]
        codes = trie.code(level)[hardware.moved(lower.nodes, scorer.device)].long()
        scores = scores[hardware.moved(parent, scorer.device)]
        _add_step(scorer, trie, level, state, upper, parent, codes, scores, normaliser)
        if level + 1 < trie.n_levels:
            parents = torch.zeros(n_users * lower.width, dtype=torch.int64).index_copy_(
                0, lower.beams(), upper.slots[parent]
            )
            extended = codes.new_zeros(n_users * lower.width)
            extended.index_copy_(0, hardware.moved(lower.beams(), scorer.device), codes)
            shape = n_users, lower.width
            state = scorer.extend(state, hardware.moved(parents, scorer.device).view(shape), extended.view(shape))
    return scores[hardware.moved(depths[-1].above, scorer.device)]


def _add_step(
    scorer: LevelScorer,
    trie: Trie,
    level: int,
    state: Any,
    upper: _Prefixes,
    parent: torch.Tensor,
    codes: torch.Tensor,
    scores: torch.Tensor,
    normaliser: str,
) -> None:
    """Add to `scores` [D] of prefixes, one code longer than `upper`, the log-probabilities of their last `codes` [D].

    An only child takes all of its prefix's probability unasked.

    Args:
        parent: int64 [D], on the host, which of `upper` each continues.
    """
    n_children = trie.host_n_children(level, upper.nodes)
    asked = n_children > (1 if normaliser == "children" else 0)
    if not asked.any():
        return
    logits = scorer.logits(state, hardware.moved(upper.beams()[asked], scorer.device)).float()
    if normaliser == "children":
        row, child = (hardware.moved(part, scorer.device) for part in trie.host_pairs(level, upper.nodes[asked]))
        sizes = hardware.moved(n_children[asked], scorer.device)
        total = segment_logsumexp(logits.flatten()[row * logits.shape[1] + trie.code(level)[child]], row, sizes)
    else:
        total = logits.logsumexp(-1)
    concerned = asked[parent].nonzero().squeeze(1)
    row = hardware.moved((asked.cumsum(0) - 1)[parent[concerned]], scorer.device)
    concerned = hardware.moved(concerned, scorer.device)
    scores.index_add_(0, concerned, logits[row, codes[concerned]] - total[row])
