"""The tables of an analysis, each as flat rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.evaluation.by_user import ByUser
from recbole_sid.generalization.indicator import BINS, quantile_bins
from recbole_sid.generalization.labels import CLASSES, TYPES, shares
from recbole_sid.util.numbers import bins_of

# Half the width of a 95% interval in standard errors.
_Z = 1.959964
_CURVE_BINS = 4
Metrics = Mapping[str, pd.DataFrame]


def members(labels: pd.DataFrame, hops: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each category, and each type and hop, with the mask bool [n] of its instances, as `shares` names them."""
    for name in CLASSES:
        yield name, (labels["category"] == name).to_numpy()
    for name in TYPES:
        for hop in range(2 if name == "substitutability" else 1, hops + 1):
            yield f"{name}_{hop}", (labels[name] == hop).to_numpy()


def by_category(
    labels: pd.DataFrame, metrics: Metrics, hops: int, users: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Return a row for each category and model: category, count, share, model, each metric with its 95% interval.

    Intervals are of the mean over the category's instances, by the normal approximation over users; None with fewer
    than two.

    Args:
        users: [n], whose instances they are; None: each is of another user.
    """
    rows = []
    users = np.arange(len(labels)) if users is None else users
    for share, (name, mask) in zip(shares(labels, hops), members(labels, hops), strict=True):
        for model, values in metrics.items():
            found = {
                key: value
                for metric in values
                for key, value in _interval(metric, values[metric][mask], users[mask]).items()
            }
            rows.append({**share, "category": name, "model": model, **found})
    return rows


def of_predictions(model: str, labels: pd.DataFrame, hops: int) -> list[dict[str, Any]]:
    """Return the shares of the categories among a model's predicted items, labelled in the target's place."""
    return [{"model": model, **row} for row in shares(labels, hops)]


def by_tokens(labels: pd.DataFrame, longest: np.ndarray, n_levels: int, hops: int) -> list[dict[str, Any]]:
    """Return per category the shares of its instances by the longest memorized prefix: unseen, 1-gram .. L-gram."""
    rows = []
    for name, mask in members(labels, hops):
        counts = np.bincount(longest[mask], minlength=n_levels + 1)
        total = max(1, counts.sum())
        tokens = {"unseen" if n == 0 else f"{n}-gram": float(count / total) for n, count in enumerate(counts)}
        rows.append({"category": name, "count": int(mask.sum()), **tokens})
    return rows


def curve(values: np.ndarray, metrics: Metrics, mask: np.ndarray, metric: str) -> list[dict[str, Any]]:
    """Return the mean of `metric` per model in ranges of the counts `values` [n], over the instances in `mask`."""
    rows = []
    for label, inside in bins_of(values[mask], _CURVE_BINS):
        means = {model: float(frame[metric].to_numpy()[mask][inside].mean()) for model, frame in metrics.items()}
        rows.append({"bin": label, "count": int(inside.sum()), **means})
    return rows


def by_confidence(confidence: np.ndarray, labels: pd.DataFrame, metrics: Metrics, metric: str) -> list[dict[str, Any]]:
    """Return per quantile of the indicator: its range, the share of memorization, each model's mean metric."""
    bins = quantile_bins(confidence)
    memorized = (labels["category"] == "memorization").to_numpy()
    rows = []
    for number in range(BINS):
        inside = bins == number
        if not inside.any():
            continue
        means = {model: float(frame[metric].to_numpy()[inside].mean()) for model, frame in metrics.items()}
        low, high = confidence[inside].min(), confidence[inside].max()
        rows.append(
            {
                "bin": f"{low:.3f}-{high:.3f}",
                "count": int(inside.sum()),
                "memorization": float(memorized[inside].mean()),
                **means,
            }
        )
    return rows


def _interval(metric: str, values: pd.Series, users: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {metric: None, f"{metric}_low": None, f"{metric}_high": None}
    mean = float(values.mean())
    of_users = ByUser.of(values.to_numpy(), users).linearised()
    if len(of_users) < 2:
        return {metric: mean, f"{metric}_low": None, f"{metric}_high": None}
    half = _Z * float(of_users.std(ddof=1)) / len(of_users) ** 0.5
    return {metric: mean, f"{metric}_low": mean - half, f"{metric}_high": mean + half}
