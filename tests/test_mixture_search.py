"""The mixture of a memory with a model's own distribution, and its search, against transcriptions and brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_decoding import TableScorer, catalogues
from test_memory import N_ITEMS, flat, histories, literal_table, numbers, recent_of, sequences

from recbole_sid.decoding import walk as walk_module
from recbole_sid.decoding.full import leaf_log_probs, ranked_items
from recbole_sid.decoding.trie import Trie
from recbole_sid.decoding.walk import walk
from recbole_sid.memory import Memory, Numbers, Recall
from recbole_sid.memory.mixture import best_of_union, scores_of_all, sharpened
from recbole_sid.model.base import SIDRecommender

FEW = hypothesis_settings(max_examples=40, deadline=None)
sharpnesses = st.sampled_from([0.0, 0.5, 2.0])


def distributions(n_rows: int, seed: int, ties: bool) -> torch.Tensor:
    """Return log-probabilities [n_rows, N_ITEMS], none for the padding item."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 4, (n_rows, N_ITEMS)).astype(float) if ties else rng.random((n_rows, N_ITEMS)) ** 20
    weights[:, 0] = 0
    return torch.from_numpy(weights / weights.sum(1, keepdims=True)).log()


def literal_score(
    table: np.ndarray, p0: np.ndarray, history: list[int], chosen: Numbers, sharpness: float
) -> np.ndarray:
    """Item by item: the smoothed rows of the last items, weighted, then sharpened."""
    recent = history[::-1][: chosen.window]
    weights = [chosen.window_decay**k for k in range(len(recent))]
    scores = np.full(N_ITEMS, -np.inf)
    for i in range(1, N_ITEMS):
        p = 0.0 if recent else p0[i]
        for weight, item in zip(weights, recent, strict=True):
            row = table[item]
            p += weight / sum(weights) * (row[i] + chosen.pseudo_counts * p0[i]) / (row.sum() + chosen.pseudo_counts)
        scores[i] = np.log(p) + sharpness * np.log(p0[i])
    return scores


@FEW
@given(sequences, histories, numbers, sharpnesses, st.integers(0, 99), st.booleans())
def test_scores_equal_the_transcription(
    lists: list[list[int]], asked: list[list[int]], chosen: Numbers, sharpness: float, seed: int, ties: bool
) -> None:
    memory = Memory(N_ITEMS)
    memory.learn(*flat(lists), chosen)
    table = literal_table(lists, chosen.hops, chosen.hop_decay)
    log_p0 = distributions(len(asked), seed, ties)
    recall = memory.recall(recent_of(asked).long())
    found = scores_of_all(recall, log_p0, torch.tensor(sharpness))
    for row, history in enumerate(asked):
        expected = literal_score(table, log_p0[row].exp().numpy(), history, chosen, sharpness)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-4, atol=1e-4)
    rows = torch.arange(len(asked))
    for item in range(1, N_ITEMS):
        masses = recall.mass_of(rows, torch.full_like(rows, item))
        one = sharpened(masses, recall.remaining, log_p0[:, item], torch.tensor(sharpness))
        torch.testing.assert_close(one, found[:, item])


@FEW
@given(sequences, histories, numbers, st.integers(0, 99))
def test_without_sharpness_probabilities_are_a_whole(
    lists: list[list[int]], asked: list[list[int]], chosen: Numbers, seed: int
) -> None:
    memory = Memory(N_ITEMS)
    memory.learn(*flat(lists), chosen)
    recall = memory.recall(recent_of(asked).long())
    found = scores_of_all(recall, distributions(len(asked), seed, False), torch.tensor(0.0))
    np.testing.assert_allclose(found.exp().sum(1).numpy(), 1, rtol=1e-4)


@pytest.mark.parametrize("sharpness", [0.0, 1.0])
def test_a_remembered_item_that_the_model_excludes_has_a_score(sharpness: float) -> None:
    nothing, mass = torch.tensor([-torch.inf]), torch.tensor([0.25])
    found = sharpened(mass, torch.tensor([0.5]), nothing, torch.tensor(sharpness))
    assert found.tolist() == [pytest.approx(np.log(0.25))] if sharpness == 0 else found.item() < -1e37
    assert sharpened(mass * 0, torch.tensor([0.5]), nothing, torch.tensor(sharpness)).isneginf().all()


@FEW
@given(sequences, histories, numbers, st.integers(1, N_ITEMS + 2), st.integers(0, 99), st.booleans())
def test_the_union_is_ranked_in_order(
    lists: list[list[int]], asked: list[list[int]], chosen: Numbers, k: int, seed: int, ties: bool
) -> None:
    memory = Memory(N_ITEMS)
    memory.learn(*flat(lists), chosen)
    recall = memory.recall(recent_of(asked).long())
    log_p0 = distributions(len(asked), seed, ties)
    every = scores_of_all(recall, log_p0, torch.tensor(0.5))
    width = min(3, N_ITEMS - 1)
    found = log_p0.topk(width, dim=1).indices
    found[:, -1] = 0  # nothing was found there
    scores = every.gather(1, found)
    items, best = best_of_union(recall, every[recall.rows, recall.items], found, scores, k)
    for row in range(len(asked)):
        known = {*found[row, :-1].tolist(), *recall.items[recall.rows == row].tolist()}
        expected = sorted(known, key=lambda item: (-float(every[row, item]), item))[:k]
        there = items[row] > 0
        assert best[row, there].tolist() == [float(every[row, item]) for item in expected]
        assert {*items[row, there].tolist()} <= known
        strictly = [item for item in expected if float(every[row, item]) > float(best[row, there][-1])]
        assert items[row, : len(strictly)].tolist() == strictly
        assert best[row, ~there].isneginf().all()


@FEW
@given(catalogues(), st.integers(1, 3), st.integers(0, 99), st.sampled_from([1, 4, 1 << 14]), st.data())
def test_walking_gives_what_scoring_all_does(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray],
    n_users: int,
    seed: int,
    beams: int,
    data: st.DataObject,
) -> None:
    codes, sizes, items = catalogue
    trie, scorer = Trie(codes, sizes, items), TableScorer(n_users, sizes, seed)
    pairs = st.tuples(st.integers(0, n_users - 1), st.integers(0, len(items) + 2))
    wanted = data.draw(st.lists(pairs, max_size=20))
    rows = torch.tensor([row for row, _ in wanted], dtype=torch.int64)
    asked = torch.tensor([item for _, item in wanted], dtype=torch.int64)
    leaves = trie.leaves_of(asked)
    for normaliser in ("children", "codes"):
        expected = torch.cat([leaf_log_probs(scorer, trie, normaliser), torch.full((n_users, 1), -torch.inf)], dim=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(walk_module, "_MAX_BEAMS", beams)
            found = walk(scorer, trie, rows, leaves, normaliser)
        torch.testing.assert_close(found, expected[rows, leaves], rtol=1e-4, atol=1e-4)


def test_shared_prefixes_are_walked_once() -> None:
    trie = Trie(np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]), (2, 3))
    scorer = TableScorer(2, (2, 3))
    walk(scorer, trie, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 4]))
    assert sorted(scorer.asked) == [(), (), (0,), (1,)]


class Random(SIDRecommender):
    """A model of random logits over a random trie, with a random memory."""

    def __init__(self, catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray], decoding: str, k: int) -> None:
        torch.nn.Module.__init__(self)
        codes, sizes, items = catalogue
        self.trie = Trie(codes, sizes, items)
        self.n_items, self.decoding, self.normaliser, self.beam_size = len(items) + 1, decoding, "children", k
        self.memory = Memory(self.n_items)
        self.register_buffer("sharpness", torch.zeros(()))

    def encode(self, tokens: Any) -> Any: ...

    def scorer(self, encoded: Any) -> Any: ...

    def target_logits(self, tokens: Any, codes: Any) -> Any: ...


@FEW
@given(catalogues(), st.integers(1, 30), st.integers(0, 99), numbers, sharpnesses, st.sampled_from(["exact", "full"]))
def test_the_search_is_exact(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray],
    k: int,
    seed: int,
    chosen: Numbers,
    sharpness: float,
    decoding: str,
) -> None:
    model = Random(catalogue, decoding, k)
    rng = np.random.default_rng(seed)
    learnt = [rng.integers(1, model.n_items, rng.integers(1, 8)).tolist() for _ in range(rng.integers(0, 6))]
    model.memory.learn(*flat(learnt), chosen)
    model.sharpness.fill_(sharpness)
    n_users = 3
    scorer = TableScorer(n_users, catalogue[1], seed)
    asked = [rng.integers(1, model.n_items, rng.integers(0, 5)).tolist() for _ in range(n_users)]
    recall = model.memory.recall(recent_of(asked).long())
    every = scores_of_all(recall, model.item_log_probs(scorer), model.sharpness)
    items, scores = model.best_items(scorer, recall)
    for row in range(n_users):
        mine = items[row][items[row] > 0]
        assert len(set(mine.tolist())) == len(mine) == min(k, model.n_items - 1)
        expected = every[row].topk(len(mine)).values
        torch.testing.assert_close(scores[row, : len(mine)], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(every[row, mine], expected, rtol=1e-4, atol=1e-4)


@FEW
@given(catalogues(), st.integers(1, 12), st.integers(0, 99), numbers, sharpnesses)
def test_a_beam_weighs_as_many_remembered_as_it_is_wide(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray], k: int, seed: int, chosen: Numbers, sharpness: float
) -> None:
    model = Random(catalogue, "beam", k)
    rng = np.random.default_rng(seed)
    learnt = [rng.integers(1, model.n_items, rng.integers(1, 8)).tolist() for _ in range(6)]
    model.memory.learn(*flat(learnt), chosen)
    model.sharpness.fill_(sharpness)
    scorer = TableScorer(3, catalogue[1], seed)
    asked = [rng.integers(1, model.n_items, rng.integers(0, 5)).tolist() for _ in range(3)]
    recall = model.memory.recall(recent_of(asked).long())
    every = scores_of_all(recall, model.item_log_probs(scorer), model.sharpness)
    by_beam, _ = model.candidates(scorer)
    items, scores = model.best_items(scorer, recall)
    for row in range(3):
        masses = dict(_pairs_of(recall, row))
        heaviest = sorted(masses, key=lambda item: (-masses[item], item))[:k]
        known = {*by_beam[row][by_beam[row] > 0].tolist(), *heaviest}
        expected = every[row, sorted(known)].sort(descending=True).values[:k]
        mine = items[row][items[row] > 0]
        assert {*mine.tolist()} <= known
        torch.testing.assert_close(scores[row, : len(mine)], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(every[row, mine], expected, rtol=1e-4, atol=1e-4)


@FEW
@given(sequences, histories, numbers, st.integers(1, 6))
def test_the_heaviest_are_those_of_the_largest_masses(
    lists: list[list[int]], asked: list[list[int]], chosen: Numbers, k: int
) -> None:
    memory = Memory(N_ITEMS)
    memory.learn(*flat(lists), chosen)
    recall = memory.recall(recent_of(asked).long())
    found = recall.heaviest(k)
    assert torch.equal(found.remaining, recall.remaining)
    for row in range(len(asked)):
        pairs = sorted(_pairs_of(recall, row), key=lambda pair: (-pair[1], pair[0]))[:k]
        assert _pairs_of(found, row) == sorted(pairs)


def _pairs_of(recall: Recall, row: int) -> list[tuple[int, float]]:
    """Return items and masses of a history."""
    of_row = recall.rows == row
    return list(zip(recall.items[of_row].tolist(), recall.masses[of_row].tolist(), strict=True))


@FEW
@given(catalogues(), st.integers(0, 99))
def test_items_of_ranked_leaves_are_those_of_each_in_turn(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray], seed: int
) -> None:
    codes, sizes, items = catalogue
    trie = Trie(codes, sizes, items)
    rng = np.random.default_rng(seed)
    n_leaves = trie.n_nodes(trie.n_levels)
    leaves = torch.from_numpy(np.stack([rng.permutation(np.arange(-1, n_leaves)) for _ in range(2)]))
    scores = torch.from_numpy(rng.random(leaves.shape)).masked_fill(leaves < 0, -torch.inf)
    found, values = ranked_items(leaves, scores, trie)
    for row in range(2):
        expected = [
            (item, score)
            for leaf, score in zip(leaves[row].tolist(), scores[row].tolist(), strict=True)
            for item in sorted(items.tolist())
            if leaf >= 0 and trie.leaves_of(torch.tensor([item])).item() == leaf
        ]
        there = found[row] > 0
        assert sorted(zip(found[row, there].tolist(), values[row, there].tolist(), strict=True)) == sorted(expected)
        assert values[row, there].tolist() == [score for _, score in expected]
        assert values[row, ~there].isneginf().all()
