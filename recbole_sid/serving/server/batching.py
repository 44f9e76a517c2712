"""Requests that arrive at the same time are ranked together: one batch at a time, in a thread of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from recbole_sid.serving.server.errors import Refused


class _Waiting(NamedTuple):
    job: Any
    weight: int
    future: asyncio.Future[Any]
    timer: asyncio.TimerHandle


class Batcher:
    """Gathers jobs of an event loop into batches.

    Args:
        run: answers a batch of jobs, in another thread: one result or exception for each.
        max_batch: weight of a batch; a job that alone weighs more is a batch by itself.
        wait: milliseconds that the first job waits for others while the thread is idle.
        max_waiting: weight of all jobs that may wait.
        timeout: seconds after which a job is given up.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        max_batch: int,
        wait: float = 0.0,
        max_waiting: int = 2048,
        timeout: float = 10.0,
    ) -> None:
        self._run = run
        self._max_batch, self._wait, self._max_waiting, self._timeout = max_batch, wait / 1000, max_waiting, timeout
        self._jobs: deque[_Waiting] = deque()
        self._weight = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ranking")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """Weight of the jobs that wait."""
        return self._weight

    async def submit(self, job: Any, weight: int = 1) -> Any:
        """Return the result of `job`, ranked with others.

        Raises:
            Refused: 503 if too many wait or the server stops, 504 if it takes too long; or what the job raised.
        """
        if self._closing:
            raise Refused(503, "The server is stopping: ask another, or again in a moment.")
        if self._weight and self._weight + weight > self._max_waiting:
            raise Refused(503, "Too many requests are waiting: ask again in a moment.", {"retry-after": "1"})
        loop = asyncio.get_running_loop()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        future = loop.create_future()
        self._jobs.append(_Waiting(job, weight, future, loop.call_later(self._timeout, self._expire, future)))
        self._weight += weight
        self._arrived.set()
        return await future

    async def close(self) -> None:
        """Finish what was taken, take nothing more."""
        self._closing = True
        self._arrived.set()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    def _expire(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            future.set_exception(Refused(504, f"There was no answer within {self._timeout:g} seconds: ask for less."))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        is_idle = True
        while True:
            if not self._jobs:
                if self._closing:
                    return
                is_idle = True
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if is_idle and self._wait:
                await self._fill()
            is_idle = False
            batch = self._take()
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._run, [waiting.job for waiting in batch])
            except Exception as error:  # whatever it is, the server goes on, and each who waits hears of it
                results = [error] * len(batch)
            for waiting, result in zip(batch, results, strict=True):
                _deliver(waiting, result)

    async def _fill(self) -> None:
        """Wait until a batch is full, `wait` at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait
        while self._weight < self._max_batch and not self._closing:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - loop.time())
            except asyncio.TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        """Take the jobs of the next batch, oldest first, without those that nobody waits for any more."""
        batch: list[_Waiting] = []
        weight = 0
        while self._jobs and (not batch or weight + self._jobs[0].weight <= self._max_batch):
            waiting = self._jobs.popleft()
            self._weight -= waiting.weight
            if not waiting.future.done():
                batch.append(waiting)
                weight += waiting.weight
        return batch


def _deliver(waiting: _Waiting, result: Any) -> None:
    waiting.timer.cancel()
    if waiting.future.done():  # given up meanwhile
        return
    if isinstance(result, BaseException):
        waiting.future.set_exception(result)
    else:
        waiting.future.set_result(result)
