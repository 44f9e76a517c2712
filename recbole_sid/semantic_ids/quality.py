"""What semantic IDs look like: use of each level, branching, collisions, and what equal codes mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recbole_sid.decoding.trie import Trie
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.tokenizer.collisions import group_numbers
from recbole_sid.util.progress import progress

# Collision rules that show in a last level of their own ("ragged": shorter semantic IDs, filled up).
_LEVEL_RULES = ("rank", "ragged")
_COLLIDED = 0.05  # warn above this share of items
_COLLAPSED = 0.05  # warn if a level's perplexity is below this share of its codes,
_FEW = 1.5  # or below this
_NEARLY_ALL = 0.8  # warn if the last level holds this share of the information
_BATCH = 1024
_COMPARISONS = 200_000_000  # of an item with another, in the search for neighbours,
_FEWEST = 1000  # or as many as this number of items needs


def level_rows(semantic_ids: SemanticIDs) -> list[dict[str, Any]]:
    """Return a row per level, JSON types only.

    - level: from 1; used: codes that occur; size: codes there are.
    - perplexity: exponential of the entropy of the level's codes over items; entropy_ratio: that entropy by log(size),
      1 where size is 1; gini: Gini coefficient of the items per code, unused codes included.
    - information: share of the entropy of whole semantic IDs that this level adds to the levels before.
    - children_mean: mean number of codes that continue a prefix of the levels before; only_child_share: share of the
      prefixes of this length that are the only one to continue theirs (they cost a decoder nothing).
    """
    trie = semantic_ids.trie
    entropies = prefix_entropies(trie)
    rows = []
    for level, size in enumerate(semantic_ids.codebook_sizes):
        counts = np.bincount(semantic_ids.codes[:, level], minlength=size)
        entropy = _entropy(counts)
        children = trie.start(level).diff()
        rows.append(
            {
                "level": level + 1,
                "used": int((counts > 0).sum()),
                "size": size,
                "perplexity": float(np.exp(entropy)),
                "entropy_ratio": entropy / float(np.log(size)) if size > 1 else 1.0,
                "gini": gini(counts),
                "information": (entropies[level + 1] - entropies[level]) / entropies[-1] if entropies[-1] else 0.0,
                "children_mean": trie.n_nodes(level + 1) / trie.n_nodes(level),
                "only_child_share": int((children == 1).sum()) / trie.n_nodes(level + 1),
            }
        )
    return rows


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of counts [n]: 0 where all are equal, towards 1 where one has all."""
    ordered = np.sort(counts).astype(np.float64)
    n = len(ordered)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def prefix_entropies(trie: Trie) -> list[float]:
    """Return the entropy (nats) of the prefixes of 0, 1, ..., L codes over items."""
    items = trie.start(trie.n_levels).diff().numpy().astype(np.int64)  # of each prefix, from the leaves up
    entropies = [_entropy(items)]
    for level in reversed(range(trie.n_levels)):
        items = np.add.reduceat(items, trie.start(level)[:-1].numpy())
        entropies.append(_entropy(items))
    return entropies[::-1]


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum()) + 0.0  # never -0.0


def tokenizer_levels(semantic_ids: SemanticIDs) -> int:
    """Return how many levels a tokenizer made: all, but the last where it tells items of equal codes apart."""
    return semantic_ids.n_levels - (semantic_ids.recipe.get("collision") in _LEVEL_RULES and semantic_ids.n_levels > 1)


def collisions(semantic_ids: SemanticIDs) -> dict[str, int]:
    """Return collided_items, groups and largest_group before the collision rule.

    As the recipe has them, for rules that move items to other codes leave no trace in these; else counted without the
    rank level, if there is one.
    """
    recorded = semantic_ids.recipe.get("before_collision_rule")
    if recorded:
        return dict(recorded)
    shared = group_sizes(semantic_ids)
    return {
        "collided_items": int(shared[shared > 1].sum()),
        "groups": int((shared > 1).sum()),
        "largest_group": int(shared.max()),
    }


def group_sizes(semantic_ids: SemanticIDs) -> np.ndarray:
    """Return how many items have each distinct combination of a tokenizer's codes: int64 [n]."""
    trie, depth = semantic_ids.trie, tokenizer_levels(semantic_ids)
    items = trie.start(trie.n_levels).diff().numpy().astype(np.int64)
    for level in reversed(range(depth, trie.n_levels)):
        items = np.add.reduceat(items, trie.start(level)[:-1].numpy())
    return items


class Agreement(NamedTuple):
    """How often pairs that should have codes in common have them.

    Attributes:
        pairs: how many were looked at.
        shared: share of pairs that agree in the first 1, 2, ... codes.
        chance: the same of pairs drawn at random.
    """

    pairs: int
    shared: list[float]
    chance: list[float]


def neighbourhood_agreement(
    semantic_ids: SemanticIDs,
    features: np.ndarray,
    neighbours: int = 10,
    depths: int = 3,
    most_items: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Agreement:
    """Compare the codes of items with those of their nearest neighbours by cosine.

    Args:
        semantic_ids: of the items of `features`, in their order.
        features: [n_items, d].
        neighbours: per item (fewer in smaller catalogues).
        depths: look at the first 1 to `depths` codes.
        most_items: of larger catalogues, look at a sample of this many items and their neighbours among all; by default
            as many as make 200 million comparisons, and at least 1000.
        seed: of the sample.
        show_progress: show a bar.

    Returns:
        agreement; chance is that of two different items drawn at random.
    """
    import faiss

    n_items = len(features)
    neighbours = min(neighbours, n_items - 1)
    most_items = most_items or max(_FEWEST, _COMPARISONS // n_items)
    if n_items > most_items:
        sample = np.sort(np.random.default_rng(seed).choice(n_items, most_items, replace=False))
    else:
        sample = np.arange(n_items)
    unit = np.array(features, dtype=np.float32, order="C")
    faiss.normalize_L2(unit)
    depths = min(depths, tokenizer_levels(semantic_ids))
    codes = semantic_ids.codes[:, :depths]
    agreeing = np.zeros(depths, dtype=np.int64)
    batches = np.array_split(sample, max(1, -(-len(sample) // _BATCH)))
    for items in progress(batches, "neighbours", show_progress):
        _, found = faiss.knn(unit[items], unit, neighbours + 1, metric=faiss.METRIC_INNER_PRODUCT)
        near = _without_self(found, items)
        same = np.logical_and.accumulate(codes[items][:, None] == codes[near], axis=2)
        agreeing += same.sum(axis=(0, 1))
    pairs = len(sample) * neighbours
    return Agreement(pairs, (agreeing / max(1, pairs)).tolist(), _chance_of_two_items(codes))


def _without_self(found: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return found [n, k + 1] without each row's own item, or without the last where it is not among them: [n, k]."""
    other = found != items[:, None]
    other[other.all(axis=1), -1] = False
    return found[other].reshape(len(found), -1)


def _chance_of_two_items(codes: np.ndarray) -> list[float]:
    n_items = len(codes)
    chances = []
    for depth in range(1, codes.shape[1] + 1):
        counts = np.bincount(group_numbers(codes[:, :depth])).astype(np.float64)
        chances.append(float((counts * (counts - 1)).sum() / max(1, n_items * (n_items - 1))))
    return chances


def co_occurrence_agreement(semantic_ids: SemanticIDs, items: np.ndarray, offsets: np.ndarray) -> Agreement:
    """Compare the first codes of adjacent items in sequences; pairs of an item with itself do not count.

    Args:
        semantic_ids: row r is that of item r + 1.
        items: int64 [n], RecBole's internal item ids of all sequences in a row.
        offsets: int64 [n_sequences + 1], where each begins.

    Returns:
        agreement in the first code; chance is that of a first and a second item of different pairs drawn at random.
    """
    adjacent = np.ones(max(0, len(items) - 1), dtype=bool)
    adjacent[np.asarray(offsets[1:-1], dtype=np.int64) - 1] = False
    adjacent &= items[1:] != items[:-1]
    first = semantic_ids.codes[:, 0]
    left, right = first[items[:-1][adjacent] - 1], first[items[1:][adjacent] - 1]
    pairs = len(left)
    size = semantic_ids.codebook_sizes[0]
    before, after = np.bincount(left, minlength=size), np.bincount(right, minlength=size)
    chance = float((before.astype(np.float64) * after).sum() / max(1, pairs) ** 2)
    return Agreement(pairs, [float((left == right).mean()) if pairs else 0.0], [chance])


def warnings_of(semantic_ids: SemanticIDs, rows: Sequence[dict[str, Any]], collided: dict[str, int]) -> list[str]:
    """Return what is wrong with semantic IDs, a sentence each.

    Args:
        semantic_ids: the semantic IDs.
        rows: their `level_rows`.
        collided: their `collisions`.
    """
    sentences = []
    for row in rows[: tokenizer_levels(semantic_ids)]:
        if row["size"] > 1 and row["perplexity"] < max(_FEW, _COLLAPSED * row["size"]):
            sentences.append(
                f"Level {row['level']} has collapsed: its {row['size']} codes are used as if there were "
                f"{row['perplexity']:.1f} ({row['used']} occur)."
            )
    share = collided["collided_items"] / len(semantic_ids.codes)
    if share > _COLLIDED:
        sentences.append(
            f"{share:.1%} of the items share their codes with another before the collision rule, in groups of up to "
            f"{collided['largest_group']}: use more or larger codebooks, or other features."
        )
    if len(rows) > 1 and rows[-1]["information"] > _NEARLY_ALL:
        sentences.append(
            f"The last level holds {rows[-1]['information']:.0%} of the information: the codes before say little."
        )
    return sentences
