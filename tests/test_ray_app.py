"""The server on Ray Serve: two replicas, of which one is killed under load, and another bundle in place of theirs."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recbole_sid.cluster import local_ray
from recbole_sid.errors import InputError
from recbole_sid.serving.ray_app import Scale
from recbole_sid.serving.recommender import Recommender

HISTORIES = [[f"i{item}", f"i{item + 1}"] for item in range(20)]
PATIENCE = 240  # seconds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs bundles=DIRECTORY"),
        ({"bundles": "b", "replicas": 3}, "has no replicas.*min_replicas"),
        ({"bundles": "b", "cpus": "many"}, "takes numbers for its sizes"),
        ({"bundles": "b", "min_replicas": "3", "max_replicas": 2}, "min_replicas=3 .* max_replicas=2 at least"),
        ({"bundles": "b", "target": 0}, "target=0 above 0"),
        ({"bundles": "b", "cpus": "inf"}, "cpus=inf"),
        ({"bundles": "b", "max_replicas": None}, "takes numbers for its sizes"),
        ({"bundles": ["b", "c"]}, "or several with commas"),
    ],
)
def test_what_is_not_possible_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scale.of(arguments)


def test_texts_of_the_command_line_are_numbers() -> None:
    assert Scale.of({"bundles": "b", "max_replicas": "8", "cpus": "0.5"}) == Scale("b", max_replicas=8, cpus=0.5)


@contextmanager
def serving(port: int) -> Iterator[Any]:
    from ray import serve

    with local_ray(4):
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield serve
        finally:
            serve.shutdown()


class Load:
    """Asks from two threads until it is left; every request may be tried again, and how often it was is counted.

    Attributes:
        answers: (version, history's number, items) of every request.
        tried_again: how many failed tries there were, and why.
        failed: requests without an answer after ten tries.
    """

    def __init__(self, address: str) -> None:
        self.address, self.answers, self.tried_again, self.failed = address, [], [], []
        self._threads = [threading.Thread(target=self._ask, args=(first,)) for first in range(2)]
        self._over = threading.Event()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Wait for so many further answers."""
        wanted, until = len(self.answers) + more, time.monotonic() + PATIENCE
        while len(self.answers) < wanted:
            assert time.monotonic() < until
            time.sleep(0.02)

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            number = (number + 2) % len(HISTORIES)
            for _ in range(10):
                try:
                    found = ask(self.address, HISTORIES[number])
                    self.answers.append((number, found["lists"][0]["items"]))
                    break
                except (OSError, urllib.error.HTTPError) as error:
                    self.tried_again.append(repr(error))
                    time.sleep(0.2)
            else:
                self.failed.append(number)


def ask(address: str, history: list[str]) -> dict[str, Any]:
    body = json.dumps({"histories": [history], "k": 5}).encode()
    request = urllib.request.Request(f"{address}/recommend", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def replicas() -> list[Any]:
    import ray

    named = [
        each for each in ray.util.list_named_actors(all_namespaces=True) if each["name"].startswith("SERVE_REPLICA")
    ]
    return [ray.get_actor(each["name"], each["namespace"]) for each in named]


def expected(bundle: Path) -> list[list[str]]:
    return Recommender.load(bundle).recommend(HISTORIES, k=5).lists()


@pytest.mark.ray
@pytest.mark.usefixtures("quick_ray")
def test_a_replica_is_killed_and_the_bundle_replaced_under_load(transition_bundles: tuple[Path, Path]) -> None:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")
    from recbole_sid.serving.ray_app import build

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first, _ = transition_bundles
    sizes = {"min_replicas": 2, "max_replicas": 2, "cpus": 0.5}
    with serving(port) as serve:
        serve.run(build({"bundles": str(first), **sizes}))
        with Load(f"http://127.0.0.1:{port}") as load:
            _kill_and_replace(serve, load, transition_bundles, sizes)


def _kill_and_replace(serve: Any, load: Load, bundles: tuple[Path, Path], sizes: dict[str, Any]) -> None:
    import ray

    from recbole_sid.serving.ray_app import build

    first, second = bundles
    load.wait_for(20)
    assert len(replicas()) == 2
    ray.kill(replicas()[0])
    load.wait_for(100)
    until = time.monotonic() + PATIENCE
    while len(replicas()) < 2:  # another one takes its place
        assert time.monotonic() < until
        time.sleep(0.1)
    load.wait_for(20)
    assert not load.failed
    of_first = expected(first)
    assert all(items == of_first[number] for number, items in load.answers)
    print(f"{len(load.answers)} answers, {len(load.tried_again)} tried again: {load.tried_again[:3]}")
    load.tried_again.clear()
    serve.run(build({"bundles": str(second), **sizes}))  # replaces one replica after another
    load.answers.clear()
    load.wait_for(50)
    of_second = expected(second)
    assert of_first != of_second
    assert all(items == of_second[number] for number, items in load.answers[5:])
    assert not load.failed
    assert not load.tried_again
