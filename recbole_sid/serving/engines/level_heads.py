"""The heads over codes and the trie that they are searched in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Places, Prefixes
from recbole_sid.serving.engines.layers import Linear
from recbole_sid.serving.engines.reading import Reader


class Asked(NamedTuple):
    """What the heads are asked for a batch of users.

    Attributes:
        parts: float32 [B, L, H], the users' part of every head.
        first: float32 [B, n_nodes(1)], log-probabilities of the first level's prefixes.
    """

    parts: np.ndarray
    first: np.ndarray


class LevelHeads:
    """Heads over the codes of all levels, and where items stand in the trie.

    Args:
        reader: of the arrays and settings.
        codes: trie of the catalogue.
    """

    def __init__(self, reader: Reader, codes: Codes) -> None:
        n_levels, width, sizes = codes.n_levels, reader.whole("head_hidden", 1), codes.sizes
        self.codes = codes
        self.user = Linear.read(reader, "heads.user", reader.whole("d_model", 1), n_levels * width)
        table_start, n_rows = np.zeros((n_levels, n_levels), np.int64), 0
        for level in range(n_levels):
            for earlier in range(level):
                table_start[level, earlier] = n_rows
                n_rows += sizes[earlier]
        self.arrays = Heads(
            reader.array("heads.tables", np.float32, n_rows, width),
            table_start,
            reader.array("heads.gain", np.float32, n_levels, width),
            reader.array("heads.shift", np.float32, n_levels, width),
            reader.array("heads.eps", np.float32, n_levels),
            reader.array("heads.weight", np.float32, sum(sizes), width),
            reader.array("heads.bias", np.float32, sum(sizes)),
            np.cumsum([0, *sizes[:-1]]).astype(np.int64),
        )

    def asked(self, context: np.ndarray) -> Asked:
        """Return what is asked for contexts z [B, Q, d], Q = 1 or one for each level."""
        from recbole_sid.fast.compiled.first_level import score_first_level

        n_levels, width = self.codes.n_levels, len(self.arrays.gain[0])
        if context.shape[1] == 1:
            parts = self.user(context[:, 0]).reshape(len(context), n_levels, width)
        else:
            weight = self.user.weight.reshape(-1, n_levels, width).transpose(1, 0, 2)
            parts = (context.transpose(1, 0, 2) @ weight).transpose(1, 0, 2) + self.user.bias.reshape(n_levels, width)
        parts = np.ascontiguousarray(parts)
        first = np.empty((len(parts), self.codes.n_first), np.float32)
        score_first_level(self.arrays, self.codes.prefixes, parts, first)
        return Asked(parts, first)

    def users(self, asked: Asked, k: int) -> Any:
        """Return who to search for, with the best k prefixes of the first level."""
        from recbole_sid.fast.compiled.decoders import Users
        from recbole_sid.fast.compiled.first_level import rank_first_level

        ranked = np.empty((len(asked.parts), min(k, self.codes.n_first)), np.int64)
        rank_first_level(asked.first, ranked)
        return Users(self.arrays, self.codes.prefixes, asked.parts, asked.first, ranked)

    def search(self, asked: Asked, decoding: str, k: int, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items int64 and log-probabilities of the best k, both [B, k]; 0 and -inf beyond."""
        from recbole_sid.fast.compiled import decoders
        from recbole_sid.fast.compiled.first_level import items_of

        if decoding == "beam":
            leaves, of_leaves = decoders.beam(self.users(asked, k), k, n_threads)
        else:
            leaves, of_leaves = decoders.exact(self.users(asked, self.codes.n_first), k, n_threads)
        items, scores = np.empty((len(leaves), k), np.int64), np.empty((len(leaves), k), np.float32)
        items_of(self.codes.places, leaves, of_leaves, items, scores)
        return items, scores

    def log_probs(self, asked: Asked, n_threads: int) -> np.ndarray:
        """Return the log-probabilities [B, n_items] of all items, -inf for those that have no semantic ID."""
        from recbole_sid.fast.compiled import decoders

        of_leaves = decoders.all_leaves(self.arrays, self.codes.prefixes, *asked, n_threads)
        leaf = self.codes.places.nodes[:, -1]
        found = np.take(of_leaves, np.maximum(leaf, 0), axis=1)
        found[:, leaf < 0] = -np.inf
        return found

    def log_probs_of(self, asked: Asked, items: np.ndarray) -> np.ndarray:
        """Return the log-probabilities [B, M] of items int64 [M]."""
        from recbole_sid.fast.compiled.first_level import score_leaves

        nodes = self.codes.places.nodes[items]
        order = np.argsort(nodes[:, -1], kind="stable")
        sorted_scores = np.empty((len(asked.parts), len(items)), np.float32)
        score_leaves(self.arrays, self.codes.prefixes, nodes[order], *asked, sorted_scores)
        scores = np.empty_like(sorted_scores)
        scores[:, order] = sorted_scores
        return scores

    def path(self, asked: Asked, user: int, item: int, n_siblings: int) -> list[dict[str, Any]]:
        """Return, per level of the item's semantic ID, its code, its probability there and its likeliest siblings."""
        from recbole_sid.fast.compiled.first_level import score_children

        prefixes, nodes = self.codes.prefixes, self.codes.places.nodes[item]
        scores, levels = np.empty(prefixes.widest, np.float32), []
        for level in range(self.codes.n_levels if nodes[0] >= 0 else 0):
            n = score_children(self.arrays, prefixes, level, nodes, asked.parts[user, level], scores)
            at = prefixes.start_at[level] + (nodes[level - 1] if level else 0)
            first = int(prefixes.start[at])
            codes = prefixes.code[prefixes.code_at[level] + first :][:n]
            probabilities = np.exp(scores[:n])
            best = np.argsort(-probabilities, kind="stable")[:n_siblings]
            own = int(nodes[level]) - first
            levels.append(
                {
                    "code": int(codes[own]),
                    "probability": float(probabilities[own]),
                    "siblings": [[int(codes[place]), float(probabilities[place])] for place in best],
                }
            )
        return levels


class Codes:
    """The catalogue's semantic IDs.

    Args:
        reader: of the arrays and settings.
        n_items: size of the catalogue.

    Attributes:
        sizes: codes of each level.
        prefixes, places: the trie, and where items stand in it.
        n_first: prefixes of the first level.
    """

    def __init__(self, reader: Reader, n_items: int) -> None:
        self.sizes = reader.sizes("codebook_sizes")
        self.n_levels = len(self.sizes)
        start_at = reader.array("trie.start_at", np.int64, self.n_levels)
        code_at = reader.array("trie.code_at", np.int64, self.n_levels)
        start, code = reader.array("trie.start", np.int32, None), reader.array("trie.code", np.int32, None)
        bounds, code_bounds = [*start_at.tolist(), len(start)], [*code_at.tolist(), len(code)]
        reader.starts("trie.start_at", np.array(bounds), len(start))
        reader.starts("trie.code_at", np.array(code_bounds), len(code))
        n_nodes, widest = 1, 1
        self.n_first = code_bounds[1]
        for level, size in enumerate(self.sizes):
            children = start[bounds[level] : bounds[level + 1]]
            codes = code[code_bounds[level] : code_bounds[level + 1]]
            if len(children) != n_nodes + 1:
                reader.starts("trie.start", np.array([0, 0]), 1)
            reader.starts("trie.start", children, len(codes))
            reader.within("trie.code", codes, 0, size)
            n_nodes, widest = len(codes), max(widest, int(np.diff(children).max(initial=1)))
        self.prefixes = Prefixes(start, code, start_at, code_at, widest)
        nodes = reader.array("places.nodes", np.int32, n_items, self.n_levels)
        there = nodes[:, 0] >= 0
        reader.within("places.nodes", nodes[:, 0], -1, self.n_first)
        for level in range(1, self.n_levels):
            above, own = nodes[there, level - 1], nodes[there, level]
            children = start[bounds[level] : bounds[level + 1]]
            reader.within("places.nodes", own - children[above], 0, max(widest, 1))
            reader.within("places.nodes", children[above + 1] - own, 1, widest + 1)
        leaf_items = reader.array("places.leaf_items", np.int32, None)
        reader.within("places.leaf_items", leaf_items, 1, n_items)
        leaf_start = reader.array("places.leaf_start", np.int32, n_nodes + 1)
        reader.starts("places.leaf_start", leaf_start, len(leaf_items))
        self.places = Places(nodes, leaf_start, leaf_items)

    def rows(self, items: np.ndarray) -> np.ndarray:
        """Return of items int [...] the rows [..., L] of their codes in a table of all levels' codes."""
        at_level = self.prefixes.code_at + self.places.nodes[items]
        return self.prefixes.code[at_level] + np.cumsum([0, *self.sizes[:-1]])
