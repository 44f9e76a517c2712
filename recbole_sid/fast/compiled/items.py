"""Compiled: the best items by a head over items: of all, or of those under the best prefixes of two codes."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.arrays import ItemRows, Places, Prefixes
from recbole_sid.fast.compiled.expansion import children
from recbole_sid.fast.compiled.heads import dots, exp
from recbole_sid.fast.compiled.jit import jit
from recbole_sid.fast.compiled.top_k import offer, sort_heap

NEVER = np.float32(-np.inf)


@jit
def best_of_all(logits: np.ndarray, items: np.ndarray, best: np.ndarray, found: np.ndarray, totals: np.ndarray) -> None:
    """Write the best k of logits [B, n] by falling ones, -inf and 0 beyond, and the log-sum-exp [B] of all.

    Args:
        items: int64 [n], 0 for what is no item, but has its share of the sum.
        best, found: float32 and int64 [B, k].
        totals: float32 [B].
    """
    for user in range(len(logits)):
        totals[user] = _best(logits[user], items, best[user], found[user])


@jit
def best_prefixes(
    prefixes: Prefixes,
    first_scores: np.ndarray,
    ranked: np.ndarray,
    known_at: np.ndarray,
    known: np.ndarray,
    nodes: np.ndarray,
) -> None:
    """Write the best prefixes of two codes [B, m] below the first-level prefixes `ranked` that are known; -1 beyond."""
    m = nodes.shape[1]
    best = np.empty(m, np.float32)
    for user in range(len(nodes)):
        held, its_nodes, least = 0, nodes[user], NEVER
        for node in ranked[user]:
            at, reached = known_at[user, node], first_scores[user, node]
            if at < 0 or (held == m and reached <= least):
                continue
            first, codes = children(prefixes, 1, node)
            for child in range(len(codes)):
                if held < m or reached + known[at + child] > least:
                    held = offer(best, its_nodes, held, reached + known[at + child], first + child)
                    least = best[0]
        its_nodes[held:] = -1


@jit
def best_under(
    prefixes: Prefixes, places: Places, nodes: np.ndarray, rows: ItemRows, best: np.ndarray, found: np.ndarray
) -> None:
    """Write the best k items under prefixes of two codes [B, m], as `best_of_all`, and `rows.totals` of all there."""
    n_levels = len(prefixes.code_at)
    for user in range(len(nodes)):
        n, ranges = 0, np.empty((nodes.shape[1], 2), np.int64)
        for place in range(nodes.shape[1]):
            first, last = nodes[user, place], nodes[user, place] + 1
            if first < 0:
                first, last = 0, 0
            for level in range(2, n_levels):
                first = np.int64(prefixes.start[prefixes.start_at[level] + first])
                last = np.int64(prefixes.start[prefixes.start_at[level] + last])
            ranges[place, 0], ranges[place, 1] = places.leaf_start[first], places.leaf_start[last]
            n += ranges[place, 1] - ranges[place, 0]
        items, of_items, logits = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
        n = 0
        for place in range(nodes.shape[1]):
            for at in range(ranges[place, 0], ranges[place, 1]):
                item = places.leaf_items[at]
                row = rows.row[item]
                if row >= 0:
                    items[n], of_items[n] = item, row
                    n += 1
        dots(rows.table, of_items[:n], rows.query[user], logits)
        rows.totals[user] = _best(logits[:n], items, best[user], found[user])


@jit
def _best(logits: np.ndarray, items: np.ndarray, best: np.ndarray, found: np.ndarray) -> np.float32:
    """Write the best k of logits [n] and their items, but 0; return the log-sum-exp of all."""
    peak, total = NEVER, np.float32(0)
    for place in range(len(logits)):
        peak = max(peak, logits[place])
    for place in range(len(logits)):
        total += exp(logits[place] - peak)
    held, k, least = 0, len(best), NEVER
    for place in range(len(logits)):
        if (held < k or logits[place] > least) and items[place] > 0:
            held = offer(best, found, held, logits[place], np.int64(items[place]))
            least = best[0]
    sort_heap(best, found, held)
    best[held:], found[held:] = NEVER, 0
    return peak + np.log(total) if len(logits) else NEVER
