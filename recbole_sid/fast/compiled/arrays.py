"""What the compiled search reads: heads, trie and memory as flat arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Columns of a weight that lie together: see `in_panels`.
PANEL = 64


def in_panels(weight: np.ndarray) -> np.ndarray:
    """Return a weight [..., m, k] as panels [..., p, k, 64]: each of 64 of its outputs, the last filled up with 0."""
    *above, m, k = weight.shape
    n_panels = -(-m // PANEL)
    filled = np.zeros((*above, n_panels * PANEL, k), np.float32)
    filled[..., :m, :] = weight
    return np.ascontiguousarray(filled.reshape(*above, n_panels, PANEL, k).swapaxes(-1, -2))


def filled_up(bias: np.ndarray) -> np.ndarray:
    """Return a bias [..., m] with 0 for the outputs that its weight's panels have besides."""
    *above, m = bias.shape
    filled = np.zeros((*above, -(-m // PANEL) * PANEL), np.float32)
    filled[..., :m] = bias
    return filled


class Heads(NamedTuple):
    """Weights of all levels; H is the hidden width, rows are fp32 and contiguous.

    Attributes:
        tables: [rows, H], contributions of codes to the centred first layer.
        table_start: int64 [L, L], row where level t's table of an earlier level begins.
        gain, shift: LayerNorm's weight and bias [L, H].
        eps: [L], LayerNorm's.
        weight: [sum of sizes, H], output rows, level by level.
        bias: [sum of sizes].
        weight_start: int64 [L], where each level's output rows begin.
        mean_rows: [n, H], ``mean_bias``: [n], of the second level's output rows those of each first-level prefix's
            children, on average; none (n = 0) where they are not known.
    """

    tables: np.ndarray
    table_start: np.ndarray
    gain: np.ndarray
    shift: np.ndarray
    eps: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    weight_start: np.ndarray
    mean_rows: np.ndarray
    mean_bias: np.ndarray


class Prefixes(NamedTuple):
    """A trie as flat arrays.

    Attributes:
        start: int32, ``start[start_at[level] + node]`` is the first child of a prefix of that depth.
        code: int32, ``code[code_at[level] + child]`` its last code.
        start_at, code_at: int64 [L].
        widest: most children of any prefix.
    """

    start: np.ndarray
    code: np.ndarray
    start_at: np.ndarray
    code_at: np.ndarray
    widest: int


class Transitions(NamedTuple):
    """A memory's table and numbers, of the same arrays.

    Attributes:
        starts: int64 [n_items + 1], where each row begins.
        successors: int32, ``counts``: float32, the entries.
        row_sums: float64 [n_items], of all counts of a row.
        left_out: float64 [n_items], of those that the row no longer has.
        decays: float64 [window], what the items of a history weigh, the most recent first.
        pseudo_counts: of the base measure in each row.
    """

    starts: np.ndarray
    successors: np.ndarray
    counts: np.ndarray
    row_sums: np.ndarray
    left_out: np.ndarray
    decays: np.ndarray
    pseudo_counts: float


class Places(NamedTuple):
    """Where items stand in a trie.

    Attributes:
        nodes: int32 [n_items, L], the prefix of each depth 1 .. L that leads to an item; -1 for those that have none.
        leaf_start: int32 [n_leaves + 1], where in `leaf_items` those of a leaf begin.
        leaf_items: int32.
    """

    nodes: np.ndarray
    leaf_start: np.ndarray
    leaf_items: np.ndarray


class Others(NamedTuple):
    """What is remembered of each user and no candidate by its mass: it counts where a search finds it by itself.

    Attributes:
        start, end: int64 [B], where in `Looked.items` and `Looked.masses`.
        most: float32 [B], none has more mass; 0 where there are none.
    """

    start: np.ndarray
    end: np.ndarray
    most: np.ndarray

    @classmethod
    def none(cls, n_users: int) -> Others:
        """Return those of users who have none."""
        return cls(np.zeros(n_users, np.int64), np.zeros(n_users, np.int64), np.zeros(n_users, np.float32))

    def of(self, part: slice) -> Others:
        """Return those of some users."""
        return Others(*(column[part] for column in self))


class Looked(NamedTuple):
    """What `Recall` holds, of each user by itself and in no order.

    Attributes:
        room: int64 [B + 1], where each user's part begins.
        items: int32, ``masses``: float32; the first `found` of each part.
        found: int64 [B].
        remaining: float32 [B].
        others: remembered items that are not among the `found`, unless a head over items put them there.
    """

    room: np.ndarray
    items: np.ndarray
    masses: np.ndarray
    found: np.ndarray
    remaining: np.ndarray
    others: Others

    def of(self, part: slice) -> Looked:
        """Return that of some users."""
        room = self.room[part.start : part.start + len(self.found[part]) + 1]
        found, remaining, others = self.found[part], self.remaining[part], self.others.of(part)
        return self._replace(room=room, found=found, remaining=remaining, others=others)


_NO_ROWS, _NO_NUMBERS, _NO_TOTALS = np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, np.float32)


class ItemRows(NamedTuple):
    """A head over items, asked for one item at a time.

    Attributes:
        query: float32 [B, d], of the users; d = 0 without such a head.
        table: float32 [n, d], of items.
        row: int64 [n_items], each item's in `table`, -1 for none.
        totals: float32 [B], what is taken from products to make them log-probabilities; written by who ranks.
    """

    query: np.ndarray = _NO_ROWS
    table: np.ndarray = _NO_ROWS
    row: np.ndarray = _NO_NUMBERS
    totals: np.ndarray = _NO_TOTALS

    def of(self, part: slice) -> ItemRows:
        """Return that of some users."""
        return self._replace(query=self.query[part], totals=self.totals[part])


class Mixing(NamedTuple):
    """What besides the level heads decides an item's score, of a batch of users.

    The score is ``log(mass + remaining * p0) + sharpness * log p0`` and ``p0 = exp(own) + exp(log_share) * p_sid``, own
    the item's entry of `own`; without `own` (no columns) what `rows` gives it; without both p0 is p_sid.

    Attributes:
        remaining: float32 [B].
        sharpness: float32, at least 0.
        own: float32 [B, n_items] or [B, 0], log-probabilities of another head, weighted.
        rest: float32 [B], what `own` or `rows` gives an item at most that is no candidate; -inf without.
        log_share: float32, of the semantic IDs.
        rows: weighted as `own`.
    """

    remaining: np.ndarray
    sharpness: np.float32
    own: np.ndarray
    rest: np.ndarray
    log_share: np.float32
    rows: ItemRows = ItemRows()

    @classmethod
    def of_one_head(cls, remaining: np.ndarray, sharpness: float) -> Mixing:
        """Return that of users for whom p0 is p_sid."""
        nothing = np.full(len(remaining), -np.inf, np.float32)
        return cls(remaining, np.float32(sharpness), np.empty((len(remaining), 0), np.float32), nothing, np.float32(0))

    def of(self, part: slice) -> Mixing:
        """Return that of some users."""
        remaining, own, rest, rows = self.remaining[part], self.own[part], self.rest[part], self.rows.of(part)
        return self._replace(remaining=remaining, own=own, rest=rest, rows=rows)


class Kept(NamedTuple):
    """Children's log-probabilities of prefixes below the first level, of a batch of users.

    Attributes:
        keys: int64 [B, S], slots of a hash table of a prefix's number and level, -1 where free; S a power of 2, or 0.
        at: int32 [B, S], where in `values` its children begin.
        values: float32 [B, V].
        used: int64 [B, 2], how many prefixes and values there are.
    """

    keys: np.ndarray
    at: np.ndarray
    values: np.ndarray
    used: np.ndarray

    @classmethod
    def room(cls, n_users: int, n_slots: int, n_values: int) -> Kept:
        """Return room for half as many prefixes as slots of each user; what finds no more room is not kept."""
        shape = n_users, n_slots
        at, values = np.empty(shape, np.int32), np.empty((n_users, n_values), np.float32)
        return cls(np.full(shape, -1, np.int64), at, values, np.zeros((n_users, 2), np.int64))
