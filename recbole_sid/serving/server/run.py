"""A process that serves the application with uvicorn, until it is asked to stop; then it finishes what it took."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from recbole_sid.errors import InputError
from recbole_sid.serving.server.app import create_app
from recbole_sid.serving.server.guard import KEY_VARIABLE, is_local
from recbole_sid.serving.server.limits import Limits

# Seconds after which a thread that computes in Python lets others go on; by default 5 ms, most of an answer's time.
_SWITCH = 0.0005
_LONGEST_KEY = 4096
_LOG = logging.getLogger("recbole_sid.serving")

# Seconds that an idle connection is kept: longer than the 60 s of proxies and load balancers, which would otherwise
# send a request on one that is being closed.
_KEEP_ALIVE = 75


def serve(
    bundles: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    watch: float = 0.0,
    access_log: bool = False,
) -> None:
    """Serve bundles until SIGTERM or SIGINT.

    Args:
        bundles: directories, or NAME=DIRECTORY; the first is the default.
        host: address to listen at.
        port: 0: any that is free.
        limits: of requests.
        watch: seconds between two looks for other bundles in the directories; 0: none.
        access_log: whether each request is logged.

    Raises:
        InputError: if the address is taken, a bundle cannot be read, or the key is none.
    """
    limits, key = limits or Limits(), api_key()
    with _listening(host, port) as listening, suppress(KeyboardInterrupt):
        app = create_app(named_paths(bundles), limits, key, watch, is_local=is_local(host) and not key)
        if not is_local(host) and not key:
            _LOG.warning(
                "Anybody who reaches %s may use this: set %s, or keep to --host=127.0.0.1.", host, KEY_VARIABLE
            )
        sys.setswitchinterval(_SWITCH)
        config = uvicorn.Config(
            app,
            log_level="info",
            access_log=access_log,
            timeout_graceful_shutdown=int(limits.timeout) + 5,
            timeout_keep_alive=_KEEP_ALIVE,
            server_header=False,
            date_header=False,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that an address that is taken is told of before anything is read."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot listen at {host}, port {port} ({why}): give another --host or --port.") from error


def named_paths(bundles: Sequence[str]) -> dict[str, Path]:
    """Return directories by the names of their models: as given, else the directory's own.

    Raises:
        InputError: if there are none, or two have one name.
    """
    if not bundles:
        raise InputError("serve needs a bundle: recbole-sid serve DIRECTORY (export-model makes one).")
    found: dict[str, Path] = {}
    for bundle in bundles:
        name, equals, path = bundle.partition("=")
        if not equals or "/" in name:
            name, path = Path(os.path.abspath(bundle)).name, bundle
        if name in found:
            raise InputError(f"Two bundles are named '{name}': name them by NAME=DIRECTORY.")
        found[name] = Path(path)
    return found


def api_key() -> str:
    """Return the key that clients must send, from the environment; empty if there is none.

    Raises:
        InputError: if it cannot stand in a header.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if key and (not key.isascii() or not key.isprintable() or key != key.strip() or len(key) > _LONGEST_KEY):
        raise InputError(f"{KEY_VARIABLE} must be printable ASCII without spaces around it: it stands in a header.")
    return key
