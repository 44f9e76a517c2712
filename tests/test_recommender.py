"""`Recommender` against brute force: what is excluded, what alone is allowed, ties, counts, what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from brute_engine import BruteEngine, catalogue_of
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.serving import Recommender, ranking
from recbole_sid.serving.histories import KnownUsers

N = 40  # items


def recommender(n_items: int = N + 1, users: KnownUsers | None = None, **settings: Any) -> Recommender:
    return Recommender(BruteEngine(n_items, **settings), catalogue_of(n_items), users)


def number(item: str) -> int:
    """Return the number of a known item, else 0."""
    return int(item[1:]) if item[:1] == "i" and 0 < int(item[1:]) <= N else 0


def by_hand(
    ours: Recommender, history: list[str], k: int, excluded: set[int], allowed: set[int], searched: bool
) -> list[tuple[int, float]]:
    """Return the best items and scores of one history, one item at a time; those that the search misses left out if
    it is what `searched`.
    """
    engine: Any = ours.engine
    known = [number(item) for item in history if number(item)]
    if known:
        last = known[-engine.max_history :]
        scores = {item: float(engine.table[last[-1], item]) + sum(last) % 3 for item in allowed}
    else:
        counts = ours.catalogue.popularity + 1.0
        scores = {item: float(np.log(counts[item] / counts[1:].sum())) for item in allowed}
    left = {item: score for item, score in scores.items() if item not in excluded}
    if searched:
        left = {item: score for item, score in left.items() if not engine.missed[item] and score > -np.inf}
    popularity = ours.catalogue.popularity
    order = sorted(left, key=lambda item: (-left[item], item if left[item] > -np.inf else (-popularity[item], item)))
    return [(item, left[item]) for item in order[:k]]


ITEM = st.one_of(
    st.integers(1, N).map(lambda item: f"i{item}"), st.sampled_from(["unknown", "i0", "", "\N{SNOWMAN}", "seen!"])
)
HISTORY = st.lists(ITEM, max_size=9)
SOME = st.lists(ITEM, max_size=60)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    histories = draw(st.lists(HISTORY, min_size=1, max_size=5))
    n_rows = len(histories)

    def each(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(part, min_size=n_rows, max_size=n_rows)

    numbers = st.integers(1, 2 * N)
    return {
        "histories": histories,
        "k": draw(st.one_of(numbers, each(numbers))),
        "exclude": draw(
            st.one_of(st.sampled_from(["seen", None]), SOME, each(st.one_of(SOME, st.sampled_from(["seen", None]))))
        ),
        "items": draw(st.one_of(st.none(), SOME, each(st.one_of(SOME, st.none())))),
    }


def part_of(value: Any, row: int) -> Any:
    """Return what an argument says for one history."""
    is_each = isinstance(value, list) and any(not isinstance(part, str) for part in value)
    is_each = is_each or (isinstance(value, list) and bool(value) and all(part == "seen" for part in value))
    return value[row] if is_each else value


def check(ours: Recommender, asked: dict[str, Any]) -> None:
    """Compare one call with brute force, and every history asked alone with it among others."""
    engine: Any = ours.engine
    found = ours.recommend(**asked)
    lists = found.lists()
    assert len(found) == len(lists) == len(asked["histories"])
    assert (found.items == "").sum() == found.items.size - found.counts.sum()
    for row, history in enumerate(asked["histories"]):
        exclude, items, k = (part_of(asked[name], row) for name in ("exclude", "items", "k"))
        allowed = set(range(1, N + 1)) if items is None else {number(item) for item in items} - {0}
        excluded = {number(item) for item in (history if exclude == "seen" else exclude or [])} - {0}
        known = [item for item in history if number(item)]
        assert found.unknown[row] == len(history) - len(known)
        assert found.how[row] == ("model" if known else "popularity")
        assert found.counts[row] == len(lists[row]) == min(k, len(allowed - excluded))
        wanted = by_hand(ours, history, k, excluded, allowed, found.search[row] == "beam")
        assert [number(item) for item in lists[row]] == [item for item, _ in wanted]
        scores = found.scores[row]
        np.testing.assert_allclose(scores[: len(wanted)], [score for _, score in wanted], rtol=1e-6)
        assert (scores[len(wanted) :] == -np.inf).all()
        alone = ours.recommend([history], k, [exclude], [items])
        assert alone.lists()[0] == lists[row]
        assert (alone.search[0], alone.how[0]) == (found.search[row], found.how[row])
        if not engine.missed.any():
            assert wanted == by_hand(ours, history, k, excluded, allowed, False)[: len(wanted)]


def has_items(asked: dict[str, Any]) -> bool:
    """Say whether a list of what alone is allowed names a known item, if it is one for all."""
    items = asked["items"]
    is_for_all = isinstance(items, list) and all(isinstance(part, str) for part in items)
    return not is_for_all or any(number(item) for item in items)


@settings(deadline=None)
@given(asked=requests())
def test_lists_are_those_of_brute_force(asked: dict[str, Any]) -> None:
    if has_items(asked):
        check(recommender(), asked)
    else:
        with pytest.raises(InputError, match="the catalogue has none"):
            recommender().recommend(**asked)


@settings(deadline=None)
@given(asked=requests(), missed=st.sampled_from([0.3, 0.9, 1.0]), unranked=st.sampled_from([0.0, 0.4, 1.0]))
def test_a_search_that_misses_items_is_widened(asked: dict[str, Any], missed: float, unranked: float) -> None:
    if has_items(asked):
        check(recommender(missed=missed, unranked=unranked), asked)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow-lists count as long, searches may be wide, and few scores are computed at a time."""
    monkeypatch.setattr(ranking, "_SHORT_LIST", 5)
    monkeypatch.setattr(ranking, "_WIDEST_PART", 2)
    monkeypatch.setattr(ranking, "_SCORES", 60)


@pytest.mark.usefixtures("tight")
@pytest.mark.parametrize("seed", range(60))
def test_lists_are_the_same_in_blocks_and_after_wide_searches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(1, 9))

    def some(most: int) -> list[str]:
        return [f"i{item}" for item in rng.integers(0, N + 3, rng.integers(0, most))]

    histories = [some(8) for _ in range(n_rows)]
    exclude = [None, "seen", some(50), [some(30) for _ in range(n_rows)]][seed % 4]
    items = [None, None, [*some(60), "i3"], [some(30) for _ in range(n_rows)]][rng.integers(4)]
    asked = {"histories": histories, "k": int(rng.integers(1, 20)), "exclude": exclude, "items": items}
    check(recommender(missed=float(rng.choice([0, 0.5])), unranked=float(rng.choice([0, 0.3])), seed=seed), asked)


def test_the_search_is_no_wider_than_it_has_to_be() -> None:
    ours = recommender(401)
    engine: Any = ours.engine
    ours.recommend([["i1", "i2"]], k=2, exclude=None)
    assert engine.calls == [("rank", 4)]
    engine.calls.clear()
    best = ours.recommend([["i1", "i2"]], k=4, exclude=None).lists()[0]
    found = ours.recommend([["i1", "i2"]] * 3, k=4, exclude=[best, None, best[:1]])
    assert engine.calls == [("rank", 4), ("rank", 4), ("rank", 8)]
    assert found.search.tolist() == ["beam"] * 3
    engine.calls.clear()
    found = ours.recommend([["i1", "i2"]], k=300, exclude=None)
    assert (engine.calls, found.search.tolist()) == ([("all", 1)], ["exact"])
    engine.calls.clear()
    found = ours.recommend([["i1", "i2"]], k=3, items=["i7", "i9", "i7", "i8", "no"])
    assert (engine.calls, found.search.tolist(), found.counts.tolist()) == ([("some", 1)], ["exact"], [3])


def test_no_history_gets_what_is_popular_and_says_so() -> None:
    ours = recommender()
    found = ours.recommend([[], ["i3"], ["no", "nothing"]], k=3)
    popularity = ours.catalogue.popularity
    wanted = sorted(range(1, N + 1), key=lambda item: (-popularity[item], item))[:3]
    assert found.lists()[0] == found.lists()[2] == [f"i{item}" for item in wanted]
    assert found.how.tolist() == ["popularity", "model", "popularity"]
    assert found.unknown.tolist() == [0, 0, 2]
    with pytest.raises(InputError, match="History 0 has no item of the catalogue \\(0 unknown\\)"):
        ours.recommend([[], ["i3"]], on_unknown="error")
    with pytest.raises(InputError, match="must be one of popularity, error"):
        ours.recommend([["i3"]], on_unknown="raise")


def test_nothing_asked_is_nothing_answered() -> None:
    found = recommender().recommend([])
    assert (len(found), found.lists(), found.to_dicts()) == (0, [], [])


def test_forms_of_the_answer() -> None:
    found = recommender(unranked=0.97).recommend([["i3"], []], k=4)
    rows = found.to_dicts()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[0]["items"] == found.lists()[0]
    assert rows[0]["scores"][-1] is None
    assert rows[1]["how"] == "popularity"
    frame = found.to_pandas()
    assert frame.columns.tolist() == ["user", "item", "score", "rank"]
    assert frame.user.tolist() == [0] * 4 + [1] * 4
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 2
    assert frame.item.tolist() == [item for items in found.lists() for item in items]


def test_known_users_are_recommended_by_name() -> None:
    users = KnownUsers.of(["ann", "bob", "eve"], np.array([0, 2, 3, 3]), np.array([4, 5, 6]))
    ours = recommender(users=users)
    found = ours.recommend_users(["bob", "ann", "who", "eve"], k=5)
    assert found.lists() == ours.recommend([["i6"], ["i4", "i5"], [], []], k=5).lists()
    assert found.how.tolist() == ["model", "model", "popularity", "popularity"]
    assert [row["user"] for row in found.to_dicts()] == ["bob", "ann", "who", "eve"]
    assert found.to_pandas().user.tolist()[::5] == ["bob", "ann", "who", "eve"]
    with pytest.raises(InputError, match="The history of 'who' has no item"):
        ours.recommend_users(["bob", "ann", "who"], on_unknown="error")
    with pytest.raises(InputError, match="export the bundle with --histories"):
        recommender().recommend_users(["ann"])
    for wrong in ("ann", [["ann"]], [3], None):
        with pytest.raises(InputError, match="users"):
            ours.recommend_users(wrong)


def test_an_item_is_explained() -> None:
    ours = recommender()
    found = ours.explain(["i3", "no", "i4"], "i7")
    engine: Any = ours.engine
    assert found.score == pytest.approx(float(engine.table[4, 7]) + 7 % 3)
    assert (found.item, found.unknown, found.remembered, found.parts["memory"]) == ("i7", 1, ("i3",), 0.25)
    assert found.levels[0].siblings[0] == (1, 0.5)
    assert json.loads(json.dumps(found.to_dict()))["levels"][0]["code"] == 1
    with pytest.raises(InputError, match="'nope' is not in the catalogue"):
        ours.explain(["i3"], "nope")
    with pytest.raises(InputError, match="No item of the history is known"):
        ours.explain(["no"], "i7")
    with pytest.raises(InputError, match="is the text 'i3'"):
        ours.explain("i3", "i7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"histories": "i1"}, "The histories are 'i1' \\(str\\): give a list of histories"),
        ({"histories": None}, "The histories are None: give a list"),
        ({"histories": 3}, "The histories are 3 \\(int\\)"),
        ({"histories": {"u": ["i1"]}}, "\\(dict\\): give a list"),
        ({"histories": ["i1", "i2"]}, "History 0 is the text 'i1', not a list of item ids"),
        ({"histories": [["i1"], 4]}, "History 1 is 4 \\(int\\)"),
        ({"histories": [["i1"], None]}, "History 1 is None"),
        ({"histories": [["i1"], {"i2"}]}, "History 1 is .* \\(set\\)"),
        ({"histories": [["i1"], ["i1", 2]]}, "History 1 holds 2 \\(int\\) in place 1: ids are texts"),
        ({"histories": [["i1", None]]}, "History 0 holds None in place 1"),
        ({"histories": [["i1", ["i2"]]]}, "History 0 holds .* \\(list\\)"),
        ({"k": 0}, "k is 0 \\(int\\): give how many items are wanted, a whole number of at least 1"),
        ({"k": -3}, "k is -3"),
        ({"k": 2.0}, "k is 2.0"),
        ({"k": True}, "k is True"),
        ({"k": "20"}, "k is '20'"),
        ({"k": None}, "k is None"),
        ({"k": [1, 2]}, "k has 2 numbers for 1 histories"),
        ({"k": [[1]]}, "k is"),
        ({"k": -(10**30)}, "k is -1000"),
        ({"exclude": "sen"}, "exclude='sen' \\(did you mean 'seen'\\?\\) must be"),
        ({"exclude": 3}, "exclude is 3 \\(int\\): give a list of ids"),
        ({"exclude": [3]}, "exclude holds 3 \\(int\\) in place 0"),
        ({"exclude": ["i1", "seen"]}, 'exclude lists "seen" among ids'),
        ({"exclude": [["i1", "seen"]]}, 'exclude lists "seen" among ids'),
        ({"exclude": [["i1"], ["i2"]]}, "exclude has 2 lists for 1 histories"),
        ({"exclude": [["i1", 4]]}, "exclude\\[0\\] holds 4"),
        ({"exclude": [["i1"], "unseen"], "histories": [["i1"], ["i2"]]}, "exclude='unseen' \\(did you mean"),
        ({"items": "i1"}, "items is 'i1' \\(str\\): give a list of ids"),
        ({"items": []}, "items allows 0 ids of which the catalogue has none"),
        ({"items": ["no", "nope"]}, "items allows 2 ids of which the catalogue has none"),
        ({"items": [7]}, "items holds 7"),
        ({"items": [["i1"], "i2"], "histories": [["i1"], ["i2"]]}, "items\\[1\\] is the text 'i2'"),
        ({"items": {"i1": 3}}, "items is"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_a_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        recommender().recommend(**{"histories": [["i1", "i2"]], **arguments})
    assert "\n" not in str(refused.value)


def test_other_containers_are_taken_too() -> None:
    ours = recommender()
    wanted = ours.recommend([["i1", "i2"], ["i3"]], 5).lists()
    assert ours.recommend((("i1", "i2"), ("i3",)), np.int32(5)).lists() == wanted
    assert ours.recommend(np.array([["i1", "i2"]]), 5).lists() == wanted[:1]
    assert ours.recommend((part for part in [["i1", "i2"], ["i3"]]), 5).lists() == wanted
    assert ours.recommend([["i1", "i2"]], 10**30).counts.tolist() == [N - 2]
    for container in (set, frozenset, tuple, np.array):
        assert ours.recommend([["i1"]], 40, container(["i2", "i3"])).counts.tolist() == [N - 2]


def test_scores_that_are_no_numbers_are_refused() -> None:
    ours = recommender()
    ours.engine.table[:] = np.nan
    with pytest.raises(InputError, match="scores are not finite"):
        ours.recommend([["i1"]])


def test_parts_of_two_trainings_are_refused() -> None:
    with pytest.raises(InputError, match="ranks 40 items and the catalogue has 29"):
        Recommender(BruteEngine(41), catalogue_of(30))
