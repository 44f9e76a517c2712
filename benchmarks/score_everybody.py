"""Lists for everybody: users a second, peak memory by number of users, and what a kill in the middle costs.

    recbole-sid export-model saved/FILE.pth --output=bundle --histories
    python benchmarks/score_everybody.py --bundle=bundle --users=100000,1000000 --processes=2

Histories are made up: beginnings of those of the bundle's users, a fifth of the items drawn anew. Each number of users
is scored once by `recbole-sid recommend`; the last one again, killed (SIGKILL, the whole group) when half of its parts
are there, and continued. Both come to the same lists, and the first part to those of one process.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from recbole_sid.serving.bundle import Bundle

K = 20


def make_histories(bundle: Bundle, folder: Path, users: int, part: int) -> None:
    """Write so many made-up users in parts."""
    folder.mkdir()
    catalogue, known = bundle.catalogue, bundle.known_users
    tokens = np.array(catalogue.tokens(np.arange(catalogue.n_items)))
    numbers, starts = known.all(np.arange(1, known.n_users + 1))
    for first in range(0, users, part):
        rng = np.random.default_rng(first)
        count = min(part, users - first)
        chosen = rng.integers(0, len(starts) - 1, count)
        lengths = np.minimum(rng.integers(1, 51, count), np.diff(starts)[chosen])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts[chosen], lengths)
        items = np.where(rng.random(offsets[-1]) < 0.2, rng.integers(1, catalogue.n_items, offsets[-1]), numbers[place])
        lists = pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(tokens[items]))
        table = pa.table({"user": [f"u{first + row}" for row in range(count)], "items": lists})
        parquet.write_table(table, folder / f"part-{first // part:05}.parquet")


def command(options: argparse.Namespace, histories: Path, output: Path, processes: int) -> list[str]:
    """Return the words of the command that is measured."""
    words = [sys.executable, "-m", "recbole_sid", "recommend", options.bundle, f"--k={K}"]
    return [*words, f"--histories={histories}", f"--output={output}", f"--engine={options.engine}",
            f"--processes={processes}"]  # fmt: skip


def measured(words: list[str], kill_at: tuple[Path, int] | None = None) -> tuple[float, float, float]:
    """Run a command; return its seconds, its CPU seconds and the peak of its processes' memory in MB.

    Memory is the proportional set size: pages that processes share count once.
    """
    started, peak = time.perf_counter(), 0.0
    before = os.times()
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(_memory, _group(process.pid))))
        if kill_at and len(list(kill_at[0].glob("part-*.parquet"))) >= kill_at[1]:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.2)
    seconds, after = time.perf_counter() - started, os.times()
    if process.returncode and not kill_at:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu, peak


def _group(leader: int) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(file.read_text().rpartition(")")[2].split()[2]) == leader:
                found.append(int(file.parent.name))
        except (OSError, IndexError):
            continue
    return found


def _memory(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def same(first: Path, second: Path) -> bool:
    """Say whether two folders hold the same parts with the same lists."""
    names = sorted(file.name for file in second.glob("*.parquet"))
    return all(parquet.read_table(first / name).equals(parquet.read_table(second / name)) for name in names)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--users", default="100000", help="numbers, with commas between them")
    parser.add_argument("--part", type=int, default=25_000, help="users a file")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--engine", default="processes")
    parser.add_argument("--folder", help="for histories and lists; a temporary one is removed at the end")
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, users = Path(name), 0
        print("| users | s | users/s | CPU s | users / CPU s | peak MB |\n| --- | --- | --- | --- | --- | --- |")
        for users in map(int, options.users.split(",")):
            histories, output = folder / f"histories-{users}", folder / f"lists-{users}"
            make_histories(bundle, histories, users, options.part)
            seconds, cpu, peak = measured(command(options, histories, output, options.processes))
            rates = f"{users / seconds:,.0f} | {cpu:.1f} | {users / cpu:,.0f}"
            print(f"| {users:,} | {seconds:.1f} | {rates} | {peak:,.0f} |", flush=True)
        again, n_parts = folder / "again", -(-users // options.part)
        words = command(options, histories, again, options.processes)
        killed, *_ = measured(words, (again, max(1, n_parts // 2)))
        there = len(list(again.glob("part-*.parquet")))
        resumed, *_ = measured(words)
        print(f"killed after {killed:.1f} s with {there} of {n_parts} parts; the rest took {resumed:.1f} s; "
              f"the same lists: {same(output, again)}")  # fmt: skip
        one, alone = folder / "one", folder / "alone"
        one.mkdir()
        (one / "part-00000.parquet").symlink_to(histories / "part-00000.parquet")
        measured(command(options, one, alone, 1))
        print(f"the first part by one process: the same lists: {same(output, alone)}")


if __name__ == "__main__":
    main()
