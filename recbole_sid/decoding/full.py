"""The log-probability of every leaf of the trie, in chunks of bounded memory."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.decoding.children import segment_logsumexp
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie, at
from recbole_sid.util import hardware

# Prefixes of all users that reach the model at a time.
_MAX_BEAMS = 1 << 14
# Items of a leaf up to which each leaf found gets places for so many, so that no host waits to know how many there are.
MOST_PLACES = 64


def leaf_log_probs(scorer: LevelScorer, trie: Trie, normaliser: str = "children") -> torch.Tensor:
    """Return log-probabilities [B, n_leaves] of all leaves in their order; `normaliser` as in `beam_search`."""
    result = torch.empty(scorer.n_users, trie.n_nodes(trie.n_levels), device=scorer.device)
    _descend(scorer, trie, normaliser, 0, 0, scorer.start(), result.new_zeros(scorer.n_users, 1), result)
    return result


def full_search(
    scorer: LevelScorer, trie: Trie, k: int, normaliser: str = "children"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best k leaves of all, from the scores of all; as `exact_search`, whatever the scores."""
    return best_leaves(leaf_log_probs(scorer, trie, normaliser), k)


def best_leaves(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return leaves int64 [B, K] by falling score, -1 where it is -inf, and their scores, of scores [B, n_leaves]."""
    best, leaves = scores.topk(min(k, scores.shape[1]), dim=1)
    return torch.where(best > -torch.inf, leaves, -1), best


def ranked_items(leaves: torch.Tensor, scores: torch.Tensor, trie: Trie) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the items int64 and scores, both [B, K'], of ranked leaves [B, K], in order; 0 and -inf for none.

    Items that share a leaf share its score.
    """
    if not hardware.on_cpu(leaves) and trie.most_items <= MOST_PLACES:
        return _in_places(leaves, scores, trie)
    if trie.most_items == 1:
        return torch.where(leaves >= 0, at(trie.item, leaves.clamp(min=0)).long(), 0), scores
    position, found = trie.expand_leaves(leaves)
    rows = position // max(1, leaves.shape[1])
    of_row = torch.bincount(rows, minlength=len(leaves))
    column = torch.arange(len(rows), device=rows.device) - (of_row.cumsum(0) - of_row)[rows]
    items = leaves.new_zeros(len(leaves), int(of_row.max()) if len(leaves) else 0)
    items[rows, column] = found
    table = scores.new_full(items.shape, -torch.inf)
    table[rows, column] = scores.flatten()[position]
    return items, table


def _in_places(leaves: torch.Tensor, scores: torch.Tensor, trie: Trie) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `ranked_items` does, by shapes alone: every leaf gets as many places as any has items."""
    place, exists = trie.children_of(trie.n_levels, leaves, trie.most_items)
    items = torch.where(exists, at(trie.item, place).long(), 0).flatten(1)
    spread = scores.unsqueeze(-1).expand_as(place).masked_fill(~exists, -torch.inf).flatten(1)
    ordered, order = spread.sort(dim=1, descending=True, stable=True)
    return items.gather(1, order), ordered


def items_of_leaves(scores: torch.Tensor, trie: Trie, n_items: int) -> torch.Tensor:
    """Return [B, n_items] from scores [B, n_leaves] of leaves: every item its leaf's, -inf where it has none."""
    leaf, item = trie.every_item()
    table = scores.new_full((len(scores), n_items), -torch.inf)
    if len(item) == scores.shape[1]:
        return table.index_copy_(1, item, scores)
    return table.index_copy_(1, item, scores[:, leaf])


def _descend(
    scorer: LevelScorer,
    trie: Trie,
    normaliser: str,
    level: int,
    first: int,
    state: Any,
    scores: torch.Tensor,
    result: torch.Tensor,
) -> None:
    """Fill `result` below the prefixes first .. first + K - 1 of depth `level`, whose scores are [B, K].

    Neighbouring prefixes have neighbouring children: all is done on ranges.
    """
    n_users, n_beams = scores.shape
    below = trie.families(level, 2 if normaliser == "children" else 1).of(first, first + n_beams)
    first_child, last_child = below.children
    codes = trie.code(level)[first_child:last_child].long()
    reached = scores[:, below.parent]
    if len(below.branching):
        users = torch.arange(n_users, device=scores.device).unsqueeze(1)
        logits = scorer.logits(state, (users * n_beams + below.branching).flatten()).float()
        logits = logits.view(n_users, len(below.branching), -1)
        chosen = logits.flatten(1)[:, below.row * logits.shape[-1] + codes[below.pair]]
        if normaliser == "children":
            total = segment_logsumexp(chosen.T.contiguous(), below.row, below.sizes).T
        else:
            total = logits.logsumexp(-1)
        reached.index_add_(1, below.pair, chosen - total[:, below.row])
    if level + 1 == trie.n_levels:
        result[:, first_child:last_child] = reached
        return
    size = max(1, _MAX_BEAMS // n_users)
    for begin in range(0, last_child - first_child, size):
        part = slice(begin, begin + size)
        extended = scorer.extend(state, below.parent[part].expand(n_users, -1), codes[part].expand(n_users, -1))
        _descend(scorer, trie, normaliser, level + 1, first_child + begin, extended, reached[:, part], result)
