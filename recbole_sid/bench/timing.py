"""Interleaved timing: in every round each task runs once, in random order, so that noise hits all alike.

Torch's benchmark gives the clock. Its `Timer` measures one statement until that is stable, so that two of them are
minutes apart, in which a shared processor changes more than most forms gain; ratios of rounds are what it cannot give.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import psutil
import torch
from torch.utils.benchmark import timer

from recbole_sid.util import hardware
from recbole_sid.util.progress import progress

# A slow task leaves after this many rounds once it has had its share of the time; after one if that took all of it.
MIN_ROUNDS = 3
_WARM_UP_CALLS = 2
_SLOW_S = 2.0  # a first call that takes longer is warm-up enough
# A sample counts only if a fixed product right before and after it took at most this multiple of its usual time.
_DISTURBED = 1.25
_PROBE_SIZE = 384

Stages = Mapping[str, Callable[[Any], Any]]


@dataclass(frozen=True)
class Task:
    """Something to time on batches.

    Attributes:
        whole: a batch to its result.
        stages: name -> function; the first takes the batch, each other what the one before it returned. Together they
            do what `whole` does, or its beginning.
    """

    whole: Callable[[Any], Any]
    stages: Stages


@dataclass
class Samples:
    """Milliseconds of one task.

    Attributes:
        whole: round -> milliseconds of `Task.whole`.
        stages: stage -> milliseconds per round.
        disturbed: rounds in which something else took the processor.
    """

    whole: dict[int, float] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    disturbed: set[int] = field(default_factory=set)

    def quiet(self) -> dict[int, float]:
        """Return the undisturbed rounds; all of them if fewer than half are."""
        kept = {number: ms for number, ms in self.whole.items() if number not in self.disturbed}
        return kept if 2 * len(kept) >= len(self.whole) else self.whole

    def spread(self) -> tuple[float, float, float]:
        """Return lower quartile, median and upper quartile."""
        values = list(self.quiet().values())
        low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return low, middle, high

    def late(self) -> float:
        """Return the 99th percentile: of fewer than a hundred rounds nearly the slowest."""
        values = list(self.quiet().values())
        return quantiles(values, n=100, method="inclusive")[-1] if len(values) > 1 else values[0]

    def stage_medians(self) -> dict[str, float]:
        """Return the median of each stage."""
        return {name: median(values) for name, values in self.stages.items()}

    def ratio_to(self, other: Samples) -> float:
        """Return how many times as long as `other` it takes: the median of the ratios over the rounds they share."""
        own, others = self.quiet(), other.quiet()
        shared = own.keys() & others.keys()
        if not shared:
            return median(own.values()) / median(others.values())
        return median(own[number] / others[number] for number in shared)


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    """Return the milliseconds that the call took until its work was done, on a GPU too, and its result."""
    started = timer()
    result = function(argument)
    return 1e3 * (timer() - started), result


class Probe:
    """A fixed matrix product that tells whether the processor is being taken away.

    Args:
        device: where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.watches = hardware.on_cpu(device)
        self.matrix = torch.ones(_PROBE_SIZE, _PROBE_SIZE)
        self.usual = median(self._ms() for _ in range(20))

    def is_slow(self) -> bool:
        """Run the product; return whether it took longer than usual. Where the CPU only waits, nothing is run."""
        return self.watches and self._ms() > _DISTURBED * self.usual

    def _ms(self) -> float:
        return timed(self.matrix.matmul, self.matrix)[0]


def measure(
    tasks: Mapping[str, Task],
    batches: Sequence[Any],
    device: torch.device,
    rounds: int,
    seconds: float,
    label: str,
    seed: int,
) -> dict[str, Samples]:
    """Time all tasks round by round; in one round all see the same batch.

    Args:
        batches: taken in turn.
        rounds: at most.
        seconds: time for all rounds together; split evenly, and a task that has used up its share after three rounds,
            or all of it after one, leaves, so that slow ones do not keep the others from their rounds.
        label: for the progress bar.
        seed: of the order within rounds.
    """
    for task in progress(list(tasks.values()), f"{label}: warm-up", show=True, unit="row"):
        warm_up(task, batches[0])
    probe = Probe(device)
    samples = {name: Samples() for name in tasks}
    used = dict.fromkeys(tasks, 0.0)
    order, shuffle = list(tasks), random.Random(seed)
    for number in progress(range(rounds), label, show=True, unit="round"):
        shuffle.shuffle(order)
        least = {name: MIN_ROUNDS if used[name] < seconds else 1 for name in tasks}
        running = [name for name in order if number < least[name] or used[name] < seconds / len(tasks)]
        if not running:
            break
        for name in running:
            used[name] += sample(tasks[name], batches[number % len(batches)], number, samples[name], probe)
    return samples


def warm_up(task: Task, batch: Any) -> None:
    """Run a task until compiling and first-use set-up are over."""
    for _ in range(_WARM_UP_CALLS):
        if timed(task.whole, batch)[0] > 1e3 * _SLOW_S:
            break
    value = batch
    for stage in task.stages.values():
        value = stage(value)


def sample(task: Task, batch: Any, number: int, into: Samples, probe: Probe) -> float:
    """Time `task` once as a whole and once by stages, as round `number`; return the seconds spent."""
    started = timer()
    before = probe.is_slow()
    into.whole[number] = timed(task.whole, batch)[0]
    if before or probe.is_slow():
        into.disturbed.add(number)
    value = batch
    for name, stage in task.stages.items():
        ms, value = timed(stage, value)
        into.stages.setdefault(name, []).append(ms)
    return timer() - started


def peak_megabytes(call: Callable[[], Any], device: torch.device) -> float:
    """Return by how many MB (10^6 bytes) the memory of a warm process, or of the device, grows at most in a call.

    Freed memory that the allocator has kept is given back first, so that it does not hide what the call needs.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    gc.collect()
    hardware.release_free_memory()
    before = psutil.Process().memory_info().rss
    peak = _peak_of_process(call)
    return max(0, peak - before) / 1e6


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Let torch, and our compiled loops with it, use `threads` threads."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def _peak_of_process(call: Callable[[], Any]) -> int:
    """Return the highest resident memory in bytes while `call` runs: as Linux records it, else as a thread sees it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
            stream.write("5")  # the record starts anew (man 5 proc)
    except OSError:
        return _peak_seen_by_thread(call)
    call()
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM")) * 1024


def _peak_seen_by_thread(call: Callable[[], Any]) -> int:
    from threading import Event, Thread

    process, done = psutil.Process(), Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(5e-4):
            seen.append(process.memory_info().rss)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(seen)
