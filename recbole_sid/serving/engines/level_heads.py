"""The heads over codes and the trie that they are searched in."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.fast.compiled import decoders
from recbole_sid.fast.compiled.arrays import Heads, Places, Prefixes
from recbole_sid.fast.compiled.asking import Asked
from recbole_sid.fast.compiled.decoders import Users
from recbole_sid.fast.compiled.first_level import items_of, order_ties, score_children, score_leaves
from recbole_sid.serving.engines.reading import Reader


class LevelHeads:
    """Heads over the codes of all levels, and where items stand in the trie.

    Args:
        reader: of the arrays and settings.
        codes: trie of the catalogue.

    Attributes:
        arrays: weights.
    """

    def __init__(self, reader: Reader, codes: Codes) -> None:
        n_levels, width, sizes = codes.n_levels, reader.whole("head_hidden", 1), codes.sizes
        self.codes = codes
        table_start, n_rows = np.zeros((n_levels, n_levels), np.int64), 0
        for level in range(n_levels):
            for earlier in range(level):
                table_start[level, earlier] = n_rows
                n_rows += sizes[earlier]
        n_first = codes.n_first if n_levels > 1 else 0
        self.arrays = Heads(
            reader.array("heads.tables", np.float32, n_rows, width),
            table_start,
            reader.array("heads.gain", np.float32, n_levels, width),
            reader.array("heads.shift", np.float32, n_levels, width),
            reader.array("heads.eps", np.float32, n_levels),
            reader.array("heads.weight", np.float32, sum(sizes), width),
            reader.array("heads.bias", np.float32, sum(sizes)),
            np.cumsum([0, *sizes[:-1]]).astype(np.int64),
            reader.array("heads.mean_rows", np.float32, n_first, width),
            reader.array("heads.mean_bias", np.float32, n_first),
        )

    def users(self, asked: Asked) -> Users:
        """Return who to search for; their `ranked` prefixes are as many as were asked for."""
        return Users(self.arrays, self.codes.prefixes, asked.parts, asked.first, asked.ranked)

    def exact(self, asked: Asked, k: int, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items int64 and log-probabilities of the true best k, both [B, k]; 0 and -inf beyond."""
        leaves, of_leaves = decoders.exact(self.users(asked), k, n_threads)
        items, scores = np.empty((len(leaves), k), np.int64), np.empty((len(leaves), k), np.float32)
        items_of(self.codes.places, leaves, of_leaves, items, scores)
        order_ties(items, scores)
        return items, scores

    def log_probs(self, asked: Asked, n_threads: int) -> np.ndarray:
        """Return the log-probabilities [B, n_items] of all items, -inf for those that have no semantic ID."""
        of_leaves = decoders.all_leaves(self.arrays, self.codes.prefixes, asked.parts, asked.first, n_threads)
        leaf = self.codes.places.nodes[:, -1]
        found = np.take(of_leaves, np.maximum(leaf, 0), axis=1)
        found[:, leaf < 0] = -np.inf
        return found

    def log_probs_of(self, asked: Asked, items: np.ndarray) -> np.ndarray:
        """Return the log-probabilities [B, M] of items int64 [M]."""
        nodes = self.codes.places.nodes[items]
        order = np.argsort(nodes[:, -1], kind="stable")
        sorted_scores = np.empty((len(asked.parts), len(items)), np.float32)
        score_leaves(self.arrays, self.codes.prefixes, nodes[order], asked.parts, asked.first, sorted_scores)
        scores = np.empty_like(sorted_scores)
        scores[:, order] = sorted_scores
        return scores

    def path(self, asked: Asked, user: int, item: int, n_siblings: int) -> list[dict[str, Any]]:
        """Return, per level of the item's semantic ID, its code, its probability there and its likeliest siblings."""
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


def no_heads() -> Heads:
    """Return what stands for the heads of a model that has none."""
    rows, numbers = np.empty((0, 1), np.float32), np.empty(0, np.float32)
    starts = np.empty((0, 0), np.int64)
    return Heads(rows, starts, rows, rows, numbers, rows, numbers, starts[0:0, 0:0].reshape(0), rows, numbers)


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
        reader.within("places.nodes", nodes[~there], -1, 0)
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
