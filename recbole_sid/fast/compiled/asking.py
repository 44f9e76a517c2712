"""Compiled: from histories to what heads are asked, a few users at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_sid.fast.compiled.arrays import Heads, Places, Prefixes
from recbole_sid.fast.compiled.encode_items import ItemLayers, encode_items
from recbole_sid.fast.compiled.encode_tokens import T5Layers, encode_t5
from recbole_sid.fast.compiled.first_level import rank_first_level, score_first_level
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.read_out import ReadoutWeights, ask, read_out

# Users whose states are in the cache together.
_USERS = 16


class Model(NamedTuple):
    """All that follows the encoder.

    Attributes:
        readout: weights; ``heads``, ``prefixes``, ``places``: heads, trie, and the items in it.
        n_queries: contexts of a user.
    """

    readout: ReadoutWeights
    heads: Heads
    prefixes: Prefixes
    places: Places
    n_queries: int


class Asked(NamedTuple):
    """What heads are asked for a batch of users, to be written.

    Attributes:
        parts: float32 [B, L, H], the users' part of every level head; [B, 0, 0] without level heads.
        first: float32 [B, n_nodes(1)], log-probabilities of the first level's prefixes; [B, 0] without level heads.
        ranked: int64 [B, R], the best of these by falling ones.
        query: float32 [B, d], what a head over items is asked; [B, 0] without.
    """

    parts: np.ndarray
    first: np.ndarray
    ranked: np.ndarray
    query: np.ndarray


@jit
def _ask_of(model: Model, states: np.ndarray, starts: np.ndarray, ends: np.ndarray, asked: Asked, first: int) -> None:
    """Write what is asked for the users from `first` of states [N, d], which lie as `read_out` says."""
    n_users = len(ends)
    users = slice(first, first + n_users)
    context = np.empty((n_users * model.n_queries, states.shape[1]), np.float32)
    read_out(model.readout, states, starts, ends, context)
    parts = asked.parts[users]
    ask(model.readout, states, ends, context, parts, asked.query[users])
    if parts.shape[1]:
        score_first_level(model.heads, model.prefixes, parts, asked.first[users])
        rank_first_level(asked.first[users], asked.ranked[users])


@jit
def ask_of_items(model: Model, layers: ItemLayers, items: np.ndarray, lengths: np.ndarray, asked: Asked) -> None:
    """Write what is asked after histories items int64 [B, T], read item by item."""
    for first in range(0, len(items), _USERS):
        n_users = min(_USERS, len(items) - first)
        starts = np.zeros(n_users + 1, np.int64)
        for user in range(n_users):
            starts[user + 1] = starts[user] + lengths[first + user]
        states = np.empty((starts[n_users], layers.position.shape[1]), np.float32)
        encode_items(layers, model.prefixes, model.places, items[first : first + n_users], starts, states)
        _ask_of(model, states, starts, starts[:n_users], asked, first)


@jit
def ask_of_tokens(
    model: Model, layers: T5Layers, first_code: np.ndarray, items: np.ndarray, lengths: np.ndarray, asked: Asked
) -> None:
    """Write what is asked after histories items int64 [B, T], read by their tokens.

    Args:
        first_code: int64 [L], the token of each level's first code.
    """
    prefixes, nodes, n_levels = model.prefixes, model.places.nodes, len(first_code)
    of_end = len(layers.embedding) - 1
    for first in range(0, len(items), _USERS):
        n_users = min(_USERS, len(items) - first)
        starts, ends = np.zeros(n_users + 1, np.int64), np.empty(n_users, np.int64)
        for user in range(n_users):
            starts[user + 1] = starts[user] + 2 + n_levels * lengths[first + user]
            ends[user] = starts[user + 1] - 1
        tokens = np.empty(starts[n_users], np.int64)
        for user in range(n_users):
            at = starts[user]
            tokens[at], tokens[ends[user]] = of_end - 1, of_end
            for place in range(lengths[first + user]):
                item = items[first + user, place]
                for level in range(n_levels):
                    at += 1
                    code = prefixes.code[prefixes.code_at[level] + nodes[item, level]]
                    tokens[at] = first_code[level] + code
        states = np.empty((len(tokens), layers.embedding.shape[1]), np.float32)
        encode_t5(layers, tokens, starts, states)
        _ask_of(model, states, starts, ends, asked, first)


@jit
def ask_of_states(model: Model, states: np.ndarray, starts: np.ndarray, ends: np.ndarray, asked: Asked) -> None:
    """Write what is asked after histories whose states [N, d] are known, which lie as `read_out` says."""
    for first in range(0, len(ends), _USERS):
        last = min(first + _USERS, len(ends))
        rows = slice(starts[first], starts[last])
        own = starts[first : last + 1] - starts[first]
        _ask_of(model, states[rows], own, ends[first:last] - starts[first], asked, first)
