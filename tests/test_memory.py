"""The memory of transitions against a literal transcription, over random sequences with ties, repeats and unknowns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from recbole_sid.fast.compiled_memory import look_up
from recbole_sid.fast.compiled_scorer import is_usable
from recbole_sid.memory import BaseMeasure, Memory, Numbers, Recall, best, ranks, transition_table
from recbole_sid.memory import table as table_module
from recbole_sid.memory.mixture import probabilities, probability_of

N_ITEMS = 9  # items 1 to 8; item 8 is never in a training sequence

sequences = st.lists(st.lists(st.integers(1, N_ITEMS - 2), max_size=7), min_size=1, max_size=8)
histories = st.lists(st.lists(st.integers(1, N_ITEMS - 1), max_size=6), min_size=1, max_size=4)
decays = st.sampled_from([0.0, 0.3, 0.5, 1.0])
numbers = st.builds(
    Numbers,
    hops=st.integers(1, 9),
    hop_decay=decays,
    window=st.integers(1, 8),
    window_decay=decays,
    pseudo_counts=st.sampled_from([0.001, 0.5, 1.0, 10.0]),
    text_weight=st.just(0.0),
)


def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([item for items in lists for item in items], dtype=np.int64), np.cumsum([0, *map(len, lists)])


def literal_table(lists: list[list[int]], hops: int, decay: float) -> np.ndarray:
    table = np.zeros((N_ITEMS, N_ITEMS))
    for items in lists:
        for place, first in enumerate(items):
            for d in range(1, hops + 1):
                if place + d < len(items):
                    table[first, items[place + d]] += decay ** (d - 1)
    return table


def literal_probabilities(table: np.ndarray, base: np.ndarray, history: list[int], chosen: Numbers) -> np.ndarray:
    """Section by section: weights of the last items, then the smoothed row of each."""
    recent = history[::-1][: chosen.window]
    if not recent:
        return base
    weights = np.array([chosen.window_decay**k for k in range(len(recent))])
    weights = weights / weights.sum()
    result = np.zeros(N_ITEMS)
    for weight, item in zip(weights, recent, strict=True):
        for i in range(N_ITEMS):
            count = table[item, i] + chosen.pseudo_counts * base[i]
            result[i] += weight * count / (table[item].sum() + chosen.pseudo_counts)
    return result


def recent_of(lists: list[list[int]]) -> torch.Tensor:
    width = max(map(len, lists), default=0)
    return torch.tensor([items[::-1] + [0] * (width - len(items)) for items in lists]).reshape(len(lists), width)


def memory_of(lists: list[list[int]], chosen: Numbers, row_limit: int | None = None) -> tuple[Memory, BaseMeasure]:
    memory, base = Memory(N_ITEMS, row_limit=row_limit), BaseMeasure(N_ITEMS)
    items, offsets = flat(lists)
    memory.learn(items, offsets, chosen)
    base.learn(torch.bincount(torch.from_numpy(items), minlength=N_ITEMS))
    return memory, base


@hypothesis_settings(max_examples=60, deadline=None)
@given(sequences, st.integers(1, 9), decays, st.sampled_from([1, 5, 1 << 22]))
def test_the_table_counts_every_pair(lists: list[list[int]], hops: int, decay: float, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "_PAIRS", block)
        table, row_sums = transition_table(*flat(lists), N_ITEMS, hops, decay)
    np.testing.assert_allclose(row_sums, literal_table(lists, hops, decay).sum(1), rtol=1e-6)
    np.testing.assert_allclose(table.toarray(), literal_table(lists, hops, decay), rtol=1e-6)
    assert (table.data > 0).all()
    assert table.has_canonical_format
    assert table.dtype == np.float32


@hypothesis_settings(max_examples=60, deadline=None)
@given(sequences, histories, numbers)
def test_the_mixture_equals_the_transcription(lists: list[list[int]], asked: list[list[int]], chosen: Numbers) -> None:
    memory, base = memory_of(lists, chosen)
    recall = memory.recall(recent_of(asked).long())
    table, p0 = literal_table(lists, chosen.hops, chosen.hop_decay), base.probabilities.double().numpy()
    found = probabilities(recall, base)
    for row, history in enumerate(asked):
        expected = literal_probabilities(table, p0, history, chosen)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-4, atol=1e-7)
    if p0.sum():
        np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, rtol=1e-5)
    assert found[:, 0].eq(0).all()
    for item in range(1, N_ITEMS):
        of_item = probability_of(recall, base, torch.full((len(asked),), item))
        torch.testing.assert_close(of_item, found[:, item])


@hypothesis_settings(max_examples=60, deadline=None)
@given(sequences, histories, numbers)
def test_masses_and_what_remains_are_a_whole(lists: list[list[int]], asked: list[list[int]], chosen: Numbers) -> None:
    memory, _ = memory_of(lists, chosen)
    recall = memory.recall(recent_of(asked).long())
    whole = recall.remaining + torch.zeros(len(asked)).index_add_(0, recall.rows, recall.masses)
    np.testing.assert_allclose(whole.numpy(), 1, rtol=1e-5)
    keys = recall.rows * N_ITEMS + recall.items
    assert (keys.diff() > 0).all()
    assert (recall.masses > 0).all()
    assert (recall.remaining > 0).all()


@hypothesis_settings(max_examples=100, deadline=None)
@given(sequences, numbers)
def test_without_its_own_pairs_a_training_pair_is_as_recounted(lists: list[list[int]], chosen: Numbers) -> None:
    """The reference counts all sequences anew for each instance, but no pair that ends in its target."""
    memory, base = memory_of(lists, chosen)
    instances = [(number, place) for number, items in enumerate(lists) for place in range(1, len(items))]
    if not instances:
        return
    recent = recent_of([lists[number][:place] for number, place in instances]).long()
    targets = torch.tensor([lists[number][place] for number, place in instances])
    recall = memory.recall_without(recent, targets)
    found, p0 = probabilities(recall, base), base.probabilities.double().numpy()
    for row, (number, place) in enumerate(instances):
        table = literal_table(lists, chosen.hops, chosen.hop_decay)
        for d in range(1, min(chosen.hops, place) + 1):
            table[lists[number][place - d], lists[number][place]] -= chosen.hop_decay ** (d - 1)
        expected = literal_probabilities(table.round(9), p0, lists[number][:place], chosen)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-4, atol=1e-7)
        remembered = recall.items[recall.rows == row].tolist()
        assert all(table[:, item].sum() > 1e-9 for item in remembered)  # nothing is left of what has been counted once
    assert (recall.masses > 0).all()
    keys = recall.rows * N_ITEMS + recall.items
    assert (keys.diff() > 0).all()


@pytest.mark.parametrize(("n_rows", "width"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_is_asked(n_rows: int, width: int) -> None:
    memory, _ = memory_of([[1, 2, 3]], Numbers())
    recent, targets = torch.zeros(n_rows, width, dtype=torch.int64), torch.zeros(n_rows, dtype=torch.int64)
    for recall in (memory.recall(recent), memory.recall_without(recent, targets)):
        assert (recall.items.tolist(), recall.remaining.tolist()) == ([], [1] * n_rows)


@hypothesis_settings(max_examples=100, deadline=None)
@given(sequences, histories, numbers, st.integers(1, 4))
def test_what_is_cut_from_a_row_goes_to_the_base_measure(
    lists: list[list[int]], asked: list[list[int]], chosen: Numbers, limit: int
) -> None:
    memory, base = memory_of(lists, chosen, limit)
    whole = literal_table(lists, chosen.hops, chosen.hop_decay)
    recall, p0 = memory.recall(recent_of(asked).long()), base.probabilities.double().numpy()
    found = probabilities(recall, base)
    for row, history in enumerate(asked):
        recent = history[::-1][: chosen.window]
        if not recent:
            continue
        weights = np.array([chosen.window_decay**k for k in range(len(recent))])
        expected, remaining = np.zeros(N_ITEMS), 1.0
        for weight, item in zip(weights / weights.sum(), recent, strict=True):
            kept = sorted(range(N_ITEMS), key=lambda i, of=item: (-whole[of, i].astype(np.float32), i))[:limit]
            masses = weight * whole[item, kept] / (whole[item].sum() + chosen.pseudo_counts)
            expected[kept] += masses
            remaining -= masses.sum()
        np.testing.assert_allclose(recall.remaining[row].item(), remaining, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[row].numpy(), expected + remaining * p0, rtol=1e-4, atol=1e-6)
    if p0.sum():
        np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, rtol=1e-5)
    assert int(memory.starts.diff().max()) <= limit
    other = Memory(N_ITEMS)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.recall(recent_of(asked).long()).remaining, recall.remaining)
    instances = [(items[:place], items[place]) for items in lists for place in range(1, len(items))]
    if instances:
        before, targets = zip(*instances, strict=True)
        own = memory.recall_without(recent_of(list(before)).long(), torch.tensor(targets))
        sums = own.remaining + torch.zeros(len(targets)).index_add_(0, own.rows, own.masses)
        np.testing.assert_allclose(sums.numpy(), 1, rtol=1e-4)


def looked_up(memory: Memory, recent: torch.Tensor) -> Recall:
    """Return what `look_up` finds, each user's in the order of the items."""
    looked = look_up(memory, recent)
    places = [slice(first, first + n) for first, n in zip(looked.room, looked.found, strict=False)]
    order = [place.start + np.argsort(looked.items[place]) for place in places]
    at = np.concatenate([np.zeros(0, dtype=np.int64), *order])
    rows = np.repeat(np.arange(len(recent)), looked.found)
    parts = rows, looked.items[at].astype(np.int64), looked.masses[at], looked.remaining
    found_rows, *found = (torch.from_numpy(part) for part in parts)
    return Recall(found_rows, found[0], found[1], found[2], memory.n_items)


@pytest.mark.skipif(not is_usable(), reason="numba is not installed")
@hypothesis_settings(max_examples=60, deadline=None)
@given(sequences, histories, numbers, st.sampled_from([None, 1, 3]), st.sampled_from([1, 2]))
def test_compiled_recall_equals_that_of_scipy(
    lists: list[list[int]], asked: list[list[int]], chosen: Numbers, limit: int | None, n_threads: int
) -> None:
    memory, _ = memory_of(lists, chosen, limit)
    recent, before = recent_of(asked).long(), torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for _ in range(2):  # what it adds up in is used again
            found, expected = looked_up(memory, recent), memory.recall(recent)
            assert torch.equal(found.rows, expected.rows)
            assert torch.equal(found.items, expected.items)
            torch.testing.assert_close(found.masses, expected.masses)
            torch.testing.assert_close(found.remaining, expected.remaining)
    finally:
        torch.set_num_threads(before)


def test_without_its_own_pairs_what_is_alike_is_still_remembered() -> None:
    memory = Memory(N_ITEMS)
    memory.alike = csr_matrix(([0.5], ([1], [2])), shape=(N_ITEMS, N_ITEMS), dtype=np.float32)
    memory.learn(*flat([[1, 2], [1, 3]]), Numbers(hops=1, window=1, pseudo_counts=1.0, text_weight=4.0))
    found = memory.recall_without(torch.tensor([[1]]), torch.tensor([2]))
    assert found.items.tolist() == [2, 3]
    torch.testing.assert_close(found.masses, torch.tensor([2 / 4, 1 / 4]))  # of 2 + 1 counts that are left, and 1 of p0
    torch.testing.assert_close(found.remaining, torch.tensor([1 / 4]))


def test_what_was_seen_once_is_not_remembered_without_it() -> None:
    memory, _ = memory_of([[1, 2, 3], [1, 4]], Numbers(hops=2, hop_decay=0.3, window=2))
    asked, targets = torch.tensor([[2, 1], [1, 0]]), torch.tensor([3, 4])
    assert memory.recall(asked).items.tolist() == [2, 3, 4, 2, 3, 4]
    found = memory.recall_without(asked, targets)
    assert (found.rows.tolist(), found.items.tolist()) == ([0, 0, 1, 1], [2, 4, 2, 3])


@hypothesis_settings(max_examples=60, deadline=None)
@given(sequences, histories, numbers, st.integers(1, N_ITEMS))
def test_the_best_are_those_of_all_items_in_order(
    lists: list[list[int]], asked: list[list[int]], chosen: Numbers, k: int
) -> None:
    memory, base = memory_of(lists, chosen)
    recall = memory.recall(recent_of(asked).long())
    whole = probabilities(recall, base)
    items, found = best(recall, base, k)
    rank = torch.stack([ranks(recall, base, torch.full((len(asked),), item)) for item in range(N_ITEMS)], dim=1)
    for row in range(len(asked)):
        n = int((items[row] > 0).sum())
        assert n == min(k, int((whole[row] > 0).sum()))
        assert len(set(items[row, :n].tolist())) == n
        torch.testing.assert_close(found[row], whole[row].sort(descending=True).values[: found.shape[1]])
        torch.testing.assert_close(found[row, :n], whole[row, items[row, :n]])
        order = sorted(range(n), key=lambda place: (-found[row, place].item(), items[row, place].item()))
        assert order == list(range(n))
        for item in range(1, N_ITEMS):
            above = int((whole[row] > whole[row, item] * (1 + 1e-5)).sum())
            level = int((whole[row] >= whole[row, item] * (1 - 1e-5)).sum())
            assert (above < rank[row, item] <= level) if whole[row, item] > 0 else rank[row, item] == 0


def test_ranks_of_equal_items_follow_their_numbers() -> None:
    memory, base = memory_of([[1, 2], [1, 3], [4], [5]], Numbers(pseudo_counts=1.0))
    recall = memory.recall(torch.tensor([[1]]))
    assert [int(ranks(recall, base, torch.tensor([item]))) for item in (2, 3, 1, 4, 5, 6)] == [1, 2, 3, 4, 5, 0]
    assert best(recall, base, 5)[0].tolist() == [[2, 3, 1, 4, 5]]


def test_a_history_that_nothing_is_known_of_is_left_to_the_base_measure() -> None:
    memory, base = memory_of([[1, 2, 3], [2, 3]], Numbers())
    recall = memory.recall(torch.tensor([[0, 0], [8, 0], [3, 8]]))  # empty, an unseen item, items without successors
    assert recall.rows.tolist() == []
    assert recall.remaining.tolist() == [1, 1, 1]
    torch.testing.assert_close(probabilities(recall, base), base.probabilities.expand(3, -1))


def test_saved_and_loaded_are_equal() -> None:
    chosen = Numbers(hops=2, hop_decay=0.25, window=3, window_decay=0.125, pseudo_counts=7.5)
    memory, _ = memory_of([[1, 2, 3, 1], [2, 3]], chosen)
    other = Memory(N_ITEMS)
    other.load_state_dict(memory.state_dict())
    assert other.numbers == chosen
    asked = torch.tensor([[1, 3, 2], [2, 0, 0]])
    for mine, theirs in zip(memory.recall(asked)[:4], other.recall(asked)[:4], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("successors", torch.tensor([1, 2, 99], dtype=torch.int32), "items that are not in the catalogue"),
        ("successors", torch.tensor([1, 2, -1], dtype=torch.int32), "items that are not in the catalogue"),
        ("successors", torch.tensor([1, 2, 3]), "another type or shape"),
        ("starts", torch.zeros(N_ITEMS, dtype=torch.int64), "it is of 8 items, not of 9"),
        ("starts", torch.tensor([0] * N_ITEMS + [4]), "do not begin and end"),
        ("starts", torch.tensor([0, 5, *[3] * (N_ITEMS - 1)]), "do not begin and end"),
        ("counts", torch.tensor([1.0, 2.0, torch.inf]), "a count is not a number above 0"),
        ("counts", torch.tensor([1.0, 2.0, -1.0]), "a count is not a number above 0"),
        ("row_sums", torch.zeros(2).double(), "its sums are of 2 items, not of 9"),
        ("row_sums", torch.zeros(N_ITEMS).double(), "below that of its entries"),
        ("row_sums", torch.full((N_ITEMS,), torch.inf).double(), "a row's sum is not a number"),
        ("settings", torch.tensor([3.0, 0.3, 5.0, 0.3, 0.0, 0.0]).double(), "pseudo_counts=0.0"),
        ("settings", torch.tensor([3.0, 0.3, 5.0, 0.3, 1.0]).double(), "another type or shape"),
        ("settings", torch.tensor([3.0, 0.3, torch.nan, 0.3, 1.0, 0.0]).double(), "window=nan"),
        ("settings", torch.tensor([3.0, 0.3, torch.inf, 0.3, 1.0, 0.0]).double(), "window=inf"),
        ("settings", torch.tensor([3.0, 1.5, 5.0, 0.3, 1.0, 0.0]).double(), "hop_decay=1.5"),
    ],
)
def test_what_is_no_table_is_refused(name: str, value: torch.Tensor, problem: str) -> None:
    memory, _ = memory_of([[1, 2], [2, 3], [4, 5]], Numbers())
    state = {**memory.state_dict(), name: value}
    with pytest.raises(RuntimeError, match=problem):
        Memory(N_ITEMS).load_state_dict(state)


def test_masses_of_items_that_are_not_remembered_are_zero() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    recall = Recall(empty, empty, torch.zeros(0), torch.ones(2), N_ITEMS)
    assert recall.mass_of(torch.tensor([0, 1]), torch.tensor([3, 4])).tolist() == [0, 0]
    assert recall.dense().tolist() == [[0.0] * N_ITEMS] * 2
