"""What ``recbole-sid bench`` can be told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from recbole_sid.bench.data import HISTORIES
from recbole_sid.bench.rows import ROWS
from recbole_sid.errors import InputError, nearest

# What --quick stands for: every value can still be given beside it.
_QUICK: Mapping[str, Any] = {
    "batches": [32],
    "threads": [1],
    "histories": ["natural"],
    "rows": [name for name in ROWS if name != "transformers"],
    "seconds": 25,
}


@dataclass(frozen=True)
class BenchOptions:
    """Settings of one benchmark.

    Attributes:
        batches: users a batch.
        threads: of torch, and so of the compiled loops.
        histories: ``natural`` or ``full``.
        items: of the synthetic catalogue.
        rows: names in `recbole_sid.bench.rows.ROWS`.
        beam_size: prefixes kept, and items returned.
        rounds: of each setting, at most.
        seconds: for the rounds of each setting.
        device: where everything runs.
        seed: of codes, weights, histories and order.
        checkpoint: file of a trained model to measure in place of random ones, or None.
    """

    batches: tuple[int, ...]
    threads: tuple[int, ...]
    histories: tuple[str, ...]
    items: int
    rows: tuple[str, ...]
    beam_size: int
    rounds: int
    seconds: float
    device: torch.device
    seed: int
    checkpoint: str | None


def bench_options(given: Mapping[str, Any]) -> BenchOptions:
    """Check what the command line gave and add defaults; `quick` changes some.

    Raises:
        InputError: for an unknown option, row or kind of history, or an impossible value.
    """
    known = [*(option.name for option in fields(BenchOptions)), "quick"]
    for key in given:
        if key not in known:
            raise InputError(f"bench has no option --{key}{nearest(key, known)}; it takes --{', --'.join(known)}.")
    quick = given.get("quick", False)
    if not isinstance(quick, bool):
        raise InputError(f"--quick={quick} is not possible: write --quick, or --quick=False.")
    settings = {**(_QUICK if quick else {}), **given}
    rows = _choices("rows", settings.get("rows", list(ROWS)), ROWS)
    return BenchOptions(
        batches=_counts("batches", settings.get("batches", [1, 32, 256])),
        threads=_threads(settings.get("threads", [1, "all"])),
        histories=_choices("histories", settings.get("histories", list(HISTORIES)), HISTORIES),
        items=_count("items", settings.get("items", 25_000)),
        rows=rows,
        beam_size=_count("beam_size", settings.get("beam_size", 50)),
        rounds=_count("rounds", settings.get("rounds", 40)),
        seconds=_count("seconds", settings.get("seconds", 60)),
        device=_device(settings.get("device", "auto")),
        seed=_whole("seed", settings.get("seed", 2020), least=0),
        checkpoint=settings.get("checkpoint"),
    )


def _whole(key: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"--{key}={value} must be a whole number of at least {least}.")
    return value


def _count(key: str, value: Any) -> int:
    return _whole(key, value, least=1)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _unique(key: str, values: list[Any]) -> tuple[Any, ...]:
    if not values:
        raise InputError(f"--{key} is empty: name at least one, or leave it out.")
    return tuple(dict.fromkeys(values))


def _counts(key: str, value: Any) -> tuple[int, ...]:
    return _unique(key, [_count(key, number) for number in _list(value)])


def _threads(value: Any) -> tuple[int, ...]:
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _unique("threads", [every if number == "all" else _count("threads", number) for number in _list(value)])


def _choices(key: str, value: Any, known: Any) -> tuple[str, ...]:
    names = [str(name) for name in _list(value)]
    for name in names:
        if name not in known:
            raise InputError(f"--{key} knows no '{name}'{nearest(name, known)}; known: {', '.join(known)}.")
    return _unique(key, names)


def _device(value: Any) -> torch.device:
    name = str(value)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device={value} must be auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device=cuda needs a GPU that this torch can use: none is found; use --device=cpu.")
    return torch.device(name)
