"""Collision rules: unique semantic IDs, as few and as cheap moves as possible, semantic IDs in use left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError
from recbole_sid.registry import COLLISIONS, resolve
from recbole_sid.tokenizer import reassign
from recbole_sid.tokenizer.collisions import CollisionContext, keep, rank, summary
from recbole_sid.tokenizer.reassign import free_codes, nearest, sinkhorn
from recbole_sid.tokenizer.rq_kmeans import ResidualKMeans
from recbole_sid.tokenizer.transport import balancing_prices

SIZES = (4, 6)
MOVING = pytest.mark.parametrize("rule", [nearest, sinkhorn])


class TableTokenizer(ResidualKMeans):
    """Distortions are the items' features: float [n, size of the last level]."""

    def distortions(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return features


def table_context(costs: np.ndarray, kept: np.ndarray | None = None) -> CollisionContext:
    return CollisionContext(features=costs, tokenizer=TableTokenizer(SIZES), kept=kept)


def crowded(seed: int = 0, n_items: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """Return codes with many collisions, at most 6 items a prefix, and the costs whose cheapest code each item has."""
    rng = np.random.default_rng(seed)
    prefix = np.sort(rng.permutation(np.repeat(np.arange(4), 6))[:n_items])
    costs = rng.random((n_items, 6)).astype(np.float32)
    costs[:, :2] /= 4  # the first two codes are popular
    return np.column_stack([prefix, costs.argmin(axis=1)]), costs


def literally(costs: np.ndarray, preferred: list[int], taken: set[int]) -> list[int]:
    """Give the items of one prefix codes, one item at a time."""
    code, taken = list(preferred), set(taken)
    claims = {c: [i for i, p in enumerate(preferred) if p == c] for c in preferred if c not in taken}
    taken |= set(claims)

    def move(item: int) -> tuple[float, int]:
        free = [c for c in range(costs.shape[1]) if c not in taken]
        best = min(free, key=lambda c: costs[item, c], default=None)
        return (np.inf, -1) if best is None else (costs[item, best] - costs[item, preferred[item]], best)

    waiting = set(range(len(preferred)))
    for claimants in claims.values():
        waiting.remove(max(claimants, key=lambda item: (move(item)[0], -item)))
    while waiting:
        item = min(sorted(waiting), key=lambda item: move(item)[0])
        code[item] = move(item)[1]
        taken.add(code[item])
        waiting.remove(item)
    return code


@pytest.mark.parametrize("seed", range(8))
def test_items_move_one_by_one_the_smallest_added_distortion_first(seed: int) -> None:
    codes, costs = crowded(seed, n_items=22)
    result, sizes = nearest(codes, SIZES, table_context(costs))
    expected = codes.copy()
    for prefix in range(4):
        rows = np.flatnonzero(codes[:, 0] == prefix)
        count = Counter(codes[rows, 1].tolist())
        moving = [row for row in rows if count[codes[row, 1]] > 1]
        taken = {int(codes[row, 1]) for row in rows if count[codes[row, 1]] == 1}
        if moving:
            expected[moving, 1] = literally(costs[moving], codes[moving, 1].tolist(), taken)
    assert sizes == SIZES
    assert result.tolist() == expected.tolist()


@MOVING
@pytest.mark.parametrize("seed", range(4))
def test_moved_semantic_ids_are_unique_and_others_stay(rule: Callable[..., Any], seed: int) -> None:
    codes, costs = crowded(seed)
    before = codes.copy()
    result, sizes = rule(codes, SIZES, table_context(costs))
    assert np.array_equal(codes, before)
    assert sizes == SIZES
    assert len(np.unique(result, axis=0)) == len(codes)
    assert np.array_equal(result[:, 0], codes[:, 0])
    assert ((result >= 0) & (result < SIZES)).all()
    counts = Counter(map(tuple, codes.tolist()))
    alone = [counts[tuple(row)] == 1 for row in codes.tolist()]
    assert any(alone)
    assert np.array_equal(result[alone], codes[alone])


@pytest.mark.parametrize("seed", range(4))
def test_nearest_moves_no_item_more_than_it_must(seed: int) -> None:
    codes, costs = crowded(seed)
    result, _ = nearest(codes, SIZES, table_context(costs))
    moved = int((result != codes).any(axis=1).sum())
    assert moved == len(codes) - len(np.unique(codes, axis=0)) > 0


def test_nearest_by_hand() -> None:
    # All three prefer code 0; the first could leave for 0.1 more, the second for 0.2, the third for 0.9.
    costs = np.array([[0, 0.1, 0.5, 9, 9, 9], [0, 0.2, 0.3, 9, 9, 9], [0, 0.9, 0.9, 9, 9, 9]], dtype=np.float32)
    codes = np.array([[2, 0], [2, 0], [2, 0]])
    assert nearest(codes, SIZES, table_context(costs))[0].tolist() == [[2, 1], [2, 2], [2, 0]]
    kept = np.array([[2, 1], [1, 0]])
    assert nearest(codes, SIZES, table_context(costs, kept))[0].tolist() == [[2, 3], [2, 2], [2, 0]]
    kept = np.array([[2, 0]])
    assert nearest(codes, SIZES, table_context(costs, kept))[0].tolist() == [[2, 1], [2, 2], [2, 3]]


def test_nearest_of_a_residual_tokenizer_adds_the_least_reconstruction_error() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 3)).astype(np.float32)
    points[40:45] = points[40] + rng.normal(size=(5, 3)).astype(np.float32) / 1000
    tokenizer = ResidualKMeans((4, 32)).fit(points, np.arange(60))
    codes = tokenizer.encode(points)
    result, _ = nearest(codes, (4, 32), CollisionContext(features=points, tokenizer=tokenizer))

    def error(changed: np.ndarray) -> float:
        return float(((points - tokenizer.reconstruct(changed)) ** 2).sum())

    assert len(np.unique(result, axis=0)) == 60 > len(np.unique(codes, axis=0))
    assert error(codes) < error(result) < error(rank_as_last_code(codes)) < np.inf
    for row in np.flatnonzero((result != codes).any(axis=1)):  # no free code of its prefix would have been better
        own = ((points[row] - tokenizer.reconstruct(result[row : row + 1])) ** 2).sum()
        used = set(result[result[:, 0] == result[row, 0], 1].tolist())
        for code in set(range(32)) - used:
            other = np.array([[result[row, 0], code]])
            assert own <= ((points[row] - tokenizer.reconstruct(other)) ** 2).sum() + 1e-5


def rank_as_last_code(codes: np.ndarray) -> np.ndarray:
    """Return unique codes without a look at the features."""
    changed = codes.copy()
    for prefix in np.unique(codes[:, 0]):
        rows = codes[:, 0] == prefix
        changed[rows, 1] = np.arange(rows.sum())
    return changed


@MOVING
def test_parts_of_the_catalogue_are_settled_alike(rule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    codes, costs = crowded(2, n_items=16)
    free = [prefix for prefix in range(4) if (codes[:, 0] == prefix).sum() < 6]
    kept = np.array([[free[0], 5], [free[-1], 0]])
    whole = nearest(codes, SIZES, table_context(costs, kept))[0]
    seen = []

    def watched(costs: np.ndarray, *others: Any) -> np.ndarray:
        seen.append(costs.shape)
        return free_codes(costs, *others)

    monkeypatch.setattr(reassign, "_CELLS", 8)
    monkeypatch.setattr(reassign, "free_codes", watched)
    result = rule(codes, SIZES, table_context(costs, kept))[0]
    assert len(seen) == 4
    assert len(np.unique(np.concatenate([result, kept]), axis=0)) == len(codes) + 2
    if rule is nearest:
        assert np.array_equal(result, whole)


def test_sinkhorn_uses_the_last_level_more_evenly() -> None:
    rng = np.random.default_rng(0)
    costs = rng.random((400, 8)).astype(np.float32)
    costs[:, 0] -= 0.7  # everyone's favourite
    codes = np.column_stack([np.repeat(np.arange(100), 4), costs.argmin(axis=1)])
    context = CollisionContext(features=costs, tokenizer=TableTokenizer((100, 8)))
    largest = []
    for rule in (nearest, sinkhorn):
        result, _ = rule(codes, (100, 8), context)
        assert len(np.unique(result, axis=0)) == 400
        largest.append(np.bincount(result[:, 1]).max())
    assert largest[1] < 0.9 * largest[0]


def test_balancing_prices_make_codes_equally_used() -> None:
    rng = np.random.default_rng(0)
    costs = rng.random((900, 6)).astype(np.float32) * [1, 1, 1, 1, 1, 0.2]
    alone = np.bincount(costs.argmin(axis=1), minlength=6)
    priced = np.bincount((costs + balancing_prices(costs)).argmin(axis=1), minlength=6)
    assert alone.max() > 350
    assert priced.max() < 175
    assert abs(balancing_prices(costs).mean()) < 1e-6
    assert not balancing_prices(np.ones((5, 3), dtype=np.float32)).any()


@pytest.mark.parametrize("name", [name for name in COLLISIONS if name != "rank"])
def test_codes_that_do_not_collide_stay(name: str) -> None:
    codes = np.array([[0, 1], [0, 2], [3, 1]])
    context = table_context(np.random.default_rng(0).random((3, 6)))
    result, sizes = resolve(COLLISIONS, name, "rule")(codes, SIZES, context)
    assert np.array_equal(result, codes)
    assert sizes == SIZES


def test_a_rank_of_codes_that_do_not_collide_is_zero() -> None:
    codes, sizes = rank(np.array([[0, 1], [0, 2]]), SIZES, CollisionContext())
    assert codes.tolist() == [[0, 1, 0], [0, 2, 0]]
    assert sizes == (4, 6, 1)


@MOVING
def test_a_full_prefix_is_filled_and_a_fuller_one_refused(rule: Callable[..., Any]) -> None:
    costs = np.random.default_rng(0).random((7, 6)).astype(np.float32)
    codes = np.column_stack([np.zeros(6, dtype=int), [0, 0, 0, 0, 1, 1]])
    result, _ = rule(codes, SIZES, table_context(costs[:6]))
    assert sorted(result[:, 1].tolist()) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match=r"7 items share.*the last, which has only 6: .* codebook_sizes=\[4, 8\],"):
        rule(np.concatenate([codes, [[0, 2]]]), SIZES, table_context(costs))
    with pytest.raises(InputError, match=r"7 items share.*fixed once a model is trained: make all semantic IDs anew"):
        rule(codes, SIZES, table_context(costs[:6], kept=np.array([[0, 5]])))


@MOVING
def test_a_single_level_is_settled_too(rule: Callable[..., Any]) -> None:
    costs = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    context = CollisionContext(features=costs, tokenizer=TableTokenizer((12,)))
    result, _ = rule(np.full((9, 1), 4), (12,), context)
    assert len(np.unique(result)) == 9


@MOVING
def test_ready_made_semantic_ids_cannot_be_moved(rule: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="use collision=rank or collision=keep"):
        rule(np.array([[0, 0], [0, 0]]), SIZES, CollisionContext())


rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=20)


@given(rows, rows)
@hypothesis_settings(deadline=None)
def test_ranks_of_new_items_go_on_where_the_old_ones_end(old: list[Any], new: list[Any]) -> None:
    kept, _ = rank(np.array(old), (3, 2), CollisionContext())
    both, _ = rank(np.array(old + new), (3, 2), CollisionContext())
    codes, _ = rank(np.array(new), (3, 2), CollisionContext(kept=kept))
    assert codes.tolist() == both[len(old) :].tolist()


def test_a_rank_level_without_room_is_refused_with_the_remedy() -> None:
    kept, _ = rank(np.array([[0], [0], [1]]), (2,), CollisionContext(rank_size=3))
    new = CollisionContext(rank_size=3, kept=kept)
    assert rank(np.array([[0], [1]]), (2,), new)[0].tolist() == [[0, 2], [1, 1]]
    with pytest.raises(InputError, match=r"need 4 ranks but the rank level has 3.*rank_size=4 or more"):
        rank(np.array([[0], [0]]), (2,), new)


def test_items_that_share_a_semantic_id_come_by_popularity_then_row() -> None:
    codes, sizes = keep(np.array([[1], [0], [1], [1], [0]]), (2,), CollisionContext())
    ids = SemanticIDs(codes, sizes, list("abcde"), popularity=np.array([3, 1, 9, 3, 4]))
    _, items = ids.trie.expand_leaves(torch.tensor([0, 1]))
    assert items.tolist() == [4, 1, 2, 0, 3]
    # In another order (internal ids from 1), and of some of the items.
    _, items = ids.trie_of(list("edcba")).expand_leaves(torch.tensor([0, 1]))
    assert items.tolist() == [1, 4, 3, 5, 2]
    _, items = ids.trie_of(list("dca")).expand_leaves(torch.tensor([0]))
    assert items.tolist() == [2, 3, 1] or items.tolist() == [2, 1, 3]
    assert ids.trie_of(list("dca")).expand_leaves(torch.tensor([0]))[1].tolist()[0] == 2


def test_popularity_is_saved_and_part_of_the_identity(tmp_path: Any) -> None:
    parts = (np.array([[1], [0], [1]]), (2,), list("abc"))
    ids = SemanticIDs(*parts, popularity=np.array([1, 2, 3]))
    ids.save(tmp_path / "ids.npz")
    loaded = SemanticIDs.load(tmp_path / "ids.npz")
    assert loaded.popularity is not None
    assert loaded.popularity.tolist() == [1, 2, 3]
    assert loaded.fingerprint == ids.fingerprint
    assert loaded.trie.item.tolist() == ids.trie.item.tolist() == [1, 2, 0]
    others = [SemanticIDs(*parts), SemanticIDs(*parts, popularity=np.array([3, 2, 1]))]
    assert len({ids.fingerprint, *(other.fingerprint for other in others)}) == 3
    with pytest.raises(InputError, match=r"3 rows but popularity \(2,\)"):
        SemanticIDs(*parts, popularity=np.array([1, 2]))


def test_the_summary_by_hand() -> None:
    codes = np.array([[0, 1], [0, 1], [2, 0], [2, 1], [2, 0], [2, 0]])
    assert summary(codes) == {"collided_items": 5, "groups": 2, "largest_group": 3}
    assert summary(codes[:1]) == {"collided_items": 0, "groups": 0, "largest_group": 1}


@pytest.mark.parametrize("rule", sorted(COLLISIONS))
def test_the_configured_rule_makes_the_semantic_ids(prepare: Callable[..., Any], rule: str) -> None:
    _, train, _, _ = prepare("TIGER", collision=rule, codebook_sizes=[3, 16])
    dataset = train._dataset
    ids = dataset.semantic_ids
    distinct = len(np.unique(ids.codes, axis=0))
    before = ids.recipe["before_collision_rule"]
    assert before["groups"] > 0
    assert ids.codebook_sizes[:2] == (3, 16)
    assert (distinct == 30) == (rule != "keep")
    if rule == "keep":
        assert distinct == 30 - before["collided_items"] + before["groups"]
        items, _ = dataset.training_sequences()
        assert ids.popularity.tolist() == np.bincount(items - 1, minlength=30).tolist()


def test_a_model_ranks_items_that_share_a_semantic_id_by_popularity(prepare: Callable[..., Any]) -> None:
    from recbole_sid.model.tiger import TIGER

    config, train, _, test = prepare("TIGER", collision="keep", codebook_sizes=[2, 2], beam_size=10)
    model = TIGER(config, train._dataset).eval()
    _, items, scores = model.retrieve(next(iter(test))[0])
    items, scores = items[:30].numpy(), scores[:30].detach().numpy()
    assert len(set(items.tolist())) == 30
    popularity = train._dataset.semantic_ids.popularity[items - 1]
    codes = train._dataset.semantic_ids.codes[items - 1]
    same = (codes[1:] == codes[:-1]).all(axis=1)
    assert same.sum() > 20
    assert (scores[1:][same] == scores[:-1][same]).all()
    tied = popularity[1:] == popularity[:-1]
    assert (popularity[1:] <= popularity[:-1])[same].all()
    assert (items[1:] > items[:-1])[same & tied].all()
