"""Ray, for work that runs in several processes or on several machines."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recbole_sid.errors import InputError, first_line

_PATIENCE = 10  # seconds for a cluster to answer


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
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address is None:
            ray.init(include_dashboard=False, num_cpus=max(1, os.cpu_count() or 1), **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise InputError(
            f"The Ray cluster at '{address}' cannot be reached ({first_line(error)}): check --address, or "
            "leave it out to stay on this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_resources(what: str, cpus: float, gpus: float) -> None:
    """Raise InputError if `what` can never run: Ray would wait for the missing resources for ever.

    Args:
        what: asks for them, at the start of a sentence.
        cpus, gpus: asked for.
    """
    import ray

    there = ray.cluster_resources()
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(name, 0):
            raise InputError(
                f"{what} wants {wanted:g} {name} but Ray has {there.get(name, 0):g}: lower --{name.lower()}s."
            )


def _knock(address: str) -> None:
    """Raise OSError unless something listens at ``host:port``: Ray itself would try for minutes, and say much."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE):
            pass
