"""What semantic IDs look like: use of each level, branching, collisions."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.data.semantic_ids import SemanticIDs


def level_rows(semantic_ids: SemanticIDs) -> list[dict[str, Any]]:
    """Return per level: level (from 1), used (codes), size, perplexity, children_mean.

    Perplexity is the exponential of the entropy of the level's codes over items; children_mean the mean number of
    codes that continue a prefix of the levels before.
    """
    trie = semantic_ids.trie
    rows = []
    for level, size in enumerate(semantic_ids.codebook_sizes):
        counts = np.bincount(semantic_ids.codes[:, level], minlength=size)
        share = counts[counts > 0] / counts.sum()
        rows.append(
            {
                "level": level + 1,
                "used": int((counts > 0).sum()),
                "size": size,
                "perplexity": float(np.exp(-(share * np.log(share)).sum())),
                "children_mean": trie.n_nodes(level + 1) / trie.n_nodes(level),
            }
        )
    return rows


def collisions(semantic_ids: SemanticIDs) -> dict[str, int]:
    """Return collided_items, groups and largest_group before the collision rule (the rank level, if any, left out)."""
    has_rank = semantic_ids.recipe.get("collision") == "rank" and semantic_ids.n_levels > 1
    codes = semantic_ids.codes[:, :-1] if has_rank else semantic_ids.codes
    sizes = np.unique(codes, axis=0, return_counts=True)[1]
    shared = sizes[sizes > 1]
    return {
        "collided_items": int(shared.sum()),
        "groups": len(shared),
        "largest_group": int(sizes.max()),
    }
