"""The trie of valid semantic IDs in compressed sparse rows: children of a prefix are a contiguous range.

Memory is linear in the items for any number of levels and any codebook sizes; several items may share a leaf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LARGEST_SIZE = 1 << 24  # codes a level can have; far above any codebook, so larger numbers are item ids or the like
MOST_LEVELS = 256  # codes an item can have; the longest semantic IDs of the literature have 64
_WORD_BITS = 62  # of the int64 that several levels' codes are packed into for sorting


class Trie(nn.Module):
    """Prefixes of depth 0 (the root) to L (leaves), numbered in lexicographic order within each depth.

    Children of prefix n at `level` are the prefixes ``start_<level>[n] .. start_<level>[n + 1] - 1`` one level deeper,
    and ``code_<level>`` holds each one's last code; ``start_<L>`` and ``item`` do the same for a leaf's items.

    Args:
        codes: integers [n_items, L], n_items >= 1; a numpy array or a tensor, whose device the trie is built on.
        codebook_sizes: length L.
        items: int64 [n_items], the item id of each row of `codes`; by default the row number.
    """

    item: torch.Tensor

    def __init__(
        self,
        codes: np.ndarray | torch.Tensor,
        codebook_sizes: Sequence[int],
        items: np.ndarray | torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        table = torch.as_tensor(codes)
        sizes = tuple(codebook_sizes)
        order, words = _sorted_words(table, sizes)
        arrays = {}
        new = torch.ones(len(order), dtype=torch.bool, device=table.device)  # rows whose prefix differs from the last
        new[1:] = False
        parents = new.clone()
        for level, size in enumerate(sizes):
            column = _column(words, sizes, level)
            new[1:] |= column[1:] != column[:-1]
            arrays[f"start_{level}"] = _starts(new, parents)
            arrays[f"code_{level}"] = column[new].to(_dtype(size))
            parents = new.clone()
        arrays[f"start_{len(sizes)}"] = _starts(torch.ones_like(new), parents)
        arrays["item"] = order.to(_dtype(len(order)))
        self._hold(arrays, sizes)
        if items is not None:
            self._relabel(torch.as_tensor(items))

    def _hold(self, arrays: Mapping[str, torch.Tensor], sizes: tuple[int, ...]) -> None:
        self.codebook_sizes = sizes
        for name, values in arrays.items():
            self.register_buffer(name, values, persistent=False)
        # Where children begin, for the host to read on whatever device the trie is: on the CPU the same memory.
        self.host_starts = [self.start(level).cpu() for level in range(len(sizes) + 1)]
        self._families: dict[tuple[int, int], Families] = {}
        self._leaf_of_item: dict[torch.device, torch.Tensor] = {}
        # The most children that any prefix has, per level, and the most items of a leaf.
        *self.widths, self.most_items = (int(start.diff().max()) for start in self.host_starts)

    def _relabel(self, items: torch.Tensor) -> None:
        of_row = items.to(self.item.device)
        largest = int(of_row.max()) if len(of_row) else 0
        self.item = of_row[self.item.long()].to(_dtype(largest + 1))
        self._leaf_of_item = {}

    def relabelled(self, items: np.ndarray | torch.Tensor) -> Trie:
        """Return this trie with other item ids: int64 [n_items], the id of each row it was built from."""
        trie = Trie.from_arrays(self.arrays(), self.codebook_sizes)
        trie._relabel(torch.as_tensor(items))
        return trie

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that the trie consists of, to be saved."""
        return {name: values.cpu().numpy() for name, values in self.named_buffers()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], codebook_sizes: Sequence[int]) -> Trie:
        """Make the trie that `arrays` was called on, without sorting.

        Raises:
            KeyError: if an array is missing.
        """
        trie = cls.__new__(cls)
        nn.Module.__init__(trie)
        n_levels = len(codebook_sizes)
        names = [f"start_{level}" for level in range(n_levels + 1)] + [f"code_{level}" for level in range(n_levels)]
        trie._hold({name: torch.from_numpy(np.array(arrays[name])) for name in [*names, "item"]}, tuple(codebook_sizes))
        return trie

    def codes(self) -> torch.Tensor:
        """Return the codes int64 [n_items, L] of the items in the order of ``item``."""
        leaves = torch.arange(self.n_nodes(self.n_levels), device=self.item.device)
        nodes = torch.repeat_interleave(leaves, self.start(self.n_levels).diff())
        columns = []
        for level in reversed(range(self.n_levels)):
            columns.append(self.code(level)[nodes].long())
            nodes = self.parent(level, nodes)
        return torch.stack(columns[::-1], dim=1)

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return len(self.codebook_sizes)

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        return sum(values.numel() * values.element_size() for values in self.buffers())

    def n_nodes(self, depth: int) -> int:
        """Number of distinct prefixes of `depth` codes."""
        return 1 if depth == 0 else len(self.code(depth - 1))

    def start(self, level: int) -> torch.Tensor:
        """Where the children of each prefix of depth `level` begin: int32 [n_nodes(level) + 1]."""
        return self.get_buffer(f"start_{level}")

    def code(self, level: int) -> torch.Tensor:
        """Last code of each prefix of depth `level` + 1: int16 or int32 [n_nodes(level + 1)]."""
        return self.get_buffer(f"code_{level}")

    def n_children(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return how many children prefixes `nodes` of depth `level` have: int64 [...]; a dead one (-1) has none."""
        start, alive = self.start(level), nodes.clamp(min=0)
        return torch.where(nodes >= 0, at(start, alive + 1) - at(start, alive), 0).long()

    def children_of(self, level: int, nodes: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first `width` children of each prefix: int64 [..., width], and bool [..., width] which exist."""
        offset = torch.arange(width, device=nodes.device)
        exists = offset < self.n_children(level, nodes).unsqueeze(-1)
        child = at(self.start(level), nodes.clamp(min=0)).unsqueeze(-1) + offset
        return torch.where(exists, child, 0), exists

    def pairs(self, level: int, nodes: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (position in `nodes`, child) for every child of the prefixes `nodes` int64 [n], in order.

        Args:
            count: their `n_children` [n].
        """
        position = torch.repeat_interleave(count)
        shift = self.start(level).index_select(0, nodes.clamp(min=0)).long() - (count.cumsum(0) - count)
        return position, shift.index_select(0, position).add_(torch.arange(len(position), device=nodes.device))

    def families(self, level: int, least: int) -> Families:
        """Return the families of all prefixes of depth `level`; one of `least` children or more counts as branching.

        Made once.
        """
        found = self._families.get((level, least))
        if found is None or found.parent.device != self.item.device:
            with torch.inference_mode(False):  # it outlives the caller's mode
                found = Families.below(self.host_starts[level].long(), least, self.item.device)
            self._families[level, least] = found
        return found

    def child_mask(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return which codes of `level` continue the prefixes `nodes`: [...] -> bool [..., codebook size].

        Prefix -1 (dead) has no children.
        """
        size = self.codebook_sizes[level]
        child, exists = self.children_of(level, nodes, self.widths[level])
        codes = torch.where(exists, self.code(level)[child].long(), size)  # places without a child mark one code more
        mask = torch.zeros(*nodes.shape, size + 1, dtype=torch.bool, device=nodes.device)
        return mask.scatter_(-1, codes, True)[..., :size]

    def child(self, level: int, nodes: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the prefixes that `codes` of `level` lead to from `nodes` (same shapes), -1 where there is none."""
        start, known = self.start(level), self.code(level)
        low, end = start[nodes.clamp(min=0)].long(), start[nodes.clamp(min=0) + 1].long()
        high, last = end, len(known) - 1
        for _ in range(self.widths[level].bit_length()):  # bisection: the first child whose code is not below
            middle = (low + high) // 2
            below = (known[middle.clamp(max=last)] < codes) & (low < high)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        found = (low < end) & (known[low.clamp(max=last)] == codes) & (nodes >= 0)
        return torch.where(found, low, -1)

    def parent(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return the prefixes of depth `level` that `nodes` of depth `level` + 1 continue."""
        start = self.start(level)
        return torch.searchsorted(start, nodes.to(start.dtype), right=True) - 1

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
            nodes = self.parent(level, nodes)
            above.append(nodes)
        return above[::-1]

    def host_path(self, leaves: torch.Tensor) -> list[torch.Tensor]:
        """Return what `path` does, on the host."""
        nodes, above = leaves, []
        for start in reversed(self.host_starts[:-1]):
            nodes = torch.searchsorted(start, nodes.to(start.dtype), right=True) - 1
            above.append(nodes)
        return above[::-1]

    def host_n_children(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return what `n_children` does of prefixes that are alive, on the host."""
        start = self.host_starts[level]
        return (start[nodes + 1] - start[nodes]).long()

    def host_pairs(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `pairs` does of prefixes that are alive, on the host."""
        count = self.host_n_children(level, nodes)
        position = torch.repeat_interleave(count)
        shift = self.host_starts[level][nodes].long() - (count.cumsum(0) - count)
        return position, shift[position] + torch.arange(len(position))

    def leaves_of(self, items: torch.Tensor) -> torch.Tensor:
        """Return the leaves of items int64 [...], on the device that the items are on; -1 where there is none."""
        table = self._leaves_on(items.device)
        known = items < len(table)
        return torch.where(known, at(table, torch.where(known, items, 0)).long(), -1)

    def _leaves_on(self, device: torch.device) -> torch.Tensor:
        """Return the leaf of every item up to the largest; made once on the host, and copied once to others."""
        host = torch.device("cpu")
        if host not in self._leaf_of_item:
            leaf, item = (part.cpu() for part in self.every_item())
            table = torch.full((int(item.max()) + 1,), -1, dtype=_dtype(len(leaf) + 1))
            self._leaf_of_item[host] = table.index_copy_(0, item, leaf.to(table.dtype))
        if device not in self._leaf_of_item:
            with torch.inference_mode(False):  # it outlives the caller's mode
                self._leaf_of_item[device] = self._leaf_of_item[host].to(device)
        return self._leaf_of_item[device]

    def every_item(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (leaf, item) of every item, in the leaves' order: `expand_leaves` of all, without waiting."""
        n_items = self.start(self.n_levels).diff()
        return torch.repeat_interleave(n_items, output_size=len(self.item)), self.item.long()

    def expand_leaves(self, leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (position in the flattened `leaves`, item) for every item of every leaf, in order; -1 has none."""
        flat = leaves.flatten()
        position, place = self.pairs(self.n_levels, flat, self.n_children(self.n_levels, flat))
        return position, self.item[place].long()


def at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return ``values[places]`` for values [n] and places of any shape, all at least 0: one gather where recorded."""
    return values.index_select(0, places.flatten()).view(places.shape)


class Family(NamedTuple):
    """Neighbouring prefixes and their children, numbered from the first of each.

    Attributes:
        children: the numbers of the first child and of the one after the last among all of their depth.
        parent: int64 [n_children], the prefix above each child.
        branching: int64 [M], the prefixes of several children.
        pair: int64 [P], the children of those.
        row: int64 [P], the place in `branching` of each one's prefix.
        sizes: int64 [M], how many children each of `branching` has.
    """

    children: tuple[int, int]
    parent: torch.Tensor
    branching: torch.Tensor
    pair: torch.Tensor
    row: torch.Tensor
    sizes: torch.Tensor


class Families(NamedTuple):
    """All prefixes of a depth as one `Family`, of which any range of prefixes is slices: nothing waits for a device.

    Attributes:
        parent, branching, pair, row, sizes: as in `Family`, on the device.
        start, branching_before, pairs_before: on the host, int64 [n_nodes + 1]: how many children, branching prefixes
            and entries of `pair` come before those of a prefix.
    """

    parent: torch.Tensor
    branching: torch.Tensor
    pair: torch.Tensor
    row: torch.Tensor
    sizes: torch.Tensor
    start: torch.Tensor
    branching_before: torch.Tensor
    pairs_before: torch.Tensor

    @classmethod
    def below(cls, start: torch.Tensor, least: int, device: torch.device) -> Families:
        """Return the families of prefixes whose children begin at `start` int64 [n_nodes + 1], on the host.

        Args:
            start: of each prefix's children, and their number.
            least: children of a prefix that counts as branching.
            device: of the result.
        """
        count = start.diff()
        branches = count >= least
        parent = torch.repeat_interleave(count)
        pair = branches[parent].nonzero().squeeze(1)
        row = (branches.cumsum(0) - 1)[parent[pair]]
        return cls(
            parent.to(device),
            branches.nonzero().squeeze(1).to(device),
            pair.to(device),
            row.to(device),
            count[branches].to(device),
            start,
            F.pad(branches.cumsum(0), (1, 0)),
            F.pad((count * branches).cumsum(0), (1, 0)),
        )

    def of(self, first: int, last: int) -> Family:
        """Return the family of the prefixes first .. last - 1."""

        def between(before: torch.Tensor) -> slice:
            return slice(int(before[first]), int(before[last]))

        children, branching, pairs = map(between, (self.start, self.branching_before, self.pairs_before))
        return Family(
            (children.start, children.stop),
            self.parent[children] - first,
            self.branching[branching] - first,
            self.pair[pairs] - children.start,
            self.row[pairs] - branching.start,
            self.sizes[branching],
        )


def _sorted_words(codes: torch.Tensor, sizes: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Sort rows [n, L] lexicographically, equal rows in order.

    Returns:
        order int64 [n], and the sorted rows packed into int64 words [n], as `_layout` says.
    """
    words = []
    for levels in _layout(sizes):
        word = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
        for level in levels:
            word = word * sizes[level] + codes[:, level]
        words.append(word)
    if len(words) == 1:
        ordered, order = torch.sort(words[0], stable=True)
        return order, [ordered]
    order = torch.arange(len(codes), device=codes.device)
    for word in reversed(words):
        order = order[torch.sort(word[order], stable=True).indices]
    return order, [word[order] for word in words]


def _layout(sizes: tuple[int, ...]) -> list[list[int]]:
    """Return which levels share a word, so that each word's values stay below 2^62."""
    layout: list[list[int]] = [[]]
    product = 1
    for level, size in enumerate(sizes):
        if layout[-1] and product * size >= 1 << _WORD_BITS:
            layout.append([])
            product = 1
        layout[-1].append(level)
        product *= size
    return layout


def _column(words: list[torch.Tensor], sizes: tuple[int, ...], level: int) -> torch.Tensor:
    """Return the codes of `level` from packed words."""
    for levels, word in zip(_layout(sizes), words, strict=True):
        if level in levels:
            after = 1
            for later in levels[levels.index(level) + 1 :]:
                after *= sizes[later]
            return word // after % sizes[level]
    raise IndexError(level)


def _starts(new: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    """Return where each parent's children start, from which rows begin a child and which begin a parent."""
    child = new.cumsum(0, dtype=torch.int32) - 1
    return torch.cat([child[parents], child[-1:] + 1])


def _dtype(size: int) -> torch.dtype:
    """Return the smallest signed type that we use for values below `size`."""
    if size <= 1 << 15:
        return torch.int16
    return torch.int32 if size <= 1 << 31 else torch.int64
