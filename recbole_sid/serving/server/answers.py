"""Requests as calls of a recommender: those that can be are answered by one call, and each as if it were alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recbole_sid.serving.server.metrics import Metrics
from recbole_sid.serving.server.requests import ExplainBody, RecommendBody

if TYPE_CHECKING:
    from recbole_sid.serving.server.models import Loaded


class Recommend(NamedTuple):
    """A request for lists."""

    body: RecommendBody

    @property
    def rows(self) -> Sequence[Any]:
        """Its histories, or its users."""
        return self.body.users if self.body.histories is None else self.body.histories  # type: ignore[return-value]

    @property
    def weight(self) -> int:
        """How many histories are ranked for it."""
        return len(self.rows)

    @property
    def excluded(self) -> list[Any]:
        """For each list what to leave out: ``seen``, or item ids; these once where they are for all."""
        given = self.body.exclude
        if self._shares_excluded or (given and isinstance(given[0], list)):
            return given  # type: ignore[return-value]
        return [given] * self.weight

    @property
    def is_alone(self) -> bool:
        """Whether it is a call by itself: it allows items, or one list is left out for all of its histories."""
        return self.body.items is not None or self._shares_excluded

    @property
    def _shares_excluded(self) -> bool:
        given = self.body.exclude
        return self.weight > 1 and isinstance(given, list) and not any(isinstance(part, list) for part in given[:1])


class Explain(NamedTuple):
    """A request for explanations."""

    body: ExplainBody

    @property
    def weight(self) -> int:
        """How many pairs of a history and an item are explained."""
        return len(self.body.items)


class Search(NamedTuple):
    """A request for items by words of their titles."""

    words: str
    limit: int
    weight: int = 1


Job = Recommend | Explain | Search


def answer_all(name: str, loaded: Loaded, jobs: Sequence[Job], metrics: Metrics) -> list[Any]:
    """Return for each job what the server answers, or what it raised.

    Args:
        name: of the model.
        loaded: the bundle that answers all of them.
        jobs: of one batch.
        metrics: counts lists.
    """
    results: list[Any] = [None] * len(jobs)
    together: dict[tuple[bool, int | None], list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        if isinstance(job, Recommend):
            alone = place if job.is_alone else None
            together[job.body.histories is None, alone].append(place)
        else:
            results[place] = _tried(_explained if isinstance(job, Explain) else _found, loaded, job)
    for places in together.values():
        group: list[Recommend] = [jobs[place] for place in places]  # type: ignore[misc]
        found = _tried(_recommended, loaded, group)
        if isinstance(found, Exception):  # of one request, perhaps: the others do not suffer from it
            found = [_tried(_recommended, loaded, [job]) for job in group]
            found = [part if isinstance(part, Exception) else part[0] for part in found]
        for place, answer in zip(places, found, strict=True):
            results[place] = answer
    for job, found in zip(jobs, results, strict=True):
        if isinstance(job, Recommend) and isinstance(found, dict):
            for row in found["lists"]:
                metrics.lists.labels(name, row["how"], row["search"]).inc()
    return [
        result if isinstance(result, Exception) else {"model": name, "version": loaded.version, **result}
        for result in results
    ]


def _tried(act: Any, loaded: Loaded, *arguments: Any) -> Any:
    try:
        return act(loaded, *arguments)
    except Exception as error:  # it is raised where the request waits
        return error


def _recommended(loaded: Loaded, group: Sequence[Recommend]) -> list[dict[str, Any]]:
    """Answer requests by one call: all of histories or all of users; one that is to be alone, alone."""
    weights = [job.weight for job in group]
    first = group[0].body
    ask = loaded.recommender.recommend if first.histories is not None else loaded.recommender.recommend_users
    all_seen = all(job.body.exclude == "seen" for job in group)
    found = ask(
        list(chain.from_iterable(job.rows for job in group)),
        k=np.repeat([job.body.k for job in group], weights),
        exclude="seen" if all_seen else list(chain.from_iterable(job.excluded for job in group)),
        items=first.items,
    )
    rows = [{name: row[name] for name in ("items", "scores", "how", "search", "unknown")} for row in found.to_dicts()]
    answers, end = [], 0
    for job, weight in zip(group, weights, strict=True):
        part, end = rows[end : end + weight], end + weight
        if job.body.titles:
            for row in part:
                row["titles"] = loaded.titles.of(loaded.recommender.catalogue.numbers(row["items"]))
        answers.append({"lists": part})
    return answers


def _explained(loaded: Loaded, job: Explain) -> dict[str, Any]:
    numbers = loaded.recommender.catalogue.numbers(job.body.items)
    titles = loaded.titles.of(numbers)
    found = [loaded.recommender.explain(job.body.history, item) for item in job.body.items]
    return {
        "explanations": [
            {**explanation.to_dict(), "title": title} for explanation, title in zip(found, titles, strict=True)
        ]
    }


def _found(loaded: Loaded, job: Search) -> dict[str, Any]:
    numbers = loaded.titles.search(job.words, job.limit)
    tokens = loaded.recommender.catalogue.tokens(numbers)
    titles = loaded.titles.of(numbers)
    return {"items": [{"item": item, "title": title} for item, title in zip(tokens, titles, strict=True)]}
