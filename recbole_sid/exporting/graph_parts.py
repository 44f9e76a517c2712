"""What ranking graphs are made of, by shapes alone: level heads, an item head, a memory, known prefixes."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.decoding.trie import Trie, at
from recbole_sid.fast.factorised import FactorisedHeads, FactorisedScorer
from recbole_sid.memory import Memory
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.item_encoder import ItemEmbedding, ItemEncoder
from recbole_sid.nn.item_head import ItemHead

NEVER = -math.inf
# Logits that a user's first-level prefixes may have together; beyond, only the first level is known for all items.
_MOST_LOGITS = 1 << 18


class GraphHeads(nn.Module):
    """The factorised level heads of a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        heads = FactorisedHeads.of(model.decoder, model.token_embedding.weight, model.vocabulary.level_offsets)
        for name in ("user_weight", "user_bias", "tables"):
            self.register_buffer(name, getattr(heads, name).detach())
        self.table_start = heads.table_start
        self.norms, self.rest = nn.ModuleList(heads.norms), nn.ModuleList(heads.rest)

    def scorer(self, context: torch.Tensor) -> FactorisedScorer:
        """Return the level scorer of contexts z [B, Q, d]."""
        heads = FactorisedHeads(
            self.get_buffer("user_weight"),
            self.get_buffer("user_bias"),
            self.get_buffer("tables"),
            self.table_start,
            cast("tuple[nn.LayerNorm, ...]", tuple(self.norms)),
            cast("tuple[nn.Sequential, ...]", tuple(self.rest)),
        )
        return FactorisedScorer(heads, heads.user_parts(context))


def recordable(encoder: HistoryEncoder) -> HistoryEncoder:
    """Return an encoder of the same weights that can be recorded: sums of table rows are loops elsewhere."""
    if not isinstance(encoder, ItemEncoder):
        return encoder
    found = copy.copy(encoder)
    found._modules = {**encoder._modules, "items": TabledItems(encoder.items)}
    return found


class TabledItems(nn.Module):
    """An `ItemEmbedding` as rows of a table that add up."""

    def __init__(self, items: ItemEmbedding) -> None:
        super().__init__()
        self.items = items
        self.register_buffer("table", items.table())

    def forward(self, codes: torch.Tensor, recency: torch.Tensor) -> torch.Tensor:
        """Return [..., d] of code tokens int64 [..., L] and recency int64 that broadcasts to [...]."""
        rows = self.items.rows(codes.flatten(0, -2), recency.expand(codes.shape[:-1]).flatten())
        sums = F.embedding(rows, self.get_buffer("table")).sum(1)
        return self.items.finished(sums).unflatten(0, codes.shape[:-1])


class GraphItems(nn.Module):
    """An item head whose rows are in the items' order."""

    table: torch.Tensor
    has_row: torch.Tensor
    others: torch.Tensor

    def __init__(self, head: ItemHead) -> None:
        super().__init__()
        self.context, self.norm = head.context, head.norm
        self.register_buffer("has_row", head.row >= 0)
        self.register_buffer("table", head.table.detach()[head.row.clamp(min=0)] * self.has_row.unsqueeze(1))
        # Rows of items that the dataset lacks: no one's, but logits are shared by theirs too.
        self.register_buffer("others", head.table.detach()[head.items == 0])

    def log_probs(self, last: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [B, n_items], -inf where an item has no row, of last states and z, [B, d]."""
        query = self.norm(last + self.context(context))
        logits = (query @ self.table.T).masked_fill(~self.has_row, NEVER)
        every = logits if not len(self.others) else torch.cat([logits, query @ self.others.T], dim=1)
        return logits - every.logsumexp(1, keepdim=True)


class GraphMemory(nn.Module):
    """A memory looked up, as `Memory.recall` does."""

    starts: torch.Tensor
    successors: torch.Tensor
    counts: torch.Tensor

    def __init__(self, memory: Memory, max_history: int) -> None:
        super().__init__()
        numbers = memory.numbers
        self.n_items, self.window = memory.n_items, min(numbers.window, max_history)
        self.pseudo_counts = float(numbers.pseudo_counts)
        self.longest = int(memory.starts.diff().max())
        self.register_buffer("starts", memory.starts)
        self.register_buffer("successors", memory.successors)
        self.register_buffer("counts", memory.counts)
        self.register_buffer("row_sums", memory.row_sums.double())
        self.register_buffer("left_out", torch.from_numpy(memory.left_out))
        places = torch.arange(self.window)
        self.register_buffer("decays", numbers.window_decay ** places.double())

    def forward(self, histories: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the masses [B, n_items] and what remains for p0, [B, 1], after histories of lengths int64 [B]."""
        place = lengths.unsqueeze(1) - 1 - torch.arange(self.window, device=histories.device)
        recent = histories.gather(1, place.clamp(min=0)) * (place >= 0)  # [B, W], 0 where there are no more
        weights = self.get_buffer("decays") * (recent > 0)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
        share = weights / (at(self.get_buffer("row_sums"), recent) + self.pseudo_counts)
        remaining = (share * (self.pseudo_counts + at(self.get_buffer("left_out"), recent))).sum(1, keepdim=True)
        remaining = torch.where((recent > 0).any(1, keepdim=True), remaining, 1.0)

        entry = at(self.starts, recent).unsqueeze(-1) + torch.arange(self.longest, device=recent.device)
        there = entry < at(self.starts, recent + 1).unsqueeze(-1)  # [B, W, longest]
        entry = torch.where(there, entry, 0)
        items = at(self.successors, entry).long() * there
        found = at(self.counts, entry) * there * share.float().unsqueeze(-1)
        masses = found.new_zeros(1).expand(recent.shape[0], self.n_items)
        return masses.scatter_add(1, items.flatten(1), found.flatten(1)), remaining.float()


class NoMemory(nn.Module):
    """What stands for a memory where there is none."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items

    def forward(self, histories: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return masses [B, n_items] of nothing, and that all remains, [B, 1]."""
        masses = torch.zeros(1, device=histories.device).expand(histories.shape[0], self.n_items)
        return masses, masses[:, :1] + 1


class FirstCodes(nn.Module):
    """The log-probabilities of the first codes of all items: of two, or of one where there are very many of two.

    Args:
        trie: of L levels.
        normaliser: as of `beam_search`.
        n_items: size of the catalogue.
        depth: so many codes are known, 1 or 2.

    Attributes:
        is_open: bool [n_items], items whose later codes have to be asked for.
        n_open: how many items are.
    """

    is_open: torch.Tensor
    nodes: torch.Tensor
    codes: torch.Tensor

    def __init__(self, trie: Trie, normaliser: str, n_items: int, depth: int) -> None:
        super().__init__()
        self.trie, self.normaliser = trie, normaliser
        many = trie.n_levels > 1 and trie.n_nodes(1) * trie.codebook_sizes[1] > _MOST_LOGITS
        self.depth = min(trie.n_levels, 1 if many else depth)
        leaf, item = trie.every_item()
        nodes = torch.zeros(n_items, trie.n_levels + 1, dtype=torch.int64)
        nodes[item] = torch.stack([*trie.path(leaf), leaf], dim=1)
        codes = torch.stack([trie.code(level)[nodes[:, level + 1]].long() for level in range(trie.n_levels)], dim=1)
        there = torch.zeros(n_items, dtype=torch.bool).index_fill_(0, item, True)
        asked = torch.zeros(n_items, dtype=torch.bool)
        for level in range(self.depth, trie.n_levels):
            asked |= trie.n_children(level, nodes[:, level]) > (1 if normaliser == "children" else 0)
        self.n_open = int((asked & there).sum())
        arrays = {"nodes": nodes, "codes": codes, "there": there, "is_open": asked & there}
        for level in range(self.depth):
            start = trie.start(level).long()
            parent = torch.repeat_interleave(start.diff())
            offset = torch.arange(len(parent)) - start[parent]
            arrays |= {f"parent_{level}": parent, f"place_{level}": parent * trie.widths[level] + offset}
        for name, values in arrays.items():
            self.register_buffer(name, values)

    def log_probs(self, scorer: FactorisedScorer) -> torch.Tensor:
        """Return the log-probabilities [B, n_items] of the items' first `depth` codes, -inf where one has none."""
        state, scores = scorer.start(), scorer.user_parts.new_zeros(scorer.n_users, 1)
        for level in range(self.depth):
            scores = self._next(scorer, level, state, scores)
            if level + 1 < self.depth:
                above = torch.zeros(1, dtype=torch.int64, device=scores.device)
                codes = self.trie.code(level).long().expand(scorer.n_users, -1)
                state = scorer.extend(state, above.expand_as(codes), codes)
        of_items = scores.index_select(1, self.nodes[:, self.depth])
        return of_items.masked_fill(~self.get_buffer("there"), NEVER)

    def _next(self, scorer: FactorisedScorer, level: int, state: Any, scores: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [B, n_nodes(level + 1)] of all prefixes, from those of one code less."""
        trie = self.trie
        logits = scorer.logits(state, None).unflatten(0, (-1, trie.n_nodes(level)))
        nodes = torch.arange(trie.n_nodes(level), device=logits.device)
        conditional = _shared(trie, level, nodes.expand(logits.shape[0], -1), logits, self.normaliser)
        of_child = conditional.flatten(1).index_select(1, self.get_buffer(f"place_{level}"))
        return of_child + scores.index_select(1, self.get_buffer(f"parent_{level}"))

    def walked(self, scorer: FactorisedScorer, items: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [B, K] of items int64 [B, K], of whose first codes they are `known` [B, K]."""
        nodes, codes = F.embedding(items, self.nodes), F.embedding(items, self.codes)
        state = scorer.start()
        for level in range(self.trie.n_levels):
            if level >= self.depth and not (self.trie.widths[level] == 1 and self.normaliser == "children"):
                logits = scorer.logits(state, None).unflatten(0, (-1, items.shape[1]))
                conditional = _shared(self.trie, level, nodes[..., level], logits, self.normaliser)
                offset = nodes[..., level + 1] - at(self.trie.start(level), nodes[..., level]).long()
                known = known + conditional.gather(2, offset.unsqueeze(-1)).squeeze(-1)
            beams = torch.arange(items.shape[1], device=items.device).expand(items.shape[0], -1)
            if level + 1 < self.trie.n_levels:
                state = scorer.extend(state, beams if level else torch.zeros_like(beams), codes[..., level])
        return known


def _shared(trie: Trie, level: int, nodes: torch.Tensor, logits: torch.Tensor, normaliser: str) -> torch.Tensor:
    """Return the log-probabilities [B, K, width] of the children of nodes int64 [B, K] by logits [B, K, size]."""
    child, exists = trie.children_of(level, nodes, trie.widths[level])
    chosen = logits.gather(2, at(trie.code(level), child).long()).masked_fill(~exists, NEVER)
    total = (chosen if normaliser == "children" else logits).logsumexp(-1, keepdim=True)
    return chosen - total


def most_items(trie: Trie) -> int:
    """Return how many items share a leaf at most."""
    return int(trie.start(trie.n_levels).diff().max())


def below(trie: Trie, width: int, leaves: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the items int64 [B, K * width] of leaves [B, K], -1 for none, and their scores; 0 and -inf for none.

    Args:
        width: `most_items`.
    """
    place, exists = trie.children_of(trie.n_levels, leaves, width)  # [B, K, w]
    items = torch.where(exists, at(trie.item, place).long(), 0)
    return items.flatten(1), scores.unsqueeze(-1).masked_fill(~exists, NEVER).flatten(1)


def log_sum(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return ``log(exp(first) + exp(second))``, -inf where both are."""
    high, low = torch.maximum(first, second), torch.minimum(first, second)
    return torch.where(high > NEVER, high + (1 + (low - high).exp()).log(), NEVER)


def sharpened(masses: torch.Tensor, remaining: torch.Tensor, log_p0: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Return ``log(masses + remaining * p0) + sharpness * log p0`` [B, n], as `recbole_sid.memory.mixture` does.

    Args:
        masses, log_p0: [B, n].
        remaining: [B, 1].
    """
    mixed = torch.where(masses > 0, (masses + remaining * log_p0.exp()).log(), remaining.log() + log_p0)
    return mixed + sharpness * log_p0.clamp(min=torch.finfo(log_p0.dtype).min)
