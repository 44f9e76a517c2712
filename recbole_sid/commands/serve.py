"""``recbole-sid serve``: bundles over HTTP."""

from __future__ import annotations

from recbole_sid.commands.call import SEPARATOR, Call, Command, Option, is_set
from recbole_sid.errors import missing

_LIMITS = (
    Option("max_batch", "histories that are ranked together", type=int, default=32),
    Option("batch_wait", "milliseconds that a batch waits for more", type=float, default=0.0),
    Option("timeout", "seconds until an answer is given up", type=float, default=10.0),
    Option("max_waiting", "histories that wait; more are refused", type=int, default=2048),
    Option("max_body", "bytes of a request", type=int, default=1 << 20),
    Option("max_users", "users of a request", type=int, default=256),
    Option("max_k", "items of a list", type=int, default=1000),
    Option("max_history", "items of a history", type=int, default=1000),
)


def serve(call: Call) -> None:
    """Serve until the process is told to stop."""
    try:
        from recbole_sid.serving.server.limits import Limits
        from recbole_sid.serving.server.run import serve as serve_bundles
    except ModuleNotFoundError as error:
        raise missing(f"serve needs {error.name}", "serve") from error
    options = dict(call.options)
    names = {option.name for option in _LIMITS}
    limits = Limits(**{name: options.pop(name) for name in names & options.keys()})
    options.pop("access_log", None)
    serve_bundles(_words(options.pop("input", "")), limits=limits, access_log=is_set(call, "access_log"), **options)


def _words(text: str) -> list[str]:
    return text.split(SEPARATOR) if text else []


SERVE = Command(
    "serve",
    "answer HTTP requests with bundles",
    serve,
    (
        Option("host", "address to listen at", default="127.0.0.1"),
        Option("port", "port to listen at; 0: any that is free", type=int, default=8000),
        Option(
            "watch", "seconds between two looks for a newer bundle in the directories; 0: none", type=float, default=0
        ),
        Option("access_log", "log each request", default=False, alone="True"),
        *_LIMITS,
    ),
    "recbole-sid serve DIRECTORY --port=8000",
    Option("input", "directories that export-model wrote, or NAME=DIRECTORY", metavar="DIRECTORY ...", several=True),
    keys=False,
)
