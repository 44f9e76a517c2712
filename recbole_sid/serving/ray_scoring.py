"""Parts of `scoring` spread by Ray Data over a cluster, or this machine; Ray is imported when it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from logging import ERROR, getLogger
from typing import Any

from recbole_sid.errors import InputError, first_line
from recbole_sid.serving.answering import Count
from recbole_sid.serving.scoring import FolderJob, Part, PartScorer, Spread

_FAULT = "fault"  # in a row that Ray Data gives back, beside the fields of `Count`


def on_ray(n_actors: int) -> Spread:
    """Return what scores parts on the Ray that runs, by up to so many actors of Ray Data; one that dies is replaced.

    What Ray Data moves are names of parts. Written by its `write_parquet`, lists would be named by blocks, and a run
    that was killed would begin anew.
    """

    def spread(job: FolderJob, parts: Sequence[Part]) -> Iterator[Count]:
        import ray

        getLogger("ray.data._internal").setLevel(ERROR)  # its plan, its progress
        ray.data.DataContext.get_current().enable_progress_bars = False
        names = ray.data.from_items([{"part": part.name} for part in parts], override_num_blocks=len(parts))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=min(n_actors, len(parts)))
        counts = names.map_batches(_RayScorer, fn_constructor_args=(job,), batch_size=1, compute=pool, num_cpus=1)
        try:
            for row in counts.iter_rows():
                if row[_FAULT]:
                    raise InputError(row[_FAULT])
                yield Count(*(row[field] for field in Count._fields))
        except ray.exceptions.RayError as error:
            raise InputError(
                f"Ray stopped ({first_line(error)}): run the same command again, it goes on where this one stopped."
            ) from error

    return spread


class _RayScorer:
    """What an actor of Ray Data does with a batch of one part. What the user can mend comes back as a text."""

    def __init__(self, job: FolderJob) -> None:
        self._job = job
        self._scorer: PartScorer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        found = [self._one(str(name)) for name in batch["part"]]
        counts = {field: [getattr(count, field) for count, _ in found] for field in Count._fields}
        return {**counts, _FAULT: [fault for _, fault in found]}

    def _one(self, name: str) -> tuple[Count, str]:
        try:
            self._scorer = self._scorer or PartScorer(self._job)
            return self._scorer(name), ""
        except InputError as error:
            return Count(), str(error)
