"""Paired, two-sided tests over users against a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from recbole_sid.evaluation.by_user import ByUser

TEST_METRIC = "ndcg@10"  # what models are compared by
TESTS = ("t_test", "wilcoxon")
_RESAMPLES, _RESAMPLED_AT_ONCE = 10_000, 4_000_000


def paired_tests(
    values: Mapping[str, np.ndarray],
    baseline: str,
    resamples: int = _RESAMPLES,
    seed: int = 0,
    users: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Compare every model with `baseline` over the same users.

    Args:
        values: model -> metric of each instance, float [n], in one order for all.
        baseline: one of the models.
        resamples: of the bootstrap over users.
        seed: of the bootstrap.
        users: [n], whose instances they are, where a user may have several: these are not independent, so that tests
            and bootstrap are over users. None: each is of another user.

    Returns:
        a row for each other model: model, baseline, difference (mean of model minus baseline over the instances),
        ci_low and ci_high (95% percentile interval of the paired bootstrap), t_test and wilcoxon (two-sided p-values;
        Wilcoxon's is of the users' means), t_test_holm and wilcoxon_holm (adjusted over the models: Holm 1979).
    """
    rows = []
    for model in values:
        if model == baseline:
            continue
        difference = np.asarray(values[model], dtype=np.float64) - np.asarray(values[baseline], dtype=np.float64)
        of_users = ByUser.of(difference, users)
        low, high = _interval(of_users, resamples, seed)
        rows.append(
            {
                "model": model,
                "baseline": baseline,
                "difference": float(difference.mean()),
                "ci_low": low,
                "ci_high": high,
                "t_test": _t_test(of_users.linearised()),
                "wilcoxon": _wilcoxon(of_users.sums / of_users.counts),
            }
        )
    for test in TESTS:
        for row, adjusted in zip(rows, holm(np.array([row[test] for row in rows])), strict=True):
            row[f"{test}_holm"] = float(adjusted)
    return rows


def over_users(
    values: Mapping[str, np.ndarray], baseline: str, users: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Return how every model differs from `baseline` user by user.

    Args:
        values, baseline, users: as for `paired_tests`.

    Returns:
        a row for each other model: model, baseline, users (how many), better and worse (shares of the users, by their
        means over their instances), quantiles (101 of the users' differences, from the least to the largest).
    """
    rows = []
    for model in values:
        if model == baseline:
            continue
        of_users = ByUser.of(np.asarray(values[model], dtype=float) - np.asarray(values[baseline], dtype=float), users)
        means = of_users.sums / of_users.counts
        rows.append(
            {
                "model": model,
                "baseline": baseline,
                "users": len(means),
                "better": float((means > 0).mean()),
                "worse": float((means < 0).mean()),
                "quantiles": np.quantile(means, np.linspace(0, 1, 101)).tolist(),
            }
        )
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


def _interval(of_users: ByUser, resamples: int, seed: int) -> tuple[float, float]:
    """Return the 95% percentile interval of the instances' mean when users are resampled with all of theirs."""
    if of_users.have_one:
        return bootstrap_interval(of_users.sums, resamples, seed)
    n, generator = len(of_users.sums), np.random.default_rng(seed)
    means = []
    for at_once in np.diff(np.append(np.arange(0, resamples, max(1, _RESAMPLED_AT_ONCE // n)), resamples)):
        drawn = generator.integers(n, size=(at_once, n))
        means.append(of_users.sums[drawn].sum(1) / of_users.counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


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
