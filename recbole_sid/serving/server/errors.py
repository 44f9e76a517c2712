"""Every error is one JSON object, ``{"error": "One sentence."}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from recbole_sid.errors import InputError


class Refused(Exception):
    """A request that is not answered, with its HTTP status and a sentence that says why."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as JSON; NaN and infinity become null."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def error_response(error: Exception) -> Response:
    """Return the answer to a request that raised `error`; what is no fault of the request's is not told.

    It is raised again by Starlette, and so logged.
    """
    if isinstance(error, Refused):
        return json_response({"error": error.sentence}, error.status, error.headers)
    if isinstance(error, InputError):
        return json_response({"error": str(error)}, 422)
    return json_response({"error": "The server failed on this request: its log says why."}, 500)


def refused_by_schema(error: ValidationError) -> Refused:
    """Return what to say of a body that is not as the schema says: its first fault."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    fault = faults[0]
    if fault["type"] == "json_invalid":
        return Refused(422, f"The body is no valid JSON ({fault['msg'].removeprefix('Invalid JSON: ')}).")
    if fault["loc"][:1] == ("exclude",) and len(fault["loc"]) > 1:  # one of three forms: which was meant?
        long = next((other for other in faults if other["type"] == "too_long"), None)
        what = f" ({long['msg']})" if long else ""
        return Refused(422, f'exclude: give "seen", a list of item ids, or one such list for each history{what}.')
    place = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ").removesuffix(".")
    return Refused(422, f"{place}: {message}." if place else f"{message}.")


async def http_error(request: Request, error: Exception) -> Response:
    """Answer a path or a method that is not there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    sentences = {
        404: "There is nothing at this path: /openapi.json lists what there is.",
        405: f"This path does not answer {request.method}: /openapi.json says what it answers.",
    }
    headers = getattr(error, "headers", None)
    return json_response({"error": sentences.get(status, str(getattr(error, "detail", error)))}, status, headers)


async def any_error(_: Request, error: Exception) -> Response:
    """Answer a request whose handler raised."""
    return error_response(error)
