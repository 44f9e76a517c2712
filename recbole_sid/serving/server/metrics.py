"""What the server counts, for Prometheus, in a registry of its own."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server.

    Attributes:
        batch_sizes: histories that are ranked together.
        reloads: bundles that were read again, by model and outcome: loaded, failed or rolled back.
        versions: 1 for the version of each model in use.
        waiting: histories that wait, by model.
        lists: lists given, by what made them (model or popularity) and by search (beam or exact).
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._made(Counter, "requests", "Requests by path and status.", ["path", "status"])
        self._errors = self._made(Counter, "errors", "Requests with a status of 400 or more.", ["path"])
        self._seconds = self._made(Histogram, "request_seconds", "From headers to answer.", ["path"], buckets=_SECONDS)
        self.batch_sizes = self._made(Histogram, "batch_size", "Histories ranked together.", ["model"], buckets=_SIZES)
        self.lists = self._made(Counter, "lists", "Lists by what made them.", ["model", "how", "search"])
        self.reloads = self._made(Counter, "reloads", "Bundles read again, by outcome.", ["model", "outcome"])
        self.versions = self._made(Gauge, "model_version", "1 for the version in use.", ["model", "version"])
        self.waiting = self._made(Gauge, "waiting", "Histories that wait.", ["model"])
        self._kept: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def _made(self, kind: type, name: str, text: str, labels: list[str], **options: object) -> Any:
        return kind(f"recbole_sid_{name}", text, labels, registry=self._registry, **options)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count one request; `path` is one of few, so that nobody can fill the memory with paths."""
        kept = self._kept.get((path, status))
        if kept is None:
            kept = self._requests.labels(path, status), self._seconds.labels(path)
            self._kept[path, status] = kept
        kept[0].inc()
        kept[1].observe(seconds)
        if status >= 400:
            self._errors.labels(path).inc()

    def use(self, model: str, version: str, before: str | None = None) -> None:
        """Say that `model` has `version` now, and no longer the one before."""
        if before not in (None, version):
            self.versions.remove(model, before)
        self.versions.labels(model, version).set(1)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)
