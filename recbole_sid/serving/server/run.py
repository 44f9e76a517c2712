"""A process that serves the application with uvicorn, until it is asked to stop; then it finishes what it took."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from recbole_sid.errors import InputError
from recbole_sid.serving.server.app import create_app
from recbole_sid.serving.server.guard import KEY_VARIABLE
from recbole_sid.serving.server.limits import Limits

# Seconds after which a thread that computes in Python lets others go on; by default 5 ms, most of an answer's time.
_SWITCH = 0.0005
_LONGEST_KEY = 4096


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
        InputError: if a bundle cannot be read, or the key is none.
    """
    limits = limits or Limits()
    app = create_app(named_paths(bundles), limits, api_key(), watch)
    if not _is_local(host) and not api_key():
        logging.getLogger("recbole_sid.serving").warning(
            "Anybody who reaches %s may use this server: set %s, or keep to --host=127.0.0.1.", host, KEY_VARIABLE
        )
    sys.setswitchinterval(_SWITCH)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="info",
        access_log=access_log,
        timeout_graceful_shutdown=int(limits.timeout) + 5,
        server_header=False,
        date_header=False,
    )


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


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
