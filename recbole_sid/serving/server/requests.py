"""The bodies that the server reads and writes, within its limits; FastAPI makes the OpenAPI document of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recbole_sid.serving.server.limits import Limits


class Body(BaseModel):
    """What all bodies have in common: no unknown keys, and no guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RecommendBody(Body):
    """Whom to recommend to, how many items, and which not or alone."""

    histories: list[list[str]] | None = None
    users: list[str] | None = None
    k: int = 20
    exclude: Literal["seen"] | list[str] | list[list[str]] = "seen"
    items: list[str] | None = None
    titles: bool = False
    model: str | None = None

    @model_validator(mode="after")
    def _check(self) -> RecommendBody:
        if (self.histories is None) == (self.users is None):
            raise ValueError("Give either 'histories' or 'users'.")
        if isinstance(self.exclude, list) and self.exclude and isinstance(self.exclude[0], list):
            wanted = len(self.histories if self.users is None else self.users)  # type: ignore[arg-type]
            if len(self.exclude) != wanted:
                raise ValueError(f"'exclude' has {len(self.exclude)} lists for {wanted} users: give one list for each.")
        return self


class ExplainBody(Body):
    """Which items to explain after which history."""

    history: list[str]
    items: list[str]
    model: str | None = None


class ChangeBody(Body):
    """Which model to read again, or to take back: a name of those that the server was started with."""

    model: str | None = None


class List(BaseModel):
    """One list, the best item first."""

    items: list[str]
    scores: Annotated[list[float | None], Field(description="log-probabilities; null where the model gives none")]
    titles: Annotated[list[str] | None, Field(description="if asked for")] = None
    how: Annotated[str, Field(description="model, or popularity where nothing of the history is known")]
    search: Annotated[str, Field(description="beam or exact")]
    unknown: Annotated[int, Field(description="items of the history that the model does not know")]


class RecommendAnswer(BaseModel):
    """The answer to /recommend: one list for each history or user."""

    model: str
    version: str
    milliseconds: Annotated[float, Field(description="from reading the request to writing the answer")]
    lists: list[List]


class PathLevel(BaseModel):
    """One level of a semantic ID."""

    code: int
    probability: float | None
    siblings: Annotated[list[tuple[int, float]], Field(description="the likeliest codes in its place")]


class ExplainedItem(BaseModel):
    """What an item's score is made of."""

    item: str
    title: str
    score: Annotated[float | None, Field(description="what lists are ordered by")]
    probability: Annotated[float | None, Field(description="that it comes next, as the model sees it")]
    memory_share: Annotated[float, Field(description="how much of the probability is of the memory, from 0 to 1")]
    unknown: Annotated[int, Field(description="items of the history that the model does not know")]
    levels: list[PathLevel]
    parts: Annotated[dict[str, float], Field(description="what each head or the memory says of the item")]
    remembered: Annotated[list[str], Field(description="items of the history that it was seen to follow")]


class Explanations(BaseModel):
    """The answer to /explain."""

    model: str
    version: str
    milliseconds: float
    explanations: list[ExplainedItem]


class FoundItem(BaseModel):
    """An item and what is shown of it."""

    item: str
    title: str


class Found(BaseModel):
    """The answer to /items."""

    model: str
    version: str
    milliseconds: float
    items: list[FoundItem]


class About(BaseModel):
    """A model: its name in requests, and what its bundle says of it."""

    name: str
    model: Annotated[str, Field(description="its class")]
    version: str
    items: Annotated[int, Field(description="how many it knows")]
    titles: bool
    created: str
    sizes: dict[str, Any]
    metrics: dict[str, Any]
    protocol: dict[str, Any]
    fingerprints: dict[str, Any]


class KnownModels(BaseModel):
    """The answer to /models, the default first."""

    models: list[About]


class State(BaseModel):
    """The answer to /health and /ready."""

    status: str


class Change(BaseModel):
    """The answer to /reload and /rollback: which version is in use now, and which before."""

    model: str
    version: str
    before: str


class ErrorBody(BaseModel):
    """Every error."""

    error: Annotated[str, Field(description="one sentence")]


def recommend_body(limits: Limits) -> type[RecommendBody]:
    """Return `RecommendBody` with bounds."""
    some_items = Annotated[list[str], Field(max_length=limits.max_items)]
    history = Annotated[list[str], Field(max_length=limits.max_history)]

    class Recommend(RecommendBody):
        histories: Annotated[
            list[history] | None,
            Field(max_length=limits.max_users, min_length=1, description="item ids, the oldest first; one list a user"),
        ] = None
        users: Annotated[
            list[str] | None,
            Field(max_length=limits.max_users, min_length=1, description="users whom the bundle knows, instead"),
        ] = None
        k: Annotated[int, Field(ge=1, le=limits.max_k, description="items of each list")] = 20
        exclude: Annotated[
            Literal["seen"] | some_items | Annotated[list[some_items], Field(max_length=limits.max_users)],
            Field(description="seen, or item ids: one list for all, or one for each user"),
        ] = "seen"
        items: Annotated[
            some_items | None,
            Field(description="recommend these alone, such as what is in stock"),
        ] = None
        titles: Annotated[bool, Field(description="give the items' titles too")] = False
        model: Annotated[str | None, Field(max_length=200, description="one of /models; else the first")] = None

    return Recommend


def explain_body(limits: Limits) -> type[ExplainBody]:
    """Return `ExplainBody` with bounds."""

    class Explain(ExplainBody):
        history: Annotated[list[str], Field(min_length=1, max_length=limits.max_history)]
        items: Annotated[list[str], Field(min_length=1, max_length=limits.max_explained)]
        model: Annotated[str | None, Field(max_length=200)] = None

    return Explain


# What the validator of `RecommendBody` asks for beside its fields.
_EITHER = {"oneOf": [{"required": ["histories"]}, {"required": ["users"]}]}
_ONE_OF: dict[type[BaseModel], Any] = {RecommendAnswer: _EITHER}


def documented(answer: type[BaseModel], *statuses: int, body: type[Body] | None = None) -> dict[str, Any]:
    """Return what a route says of itself in the OpenAPI document; a `body` is read by the route, not by FastAPI.

    Args:
        answer: what it answers.
        statuses: of its errors.
        body: of its requests.
    """
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in statuses}
    found: dict[str, Any] = {"response_model": answer, "responses": errors}
    if 401 in statuses:
        found["openapi_extra"] = {"security": [{"key": []}, {"bearer": []}, {}]}
    if body is not None:
        schema = {"schema": {**body.model_json_schema(), **_ONE_OF.get(answer, {})}}
        found["openapi_extra"] |= {"requestBody": {"content": {"application/json": schema}, "required": True}}
    return found


SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
