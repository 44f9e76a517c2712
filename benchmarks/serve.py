"""Drives `recbole-sid serve` with load, and compares what it answers meanwhile with what the bundle gives offline.

    python benchmarks/serve.py BUNDLE [--other=BUNDLE] [--seconds=20] [--rates=250,500,1000] [--requests=100000]

The server runs as a process of its own, as from the command line; the clients run on the same machine. Every request
asks for one user's list; histories are drawn with items by popularity and lengths of 1 to 30.

- closed loop: wrk (Debian: ``apt install wrk``), some connections each of which asks again when it has its answer: the
  most that the server gives. It is repeated with ``--requests`` requests, of which none may fail.
- open loop: requests at random times (Poisson) at a rate, whether or not earlier ones are answered; times are counted
  from when a request was due, so that waiting for a slow server counts. Each list is compared with the offline one.
- reloads: the same while the bundle is replaced ten times, by ``--other`` and back.

Percentiles are of all requests of a phase. CPU time is that of the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.serving import Recommender

_KEY = "benchmark"
_HOST = "127.0.0.1"
_N_HISTORIES = 2000
# Connections of the closed loop; 1 is the latency of a server with nothing else to do.
_CONNECTIONS = (1, 8, 32)

_COLUMNS = {
    "phase": 36,
    "requests": 10,
    "errors": 8,
    "requests/s": 12,
    "p50 ms": 9,
    "p99 ms": 9,
    "max ms": 9,
    "CPU ms": 9,
}

_WRK = """
local bodies, place = {{}}, 0
for line in io.lines("{file}") do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = "{key}"
function request()
  place = place % #bodies + 1
  return wrk.format(nil, "/recommend", nil, bodies[place])
end
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format("RESULT %d %d %f %f %f %f\\n", summary.requests, failed.connect + failed.read + failed.write +
    failed.status + failed.timeout, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3))
end
"""


def main() -> None:
    """Run all phases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--other", type=Path, help="bundle of the same items to change to; default: the same one")
    parser.add_argument("--seconds", type=float, default=20, help="of each phase")
    parser.add_argument("--rates", default="250,500,1000", help="requests a second of the open loop")
    parser.add_argument("--requests", type=int, default=100_000, help="of the long closed loop; 0: none")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--options", default="", help="further options of serve")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model"
        link.symlink_to(asked.bundle.resolve())
        recommender = Recommender.load(link)
        histories = _histories(recommender, _N_HISTORIES)
        offline = recommender.recommend(histories, asked.k).lists()
        bodies = [json.dumps({"histories": [history], "k": asked.k}) for history in histories]
        Path(folder, "bodies").write_text("\n".join(bodies) + "\n")
        with _Server(link, asked.options.split()) as server:
            _warm(server, bodies)
            print("".join(f"{name:>{width}}" for name, width in _COLUMNS.items()))
            for connections in _CONNECTIONS:
                _closed(server, Path(folder), connections, asked.seconds)
            for rate in map(float, asked.rates.split(",")):
                asyncio.run(_open(server, bodies, [offline], rate, asked.seconds))
            other = _Changes(server, link, [asked.bundle.resolve(), (asked.other or asked.bundle).resolve()])
            known = [offline, Recommender.load(other.bundles[1]).recommend(histories, asked.k).lists()]
            rate = float(asked.rates.split(",")[0])
            asyncio.run(_open(server, bodies, known, rate, asked.seconds, other))
            if asked.requests:
                _closed(server, Path(folder), _CONNECTIONS[-1], asked.seconds, asked.requests)
            print(server.batches())


def _histories(recommender: Recommender, n: int) -> list[list[str]]:
    catalogue, random = recommender.catalogue, np.random.default_rng(0)
    weights = (catalogue.popularity + 1.0) * (np.arange(catalogue.n_items) > 0)
    lengths = random.integers(1, 31, n)
    items = random.choice(catalogue.n_items, size=int(lengths.sum()), p=weights / weights.sum())
    tokens = catalogue.tokens(items)
    ends = np.cumsum(lengths)
    return [tokens[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


class _Server:
    """The server's process."""

    def __init__(self, link: Path, options: list[str]) -> None:
        with socket.socket() as free:
            free.bind((_HOST, 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "recbole_sid", "serve", f"model={link}", f"--port={self.port}", *options]
        environment = {**os.environ, "RECBOLE_SID_API_KEY": _KEY}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> _Server:
        started = time.perf_counter()
        while self.process.poll() is None:
            try:
                self.ask("/ready")
                break
            except OSError:
                time.sleep(0.02)
        print(f"ready after {time.perf_counter() - started:.1f} s")
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        if self.process.wait(30) not in (0, -15):
            print(f"The server ended with {self.process.returncode}.")

    def ask(self, path: str, body: str | None = None) -> str:
        """Return an answer."""
        headers = {"X-API-Key": _KEY, "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{_HOST}:{self.port}{path}", body and body.encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def cpu(self) -> float:
        """Return the CPU seconds that it took so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def batches(self) -> str:
        """Say how large batches were."""
        counts = dict(re.findall(r"recbole_sid_batch_size_(sum|count)\S* (\S+)", self.ask("/metrics")))
        return f"histories in a batch: {float(counts['sum']) / float(counts['count']):.2f} on average"


def _warm(server: _Server, bodies: list[str]) -> None:
    for body in bodies[:200]:
        server.ask("/recommend", body)


def _told(phase: str, n: int, errors: int, seconds: float, times: list[float], cpu: float) -> None:
    values = (phase, f"{n:,}", errors, f"{n / seconds:,.0f}", *(f"{value:.2f}" for value in times))
    cells = zip((*values, f"{1000 * cpu / max(n, 1):.3f}"), _COLUMNS.values(), strict=True)
    print("".join(f"{value:>{width}}" for value, width in cells), flush=True)


def _closed(server: _Server, folder: Path, connections: int, seconds: float, requests: int = 0) -> None:
    if not shutil.which("wrk"):
        print("closed loop: there is no wrk (apt install wrk)")
        return
    script = folder / "wrk.lua"
    script.write_text(_WRK.format(file=folder / "bodies", key=_KEY))
    url = f"http://{_HOST}:{server.port}/recommend"
    n, errors, spent, times, cpu = 0, 0, 0.0, [0.0, 0.0, 0.0], server.cpu()
    while n == 0 or n < requests:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = re.search(r"RESULT (\d+) (\d+) (\S+) (\S+) (\S+) (\S+)", done.stdout)
        assert found, done.stdout
        n, errors, spent = n + int(found[1]), errors + int(found[2]), spent + float(found[3])
        times = [max(old, float(new)) for old, new in zip(times, found.groups()[3:], strict=True)]
    phase = f"closed loop, {connections} connections" + (" (long)" if requests else "")
    _told(phase, n, errors, spent, times, server.cpu() - cpu)


class _Changes:
    """Points the served link at one bundle after the other."""

    def __init__(self, server: _Server, link: Path, bundles: list[Path]) -> None:
        self._server, self._link, self.bundles = server, link, bundles

    def change(self, number: int) -> None:
        """Let the server use bundle `number` modulo 2."""
        step = self._link.with_name("next")
        step.symlink_to(self.bundles[number % 2])
        os.replace(step, self._link)
        self._server.ask("/reload", "{}")


async def _open(
    server: _Server,
    bodies: list[str],
    known: list[list[list[str]]],
    rate: float,
    seconds: float,
    changes: _Changes | None = None,
) -> None:
    """Send requests when they are due, and compare each list with those that are `known` for its history."""
    random = np.random.default_rng(int(rate))
    due = np.cumsum(random.exponential(1 / rate, int(rate * seconds)))
    pool: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
    loop, times, errors, different = asyncio.get_running_loop(), [], 0, 0
    before, cpu = loop.time() + 0.1, server.cpu()

    async def one(place: int, at: float) -> None:
        nonlocal errors, different
        number = place % len(bodies)
        try:
            reader, writer = pool.get_nowait() if pool.qsize() else await asyncio.open_connection(_HOST, server.port)
            status, value = await _exchange(reader, writer, bodies[number])
            pool.put_nowait((reader, writer))
        except (OSError, asyncio.IncompleteReadError, ValueError):
            errors += 1
            return
        times.append(loop.time() - before - at)
        if status != 200:
            errors += 1
        elif json.loads(value)["lists"][0]["items"] not in [lists[number] for lists in known]:
            different += 1

    changing = None
    if changes is not None:
        changing = asyncio.create_task(_change_often(changes, seconds))
    tasks = []
    for place, at in enumerate(due.tolist()):
        wait = before + at - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(place, at)))
    await asyncio.gather(*tasks)
    spent = loop.time() - before
    phase = f"open loop, {rate:g} requests/s"
    if changing is not None:
        phase += f", {await changing} reloads"
    p50, p99 = (1000 * np.quantile(times, (0.5, 0.99))).tolist()
    _told(phase, len(times), errors, spent, [p50, p99, 1000 * max(times)], server.cpu() - cpu)
    if different:
        print(f"  {different} lists differ from the offline ones")
    while pool.qsize():
        pool.get_nowait()[1].close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: str) -> tuple[int, bytes]:
    head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nX-API-Key: {_KEY}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode())
    answered = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", answered)
    return int(answered.split()[1]), await reader.readexactly(int(length[1]) if length else 0)


async def _change_often(changes: _Changes, seconds: float, n: int = 10) -> int:
    for number in range(1, n + 1):
        await asyncio.sleep(seconds / (n + 1))
        await asyncio.to_thread(changes.change, number)
    return n


if __name__ == "__main__":
    main()
