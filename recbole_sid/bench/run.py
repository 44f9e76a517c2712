"""Runs the benchmark: every row in every setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from torch.utils.benchmark import Timer

from recbole_sid.bench.data import Workload
from recbole_sid.bench.options import BenchOptions
from recbole_sid.bench.rows import ROWS, Found, Unavailable
from recbole_sid.bench.synthetic_catalogue import branching
from recbole_sid.bench.timing import Samples, Task, measure, peak_megabytes, thread_count
from recbole_sid.decoding.trie import Trie
from recbole_sid.errors import InputError
from recbole_sid.util.machine import processor, versions
from recbole_sid.util.progress import progress

TEACHER, RECBOLE = "tiger-constrained", "sasrec"
_TOP = 10
_HISTORIES_IN_ALL = 128  # spread over as many batches as that makes, at most:
_MOST_BATCHES = 16


@dataclass(frozen=True)
class Setting:
    """What all rows of one table have in common."""

    batch: int
    threads: int
    histories: str

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s'[: self.threads > 1]}, {self.histories} histories"


@dataclass(frozen=True)
class Measured:
    """Results of a benchmark.

    Attributes:
        rows: one per row and setting, JSON types only.
        skipped: sentences that say which row is missing where, and why.
        facts: machine, versions and catalogue, JSON types only.
    """

    rows: list[dict[str, Any]]
    skipped: list[str]
    facts: dict[str, Any]


@torch.no_grad()
def run_bench(options: BenchOptions) -> Measured:
    """Measure.

    Raises:
        InputError: if a row that was asked for measures another model than the checkpoint's.
    """
    workload = _workload(options)
    skipped: list[str] = []
    tasks = _start(options, workload, skipped)
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        with thread_count(threads):
            for histories in options.histories:
                for batch in options.batches:
                    rows += _measure(Setting(batch, threads, histories), tasks, workload, options, skipped)
    return Measured(rows, skipped, _facts(options, workload))


def _workload(options: BenchOptions) -> Workload:
    if options.checkpoint:
        return Workload.of_checkpoint(options.checkpoint, options.beam_size, options.device, options.seed)
    return Workload.synthetic(options.items, options.beam_size, options.device, options.seed)


def _start(options: BenchOptions, workload: Workload, skipped: list[str]) -> dict[str, Task]:
    names = [name for name in options.rows if ROWS[name].kind in workload.kinds]
    if not names:
        fitting = [name for name, row in ROWS.items() if row.kind in workload.kinds]
        raise InputError(f"--rows names none that measures this checkpoint's model: {', '.join(fitting)} do.")
    tasks = {}
    for name in progress(names, "build models", show=True, unit="row"):
        try:
            tasks[name] = ROWS[name].start(workload, options.beam_size)
        except Unavailable as reason:
            skipped.append(f"{name} is left out: {reason}")
    if not tasks:
        raise InputError("No row can be measured: " + " ".join(skipped))
    return tasks


def _measure(
    setting: Setting, tasks: Mapping[str, Task], workload: Workload, options: BenchOptions, skipped: list[str]
) -> list[dict[str, Any]]:
    """Return the rows of one setting."""
    count = max(1, min(_MOST_BATCHES, _HISTORIES_IN_ALL // setting.batch))
    batches = workload.batches(setting.histories, setting.batch, count)
    fitting = {}
    for name, task in tasks.items():
        needed, free = ROWS[name].needs(workload, batches[0], options.beam_size), _free_bytes(workload.device)
        if needed > free:
            skipped.append(
                f"{name} is left out at {setting}: it takes {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free."
            )
        else:
            fitting[name] = task
    samples = measure(
        fitting, batches, workload.device, options.rounds, options.seconds, str(setting), seed=options.seed
    )
    compared = {name for name in fitting if ROWS[name].reference} | {ROWS[name].reference for name in fitting}
    found = {name: task.whole(batches[0]) for name, task in fitting.items() if name in compared}
    rows = []
    for name in progress(list(fitting), f"{setting}: memory", show=True, unit="row"):
        row = _row(name, setting, workload, samples)
        row["same_top10"] = same_items(found.get(name), found.get(ROWS[name].reference), setting.batch)
        row["peak_mb"] = round(peak_megabytes(partial(fitting[name].whole, batches[0]), workload.device), 1)
        rows.append(row)
    return rows


def _row(name: str, setting: Setting, workload: Workload, samples: Mapping[str, Samples]) -> dict[str, Any]:
    own = samples[name]
    low, ms, high = own.spread()
    stages = own.stage_medians()
    if stages.keys() == {"encode"}:
        stages["decode"] = ms - stages["encode"]
    return {
        "name": name,
        "batch": setting.batch,
        "threads": setting.threads,
        "histories": setting.histories,
        "device": workload.device.type,
        "ms": ms,
        "ms_low": low,
        "ms_high": high,
        "ms_p99": own.late(),
        "users_per_s": 1e3 * setting.batch / ms,
        "ratio_to_teacher": own.ratio_to(samples[TEACHER]) if TEACHER in samples else None,
        "ratio_to_sasrec": own.ratio_to(samples[RECBOLE]) if RECBOLE in samples else None,
        "ratio_to_plain": own.ratio_to(samples[plain]) if (plain := ROWS[name].reference) in samples else None,
        "peak_mb": None,
        "encode_ms": stages.get("encode"),
        "readout_ms": stages.get("readout"),
        "decode_ms": stages.get("decode"),
        "same_top10": None,
        "rounds": len(own.quiet()),
        "disturbed": len(own.disturbed),
    }


def same_items(found: Found | None, reference: Found | None, n_users: int, k: int = _TOP) -> float | None:
    """Return the share of the reference's first k items a user that are among the first k found; None without both."""
    if found is None or reference is None:
        return None
    ours, theirs = _first_items(found, n_users, k), _first_items(reference, n_users, k)
    return sum(len(a & b) for a, b in zip(ours, theirs, strict=True)) / max(1, sum(map(len, theirs)))


def _first_items(found: Found, n_users: int, k: int) -> list[set[int]]:
    lists: list[list[int]] = [[] for _ in range(n_users)]
    for row, item in zip(found[0].tolist(), found[1].tolist(), strict=True):
        lists[row].append(item)
    return [set(items[:k]) for items in lists]


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available


def _facts(options: BenchOptions, workload: Workload) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "processor": processor(options.device),
        "versions": versions(),
        "beam_size": options.beam_size,
        "checkpoint": options.checkpoint,
        "items": workload.n_items,
    }
    if workload.semantic_ids is not None:
        semantic_ids = workload.semantic_ids
        build = partial(Trie, semantic_ids.codes, semantic_ids.codebook_sizes)
        facts["codebook_sizes"] = list(semantic_ids.codebook_sizes)
        facts["branching"] = branching(build())
        facts["trie_ms"] = 1e3 * Timer("build()", globals={"build": build}).blocked_autorange().median
        facts["trie_bytes"] = build().n_bytes
    return facts
