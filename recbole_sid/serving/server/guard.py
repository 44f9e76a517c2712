"""What stands before every request: the API key, the body's bounds, the count."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.responses import Response

from recbole_sid.errors import InputError
from recbole_sid.serving.server.errors import Refused, error_response
from recbole_sid.serving.server.limits import Limits
from recbole_sid.serving.server.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[bytes], Awaitable[Response]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# What a probe and a browser without a key may see: no data of a model.
OPEN = ("/", "/health", "/ready", "/openapi.json")
CHANGING = ("/reload", "/rollback")
COUNTED = (*OPEN, *CHANGING, "/recommend", "/explain", "/items", "/models", "/metrics")
KEY_VARIABLE = "RECBOLE_SID_API_KEY"

_NO_KEY = f"This server has no API key, so that nothing can change it: start it with {KEY_VARIABLE} set."
_OTHER_NAME = (
    "Without an API key this server answers by local names only, such as localhost: a page of elsewhere could give it "
    f"another one. Set {KEY_VARIABLE}, or let a proxy send 'Host: localhost'."
)
_WRONG_KEY = "This needs the server's API key, in the header X-API-Key or as Authorization: Bearer KEY."
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]
_PAGE_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """ASGI middleware around the application.

    Args:
        app: what answers.
        limits: of bodies and of the time to send them.
        metrics: counts each request.
        answers: what answers a POST, by path. It is called from here, past the application's own way to a handler,
            which costs as much as all the rest of HTTP.
        api_key: empty: everything but changes is open to whoever reaches the server.
        is_local: whether it is to be reached by names of this machine only.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: Metrics,
        answers: Mapping[str, Handler],
        api_key: str = "",
        is_local: bool = False,
    ) -> None:
        self._app, self._limits, self._metrics, self._answers = app, limits, metrics, answers
        self._key, self._is_local = api_key.encode(), is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path, status = time.perf_counter(), scope["path"], 500
        of_page = path == "/" or path.startswith("/static/")
        added = _HEADERS + _PAGE_HEADERS if of_page else _HEADERS

        async def send_counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            try:
                if self._is_local:
                    _check_name(scope["headers"])
                self._check_key(path, scope["headers"])
                body = await self._body(scope, receive)
                answer = self._answers.get(path) if scope["method"] == "POST" else None
                response = await answer(body) if answer else None
            except (Refused, InputError) as error:
                response = error_response(error)
            if response is None:
                await self._app(scope, _replayed(body, receive), send_counted)
            else:
                await response(scope, receive, send_counted)
        finally:
            place = path if path in COUNTED else "/static" if of_page else "other"
            self._metrics.count(place, status, time.perf_counter() - started)

    def _check_key(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        if path in OPEN or path.startswith("/static/"):
            return
        if not self._key:
            if path in CHANGING:
                raise Refused(403, _NO_KEY)
            return
        given = b""
        for name, value in headers:
            if name == b"x-api-key":
                given = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
        if not hmac.compare_digest(given, self._key):
            raise Refused(401, _WRONG_KEY, {"www-authenticate": "Bearer"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body, within its bounds.

        Raises:
            Refused: 413 if it is too long, 408 if it comes too slowly; the connection is closed behind either.
        """
        most = self._limits.max_body
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length[:20]) > most:
            raise self._too_long()
        if not length and scope["method"] in ("GET", "HEAD"):
            return b""
        try:
            return await asyncio.wait_for(self._read(receive, most), self._limits.timeout)
        except asyncio.TimeoutError:
            sentence = f"The body did not arrive within {self._limits.timeout:g} seconds."
            raise Refused(408, sentence, {"connection": "close"}) from None

    async def _read(self, receive: Receive, most: int) -> bytes:
        message = await receive()
        if not message.get("more_body"):  # nearly always: one message holds it all
            if len(message.get("body", b"")) > most:
                raise self._too_long()
            return message.get("body", b"")
        parts, length = [message["body"]], len(message["body"])
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "The body was cut off.", {"connection": "close"})
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if length > most:
                raise self._too_long()
        return b"".join(parts)

    def _too_long(self) -> Refused:
        sentence = f"The body is longer than {self._limits.max_body:,} bytes: send fewer users at once."
        return Refused(413, sentence, {"connection": "close"})


def is_local(host: str) -> bool:
    """Say whether a name or address is one of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_name(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse a request to another name: some site's, that leads here so that the site's pages may read answers.

    Raises:
        Refused: 403.
    """
    host = next((value for name, value in headers if name == b"host"), b"localhost").decode("latin-1").lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if not is_local(name):
        raise Refused(403, _OTHER_NAME)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` first."""
    given = False

    async def receive_again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
