"""The compiled ranking of a mixture of level heads and a memory against the scores of all items."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import catalogues
from test_fast_decoding import USERS, WIDTH, scorers, small_decoder
from torch.testing import assert_close

from recbole_sid.decoding import DECODERS
from recbole_sid.decoding.full import items_of_leaves, leaf_log_probs
from recbole_sid.decoding.trie import Trie
from recbole_sid.fast.compiled.arrays import Mixing
from recbole_sid.fast.compiled_memory import look_up
from recbole_sid.fast.compiled_scorer import compiled_places, is_usable
from recbole_sid.memory import Memory, Numbers, Recall
from recbole_sid.memory.mixture import scores_of_all

pytestmark = pytest.mark.skipif(not is_usable(), reason="numba is not installed")


def random_memory(n_items: int, seed: int) -> tuple[Memory, torch.Tensor]:
    """Return a memory of random sequences, and histories: an empty one, one of a repeated item, one of many."""
    rng = np.random.default_rng(seed)
    memory = Memory(n_items, row_limit=int(rng.integers(1, 9)))
    lengths = rng.integers(1, 8, 12)
    items = rng.integers(1, n_items, lengths.sum()) if n_items > 1 else np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]) if n_items > 1 else np.zeros(1, np.int64)
    memory.learn(items, offsets, Numbers(3, 0.5, 3, 0.5, float(rng.choice([0.1, 1, 30]))))
    recent = torch.zeros(USERS, 3, dtype=torch.int64)
    if n_items > 1:
        recent[1] = int(rng.integers(1, n_items))
        recent[2] = torch.from_numpy(rng.integers(1, n_items, 3))
    return memory, recent


@given(
    catalogues(),
    st.integers(1, 30),
    st.integers(0, 200),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from(["beam", "exact"]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
@settings(deadline=None, max_examples=25)
@torch.no_grad()
def test_the_best_are_those_of_the_union(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray],
    k: int,
    seed: int,
    sharpness: float,
    decoding: str,
    n_threads: int,
    has_other: bool,
) -> None:
    from recbole_sid.fast.compiled.lookup import with_items

    codes, sizes, items = catalogue
    items = np.unique(items, return_inverse=True)[1] + 1
    n_items = len(items) + 1
    decoder, embedding = small_decoder(sizes, seed=seed)
    trie = Trie(codes, sizes, items)
    both = scorers(decoder, embedding, trie, torch.randn(USERS, 1, WIDTH))
    memory, recent = random_memory(n_items, seed)
    recall, looked = memory.recall(recent), look_up(memory, recent, k if decoding == "beam" else None)
    log_p0 = items_of_leaves(leaf_log_probs(both["torch"], trie), trie, n_items)
    reached = items_of_leaves_found(*DECODERS[decoding](both["torch"], trie, k), trie, n_items)
    own, rest, share = torch.empty(USERS, 0), torch.full((USERS,), -torch.inf), 1.0
    if has_other:
        share = 0.4
        own = (3 * torch.randn(USERS, n_items)).log_softmax(1) + np.log(1 - share)
        own[:, ::5] = -torch.inf  # what the other head never saw
        best, place = own.topk(min(k, n_items), dim=1)
        looked, rest = with_items(looked, place.numpy()), best[:, -1]
        reached.scatter_(1, place, True)
        log_p0 = torch.where(log_p0 > -torch.inf, torch.logaddexp(own, log_p0 + np.log(share)), log_p0)
    mixing = Mixing(looked.remaining, np.float32(sharpness), own.numpy(), rest.numpy(), np.float32(np.log(share)))
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        found, scores = both["compiled"].best_items(decoding, k, compiled_places(trie, n_items), mixing, looked)
    finally:
        torch.set_num_threads(before)
    remembered = recall.heaviest(k) if decoding == "beam" else recall
    reached[remembered.rows, remembered.items] = True
    check(found, scores, reached, recall, log_p0, sharpness)
    if decoding == "exact" and not has_other:
        whole = scores_of_all(recall, log_p0, torch.tensor(sharpness))
        n = min(k, n_items)
        assert_close(scores[:, :n], whole.topk(n, dim=1).values, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("decoding", ["beam", "exact"])
@pytest.mark.parametrize("sharpness", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_many_remembered_below_prefixes_of_many_children(seed: int, sharpness: float, decoding: str) -> None:
    """Prefixes are then bounded by the mean of their children first; and many are no candidates of a beam."""
    rng = np.random.default_rng(seed)
    sizes = (40, 48, 1)  # of more first codes than are opened in any case
    codes = np.unique(np.stack([rng.integers(0, size, 1500) for size in sizes], axis=1), axis=0)
    n_items = len(codes) + 1
    decoder, embedding = small_decoder(sizes, seed=seed)
    for head in decoder.heads:
        head[-1].weight.mul_(float(rng.choice([0.1, 0.5, 2])))  # flat, or a few children stand out
    trie = Trie(codes, sizes, np.arange(1, n_items))
    both = scorers(decoder, embedding, trie, torch.randn(USERS, 1, WIDTH))
    memory = Memory(n_items)
    lengths = rng.integers(2, 8, 2000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    memory.learn(rng.integers(1, n_items, offsets[-1]), offsets, Numbers(3, 0.5, 3, 0.5, 100.0))
    recent = torch.from_numpy(rng.integers(1, n_items, (USERS, 3)))
    recall, looked = memory.recall(recent), look_up(memory, recent, 8 if decoding == "beam" else None)
    log_p0 = items_of_leaves(leaf_log_probs(both["torch"], trie), trie, n_items)
    mixing = Mixing.of_one_head(looked.remaining, sharpness)
    reached = items_of_leaves_found(*DECODERS[decoding](both["torch"], trie, 8), trie, n_items)
    remembered = recall.heaviest(8) if decoding == "beam" else recall
    assert (len(remembered.items) < len(recall.items)) == (decoding == "beam")
    reached[remembered.rows, remembered.items] = True
    found, scores = both["compiled"].best_items(decoding, 8, compiled_places(trie, n_items), mixing, looked)
    check(found, scores, reached, recall, log_p0, sharpness)
    if decoding == "exact":
        whole = scores_of_all(recall, log_p0, torch.tensor(sharpness))
        assert_close(scores, whole.topk(8, dim=1).values, atol=2e-4, rtol=1e-4)


def items_of_leaves_found(leaves: torch.Tensor, scores: torch.Tensor, trie: Trie, n_items: int) -> torch.Tensor:
    """Return a mask bool [B, n_items] of the items of leaves [B, K]."""
    position, items = trie.expand_leaves(leaves)
    mask = torch.zeros(len(leaves), n_items, dtype=torch.bool)
    mask[position // leaves.shape[1], items] = True
    return mask


def check(
    found: torch.Tensor,
    scores: torch.Tensor,
    reached: torch.Tensor,
    recall: Recall,
    log_p0: torch.Tensor,
    sharpness: float,
) -> None:
    """Compare with the best of what was reached, by the scores of all."""
    whole = scores_of_all(recall, log_p0, torch.tensor(sharpness))
    k = min(found.shape[1], whole.shape[1])
    expected = whole.masked_fill(~reached, -torch.inf).topk(k, dim=1).values
    assert (found[:, k:] == 0).all()
    assert_close(scores[:, :k], expected, atol=2e-4, rtol=1e-4)
    there = found > 0
    assert torch.equal(there, scores > -torch.inf)
    assert_close(whole.gather(1, found)[there], scores[there], atol=2e-4, rtol=1e-4)
    for row in found.tolist():
        named = [item for item in row if item]
        assert len(set(named)) == len(named)
