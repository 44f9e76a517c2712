"""The trie of valid semantic IDs in compressed sparse rows: children of a prefix are a contiguous range.

Memory is linear in the items for any number of levels and any codebook sizes; several items may share a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class Trie(nn.Module):
    """Prefixes of depth 0 (the root) to L (leaves), numbered in lexicographic order within each depth.

    Args:
        codes: int64 [n_items, L].
        codebook_sizes: length L.
        items: int64 [n_items], the item id of each row of `codes`; by default the row number.
    """

    def __init__(self, codes: np.ndarray, codebook_sizes: Sequence[int], items: np.ndarray | None = None) -> None:
        super().__init__()
        self.codebook_sizes = tuple(codebook_sizes)
        items = np.arange(len(codes)) if items is None else np.asarray(items)
        order = np.lexsort(codes.T[::-1])
        rows = codes[order]
        differs = np.ones(len(rows), dtype=bool)
        differs[1:] = False
        parent = np.zeros(len(rows), dtype=np.int64)
        for level, size in enumerate(self.codebook_sizes):
            differs[1:] |= rows[1:, level] != rows[:-1, level]
            node_parent, node_code = parent[differs], rows[differs, level]
            n_parents = int(parent[-1]) + 1
            self._keep(f"start_{level}", np.searchsorted(node_parent, np.arange(n_parents + 1)))
            self._keep(f"parent_{level}", node_parent)
            self._keep(f"code_{level}", node_code)
            self._keep(f"key_{level}", node_parent * size + node_code)
            parent = np.cumsum(differs) - 1
        self._keep("item_start", np.searchsorted(parent, np.arange(int(parent[-1]) + 2)))
        self._keep("item", items[order])

    def _keep(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)), persistent=False)

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return len(self.codebook_sizes)

    def n_nodes(self, depth: int) -> int:
        """Number of distinct prefixes of `depth` codes."""
        return 1 if depth == 0 else len(self.get_buffer(f"code_{depth - 1}"))

    def child_mask(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return which codes of `level` continue the prefixes `nodes`: [...] -> bool [..., codebook size].

        Prefix -1 (dead) has no children.
        """
        pair, child = _ranges(self.get_buffer(f"start_{level}"), nodes.flatten())
        mask = torch.zeros(nodes.numel(), self.codebook_sizes[level], dtype=torch.bool, device=nodes.device)
        mask[pair, self.get_buffer(f"code_{level}")[child]] = True
        return mask.reshape(*nodes.shape, -1)

    def child(self, level: int, nodes: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the prefixes that `codes` of `level` lead to from `nodes` (same shapes), -1 where there is none."""
        keys = self.get_buffer(f"key_{level}")
        wanted = nodes * self.codebook_sizes[level] + codes
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where((keys[place] == wanted) & (nodes >= 0), place, -1)

    def find(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the leaves of whole semantic IDs: [..., L] -> [...], -1 where no item has these codes."""
        nodes = torch.zeros_like(codes[..., 0])
        for level in range(self.n_levels):
            nodes = self.child(level, nodes, codes[..., level])
        return nodes

    def path(self, leaves: torch.Tensor) -> list[torch.Tensor]:
        """Return the prefixes above `leaves`, from the root (depth 0) to depth L - 1, each of the leaves' shape."""
        nodes, above = leaves, []
        for level in reversed(range(self.n_levels)):
            nodes = self.get_buffer(f"parent_{level}")[nodes]
            above.append(nodes)
        return above[::-1]

    def expand_leaves(self, leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (position in the flattened `leaves`, item) for every item of every leaf, in order; -1 has none."""
        position, place = _ranges(self.get_buffer("item_start"), leaves.flatten())
        return position, self.get_buffer("item")[place]


def _ranges(start: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (position in `nodes`, member) for every member start[node] .. start[node + 1] - 1 of every node."""
    alive = nodes >= 0
    first = start[nodes.clamp(min=0)]
    count = torch.where(alive, start[nodes.clamp(min=0) + 1] - first, 0)
    position = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
    before = count.cumsum(0) - count
    member = torch.arange(len(position), device=nodes.device) - before[position] + first[position]
    return position, member
