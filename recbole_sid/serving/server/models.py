"""The models that a server answers with: read from the directories named at its start, and from no others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError, nearest
from recbole_sid.serving.bundle import MANIFEST, Bundle
from recbole_sid.serving.recommender import Recommender
from recbole_sid.serving.server.answers import answer_all
from recbole_sid.serving.server.batching import Batcher
from recbole_sid.serving.server.errors import Refused
from recbole_sid.serving.server.limits import Limits
from recbole_sid.serving.server.metrics import Metrics
from recbole_sid.serving.server.titles import Titles

# Of a manifest, by `/models`.
_SHOWN = ("model", "sizes", "metrics", "protocol", "created", "fingerprints")
_LOG = logging.getLogger("recbole_sid.serving")


@dataclass(frozen=True)
class Loaded:
    """A bundle as it was read at one time.

    Attributes:
        recommender: of the bundle.
        version: tells bundles apart.
        about: what the manifest says that is shown.
    """

    recommender: Recommender
    version: str
    about: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Loaded:
        """Read a bundle, and ask it once, so that nobody waits for what happens at a first request.

        Raises:
            InputError: if it is none, or is damaged.
        """
        bundle = Bundle.load(path)
        recommender = Recommender.of_bundle(bundle)
        catalogue, manifest = recommender.catalogue, bundle.manifest
        known = catalogue.tokens(catalogue.popular[:2])
        recommender.recommend([known], k=1)
        with suppress(NotImplementedError):  # an engine may not know how to explain
            recommender.explain(known, known[0])
        about = {name: manifest[name] for name in _SHOWN}  # type: ignore[literal-required]
        about |= {"version": bundle.identity, "items": catalogue.n_items - 1, "titles": bool(catalogue.fields)}
        return cls(recommender, bundle.identity, about)

    @cached_property
    def titles(self) -> Titles:
        """Of its items."""
        return Titles(self.recommender.catalogue)


class Served:
    """A model by its name: the bundle in use, the one before, and what batches the requests for it.

    Attributes:
        name: in requests.
        current: the bundle in use. A batch that is being ranked finishes with the one it began with.
        batcher: of its requests.
        searches: of those for items by title, which would keep the others waiting.
    """

    def __init__(self, name: str, path: Path, limits: Limits, metrics: Metrics) -> None:
        self.name, self._path, self._metrics = name, path, metrics
        self._stamp = self._stamped()
        self.current = Loaded.read(path)
        self._before: Loaded | None = None
        self._changing = asyncio.Lock()
        self.batcher = Batcher(self._answers, limits.max_batch, limits.batch_wait, limits.max_waiting, limits.timeout)
        self.searches = Batcher(self._searched, 1, 0, limits.max_waiting, limits.timeout)
        self._sizes = metrics.batch_sizes.labels(name)
        metrics.waiting.labels(name).set_function(lambda: self.batcher.waiting)
        metrics.use(name, self.current.version)

    def _answers(self, jobs: Any) -> list[Any]:
        loaded = self.current
        self._sizes.observe(sum(job.weight for job in jobs))
        return answer_all(self.name, loaded, jobs, self._metrics)

    def _searched(self, jobs: Any) -> list[Any]:
        return answer_all(self.name, self.current, jobs, self._metrics)

    async def reload(self) -> tuple[Loaded, Loaded]:
        """Read the directory again and use what it holds now; return that, and what was in use.

        Raises:
            Refused: 409 if it cannot be read: the bundle in use stays.
        """
        async with self._changing:
            try:
                self._stamp = self._stamped()
                loaded = await asyncio.to_thread(Loaded.read, self._path)
            except (InputError, OSError) as error:
                self._metrics.reloads.labels(self.name, "failed").inc()
                raise Refused(409, f"The bundle of '{self.name}' in use stays: {error}") from error
            before = self.current
            if loaded.version != before.version:
                self._use(loaded, "loaded")
            return self.current, before

    async def roll_back(self) -> tuple[Loaded, Loaded]:
        """Use the bundle before again; return it, and what was in use. Another roll-back is the way forward again.

        Raises:
            Refused: 409 if there is none.
        """
        async with self._changing:
            before = self.current
            if self._before is None:
                raise Refused(409, f"There is no bundle before this one of '{self.name}' since the server started.")
            self._use(self._before, "rolled back")
            return self.current, before

    async def reload_if_changed(self) -> None:
        """Read the directory again if another bundle lies there than the last that was looked at."""
        if self._stamped() == self._stamp:
            return
        try:
            loaded, _ = await self.reload()
        except Refused as error:
            _LOG.warning("%s", error.sentence)
        else:
            _LOG.warning("'%s' has version %s now.", self.name, loaded.version)

    def _use(self, loaded: Loaded, outcome: str) -> None:
        self._before, self.current = self.current, loaded
        self._metrics.reloads.labels(self.name, outcome).inc()
        self._metrics.use(self.name, loaded.version, self._before.version)

    def _stamped(self) -> tuple[int, ...] | None:
        """Return what changes when another bundle takes the place of this one."""
        try:
            found = (self._path / MANIFEST).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


class Models:
    """All models of a server.

    Args:
        paths: name -> directory, the default first.
        limits: of requests.
        metrics: to count in.

    Raises:
        InputError: if a bundle cannot be read.
    """

    def __init__(self, paths: Mapping[str, Path], limits: Limits, metrics: Metrics) -> None:
        self.served = {name: Served(name, path, limits, metrics) for name, path in paths.items()}
        self._watcher: asyncio.Task[None] | None = None
        self.is_closing = False

    def named(self, name: str | None) -> Served:
        """Return the model of that name, the first without one.

        Raises:
            Refused: 404 if there is none.
        """
        if name is None:
            return next(iter(self.served.values()))
        if name not in self.served:
            known = ", ".join(self.served)
            raise Refused(404, f"There is no model '{name[:80]}'{nearest(name[:80], self.served)}; there are: {known}.")
        return self.served[name]

    def watch(self, seconds: float) -> None:
        """Look for other bundles in the directories from now on."""
        self._watcher = asyncio.get_running_loop().create_task(_every(seconds, self._look))

    async def _look(self) -> None:
        for served in self.served.values():
            await served.reload_if_changed()

    async def close(self) -> None:
        """Finish what was taken."""
        self.is_closing = True
        if self._watcher is not None:
            self._watcher.cancel()
        for served in self.served.values():
            await served.batcher.close()
            await served.searches.close()


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await act()
        except Exception:  # the watch goes on whatever happens to one look
            _LOG.exception("Looking for a new bundle failed.")
