"""The application: what answers at which path. `create_app` makes it of bundles; any ASGI server runs it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from recbole_sid import __version__
from recbole_sid.errors import InputError
from recbole_sid.serving.server.answers import Explain, Job, Recommend, Search
from recbole_sid.serving.server.batching import Batcher
from recbole_sid.serving.server.errors import Refused, any_error, http_error, json_response, refused_by_schema
from recbole_sid.serving.server.guard import Guard, Handler
from recbole_sid.serving.server.limits import Limits
from recbole_sid.serving.server.metrics import Metrics
from recbole_sid.serving.server.models import Loaded, Models
from recbole_sid.serving.server.requests import (
    SECURITY,
    Body,
    Change,
    ChangeBody,
    Explanations,
    Found,
    KnownModels,
    RecommendAnswer,
    State,
    documented,
    explain_body,
    recommend_body,
)

STATIC = Path(__file__).parent / "static"
_ABOUT = (
    "Recommendations from bundles of recbole-sid. Items are known by their ids in the data set that the model was "
    "trained on. Every error is one JSON object with one sentence."
)
B = TypeVar("B", bound=Body)


def create_app(
    paths: Mapping[str, Path],
    limits: Limits | None = None,
    api_key: str = "",
    watch: float = 0.0,
    is_local: bool = False,
) -> FastAPI:
    """Make the application.

    Args:
        paths: name -> directory of a bundle; the first is the default. Only these are ever read.
        limits: of requests.
        api_key: what clients must send; empty: none, and nothing can be reloaded by a request.
        watch: seconds between two looks at the directories for another bundle; 0: none.

        is_local: whether requests to other names than this machine's are refused.

    Raises:
        InputError: if a bundle cannot be read.
    """
    limits, metrics = limits or Limits(), Metrics()
    models = Models(paths, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if watch:
            models.watch(watch)
        yield
        await models.close()

    app = FastAPI(
        title="recbole-sid",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # it loads its scripts from elsewhere
        redoc_url=None,
    )
    app.state.models = models
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    answers = _answers(models, limits)
    app.add_middleware(Guard, limits=limits, metrics=metrics, answers=answers, api_key=api_key, is_local=is_local)
    for kind in (Refused, InputError, Exception):
        app.add_exception_handler(kind, any_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, _query_error)
    _add_answers(app, models, limits, answers)
    _add_changes(app, models)
    _add_states(app, models, metrics)
    app.openapi_schema = {**app.openapi(), "components": {**app.openapi()["components"], "securitySchemes": SECURITY}}
    return app


def _answers(models: Models, limits: Limits) -> dict[str, Handler]:
    """Return what answers, of a request's body, at the paths where every millisecond counts."""
    bodies = recommend_body(limits), explain_body(limits)

    async def recommend(body: bytes) -> Response:
        started = time.perf_counter()
        job = Recommend(_read(body, bodies[0]))
        return await _answered(models.named(job.body.model).batcher, job, started)

    async def explain(body: bytes) -> Response:
        started = time.perf_counter()
        job = Explain(_read(body, bodies[1]))
        return await _answered(models.named(job.body.model).batcher, job, started)

    return {"/recommend": recommend, "/explain": explain}


async def _answered(batcher: Batcher, job: Job, started: float) -> Response:
    found = await batcher.submit(job, job.weight)
    return json_response({**found, "milliseconds": round((time.perf_counter() - started) * 1000, 3)})


def _add_answers(app: FastAPI, models: Models, limits: Limits, answers: Mapping[str, Handler]) -> None:
    errors = (401, 404, 408, 413, 422, 503, 504)

    @app.post("/recommend", **documented(RecommendAnswer, *errors, body=recommend_body(limits)))
    async def recommend(request: Request) -> Response:
        """Return the best items for histories of item ids, or for users that the bundle knows."""
        return await answers["/recommend"](await request.body())

    @app.post("/explain", **documented(Explanations, *errors, body=explain_body(limits)))
    async def explain(request: Request) -> Response:
        """Return what the scores of items after a history are made of."""
        return await answers["/explain"](await request.body())

    @app.get("/items", **documented(Found, *errors))
    async def items(
        words: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        model: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Response:
        """Return items whose titles hold all of some words, the most popular first."""
        return await _answered(models.named(model).searches, Search(words, limit), time.perf_counter())


def _add_changes(app: FastAPI, models: Models) -> None:
    async def changed(model: str, change: Callable[[], Awaitable[tuple[Loaded, Loaded]]]) -> Response:
        now, before = await change()
        return json_response({"model": model, "version": now.version, "before": before.version})

    @app.post("/reload", **documented(Change, 401, 403, 404, 408, 409, 413, 422, body=ChangeBody))
    async def reload(request: Request) -> Response:
        """Use the bundle that lies now where the model was read from when the server started."""
        served = models.named(_read(await request.body(), ChangeBody).model)
        return await changed(served.name, served.reload)

    @app.post("/rollback", **documented(Change, 401, 403, 404, 408, 409, 413, 422, body=ChangeBody))
    async def rollback(request: Request) -> Response:
        """Use the bundle before the last change again."""
        served = models.named(_read(await request.body(), ChangeBody).model)
        return await changed(served.name, served.roll_back)


def _add_states(app: FastAPI, models: Models, metrics: Metrics) -> None:
    @app.get("/health", **documented(State))
    async def health() -> Response:
        """Say that the process answers."""
        return json_response({"status": "ok"})

    @app.get("/ready", **documented(State, 503))
    async def ready() -> Response:
        """Say whether requests are taken: all models are read before the first is, until the server stops."""
        if models.is_closing:
            raise Refused(503, "The server is stopping.")
        return json_response({"status": "ready"})

    @app.get("/models", **documented(KnownModels, 401))
    async def list_models() -> Response:
        """Return the models, the default first, with what their bundles say of them."""
        known = [{"name": name, **served.current.about} for name, served in models.served.items()]
        return json_response({"models": known})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Return counts and times for Prometheus."""
        return Response(metrics.text(), media_type=metrics.content_type)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")


def _read(body: bytes, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refused_by_schema(error) from None


async def _query_error(_: Request, error: Any) -> Response:
    fault = error.errors()[0]
    return json_response({"error": f"{fault['loc'][-1]}: {fault['msg']}."}, 422)
