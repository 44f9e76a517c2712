"""A split ranked once: its metrics, what each user was answered, and how fast."""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple

import pandas as pd

from recbole_sid.distributed.group import current_group
from recbole_sid.evaluation.per_user import LIST_SIZE, AnswersOfUsers, require_full_ranking
from recbole_sid.util.attributes import attributes_set


class RankedSplit(NamedTuple):
    """What one ranking of a split found.

    Attributes:
        metrics: name -> value, of RecBole's evaluator.
        users_per_s: of scores, ranking and metrics; what the lists per user take is left out (on a GPU, which is
            not waited for, choosing them is in it).
        per_user: as `recbole_sid.evaluation.per_user.per_user_results`.
    """

    metrics: dict[str, float]
    users_per_s: float
    per_user: pd.DataFrame


def rank_split(trainer: Any, data: Any, size: int = LIST_SIZE, show_progress: bool = False) -> RankedSplit:
    """Rank a full-ranking split once, by the best weights of `trainer`.

    Before it the first batch is ranked once more, so that what a model compiles or prepares when it is first asked is
    not in its speed.

    Args:
        trainer: ours or RecBole's, after its training.
        data: loader of the validation or test split.
        size: length of the lists that are kept.
        show_progress: a bar over batches.

    Raises:
        InputError: if the split is not ranked in full.
    """
    require_full_ranking(data)
    watch = _Watch(trainer, AnswersOfUsers(trainer, data, size))
    with attributes_set(trainer, {"_full_sort_batch_eval": watch.rank}):
        result = trainer.evaluate(data, load_best_model=True, show_progress=show_progress)
    seconds = perf_counter() - watch.began - watch.aside_s
    metrics = {name: float(value) for name, value in result.items()}
    return RankedSplit(metrics, data.sample_size / seconds, watch.answers.frame(current_group()))


class _Watch:
    """Stands for a trainer's ranking of a batch, keeps what it answered, and takes the time.

    Attributes:
        began: when the first batch was asked for; -1 before.
        aside_s: seconds since then that are not the model's ranking.
    """

    def __init__(self, trainer: Any, answers: AnswersOfUsers) -> None:
        self.trainer, self.answers = trainer, answers
        self.original = trainer._full_sort_batch_eval
        self.began, self.aside_s = -1.0, 0.0

    def rank(self, batch: Any) -> Any:
        """Return what the trainer's own method does."""
        if self.began < 0:
            self.original(batch)
            self.began = perf_counter()
        found = self.original(batch)
        ranked = perf_counter()
        self.answers.add(*found)
        self.aside_s += perf_counter() - ranked
        return found
