"""The server on several machines: its application as a deployment of Ray Serve.

    serve run recbole_sid.serving.ray_app:build bundles=bundle max_replicas=8

starts it on the Ray that runs, or one on this machine; in a configuration of Ray Serve it is the ``import_path``. Each
replica is the whole application (`server.app`): it reads the bundles once and batches what reaches it. Ray is imported
when it is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError, missing, nearest

_KINDS = {"str": str, "int": int, "float": float}
_IDENTITY = "RECBOLE_SID_DEPLOYED"  # of a replica's environment: other bundles make other replicas
_STOP = 20  # seconds that a replica may take to finish what it took
_CHECK, _PATIENCE = 2, 10  # seconds between two looks at a replica, and until it counts as dead


@dataclass(frozen=True)
class Scale:
    """What a deployment is made of.

    Attributes:
        bundles: directories, or NAME=DIRECTORY, with commas between them; the first is the default. All nodes see them.
        min_replicas, max_replicas: copies of the application; by load between these.
        target: requests that a replica has in hand on average; above it copies are added.
        cpus: of a replica.
        max_batch: histories that a replica ranks together.
    """

    bundles: str = ""
    min_replicas: int = 1
    max_replicas: int = 4
    target: float = 16.0
    cpus: float = 1.0
    max_batch: int = 32

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Scale:
        """Read what stands behind ``serve run``, or under ``args`` in a configuration.

        Raises:
            InputError: for an unknown name, no bundle, or a value that is not possible.
        """
        kinds = {field.name: _KINDS[str(field.type)] for field in fields(cls)}
        for name in arguments:
            if name not in kinds:
                raise InputError(f"A deployment has no {name}{nearest(name, kinds)}; it takes {', '.join(kinds)}.")
        try:
            scale = cls(**{name: kinds[name](value) for name, value in arguments.items()})
        except (TypeError, ValueError) as error:
            raise InputError(f"A deployment takes numbers for its sizes ({error}).") from None
        if not scale.bundles or not isinstance(arguments["bundles"], str):
            raise InputError("A deployment needs bundles=DIRECTORY, or several with commas (export-model makes one).")
        least_is_met = scale.target > 0 and 0 <= scale.cpus < inf and scale.max_batch >= 1
        if not (1 <= scale.min_replicas <= scale.max_replicas and least_is_met):
            raise InputError(
                f"min_replicas={scale.min_replicas} and max_batch={scale.max_batch} must be at least 1, max_replicas="
                f"{scale.max_replicas} at least min_replicas, target={scale.target:g} above 0, cpus={scale.cpus:g} not "
                "below 0."
            )
        return scale


def build(arguments: dict[str, Any]) -> Any:
    """Return the application for Ray Serve; `arguments` are fields of `Scale`.

    Deployed over one that runs, it replaces the replicas one after another if anything differs, a bundle too.

    Raises:
        InputError: if they are not possible, a bundle cannot be read here, or a package is missing.
    """
    try:
        from ray import serve

        from recbole_sid.serving.server.guard import KEY_VARIABLE
        from recbole_sid.serving.server.run import api_key, named_paths
    except ImportError as error:
        raise missing(f"Ray Serve needs {error.name}", "ray-serve") from error
    scale = Scale.of(arguments)
    paths = {name: os.path.abspath(path) for name, path in named_paths(scale.bundles.split(",")).items()}
    environment = {_IDENTITY: _identity(paths), **({KEY_VARIABLE: api_key()} if api_key() else {})}

    def application() -> Any:  # called in a replica
        from recbole_sid.serving.server.app import create_app
        from recbole_sid.serving.server.limits import Limits

        limits = Limits(max_batch=scale.max_batch)
        return create_app({name: Path(path) for name, path in paths.items()}, limits, api_key())

    return serve.deployment(
        name="recommend",
        max_ongoing_requests=4 * scale.max_batch,  # so that batches fill; the router then tries another replica
        autoscaling_config={
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target,
        },
        ray_actor_options={"num_cpus": scale.cpus, "runtime_env": {"env_vars": environment}},
        health_check_period_s=_CHECK,
        health_check_timeout_s=_PATIENCE,
        graceful_shutdown_timeout_s=_STOP,
    )(serve.ingress(application)()).bind()


def _identity(paths: Mapping[str, str]) -> str:
    """Return what tells the bundles from others; reads them whole, so that faults show here and not in a replica."""
    from recbole_sid.serving.bundle import Bundle
    from recbole_sid.util.hashing import fingerprint

    return fingerprint({name: Bundle.load(path).identity for name, path in paths.items()})
