"""``recbole-sid recommend BUNDLE --histories=DIR``: lists for everybody, from Parquet to Parquet."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from recbole_sid.commands.call import Call, Option
from recbole_sid.errors import InputError, require_known

if TYPE_CHECKING:
    from recbole_sid.serving.answering import Count, Wish
    from recbole_sid.serving.scoring import FolderJob

ENGINES = ("processes", "ray")
_EVERY = 10  # seconds between two lines that say how far it is

OPTIONS = (
    Option("engine", "where a folder of histories is spread: processes, or ray", default="processes", metavar="WHAT"),
    Option("processes", "so many processes, or actors of Ray (default: all CPUs)", int, metavar="N"),
    Option("address", "Ray cluster to join (default: one on this machine)", metavar="HOST:PORT"),
)


def recommend_folder(call: Call, bundle: str, histories: str, output: str, wish: Wish) -> None:
    """Write the lists of all parts of a folder that are not written yet."""
    from recbole_sid.serving.scoring import FolderJob, processes, score
    from recbole_sid.util.files import check_folder_writable

    engine, count, address = _checked(call, bundle)
    check_folder_writable(output)
    job = FolderJob.of(bundle, histories, output, wish)
    started = perf_counter()
    if engine == "ray":
        total = _on_ray(job, count, address)
    else:
        total = score(job, processes(count or os.cpu_count() or 1), _Teller())
    seconds = perf_counter() - started
    print(f"{total.summary}, {total.users / max(seconds, 1e-9):,.0f} users/s.\nWritten: {output}")


def check_is_folder(call: Call) -> None:
    """Raise InputError for options that are of a folder's histories alone."""
    for option in OPTIONS:
        if option.name in call.options:
            raise InputError(f"--{option.name} spreads a folder of Parquet files: name one in --histories.")


def _checked(call: Call, bundle: str) -> tuple[str, int | None, str | None]:
    engine, count, address = (call.options.get(option.name) for option in OPTIONS)
    engine = engine or "processes"
    require_known("engine", engine, ENGINES)
    if count is not None and count < 1:
        raise InputError(f"--processes={count} must be at least 1.")
    if address and engine != "ray":
        raise InputError("--address is of --engine=ray: name that, or leave it out.")
    if not Path(bundle).is_dir() or call.overrides:
        raise InputError(
            f"A folder of histories is scored by a bundle, without configuration, and '{bundle}' is none: make one "
            "with `recbole-sid export-model`, and leave out configuration keys."
        )
    return engine, count, address


def _on_ray(job: FolderJob, count: int | None, address: str | None) -> Count:
    from recbole_sid.cluster import ray_running
    from recbole_sid.serving.scoring import score

    if find_spec("ray") is None:
        raise InputError("--engine=ray needs Ray, which is not installed: pip install 'ray[data]'.")
    with ray_running(address):
        import ray

        from recbole_sid.serving.ray_scoring import on_ray

        return score(job, on_ray(count or max(1, int(ray.cluster_resources().get("CPU", 1)))), _Teller())


class _Teller:
    """Prints how far it is, now and then."""

    def __init__(self) -> None:
        self._told = self._started = perf_counter()

    def __call__(self, done: int, parts: int, count: Any) -> None:
        now = perf_counter()
        if now - self._told >= _EVERY and done < parts:
            self._told = now
            rate = count.users / (now - self._started)
            print(f"{done:,} of {parts:,} parts, {count.users:,} users, {rate:,.0f} users/s", file=sys.stderr)
