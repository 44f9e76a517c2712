"""Paired, two-sided tests over users against a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

TESTS = ("t_test", "wilcoxon")
_RESAMPLES, _RESAMPLED_AT_ONCE = 10_000, 4_000_000


def paired_tests(
    values: Mapping[str, np.ndarray], baseline: str, resamples: int = _RESAMPLES, seed: int = 0
) -> list[dict[str, Any]]:
    """Compare every model with `baseline` over the same users.

    Args:
        values: model -> metric of each user, float [n], users in one order for all.
        baseline: one of the models.
        resamples: of the bootstrap over users.
        seed: of the bootstrap.

    Returns:
        a row for each other model: model, baseline, difference (mean of model minus baseline), ci_low and ci_high (95%
        percentile interval of the paired bootstrap), t_test and wilcoxon (two-sided p-values), t_test_holm and
        wilcoxon_holm (adjusted over the models: Holm 1979).
    """
    rows = []
    for model in values:
        if model == baseline:
            continue
        difference = np.asarray(values[model], dtype=np.float64) - np.asarray(values[baseline], dtype=np.float64)
        low, high = bootstrap_interval(difference, resamples, seed)
        rows.append(
            {
                "model": model,
                "baseline": baseline,
                "difference": float(difference.mean()),
                "ci_low": low,
                "ci_high": high,
                "t_test": _t_test(difference),
                "wilcoxon": _wilcoxon(difference),
            }
        )
    for test in TESTS:
        for row, adjusted in zip(rows, holm(np.array([row[test] for row in rows])), strict=True):
            row[f"{test}_holm"] = float(adjusted)
    return rows


def bootstrap_interval(values: np.ndarray, resamples: int = _RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile interval of the mean of `values` [n] under resampling, the same for the same seed."""
    batch = max(1, _RESAMPLED_AT_ONCE // len(values))
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=batch,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's step-down adjustment of `p_values` [m]: each times the number of hypotheses not yet rejected."""
    order = np.argsort(p_values, kind="stable")
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def _t_test(difference: np.ndarray) -> float:
    if np.ptp(difference) == 0:  # no spread to test against
        return 1.0 if difference[0] == 0 else 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def _wilcoxon(difference: np.ndarray) -> float:
    return float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
