"""The trie against sets and dictionaries; beam search against enumeration of every semantic ID."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from recbole_sid.data import SemanticIDs
from recbole_sid.decoding import DECODERS, exact
from recbole_sid.decoding.beam import beam_search, unconstrained_beam_search
from recbole_sid.decoding.children import segment_logsumexp
from recbole_sid.decoding.exact import exact_search, wide_search
from recbole_sid.decoding.full import full_search, items_of_leaves, leaf_log_probs
from recbole_sid.decoding.trie import Trie
from recbole_sid.registry import get_model
from recbole_sid.util import hardware

Prefix = tuple[int, ...]


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """Draw codes with duplicates, codebook sizes that differ, and item ids."""
    sizes = tuple(draw(st.integers(1, 4)) for _ in range(draw(st.sampled_from([1, 2, 5]))))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    codes = np.array(draw(st.lists(row, min_size=1, max_size=25)))
    items = np.array(draw(st.permutations(range(1, len(codes) + 1))))
    return codes, sizes, items


def known_prefixes(codes: np.ndarray, depth: int) -> list[Prefix]:
    """Return the distinct prefixes of `depth` codes in lexicographic order: a node's number is its place here."""
    return sorted({tuple(row[:depth]) for row in codes.tolist()})


def all_prefixes(sizes: tuple[int, ...], depth: int) -> Iterator[Prefix]:
    return itertools.product(*(range(size) for size in sizes[:depth]))


@pytest.mark.parametrize("shape", [(), (3,)])
def test_logsumexp_of_segments(shape: tuple[int, ...]) -> None:
    sizes = torch.tensor([2, 1, 5])
    values = 50 * torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    values[1] = -torch.inf  # of what is ruled out
    found = segment_logsumexp(values, torch.repeat_interleave(sizes), sizes)
    assert_close(found, torch.stack([part.logsumexp(0) for part in values.split(sizes.tolist())]))


@given(catalogues())
@settings(deadline=None, max_examples=60)
def test_trie_counts_and_children(catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray]) -> None:
    codes, sizes, _ = catalogue
    trie = Trie(codes, sizes)
    assert trie.n_levels == len(sizes)
    for level, size in enumerate(sizes):
        prefixes, extended = known_prefixes(codes, level), known_prefixes(codes, level + 1)
        assert trie.n_nodes(level) == len(prefixes)
        assert trie.n_nodes(level + 1) == len(extended)
        children = [
            [extended.index((*prefix, code)) if (*prefix, code) in extended else -1 for code in range(size)]
            for prefix in prefixes
        ]
        children.append([-1] * size)  # of the dead prefix
        nodes = torch.tensor([*range(len(prefixes)), -1])
        every_code = torch.arange(size).expand(len(nodes), -1)
        assert trie.child(level, nodes[:, None].expand(-1, size), every_code).tolist() == children
        assert trie.child_mask(level, nodes[:, None]).tolist() == [[[c >= 0 for c in row]] for row in children]


@given(catalogues())
@settings(deadline=None, max_examples=60)
def test_trie_finds_leaves_and_their_paths(catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray]) -> None:
    codes, sizes, _ = catalogue
    trie = Trie(codes, sizes)
    leaves = known_prefixes(codes, len(sizes))
    every = list(all_prefixes(sizes, len(sizes)))
    expected = [leaves.index(row) if row in leaves else -1 for row in every]
    assert trie.find(torch.tensor(every).unsqueeze(0)).tolist() == [expected]
    path = trie.path(torch.arange(len(leaves)))
    assert len(path) == len(sizes)
    for depth, nodes in enumerate(path):
        above = known_prefixes(codes, depth)
        assert nodes.tolist() == [above.index(leaf[:depth]) for leaf in leaves]


@given(catalogues(), st.data())
@settings(deadline=None, max_examples=60)
def test_leaves_expand_to_their_items(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray], data: st.DataObject
) -> None:
    codes, sizes, items = catalogue
    trie = Trie(codes, sizes, items)
    leaves = known_prefixes(codes, len(sizes))
    wanted = data.draw(
        st.lists(st.integers(-1, len(leaves) - 1), min_size=2, max_size=8).filter(lambda x: not len(x) % 2)
    )
    position, found = trie.expand_leaves(torch.tensor(wanted).reshape(2, -1))
    expected = [
        (place, item)
        for place, leaf in enumerate(wanted)
        for row, item in zip(codes.tolist(), items.tolist(), strict=True)
        if leaf >= 0 and tuple(row) == leaves[leaf]
    ]
    assert list(zip(position.tolist(), found.tolist(), strict=True)) == expected


class TableScorer:
    """A scorer whose logits are a table of random numbers, a row for each user and prefix."""

    def __init__(self, n_users: int, sizes: tuple[int, ...], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = sizes
        self.table = [
            {
                prefix: rng.normal(0, 2, size).tolist()
                for level, size in enumerate(sizes)
                for prefix in all_prefixes(sizes, level)
            }
            for _ in range(n_users)
        ]
        self.n_users, self.device = n_users, torch.device("cpu")
        self.asked: list[Prefix] = []

    def start(self) -> list[list[Prefix]]:
        return [[()] for _ in self.table]

    def extend(self, state: list[list[Prefix]], parents: torch.Tensor, codes: torch.Tensor) -> list[list[Prefix]]:
        return [
            [(*beam[parent], code) for parent, code in zip(*pairs, strict=True)]
            for beam, *pairs in zip(state, parents.tolist(), codes.tolist(), strict=True)
        ]

    def logits(self, state: list[list[Prefix]], beams: torch.Tensor | None) -> torch.Tensor:
        flat = [(user, prefix) for user, beam in enumerate(state) for prefix in beam]
        chosen = flat if beams is None else [flat[beam] for beam in beams.tolist()]
        self.asked += [prefix for _, prefix in chosen]
        return torch.tensor([self.table[user][prefix] for user, prefix in chosen])


def brute_force_beam(
    table: dict[Prefix, list[float]],
    sizes: tuple[int, ...],
    valid: list[Prefix] | None,
    width: float,
    normaliser: str = "children",
) -> list[tuple[float, Prefix]]:
    """Return (log-probability, semantic ID) of the `width` best, by falling score; infinite width: of all.

    With `valid`, only these semantic IDs exist and probability is shared among a prefix's valid children, or, with the
    normaliser "codes", among all codes.
    """
    beams: list[tuple[float, Prefix]] = [(0.0, ())]
    for size in sizes:
        extended = []
        for score, prefix in beams:
            children = [
                code
                for code in range(size)
                if valid is None or any(row[: len(prefix) + 1] == (*prefix, code) for row in valid)
            ]
            shared = children if normaliser == "children" else range(size)
            total = math.log(sum(math.exp(table[prefix][code]) for code in shared))
            extended += [(score + table[prefix][code] - total, (*prefix, code)) for code in children]
        beams = sorted(extended, reverse=True)[: None if math.isinf(width) else int(width)]
    return beams


def random_codes(sizes: tuple[int, ...], n_items: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, sizes, (n_items, len(sizes)))


SHAPES = [((7,), 5), ((4, 3), 9), ((3, 2, 4, 1, 3), 20)]
N_USERS = 4


@pytest.mark.parametrize(("sizes", "n_items"), SHAPES)
@pytest.mark.parametrize("width", [1, 2, 3, math.inf])
@pytest.mark.parametrize("normaliser", ["children", "codes"])
def test_beam_search_equals_brute_force(sizes: tuple[int, ...], n_items: int, width: float, normaliser: str) -> None:
    codes = random_codes(sizes, n_items)
    leaves = known_prefixes(codes, len(sizes))
    beam_size = len(leaves) if math.isinf(width) else int(width)
    scorer = TableScorer(N_USERS, sizes)
    found, scores = beam_search(scorer, Trie(codes, sizes), beam_size, normaliser)
    for user in range(N_USERS):
        expected = brute_force_beam(scorer.table[user], sizes, leaves, width, normaliser)
        assert [leaves[leaf] for leaf in found[user].tolist()] == [prefix for _, prefix in expected]
        assert_close(scores[user], torch.tensor([score for score, _ in expected]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("sizes", "n_items"), SHAPES)
def test_a_full_beam_holds_every_item_and_all_probability(sizes: tuple[int, ...], n_items: int) -> None:
    codes = random_codes(sizes, n_items)
    trie = Trie(codes, sizes)
    leaves, scores = beam_search(TableScorer(N_USERS, sizes), trie, trie.n_nodes(len(sizes)))
    assert_close(scores.exp().sum(1), torch.ones(N_USERS), atol=1e-5, rtol=0)
    for user in range(N_USERS):
        assert sorted(trie.expand_leaves(leaves[user])[1].tolist()) == list(range(n_items))


@pytest.mark.parametrize(("sizes", "n_items"), SHAPES[1:])
@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_a_narrow_beam_gives_living_leaves_with_their_true_scores(
    sizes: tuple[int, ...], n_items: int, beam_size: int
) -> None:
    codes = random_codes(sizes, n_items)
    leaves = known_prefixes(codes, len(sizes))
    scorer = TableScorer(N_USERS, sizes)
    found, scores = beam_search(scorer, Trie(codes, sizes), beam_size)
    assert found.shape == (N_USERS, beam_size)
    assert (found >= 0).all()
    for user in range(N_USERS):
        truth = {prefix: score for score, prefix in brute_force_beam(scorer.table[user], sizes, leaves, math.inf)}
        expected = torch.tensor([truth[leaves[leaf]] for leaf in found[user].tolist()])
        assert_close(scores[user], expected, atol=1e-5, rtol=0)
        assert len(set(found[user].tolist())) == beam_size


@pytest.mark.parametrize("normaliser", ["children", "codes"])
@pytest.mark.parametrize("n_items", [3, 40, 300])
@pytest.mark.parametrize("width", [2, 30, 400])
def test_crowded_prefixes_are_searched_as_sparse_ones(
    n_items: int, width: int, normaliser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = (6, 40, 2)
    codes = random_codes(sizes, n_items)
    scorer, trie, leaves = TableScorer(N_USERS, sizes), Trie(codes, sizes), known_prefixes(codes, len(sizes))
    found = {}
    for step, width_of_crowds, places in (("ragged", math.inf, 1), ("padded", 0, math.inf)):
        monkeypatch.setattr("recbole_sid.decoding.children._CROWDED_WIDTH", width_of_crowds)
        monkeypatch.setattr("recbole_sid.decoding.children._PLACES_A_CHILD", places)
        monkeypatch.setattr(f"recbole_sid.decoding.children._{'ragged' if step == 'padded' else 'padded'}", None)
        found[step] = [search(scorer, trie, width, normaliser) for search in (beam_search, exact_search)]
        monkeypatch.undo()
    for (ragged, ragged_scores), (padded, padded_scores) in zip(found["ragged"], found["padded"], strict=True):
        assert ragged.shape == padded.shape == (N_USERS, min(width, len(leaves)))
        assert torch.equal(ragged.sort().values, padded.sort().values)  # near ties may change places
        assert_close(ragged_scores, padded_scores, atol=1e-5, rtol=0)
    leaf, score = brute_force_beam(scorer.table[0], sizes, leaves, math.inf, normaliser)[0][::-1]
    assert leaves[found["padded"][1][0][0, 0]] == leaf
    assert found["padded"][1][1][0, 0].item() == pytest.approx(score, abs=1e-5)


def test_an_only_child_costs_nothing() -> None:
    scorer = TableScorer(1, (2, 3, 3))
    codes = np.array([[0, 1, 2], [1, 2, 0]])
    leaves, scores = beam_search(scorer, Trie(codes, (2, 3, 3)), 2)
    first = torch.tensor(scorer.table[0][()]).log_softmax(0)
    assert_close(scores[0], first[leaves[0]])


@given(catalogues(), st.integers(1, 30), st.sampled_from(["children", "codes"]), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_exact_and_full_search_equal_brute_force(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray], k: int, normaliser: str, seed: int
) -> None:
    codes, sizes, items = catalogue
    leaves = known_prefixes(codes, len(sizes))
    trie = Trie(codes, sizes, items)
    scorer = TableScorer(N_USERS, sizes, seed)
    truth = [brute_force_beam(rows, sizes, leaves, math.inf, normaliser) for rows in scorer.table]
    for search in (exact_search, full_search):
        found, scores = search(scorer, trie, k, normaliser)
        assert found.shape == scores.shape == (N_USERS, min(k, len(leaves)))
        for user in range(N_USERS):
            assert_close(scores[user], torch.tensor([score for score, _ in truth[user][:k]]), atol=1e-5, rtol=0)
            by_leaf = {prefix: score for score, prefix in truth[user]}
            own = torch.tensor([by_leaf[leaves[leaf]] for leaf in found[user].tolist()])
            assert_close(scores[user], own, atol=1e-5, rtol=0)  # ties may come in any order
            assert len(set(found[user].tolist())) == found.shape[1]
    table = items_of_leaves(leaf_log_probs(scorer, trie, normaliser), trie, len(items) + 1)
    for user in range(N_USERS):
        by_leaf = {prefix: score for score, prefix in truth[user]}
        by_item = {item: by_leaf[tuple(row)] for row, item in zip(codes.tolist(), items.tolist(), strict=True)}
        expected = torch.tensor([-math.inf, *(by_item[item] for item in range(1, len(items) + 1))])
        assert_close(table[user], expected, atol=1e-5, rtol=0)


def test_exact_search_finds_what_a_beam_loses() -> None:
    # The best item lies under a prefix that a beam of 1 drops: .4 and an only child, against .6 shared by three.
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 1]])
    scorer = TableScorer(1, (2, 3))
    scorer.table = [{(): [math.log(0.6), math.log(0.4)], (0,): [0.0, 0.0, 0.0], (1,): [0.0, 0.0, 0.0]}]
    trie = Trie(codes, (2, 3))
    assert beam_search(scorer, trie, 1)[0].tolist() != [[3]]
    leaves, scores = exact_search(scorer, trie, 1)
    assert leaves.tolist() == [[3]]
    assert_close(scores, torch.tensor([[math.log(0.4)]]))


@pytest.mark.parametrize("normaliser", ["children", "codes"])
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("width", [10, 14, 400])
def test_a_wide_search_knows_whether_it_is_exact(
    width: int, k: int, normaliser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off the CPU: what it proves is right, and where it proves nothing the exact search goes on."""
    sizes = (8, 8, 8)
    trie, scorer = Trie(random_codes(sizes, 300), sizes), TableScorer(N_USERS, sizes)
    expected = full_search(scorer, trie, k, normaliser)
    monkeypatch.setattr(hardware, "on_cpu", lambda place: False)
    found, scores, proven = wide_search(scorer, trie, k, width, normaliser)
    assert found.shape == scores.shape == (N_USERS, k)
    assert_close(scores[proven], expected[1][proven], atol=1e-5, rtol=0)
    assert torch.equal(found[proven], expected[0][proven])
    assert proven.all() or width < 400
    monkeypatch.setattr(exact, "_TIMES_K", 1)
    monkeypatch.setattr(exact, "_MORE", width - k)
    went_on = mock.Mock(wraps=exact._Descent)
    monkeypatch.setattr(exact, "_Descent", went_on)
    leaves, scores = exact_search(scorer, trie, k, normaliser)
    assert torch.equal(leaves, expected[0])
    assert_close(scores, expected[1], atol=1e-5, rtol=0)
    assert went_on.called == (not proven.all())


def test_a_wide_search_does_not_prove_what_a_beam_loses() -> None:
    """As `test_exact_search_finds_what_a_beam_loses`, where nothing is proven."""
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 1]])
    scorer = TableScorer(1, (2, 3))
    scorer.table = [{(): [math.log(0.6), math.log(0.4)], (0,): [0.0, 0.0, 0.0], (1,): [0.0, 0.0, 0.0]}]
    for width, proven in ((1, False), (2, True)):
        assert wide_search(scorer, Trie(codes, (2, 3)), 1, width)[2].tolist() == [proven]


@pytest.mark.parametrize("decoding", list(DECODERS))
def test_prefixes_with_one_child_are_not_asked_for(decoding: str) -> None:
    codes = random_codes((3, 4, 2, 3), 20)
    scorer = TableScorer(N_USERS, (3, 4, 2, 3))
    DECODERS[decoding](scorer, Trie(codes, (3, 4, 2, 3)), 5)
    assert scorer.asked
    for prefix in scorer.asked:
        below = {row[: len(prefix) + 1] for row in map(tuple, codes.tolist()) if row[: len(prefix)] == prefix}
        assert len(below) > 1


def test_large_searches_go_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, k = (6, 5, 4, 3), 25
    trie = Trie(random_codes(sizes, 150), sizes)
    scorer = TableScorer(N_USERS, sizes)
    whole = [search(scorer, trie, k) for search in (exact_search, full_search)]
    widths = []
    extend = scorer.extend

    def watched(state: Any, parents: torch.Tensor, codes: torch.Tensor) -> Any:
        widths.append(parents.numel())
        return extend(state, parents, codes)

    monkeypatch.setattr(scorer, "extend", watched)
    for module in ("full", "exact"):
        monkeypatch.setattr(f"recbole_sid.decoding.{module}._MAX_BEAMS", 8)
    for search, (expected, expected_scores) in zip((exact_search, full_search), whole, strict=True):
        leaves, scores = search(scorer, trie, k)
        assert torch.equal(leaves, expected)
        assert_close(scores, expected_scores)
    assert max(widths[-20:]) <= 8  # of the full search; the exact one starts with a beam of k


@pytest.mark.parametrize("decoding", list(DECODERS))
def test_each_user_ranks_as_if_alone(decoding: str) -> None:
    sizes = (4, 3, 3)
    trie = Trie(random_codes(sizes, 20), sizes)
    together = TableScorer(N_USERS, sizes)
    leaves, scores = DECODERS[decoding](together, trie, 6)
    for user in range(N_USERS):
        alone = TableScorer(1, sizes)
        alone.table = [together.table[user]]
        own_leaves, own_scores = DECODERS[decoding](alone, trie, 6)
        assert torch.equal(own_leaves[0], leaves[user])
        assert_close(own_scores[0], scores[user])


@given(catalogues())
@settings(deadline=None, max_examples=40)
def test_a_trie_survives_being_stored_and_relabelled(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray],
) -> None:
    codes, sizes, items = catalogue
    trie, plain = Trie(codes, sizes, items), Trie(codes, sizes)
    copy = Trie.from_arrays(plain.arrays(), sizes).relabelled(items)
    assert trie.arrays().keys() == copy.arrays().keys()
    for name, values in trie.arrays().items():
        np.testing.assert_array_equal(values, copy.arrays()[name])
    np.testing.assert_array_equal(plain.codes().numpy(), codes[plain.item.numpy()])
    assert sorted(plain.item.tolist()) == list(range(len(codes)))


def test_a_trie_of_codes_that_fill_no_single_word() -> None:
    sizes = (1 << 20, 1 << 20, 1 << 20, 1 << 20, 3)
    codes = np.random.default_rng(0).integers(0, sizes, (50, 5))
    codes[10:20] = codes[:10]
    codes[20:30, :3] = codes[:10, :3]
    trie = Trie(codes, sizes)
    leaves = known_prefixes(codes, 5)
    assert [trie.n_nodes(depth) for depth in range(6)] == [len(known_prefixes(codes, depth)) for depth in range(6)]
    assert trie.find(torch.from_numpy(codes)).tolist() == [leaves.index(tuple(row)) for row in codes.tolist()]
    np.testing.assert_array_equal(trie.codes().numpy(), codes[trie.item.numpy()])


@pytest.mark.parametrize("search", [beam_search, unconstrained_beam_search])
def test_places_without_a_reachable_item_are_marked(search: Callable[..., Any]) -> None:
    sizes = (3, 4)
    codes = np.array([[0, 1], [2, 0], [2, 3], [2, 3]])
    leaves, scores = search(TableScorer(N_USERS, sizes), Trie(codes, sizes), 12)
    assert leaves.shape == scores.shape
    assert torch.equal(leaves < 0, scores == -torch.inf)
    for user in range(N_USERS):
        assert sorted(leaves[user].tolist()) == [-1] * (leaves.shape[1] - 3) + [0, 1, 2]
    if search is beam_search:
        assert (leaves[:, 3:] == -1).all()


def test_an_item_of_probability_zero_is_not_retrieved() -> None:
    scorer = TableScorer(1, (2, 2))
    scorer.table[0][(1,)][0] = -math.inf
    leaves, scores = beam_search(scorer, Trie(np.array([[0, 1], [1, 0], [1, 1]]), (2, 2)), 3)
    assert sorted(leaves[0].tolist()) == [-1, 0, 2]
    assert scores[0, 2] == -math.inf


@pytest.mark.parametrize(("sizes", "n_items"), SHAPES)
@pytest.mark.parametrize("width", [1, 3, 10, math.inf])
def test_unconstrained_search_equals_brute_force(sizes: tuple[int, ...], n_items: int, width: float) -> None:
    codes = random_codes(sizes, n_items)
    leaves = known_prefixes(codes, len(sizes))
    n_codes = math.prod(sizes)
    scorer = TableScorer(N_USERS, sizes)
    found, scores = unconstrained_beam_search(scorer, Trie(codes, sizes), int(min(width, n_codes)))
    for user in range(N_USERS):
        expected = brute_force_beam(scorer.table[user], sizes, None, width)
        assert found[user].tolist() == [leaves.index(prefix) if prefix in leaves else -1 for _, prefix in expected]
        own = torch.tensor([score if prefix in leaves else -math.inf for score, prefix in expected])
        assert_close(scores[user], own, atol=1e-5, rtol=0)


def predictions(model: Any, rows: Any) -> torch.Tensor:
    """Return `predict` of every item for every row, -inf for padding: [B, n_items]."""
    columns = []
    for item in range(1, model.n_items):
        rows["item_id"] = torch.full((len(rows),), item)
        columns.append(model.predict(rows))
    padding = torch.full((len(rows), 1), -torch.inf)
    return torch.cat([padding, torch.stack(columns, dim=1)], dim=1)


MODELS = [("TIGER", True), ("TIGER", False), ("SIDMLP", None), ("SIDMLPPlusPlus", None)]


def tiny_model(prepare: Callable[..., Any], name: str, constrained: bool | None, **changes: Any) -> tuple[Any, Any]:
    """Return an untrained model and the test rows."""
    own = {} if constrained is None else {"constrained": constrained}
    config, train, _, test = prepare(name, **own, **changes)
    torch.manual_seed(0)
    model = get_model(name)(config, train._dataset).eval()
    return model, next(iter(test))[0]


@pytest.mark.parametrize(("name", "constrained"), MODELS)
@torch.no_grad()
def test_a_full_beam_ranks_every_item_as_predict_does(
    prepare: Callable[..., Any], name: str, constrained: bool | None
) -> None:
    model, rows = tiny_model(prepare, name, constrained, beam_size=500, decoding="beam", full_sort_items=29)
    assert not model.scores_every_item
    ranked = model.full_sort_predict(rows).view(len(rows), -1)
    assert (ranked > -torch.inf).sum(1).tolist() == [model.n_items - 1] * len(rows)
    assert_close(ranked, predictions(model, rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoding", list(DECODERS))
@pytest.mark.parametrize(("name", "constrained"), MODELS)
@torch.no_grad()
def test_retrieved_items_score_as_predict_says(
    prepare: Callable[..., Any], name: str, constrained: bool | None, decoding: str
) -> None:
    model, rows = tiny_model(prepare, name, constrained, beam_size=10, decoding=decoding)
    truth = predictions(model, rows)
    row, item, score = model.retrieve(rows)
    assert len(row)
    assert row.bincount().max() <= 10
    assert_close(score, truth[row, item], atol=1e-5, rtol=1e-5)
    if decoding != "beam":
        for user in range(len(rows)):
            best = truth[user].topk(10).values
            assert_close(score[row == user], best, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normaliser", ["children", "codes"])
@pytest.mark.parametrize(("name", "constrained"), MODELS)
@torch.no_grad()
def test_every_item_is_scored_in_a_small_catalogue(
    prepare: Callable[..., Any], name: str, constrained: bool | None, normaliser: str
) -> None:
    model, rows = tiny_model(prepare, name, constrained, full_sort_items=30, normaliser=normaliser)
    assert model.scores_every_item
    ranked = model.full_sort_predict(rows).view(len(rows), -1)
    assert_close(ranked, predictions(model, rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(17,), (5, 4), (2, 3, 1, 3, 2)])
@pytest.mark.parametrize(("name", "constrained"), MODELS)
@torch.no_grad()
def test_items_that_share_a_semantic_id_share_its_score(
    prepare: Callable[..., Any], tmp_path: Path, name: str, constrained: bool | None, sizes: tuple[int, ...]
) -> None:
    _, train, _, _ = prepare("TIGER")
    codes = random_codes(sizes, 30)
    assert len(np.unique(codes, axis=0)) < 30
    SemanticIDs(codes, sizes, train._dataset.item_tokens()).save(tmp_path / "shared.npz")
    model, rows = tiny_model(prepare, name, constrained, beam_size=500, semantic_ids_path=str(tmp_path / "shared.npz"))
    ranked = model.full_sort_predict(rows).view(len(rows), -1)
    assert_close(ranked, predictions(model, rows), atol=1e-5, rtol=1e-5)
    for first, second in itertools.combinations(range(30), 2):
        if (codes[first] == codes[second]).all():
            assert torch.equal(ranked[:, first + 1], ranked[:, second + 1])
