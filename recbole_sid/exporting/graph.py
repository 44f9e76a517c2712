"""A model's ranking as one module of fixed operations: histories of item numbers in, items and scores out.

Nothing in it follows the data, only shapes do, so that it can be recorded (`recbole_sid.exporting.program`) and run
elsewhere. It ranks as the model's beam search does.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_sid.decoding.beam import beam_search
from recbole_sid.errors import InputError
from recbole_sid.exporting.graph_parts import (
    FirstCodes,
    GraphHeads,
    GraphItems,
    GraphMemory,
    NoMemory,
    below,
    log_sum,
    most_items,
    recordable,
    sharpened,
)
from recbole_sid.nn.packing import Padded
from recbole_sid.nn.readout import last_state
from recbole_sid.util import hardware

NEVER = -math.inf


class RankingGraph(nn.Module):
    """Ranks histories int64 [B, T], T from 1 to `max_history`, the oldest item first and 0 behind the last.

    Attributes:
        n_items: items are numbered 1 .. n_items - 1.
        max_history: items of the longest history.
        k: of the lists.
    """

    item_tokens: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.n_items, self.max_history, self.k = model.n_items, model.max_seq_length, model.beam_size
        self.encoder, self.vocabulary = recordable(model.history_encoder), model.vocabulary
        self.readout = model.decoder.readout
        self.register_buffer("item_tokens", model.item_tokens)

    def forward(self, histories: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return items int64 and scores float32, both [B, <= k]: by falling score, 0 and -inf beyond those found."""
        with hardware.by_shapes_alone():
            lengths = (histories > 0).sum(1)
            items = F.embedding(histories, self.item_tokens)
            tokens = self.vocabulary.serialise(items, lengths, torch.zeros_like(lengths))
            states = self.encoder.encode_padded(tokens)
            return self.ranked(histories, lengths, states, self.readout(*states))

    @abstractmethod
    def ranked(
        self, histories: torch.Tensor, lengths: torch.Tensor, states: Padded, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `forward`, given lengths int64 [B], the encoder's states and the contexts z [B, Q, d]."""


class ByCodes(RankingGraph):
    """By semantic IDs alone."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.heads, self.trie, self.normaliser = GraphHeads(model), model.trie, model.shared_among
        self.width = most_items(model.trie)

    def ranked(
        self, histories: torch.Tensor, lengths: torch.Tensor, states: Padded, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        leaves, scores = beam_search(self.heads.scorer(context), self.trie, self.k, self.normaliser)
        items, scores = below(self.trie, self.width, leaves, scores)
        if items.shape[1] <= self.k:
            return items, scores
        scores, place = scores.topk(self.k, dim=1)
        return items.gather(1, place), scores


class ByItems(RankingGraph):
    """By an item head alone, and a memory if there is one; scores of all items are formed."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.items, self.recalls = GraphItems(model.item_head), _recalls(model)
        self.sharpness = float(model.sharpness)

    def ranked(
        self, histories: torch.Tensor, lengths: torch.Tensor, states: Padded, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masses, remaining = self.recalls(histories, lengths)
        log_p0 = self.items.log_probs(last_state(*states), context.squeeze(1))
        return _best(sharpened(masses, remaining, log_p0, self.sharpness), self.k)


class ByBoth(RankingGraph):
    """By semantic IDs, and an item head, a memory or both beside them.

    Candidates are what the beam search finds, what is remembered (as `SIDRecommender.best_items` says, all or the items
    of the largest masses), and the best of the item head. How probable the first codes of all items are is computed for
    all; the rest of their codes only for the `n_walked` candidates whose score could be the largest, as no item is more
    probable than its first codes.

    Args:
        n_walked: None: as many as there can be where nothing is remembered, else `k`.
    """

    def __init__(self, model: Any, n_walked: int | None = None) -> None:
        super().__init__(model)
        self.heads, self.trie, self.normaliser = GraphHeads(model), model.trie, model.shared_among
        self.width = most_items(model.trie)
        self.items = GraphItems(model.item_head) if getattr(model, "item_head", None) is not None else None
        self.recalls, self.sharpness = _recalls(model), float(model.sharpness)
        self.weighs_all = not model.finds_by_beam
        # Few are walked where nothing is remembered: then two codes of all items would cost more.
        self.known = FirstCodes(model.trie, model.shared_among, model.n_items, depth=2 if model.remembers else 1)
        self.n_walked = min(n_walked or self.k, self.known.n_open)
        shares = model.shares.tolist()
        self.log_shares = [math.log(share) if share > 0 else NEVER for share in shares]

    def ranked(
        self, histories: torch.Tensor, lengths: torch.Tensor, states: Padded, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masses, remaining = self.recalls(histories, lengths)
        own = self._own(states, context, masses)
        scorer = self.heads.scorer(context)
        leaves, of_codes = beam_search(scorer, self.trie, self.k, self.normaliser)
        found, of_codes = below(self.trie, self.width, leaves, of_codes)

        most = self.known.log_probs(scorer)  # of all items: what is known, no less than it is
        bounds = self._scores(masses, remaining, own, most).masked_fill(~self._candidates(masses, own), NEVER)
        scores = bounds.masked_fill(self.known.is_open, NEVER)
        if self.n_walked:
            bound, walked = bounds.masked_fill(~self.known.is_open, NEVER).topk(self.n_walked, dim=1)
            exact = self.known.walked(scorer, walked, most.gather(1, walked))
            exact = self._scores_of(walked, masses, remaining, own, exact)
            # Where fewer are open, others fill the places.
            scores = scores.scatter(1, walked, torch.where(bound > NEVER, exact, scores.gather(1, walked)))
        scores = scores.scatter(1, found, self._scores_of(found, masses, remaining, own, of_codes))
        return _best(scores, self.k)

    def _own(self, states: Padded, context: torch.Tensor, masses: torch.Tensor) -> torch.Tensor | None:
        """Return what the item head gives all items, with its share [B, n_items]; None without one."""
        if self.items is None:
            return None
        return self.items.log_probs(last_state(*states), context.squeeze(1)) + self.log_shares[0]

    def _candidates(self, masses: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """Return which items are remembered and compete, or are among the best of the item head, bool [B, n_items]."""
        remembered = masses > 0 if self.weighs_all else _heaviest(masses, min(self.k, self.n_items))
        if own is None:
            return remembered
        least = own.topk(min(self.k, self.n_items), dim=1).values[:, -1:]
        return remembered | ((own >= least) & (own > NEVER))

    def _scores_of(
        self,
        items: torch.Tensor,
        masses: torch.Tensor,
        remaining: torch.Tensor,
        own: torch.Tensor | None,
        of_codes: torch.Tensor,
    ) -> torch.Tensor:
        """Return the scores [B, K] of items int64 [B, K] whose semantic IDs have the log-probabilities `of_codes`."""
        theirs = None if own is None else own.gather(1, items)
        return self._scores(masses.gather(1, items), remaining, theirs, of_codes).masked_fill(items == 0, NEVER)

    def _scores(
        self, masses: torch.Tensor, remaining: torch.Tensor, own: torch.Tensor | None, of_codes: torch.Tensor
    ) -> torch.Tensor:
        log_p0 = of_codes if own is None else log_sum(own, of_codes + self.log_shares[-1])
        return sharpened(masses, remaining, log_p0, self.sharpness)


def ranking_graph(model: Any, n_walked: int | None = None) -> RankingGraph:
    """Return the graph of a model with the decoder of SID-MLP.

    Args:
        model: in evaluation mode, on the CPU.
        n_walked: as of `ByBoth`.

    Raises:
        InputError: if there is no such graph.
    """
    name = type(model).__name__
    if getattr(model, "decoder", None) is None or not hasattr(model.decoder, "readout"):
        raise InputError(f"{name} has no graph: those with the decoder of SID-MLP have, and RecBole's own.")
    if model.vocabulary.n_user_tokens > 1:
        raise InputError(
            f"n_user_tokens={model.vocabulary.n_user_tokens}: this {name} reads who the user is, which a graph of "
            "histories is not told."
        )
    if getattr(model, "item_candidates", None) is not None:
        raise InputError(f"item_candidates={model.item_candidates}: a graph ranks all items, leave it out.")
    item_head, has_codes = getattr(model, "item_head", None), getattr(model, "has_sid_heads", True)
    if not has_codes:
        return ByItems(model).eval()
    if item_head is None and not model.remembers:
        return ByCodes(model).eval()
    return ByBoth(model, n_walked).eval()


def _heaviest(masses: torch.Tensor, k: int) -> torch.Tensor:
    """Return which items have the k largest masses above 0, of equal ones the first: bool [B, n_items]."""
    least = masses.topk(k, dim=1).values[:, -1:]
    more, equal = masses > least, (masses == least) & (masses > 0)
    return more | (equal & (equal.long().cumsum(1) <= k - more.long().sum(1, keepdim=True)))


def _recalls(model: Any) -> nn.Module:
    return GraphMemory(model.memory, model.max_seq_length) if model.remembers else NoMemory(model.n_items)


def _best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items int64 and scores, both [B, <= k], of scores [B, n_items]; 0 for those of -inf."""
    best, items = scores.topk(min(k, scores.shape[1] - 1), dim=1)
    return items * (best > NEVER), best
