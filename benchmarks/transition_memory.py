"""Time and memory of a memory of transitions: ``python benchmarks/transition_memory.py --interactions=10000000``.

Sequences as of `synthetic_sequences`. Counted as `TransitionMemory` counts, then asked for the best 50 items of
histories.
Memory is the peak of the process above what it held once the sequences were made.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from time import perf_counter

import numpy as np
import torch

from recbole_sid.bench.synthetic_catalogue import synthetic_sequences
from recbole_sid.memory import BaseMeasure, Memory, Numbers, best

_ROUNDS = 20


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--hops", type=int, default=3)
    parser.add_argument("--hop_decay", type=float, default=0.3)
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=2020)
    options = parser.parse_args()
    torch.set_num_threads(1)

    items, offsets = synthetic_sequences(options.interactions, options.items, options.seed)
    before = peak_mb()
    numbers = Numbers(options.hops, options.hop_decay, options.window)
    memory, base = Memory(options.items + 1), BaseMeasure(options.items + 1)
    started = perf_counter()
    memory.learn(items, offsets, numbers)
    base.learn(torch.from_numpy(np.bincount(items, minlength=options.items + 1)))
    counted = perf_counter() - started
    fitted = peak_mb()
    recent = last_items(items, offsets, options.window)
    rng = np.random.default_rng(options.seed)
    recalled, ranked, candidates = [], [], 0
    for _ in range(_ROUNDS):
        asked = torch.from_numpy(recent[rng.integers(len(recent), size=options.batch)])
        started = perf_counter()
        recall = memory.recall(asked)
        recalled.append(perf_counter() - started)
        best(recall, base, 50)
        ranked.append(perf_counter() - started)
        candidates += len(recall.items)
    per_user = 1e6 / options.batch
    result = {
        **vars(options),
        "entries": len(memory.counts),
        "table_mb": round(sum(part.nbytes for part in (memory.starts, memory.successors, memory.counts)) / 1e6),
        "count_s": round(counted, 1),
        "peak_mb_above_sequences": round(fitted - before),
        "peak_mb": round(fitted),
        "candidates_a_user": round(candidates / _ROUNDS / options.batch),
        "recall_us_a_user": round(float(np.median(recalled)) * per_user, 1),
        "best_50_us_a_user": round(float(np.median(ranked)) * per_user, 1),
    }
    print(json.dumps(result, indent=2))


def last_items(items: np.ndarray, offsets: np.ndarray, window: int) -> np.ndarray:
    """Return the last items of each sequence, the most recent first: int64 [n_sequences, window], 0 beyond."""
    place = offsets[1:, None] - 1 - np.arange(window)
    return np.where(place >= offsets[:-1, None], items[np.maximum(place, 0)], 0).astype(np.int64)


def peak_mb() -> float:
    """Return the largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
