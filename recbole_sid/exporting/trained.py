"""`Recommender` of a trained model, beside the data of its training: ours, or any sequential one of RecBole's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_sid.capabilities import capabilities_of
from recbole_sid.errors import InputError
from recbole_sid.exporting.explained import explanations, explanations_of_transitions
from recbole_sid.exporting.items_and_users import catalogue_of, known_users_of, require_histories
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.transition_memory import TransitionMemory
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.lists import ragged
from recbole_sid.serving.recommender import Recommender
from recbole_sid.util.attributes import attributes_set

# So many users are ranked together; of models that score one item of one user at a time, one user.
_USERS = 256
_EXPLAINED: tuple[tuple[type, Callable[..., list[dict[str, Any]]]], ...] = (
    (SIDRecommender, explanations),
    (TransitionMemory, explanations_of_transitions),
)
Found = TypeVar("Found")


def trained_recommender(config: Any, model: Any, dataset: Any, train_data: Any, *_: Any) -> Recommender:
    """Return what recommends by a trained model: ``trained_recommender(*load_data_and_model(file))``.

    `recommend_users` knows all users of the dataset by all of their interactions, the validation's and the test's too.

    Args:
        config, model, dataset, train_data: as `recbole_sid.quick_start.load_data_and_model` returns them.

    Raises:
        InputError: if the model does not answer for a history of items.
    """
    require_histories(train_data._dataset, config["model"])
    engine = TrainedEngine(config, model, train_data._dataset)
    catalogue = catalogue_of(config, train_data._dataset, fields=())
    return Recommender(engine, catalogue, known_users_of(train_data._dataset))


class HistoriesOfUsers(Histories):
    """Histories that tell whose they are.

    Attributes:
        users: int64 [B], RecBole's numbers; 0 for one that is unknown.
    """

    users: np.ndarray

    @classmethod
    def named(cls, histories: Histories, users: np.ndarray) -> HistoriesOfUsers:
        """Return `histories` of `users`."""
        found = cls(*histories)
        found.users = users
        return found

    def part(self, rows: np.ndarray) -> Histories:
        """As `Histories.part`."""
        return self.named(super().part(rows), self.users[rows])


class TrainedEngine:
    """Ranks by a trained model in torch: as `recbole_sid.serving.engine.Engine`.

    A model that retrieves is asked for that, another one for the scores of all items. One call at a time is let in.
    """

    def __init__(self, config: Any, model: Any, dataset: Any) -> None:
        self.model, self.dataset, self._name, self._device = model.eval(), dataset, config["model"], config["device"]
        self.n_items, self.max_history = dataset.item_num, config["MAX_ITEM_LIST_LENGTH"]
        self._searches = capabilities_of(type(model)).retrieves and hasattr(model, "beam_size")
        self.beam_size = model.beam_size if self._searches else 0
        self._asks_users = isinstance(model, SIDRecommender) and model.vocabulary.n_user_tokens > 1
        self._scores_singly = False
        self._numbers_of_users = dataset.field2token_id[dataset.uid_field]
        self._lock = Lock()

    def of_users(self, histories: Histories, users: Sequence[str]) -> Histories:
        """As `recbole_sid.serving.engine.ReadsUsers`."""
        found = (self._numbers_of_users.get(user, 0) for user in users)
        return HistoriesOfUsers.named(histories, np.fromiter(found, np.int64, len(users)))

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.rank`."""
        assert self._searches
        parts = []
        with self._lock, attributes_set(self.model, {"beam_size": max(self.beam_size, width)}):
            for part in _parts(histories):
                rows, items, scores = (found.cpu().numpy() for found in self._asked(self.model.retrieve, part))
                order = np.argsort(rows, kind="stable")  # they come in groups of alike length
                rows, items, scores = rows[order], items[order], scores[order]
                k = np.full(len(part.lengths), width)
                parts.append(ragged(rows, items, scores, k, len(k)))
        return np.concatenate([part.items for part in parts]), np.concatenate([part.scores for part in parts])

    def all_scores(self, histories: Histories) -> np.ndarray:
        """As `Engine.all_scores`."""
        every = {"full_sort_items": self.n_items} if isinstance(self.model, SIDRecommender) else {}
        with self._lock, attributes_set(self.model, every):
            found = [self._scored(part) for part in _parts(histories)]
        scores = np.concatenate(found).astype(np.float32, copy=False)
        scores[:, 0] = -np.inf
        return scores

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """As `Engine.scores`."""
        return self.all_scores(histories)[:, items]

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        """As `Engine.explain`; of models other than our generators a score that is taken for a log-probability."""
        explained = next((explain for kind, explain in _EXPLAINED if isinstance(self.model, kind)), None)
        if explained is not None:
            asked = partial(explained, self.model, items=torch.from_numpy(items))
            with self._lock:
                return self._asked(asked, histories)
        scores = self.scores(histories, items).diagonal()
        return [{"probability": float(np.exp(score)), "levels": [], "parts": {}} for score in scores]

    def _scored(self, histories: Histories) -> np.ndarray:
        """Return what the model itself says of all items, [B, n_items]."""
        if not self._scores_singly:
            try:
                return self._asked(self.model.full_sort_predict, histories).view(-1, self.n_items).cpu().numpy()
            except NotImplementedError:  # DIN, DIEN
                self._scores_singly = True
        rows = [histories.part(np.array([row])) for row in range(len(histories.lengths))]
        return np.stack([self._asked(self._score_singly, row).cpu().numpy() for row in rows])

    def _score_singly(self, interaction: Interaction) -> torch.Tensor:
        every = interaction.repeat_interleave(self.n_items)
        every.update(self.dataset.get_item_feature().to(self._device))
        return self.model.predict(every)

    @torch.no_grad()
    def _asked(self, ask: Callable[[Interaction], Found], histories: Histories) -> Found:
        """Return what `ask` says of histories, as RecBole's models read them: all of the same width."""
        items = np.zeros((len(histories.lengths), self.max_history), dtype=np.int64)
        items[:, : histories.items.shape[1]] = histories.items
        given = {self.dataset.item_id_list_field: items, self.dataset.item_list_length_field: histories.lengths}
        if self._asks_users:
            given[self.dataset.uid_field] = self._users_of(histories)
        interaction = Interaction({name: torch.from_numpy(values) for name, values in given.items()})
        try:
            return ask(interaction.to(self._device))
        except KeyError as error:
            if self._asks_users or error.args != (self.dataset.uid_field,):
                raise
        self._asks_users = True  # a model shows it by asking
        return self._asked(ask, histories)

    def _users_of(self, histories: Histories) -> np.ndarray:
        users = getattr(histories, "users", None)
        if users is None or not users.all():
            whom = "nobody is named" if users is None else "one of the users was not in its training"
            raise InputError(
                f"{self._name} asks who the user is, and {whom}: give histories of the users that it was trained with, "
                "and their ids as users=[...]; or take another model."
            )
        return users


def _parts(histories: Histories) -> Iterator[Histories]:
    for start in range(0, len(histories.lengths), _USERS):
        yield histories.part(np.arange(start, min(start + _USERS, len(histories.lengths))))
