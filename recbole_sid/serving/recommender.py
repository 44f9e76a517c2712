"""`Recommender`: from histories of item ids to lists of item ids, by a bundle or a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from recbole_sid.errors import InputError, nearest, require_known
from recbole_sid.serving.asked import SEEN, flat, flat_histories, id_list, is_for_each, lists_of_each, wanted_numbers
from recbole_sid.serving.bundle import HISTORIES, Bundle
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.engine import Engine, Histories, ReadsUsers
from recbole_sid.serving.explain import Explanation, Level
from recbole_sid.serving.histories import KnownUsers
from recbole_sid.serving.item_sets import ItemSets, Rules
from recbole_sid.serving.lists import Lists, padded
from recbole_sid.serving.ranking import Ranked, blocks, popular, ranked, too_short
from recbole_sid.serving.recommendations import Recommendations

ON_UNKNOWN = ("popularity", "error")
_HOW, _SEARCH = np.array(["popularity", "model"]), np.array(["beam", "exact"])


class Recommender:
    """Recommends items after histories.

    It keeps no state between calls, so that threads may share it if they may share the engine.

    Args:
        engine: what ranks.
        catalogue: ids and popularity of its items.
        users: known ones with their histories, for `recommend_users`; None: there are none.
    """

    def __init__(self, engine: Engine, catalogue: Catalogue, users: KnownUsers | None = None) -> None:
        if catalogue.n_items != engine.n_items:
            raise InputError(
                f"The model ranks {engine.n_items - 1:,} items and the catalogue has {catalogue.n_items - 1:,}: they "
                "are not of one training."
            )
        self.engine, self.catalogue, self.users = engine, catalogue, users

    @classmethod
    def load(cls, path: str | os.PathLike[str], verify: bool = True) -> Recommender:
        """Load a bundle, which `recbole-sid export-model` writes.

        Args:
            path: its directory.
            verify: whether the hashes of its files are checked.

        Raises:
            InputError: if it is none, damaged, or of a later format.
        """
        return cls.of_bundle(Bundle.load(path, verify))

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Recommender:
        """Return what recommends by an open bundle."""
        users = bundle.known_users if HISTORIES in bundle else None
        return cls(bundle.engine(), bundle.catalogue, users)

    def recommend(
        self,
        histories: Any,
        k: int | Sequence[int] | np.ndarray = 20,
        exclude: Any = "seen",
        items: Any = None,
        on_unknown: str = "popularity",
        users: Any = None,
    ) -> Recommendations:
        """Return the best items after each history: always `k`, if so many are allowed.

        What a history gets does not depend on the others. Where the model's search finds too few items that are
        allowed it is widened, then all items are scored.

        Args:
            histories: lists of item ids, str, the oldest first. Unknown items are skipped and counted.
            k: how many items, at least 1, or a number for each history. Above the catalogue: as many as there are.
            exclude: what may not be recommended: "seen", the items of the history itself; None, nothing; a list of item
                ids; or one such list, "seen" or None for each history. Unknown ids exclude nothing.
            items: what alone may be recommended, such as what is in stock: a list of item ids, or one (None: all) for
                each history; None: all. Unknown ids are left out.
            on_unknown: what a history without a known item gets: the most popular items ("popularity"), or an
                InputError ("error").
            users: ids, str, one for each history: the answer names them, and a model that asks who the user is, as some
                of RecBole's do, is told. None: nobody is named.

        Raises:
            InputError: if something is of the wrong kind, or no item of a list for all is known.
        """
        require_known("on_unknown", on_unknown, ON_UNKNOWN)
        asked = flat_histories(histories)
        names = None if users is None else id_list(users, "users")
        if names is not None and len(names) != len(asked.lengths):
            raise InputError(f"users has {len(names):,} ids for {len(asked.lengths):,} histories: give one for each.")
        numbers = self.catalogue.numbers(asked.ids)
        return self._answer(numbers, asked.lengths, k, exclude, items, on_unknown, names)

    def recommend_users(
        self,
        users: Any,
        k: int | Sequence[int] | np.ndarray = 20,
        exclude: Any = "seen",
        items: Any = None,
        on_unknown: str = "popularity",
    ) -> Recommendations:
        """Return the best items for users whose histories the bundle holds; the latest interactions are among these.

        Args:
            users: user ids, str. One that is not known is treated as a history without a known item.
            k, exclude, items, on_unknown: as of `recommend`.

        Raises:
            InputError: as `recommend`, and if the bundle was exported without histories.
        """
        require_known("on_unknown", on_unknown, ON_UNKNOWN)
        ids = id_list(users, "users")
        known = self._known_users()
        numbers, starts = known.all(known.numbers(ids))
        return self._answer(numbers, np.diff(starts), k, exclude, items, on_unknown, ids)

    def known_users(self, batch_size: int) -> Iterator[list[str]]:
        """Yield the ids of all users that `recommend_users` knows, in batches.

        Raises:
            InputError: if the bundle was exported without histories.
        """
        known = self._known_users()
        for start in range(1, known.n_users + 1, batch_size):
            yield known.tokens(np.arange(start, min(start + batch_size, known.n_users + 1)))

    def _known_users(self) -> KnownUsers:
        if self.users is None:
            raise InputError(
                "There are no histories of users here: export the bundle with --histories, or give the histories to "
                "`recommend`."
            )
        return self.users

    def explain(self, history: Sequence[str], item: str) -> Explanation:
        """Return why `item` follows, or does not follow, a history of item ids.

        Raises:
            InputError: if the item, or every item of the history, is unknown.
        """
        asked = flat_histories([history])
        numbers = self.catalogue.numbers(asked.ids)
        wanted = self.catalogue.numbers(id_list([item], "item"))
        if not wanted[0]:
            raise InputError(f"The item '{item[:60]}' is not in the catalogue, so there is nothing to explain.")
        known = numbers > 0
        if not known.any():
            raise InputError("No item of the history is known: it gets the most popular items, whatever was taken.")
        rows = np.zeros(int(known.sum()), dtype=np.int64)
        history_of = padded(numbers[known], rows, 1, self.engine.max_history)
        found = self.engine.explain(history_of, wanted)[0]
        score = float(self.engine.scores(history_of, wanted)[0, 0])
        levels = [
            Level(
                int(level["code"]), float(level["probability"]), tuple((int(c), float(p)) for c, p in level["siblings"])
            )
            for level in found["levels"]
        ]
        remembered = self.catalogue.tokens(np.asarray(found.get("remembered", ()), dtype=np.int64))
        parts = {name: float(value) for name, value in found["parts"].items()}
        probability = float(found["probability"])
        return Explanation(item, score, probability, tuple(levels), parts, tuple(remembered), int((~known).sum()))

    def _answer(
        self,
        numbers: np.ndarray,
        lengths: np.ndarray,
        k: Any,
        exclude: Any,
        items: Any,
        on_unknown: str,
        users: list[str] | None,
    ) -> Recommendations:
        """Recommend after histories of item numbers, one after another, 0 for unknown ones."""
        n_rows, n_items = len(lengths), self.engine.n_items
        wanted = np.minimum(wanted_numbers(k, n_rows), n_items - 1)
        rows = np.repeat(np.arange(n_rows), lengths)
        excluded = self._excluded(exclude, rows, numbers, n_rows)
        allowed, is_free = self._allowed(items, n_rows)
        if not n_rows:
            return self._recommendations(Lists.empty(0, 0), np.zeros(0, bool), np.zeros(0, bool), lengths, users)
        known = numbers > 0
        if not known.all():
            numbers, rows = numbers[known], rows[known]
        n_known = np.bincount(rows, minlength=n_rows)
        has_history = n_known > 0
        if on_unknown == "error" and not has_history.all():
            row = int(has_history.argmin())
            whose = f"History {row}" if users is None else f"The history of '{users[row][:60]}'"
            raise InputError(
                f"{whose} has no item of the catalogue ({lengths[row]:,} unknown): leave it out, or let it get "
                'the most popular items (on_unknown="popularity").'
            )
        histories = padded(numbers, rows, n_rows, self.engine.max_history)
        if users is not None and isinstance(self.engine, ReadsUsers):
            histories = self.engine.of_users(histories, users)
        groups = _grouped(n_items, excluded, allowed, is_free)
        lists, is_exact = self._ranked(histories, has_history, wanted, groups)
        for group, rules in groups:
            self._fill(lists, np.flatnonzero(group), wanted, rules, has_history)
        return self._recommendations(lists, has_history, is_exact, lengths - n_known, users)

    def _ranked(
        self, histories: Histories, has_history: np.ndarray, k: np.ndarray, groups: list[tuple[np.ndarray, Rules]]
    ) -> Ranked:
        """Return what the model finds after the histories that it can rank by."""
        if len(groups) == 1 and has_history.all():
            return ranked(self.engine, histories, np.arange(len(k)), k, groups[0][1])
        lists, is_exact = Lists.empty(len(k), int(k.max())), np.ones(len(k), dtype=bool)
        for group, rules in groups:
            part = np.flatnonzero(has_history & group)
            if len(part):
                found = ranked(self.engine, histories.part(part), part, k[part], rules)
                lists.put(part, found.lists)
                is_exact[part] = found.is_exact
        return Ranked(lists, is_exact)

    def _excluded(self, exclude: Any, rows: np.ndarray, numbers: np.ndarray, n_rows: int) -> ItemSets | None:
        """Return what may not be recommended; the items of histories are ``numbers[i]`` of ``rows[i]``."""
        if exclude is None:
            return None
        n_items = self.engine.n_items
        if isinstance(exclude, str):
            _check_word(exclude)
            return ItemSets.for_each(rows, numbers, n_items)
        if not is_for_each(exclude):
            ids = id_list(exclude, "exclude")
            self._check_no_word(ids)
            return ItemSets.for_all(self.catalogue.numbers(ids), n_items)
        lists = lists_of_each(exclude, "exclude", n_rows)
        is_seen = np.fromiter((isinstance(part, str) for part in lists), dtype=bool, count=n_rows)
        for row in np.flatnonzero(is_seen).tolist():
            _check_word(lists[row])
        listed = flat([part if isinstance(part, list) else [] for part in lists])
        self._check_no_word(listed.ids)
        of_lists, seen = self.catalogue.numbers(listed.ids), is_seen[rows]
        both = np.concatenate([listed.rows, rows[seen]]), np.concatenate([of_lists, numbers[seen]])
        return ItemSets.for_each(*both, n_items)

    def _check_no_word(self, ids: Sequence[str]) -> None:
        """Refuse the word that stands for a history's items where it would pass for an id that is not known."""
        if SEEN in ids and not self.catalogue.numbers([SEEN])[0]:
            raise InputError('exclude lists "seen" among ids of items: give it alone, or lists for each history.')

    def _allowed(self, items: Any, n_rows: int) -> tuple[ItemSets | None, np.ndarray]:
        """Return what alone may be recommended, and after which histories, bool [n_rows], everything may."""
        n_items = self.engine.n_items
        if items is None:
            return None, np.ones(n_rows, dtype=bool)
        if not is_for_each(items):
            ids = id_list(items, "items")
            allowed = ItemSets.for_all(self.catalogue.numbers(ids), n_items)
            if not len(allowed.keys):
                raise InputError(
                    f"items allows {len(ids):,} ids of which the catalogue has none, so nothing can be recommended: "
                    "give ids of its items, or None to allow all."
                )
            return allowed, np.zeros(n_rows, dtype=bool)
        lists = lists_of_each(items, "items", n_rows)
        for row, part in enumerate(lists):
            if isinstance(part, str):
                raise InputError(f"items[{row}] is the text {part[:50]!r}: give a list of item ids.")
        listed = flat([part or [] for part in lists])
        is_free = np.fromiter((part is None for part in lists), dtype=bool, count=n_rows)
        return ItemSets.for_each(listed.rows, self.catalogue.numbers(listed.ids), n_items), is_free

    def _fill(self, lists: Lists, rows: np.ndarray, k: np.ndarray, rules: Rules, has_history: np.ndarray) -> None:
        """Put the most popular items behind those of the lists `rows` that are too short."""
        short = rows[too_short(lists, rows, np.arange(len(k)), k, rules)]
        if not len(short):
            return
        after_model = short[has_history[short]]
        without = short[~has_history[short]]
        order, scores = self.catalogue.popular, self._popularity
        if len(without):
            lists.append(without, popular(order, scores, without, k[without], rules))
        per_row = len(rules.excluded.keys) if rules.excluded is not None and rules.excluded.is_shared else 1
        for part in blocks(after_model, per_row + lists.items.shape[1]):
            left = rules.with_excluded(part, lists.items[part])
            found = popular(order, scores, np.arange(len(part)), k[part] - lists.counts[part], left)
            found.scores[:] = -np.inf  # the model's says nothing of them
            lists.append(part, found)

    @cached_property
    def _popularity(self) -> np.ndarray:
        """The log of each item's share of all interactions, each counted once more; float32 [n_items]."""
        counts = self.catalogue.popularity.astype(np.float64) + 1
        counts[0] = 0
        with np.errstate(divide="ignore"):
            return np.log(counts / counts.sum()).astype(np.float32)

    def _recommendations(
        self, lists: Lists, has_history: np.ndarray, is_exact: np.ndarray, unknown: np.ndarray, users: list[str] | None
    ) -> Recommendations:
        ids = np.empty(lists.items.size, dtype=object)
        ids[:] = self.catalogue.tokens(lists.items.ravel())
        how, search = _HOW[has_history.view(np.int8)], _SEARCH[is_exact.view(np.int8)]
        return Recommendations(ids.reshape(lists.items.shape), lists.scores, lists.counts, how, unknown, search, users)


def _check_word(exclude: str) -> None:
    if exclude != SEEN:
        raise InputError(
            f"exclude='{exclude[:50]}'{nearest(exclude, [SEEN])} must be \"seen\", None, a list of item ids, or one "
            "of these for each history."
        )


def _grouped(
    n_items: int, excluded: ItemSets | None, allowed: ItemSets | None, is_free: np.ndarray
) -> list[tuple[np.ndarray, Rules]]:
    """Return the rules that there are, each with the histories bool [B] that it is for."""
    if allowed is None or is_free.all():
        return [(np.ones(len(is_free), dtype=bool), Rules(n_items, excluded))]
    if not is_free.any():
        return [(~is_free, Rules(n_items, excluded, allowed))]
    return [(is_free, Rules(n_items, excluded)), (~is_free, Rules(n_items, excluded, allowed))]
