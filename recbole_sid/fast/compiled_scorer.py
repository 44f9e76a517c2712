"""SID-MLP's heads handed to the compiled search (`recbole_sid.fast.compiled`)."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from logging import getLogger
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from recbole_sid.decoding.beam import beam_search
from recbole_sid.decoding.exact import exact_search
from recbole_sid.decoding.full import best_leaves, full_search
from recbole_sid.decoding.trie import Trie
from recbole_sid.errors import first_line
from recbole_sid.fast.compiled.arrays import Heads, ItemRows, Looked, Mixing, Others, Places, Prefixes
from recbole_sid.fast.factorised import FactorisedHeads, FactorisedScorer
from recbole_sid.nn.item_head import ItemScores


@lru_cache(maxsize=1)
def is_usable() -> bool:
    """Say whether numba, the optional extra ``fast``, is there and works; the first call compiles (seconds)."""
    if importlib.util.find_spec("numba") is None:
        return False
    getLogger().info("Preparing compiled decoding: seconds where it has to be compiled first.")
    try:
        with torch.random.fork_rng(devices=[]):  # a model's weights must not depend on whether this was called before
            _try_out()
    except Exception as error:  # an unwritable cache, a numpy or compiler that does not suit: each fails in its own way
        getLogger().warning(f"Decoding is not compiled, since numba does not work here ({first_line(error)}).")
        return False
    return True


def _try_out() -> None:
    """Search a catalogue of two items, with and without a memory, by every compiled function."""
    trie = Trie(np.array([[0, 1], [1, 0]]), (2, 2))
    layers = [nn.Sequential(nn.Linear(2, 2)) for _ in range(2)]
    norms = (nn.LayerNorm(2), nn.LayerNorm(2))
    heads = FactorisedHeads(torch.ones(4, 2), torch.ones(4), torch.ones(2, 2), ((), (0,)), norms, tuple(layers))
    scorer = CompiledScorer(heads, torch.ones(1, 2, 2), trie, compiled_heads(heads), compiled_prefixes(trie))
    for decoding in ("beam", "exact", "full"):
        scorer.search(decoding, 2)
    one = np.ones(1, np.float32)
    for decoding in ("beam", "exact"):
        candidates = Looked(np.array([0, 1]), np.ones(1, np.int32), one, np.ones(1, int), one, Others.none(1))
        mixing = Mixing.of_one_head(candidates.remaining, 1.0)
        scorer.best_items(decoding, 2, compiled_places(trie, 2), mixing, candidates)


# Decoders that have a compiled form, with its name; any other runs on a `CompiledScorer` as on any scorer.
COMPILED: dict[Any, str] = {beam_search: "beam", exact_search: "exact", full_search: "full"}


def can_compile(heads: FactorisedHeads) -> bool:
    """Say whether the compiled search knows these heads: one hidden layer, fp32."""
    return all(len(rest) == 1 for rest in heads.rest) and heads.tables.dtype == torch.float32


def compiled_heads(heads: FactorisedHeads, prefixes: Prefixes | None = None) -> Heads:
    """Return the heads as arrays; a copy of the output layers, so to be rebuilt when weights change.

    Args:
        heads: on the CPU.
        prefixes: of the trie that is searched; without, a ranking with a memory opens more of it than it has to.
    """
    outputs = [cast(nn.Linear, rest[0]) for rest in heads.rest]
    n_levels = len(outputs)
    table_start = np.zeros((n_levels, n_levels), np.int64)
    for level, starts in enumerate(heads.table_start):
        table_start[level, : len(starts)] = starts
    sizes = [len(layer.weight) for layer in outputs]
    mean_rows, mean_bias = np.empty((0, heads.tables.shape[1]), np.float32), np.empty(0, np.float32)
    if prefixes is not None and n_levels > 1:
        mean_rows, mean_bias = means_of_children(_array(outputs[1].weight), _array(outputs[1].bias), prefixes)
    return Heads(
        tables=_array(heads.tables),
        table_start=table_start,
        gain=_array(torch.stack([norm.weight for norm in heads.norms])),
        shift=_array(torch.stack([norm.bias for norm in heads.norms])),
        eps=np.array([norm.eps for norm in heads.norms], np.float32),
        weight=_array(torch.cat([layer.weight for layer in outputs])),
        bias=_array(torch.cat([layer.bias for layer in outputs])),
        weight_start=np.cumsum([0, *sizes[:-1]]),
        mean_rows=mean_rows,
        mean_bias=mean_bias,
    )


def means_of_children(rows: np.ndarray, bias: np.ndarray, prefixes: Prefixes) -> tuple[np.ndarray, np.ndarray]:
    """Return of the second level's output rows [size, H] the mean [n, H] of each first-level prefix's children, and of
    biases [size] likewise [n].
    """
    n_nodes, n_children = prefixes.code_at[1], prefixes.start[prefixes.start_at[1] :]
    starts = n_children[: n_nodes + 1]
    codes = prefixes.code[prefixes.code_at[1] : prefixes.code_at[1] + starts[-1]]
    share = np.repeat((1 / np.diff(starts)).astype(np.float32), np.diff(starts))
    of_children = csr_array((share, codes, starts), shape=(n_nodes, len(rows)))
    return of_children @ rows, of_children @ bias


def compiled_prefixes(trie: Trie) -> Prefixes:
    """Return the trie as flat arrays."""
    starts = [trie.start(level) for level in range(trie.n_levels)]
    codes = [trie.code(level) for level in range(trie.n_levels)]
    return Prefixes(
        start=torch.cat(starts).numpy(),
        code=torch.cat([code.int() for code in codes]).numpy(),
        start_at=np.cumsum([0, *(len(start) for start in starts[:-1])]),
        code_at=np.cumsum([0, *(len(code) for code in codes[:-1])]),
        widest=max(trie.widths),
    )


def compiled_places(trie: Trie, n_items: int) -> Places:
    """Return where the items below `n_items` stand in the trie."""
    leaf, item = trie.every_item()
    nodes = np.full((n_items, trie.n_levels), -1, np.int32)
    nodes[item.numpy()] = torch.stack([*trie.path(leaf)[1:], leaf], dim=1).int().numpy()
    return Places(nodes, trie.start(trie.n_levels).numpy(), trie.item.int().numpy())


class CompiledScorer(FactorisedScorer):
    """A `FactorisedScorer` that also searches by itself, in compiled loops on as many threads as torch uses."""

    def __init__(
        self, heads: FactorisedHeads, user_parts: torch.Tensor, trie: Trie, arrays: Heads, prefixes: Prefixes
    ) -> None:
        super().__init__(heads, user_parts)
        self.arrays, self.prefixes = arrays, prefixes
        first = self.logits(self.start(), None)
        self.first_scores = first[:, trie.code(0).long()].log_softmax(-1)

    def search(self, decoding: str, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves and log-probabilities [B, K], as the decoder of that name does."""
        from recbole_sid.fast.compiled import decoders

        if decoding == "full":
            return best_leaves(self.leaf_log_probs(), k)
        search = {"beam": decoders.beam, "exact": decoders.exact}[decoding]
        leaves, scores = search(self._users(decoding, k), k, torch.get_num_threads())
        return torch.from_numpy(leaves), torch.from_numpy(scores)

    def best_items(
        self, decoding: str, k: int, places: Places, mixing: Mixing, remembered: Looked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best k items int64 and scores, both [B, k]; 0 and -inf for none.

        They are of those that the search named ``beam`` or ``exact`` finds, and of the remembered, which are written
        over.
        """
        from recbole_sid.fast.compiled import decoders

        users, n_threads = self._users(decoding, k), torch.get_num_threads()
        items, scores = decoders.mixture(users, decoding, places, mixing, remembered, k, k, n_threads)
        return torch.from_numpy(items), torch.from_numpy(scores)

    def best_of_both(
        self,
        scores: ItemScores,
        n_prefixes: int | None,
        k: int,
        places: Places,
        remembered: Looked,
        sharpness: float,
        share_of_items: float,
        share_of_codes: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best k as `best_items`, by a beam and by the head over items.

        Args:
            scores: what the head over items says.
            n_prefixes: so many prefixes of two codes, the best, are what items are ranked under; None: all are.
            share_of_items, share_of_codes: logarithms of the shares in p0.
        """
        from recbole_sid.fast.compiled import decoders, items, lookup

        head, n_users, n_threads = scores.head, self.n_users, torch.get_num_threads()
        users = self._users("beam", k)
        rows = ItemRows(_array(scores.query), _array(head.table), head.row.numpy(), np.empty(n_users, np.float32))
        mixing = Mixing.of_one_head(remembered.remaining, sharpness)
        mixing = mixing._replace(log_share=np.float32(share_of_codes), rows=rows)
        if n_prefixes is not None:
            found, best = decoders.mixture_by_index(
                users, places, mixing, remembered, (k, n_prefixes), share_of_items, k, k, n_threads
            )
            return torch.from_numpy(found), torch.from_numpy(best)
        logits, extra = np.empty((n_users, k), np.float32), np.empty((n_users, k), np.int64)
        items.best_of_all(_array(head.logits(scores.query)), head.items.numpy(), logits, extra, rows.totals)
        rows.totals[:] -= share_of_items
        mixing.rest[:] = logits[:, -1] - rows.totals
        found, best = decoders.mixture(
            users, "beam", places, mixing, lookup.with_items(remembered, extra), k, k, n_threads
        )
        return torch.from_numpy(found), torch.from_numpy(best)

    def leaf_log_probs(self) -> torch.Tensor:
        """Return the log-probabilities [B, n_leaves] of all leaves."""
        from recbole_sid.fast.compiled import decoders

        arguments = self.arrays, self.prefixes, _array(self.user_parts), _array(self.first_scores)
        return torch.from_numpy(decoders.all_leaves(*arguments, torch.get_num_threads()))

    def _users(self, decoding: str, k: int) -> Any:
        from recbole_sid.fast.compiled.decoders import Users

        n_first = self.first_scores.shape[1]
        ranked = self.first_scores.topk(min(k, n_first) if decoding == "beam" else n_first, dim=1).indices
        parts = self.user_parts, self.first_scores, ranked
        return Users(self.arrays, self.prefixes, *(_array(part) for part in parts))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
