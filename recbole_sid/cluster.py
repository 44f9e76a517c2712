"""Ray, for work that runs in several processes or on several machines."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recbole_sid.errors import InputError, first_line
from recbole_sid.util.visible_gpus import all_gpus_visible

_PATIENCE = 10  # seconds for a cluster to answer
_LONGEST = 28  # bytes of the folder for temporary files; Ray adds up to 75
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}


def prepare_environment(local: bool) -> None:
    """Set what Ray reads when it is imported; settings of the user's stay.

    Args:
        local: whether Ray will be started on this machine, for this machine alone.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other output prints even when it is told to be silent
    if local:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # then Ray takes the loopback interface


@contextmanager
def ray_running(address: str | None = None) -> Iterator[None]:
    """Have Ray running: the cluster at `address`, one that runs already, or a quiet one on this machine.

    The last is bound to the loopback interface, without dashboard, and ends with the block.

    Raises:
        InputError: if the cluster cannot be reached.
    """
    prepare_environment(local=address is None)
    import ray

    if ray.is_initialized():
        yield
        return
    if address is None:
        with local_ray(max(1, os.cpu_count() or 1)):
            yield
        return
    try:
        _knock(address)
        with all_gpus_visible():
            ray.init(address=address, **_QUIET)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The Ray cluster at '{address}' cannot be reached ({first_line(error)}): check --address (and, "
            "for a cluster that asks for a token, as `ray start` of today does, set RAY_AUTH_MODE=token), or leave it "
            "out to stay on this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """Have a Ray of `cpus` CPUs on this machine: on the loopback interface, its files private and gone afterwards."""
    prepare_environment(local=True)
    import ray
    from ray._private import ray_constants

    # RecBole imports Ray, which reads its variable only then: what it made of it is set too.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with tempfile.TemporaryDirectory(prefix="ray-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
            try:
                with all_gpus_visible():
                    ray.init(
                        include_dashboard=False,
                        num_cpus=cpus,
                        _temp_dir=os.path.join(folder, "r"),  # Ray opens it to all, but not the private one above
                        _node_ip_address="127.0.0.1",
                        **_QUIET,
                    )
                yield
            finally:
                ray.shutdown()
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _short_folder() -> str | None:
    """Return where Ray's folder goes; None: the usual place. The names of its sockets must fit into 107 bytes."""
    return "/tmp" if len(os.fsencode(tempfile.gettempdir())) > _LONGEST and os.path.isdir("/tmp") else None


def limit_threads(cpus: float) -> None:
    """Let torch and the OpenMP and BLAS libraries of this process use `cpus` threads, at least one."""
    import torch
    from threadpoolctl import threadpool_limits

    n_threads = max(1, int(cpus))
    os.environ["OMP_NUM_THREADS"] = str(n_threads)  # of libraries that are loaded later
    torch.set_num_threads(n_threads)
    threadpool_limits(n_threads)


def assigned_gpus() -> str:
    """Return the GPUs that Ray gave this worker, as ``gpu_id``: without it RecBole would overwrite Ray's choice."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0")


def check_resources(what: str, cpus: float, gpus: float, number: int = 1) -> None:
    """Raise InputError if `what` can never run: Ray would wait for the missing resources for ever.

    Args:
        what: asks for them, at the start of a sentence.
        cpus, gpus: asked for by each of its parts, which are on one machine each.
        number: of parts, at the same time.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        there = [machine.get(name, 0) for machine in machines]
        if not wanted or sum(int(amount / wanted) for amount in there) >= number:
            continue
        lower = f"lower --{name.lower()}s or the number of processes"
        if number * wanted <= sum(there):
            each = ", ".join(f"{amount:g}" for amount in there)
            raise InputError(f"{what} wants {wanted:g} {name} on one machine but Ray's have {each} each: {lower}.")
        raise InputError(f"{what} wants {number * wanted:g} {name} but Ray has {sum(there):g}: {lower}.")


def check_own_gpus(gpus: float, processes: int) -> None:
    """Raise InputError unless each of several processes that train together has `gpus` GPUs to itself, or none."""
    if processes > 1 and gpus not in (0, 1):
        raise InputError(f"--gpus={gpus:g} must be 0 or 1 with nproc={processes}: each process has a GPU of its own.")


def _knock(address: str) -> None:
    """Raise OSError unless something listens at ``host:port``: Ray itself would try for minutes, and say much."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE):
            pass
