"""Small bundles for the server's tests, of an engine that counts: what follows what is likelier."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from recbole_sid.errors import InputError
from recbole_sid.serving.bundle_files import write_bundle
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.engine import Histories

ENGINE = "tests-counting"
WHERE = "served_bundles:Counting"
N_ITEMS = 30
TITLES = [
    f"{kind} {thing} {n}" for n, (kind, thing) in enumerate([("Red", "Lamp"), ("blue", "chair"), ("Grün", "Tür")] * 10)
][: N_ITEMS - 1]


class Counting:
    """Scores are a weighted sum of rows of a matrix of the history's items.

    Each call sleeps for `delay` seconds, and waits as long as the file `held` is there.
    """

    delay = 0.0
    held: Path | None = None
    calls: list[int] = []  # how many histories each had

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix, self.n_items, self.max_history, self.beam_size = matrix, len(matrix), 20, 10
        self.lock = threading.Lock()

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Counting:
        if "matrix" not in arrays:
            raise InputError("The bundle has no matrix: make it again.")
        return cls(arrays["matrix"])

    def all_scores(self, histories: Histories) -> np.ndarray:
        assert self.lock.acquire(blocking=False), "two batches of one bundle at once"
        type(self).calls.append(len(histories.lengths))
        time.sleep(self.delay)
        given_up = time.monotonic() + 60
        while self.held is not None and self.held.exists() and time.monotonic() < given_up:
            time.sleep(0.01)
        steps = np.arange(histories.items.shape[1])
        weights = np.where(steps < histories.lengths[:, None], 0.5 ** (histories.lengths[:, None] - steps), 0)
        sums = np.einsum("bt,btn->bn", weights, self.matrix[histories.items])
        scores = (sums - np.log(np.exp(sums[:, 1:]).sum(1, keepdims=True))).astype(np.float32)
        scores[:, 0] = -np.inf
        self.lock.release()
        return scores

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self.all_scores(histories)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : min(width, self.n_items - 1)]
        return order, np.take_along_axis(scores, order, 1)

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        return self.all_scores(histories)[:, items]

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        shares = np.exp(self.all_scores(histories))
        return [
            {
                "probability": float(row[item]),
                "levels": [
                    {"code": int(item) // 8, "probability": 0.5, "siblings": [[int(item) // 8, 0.5], [1, 0.25]]}
                ],
                "parts": {"semantic IDs": float(row[item]) * 0.75, "memory": 0.25 * float(row[item])},
                "remembered": histories.items[place, :1],
            }
            for place, (row, item) in enumerate(zip(shares, items.tolist(), strict=True))
        ]


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve `app` from a thread; give its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def write(path: Path, seed: int = 0, n_items: int = N_ITEMS, titles: bool = True) -> Path:
    """Write a bundle of `n_items` numbers, tokens ``i1`` on, the lower the more popular; other seeds, other lists."""
    matrix = np.random.default_rng(seed).normal(size=(n_items, n_items)).astype(np.float32)
    titles_of = {"title": (TITLES * n_items)[: n_items - 1]} if titles else {}
    catalogue = Catalogue.of([f"i{n}" for n in range(1, n_items)], np.arange(n_items, 1, -1), titles_of)
    described = {
        "model": "Counting",
        "engine": ENGINE,
        "settings": {},
        "n_items": n_items,
        "sizes": {},
        "fingerprints": {"semantic_ids": f"seed {seed}"},
        "metrics": {"validation": {"recall@10": 0.1 + seed}},
        "protocol": {},
        "fields": ["title"] if titles else [],
    }
    arrays = {"weights.safetensors": {"matrix": matrix}, "items.safetensors": catalogue.arrays()}
    write_bundle(path, described, arrays, {}, lambda manifest: "A bundle of the tests.\n")
    return path
