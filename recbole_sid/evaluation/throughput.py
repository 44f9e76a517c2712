"""How fast a trained model evaluates."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any


def users_per_second(trainer: Any, data: Any, repeats: int = 3) -> float:
    """Return users a second of full evaluation (scores, ranking, metrics), the median of `repeats` runs."""
    seconds = []
    for _ in range(repeats):
        started = perf_counter()
        trainer.evaluate(data, load_best_model=False, show_progress=False)
        seconds.append(perf_counter() - started)
    return data.sample_size / median(seconds)
