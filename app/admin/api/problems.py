"""Refusals as RFC 9457 tells them: `application/problem+json`, whatever went wrong and wherever it was noticed.

Invariants: a `type` never changes its meaning; no answer quotes internals, and none repeats a text without bound.
"""

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

import structlog
from asyncpg import PostgresError
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ...errors import (
    ChangedMeanwhile,
    DestinationRefused,
    EventProtected,
    MailRefused,
    MailtrailError,
    NotAcknowledged,
    NotAllowed,
    NotFound,
    SettingsError,
    StoreUnavailable,
)
from ...logs import place_of
from ...tracking.event_types import EventTypeRefused

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
_MAX_DETAIL = 1_000
_MAX_FIELD = 100
_MAX_ERRORS = 20
_log = structlog.get_logger()


class Kind(Enum):
    """What can be wrong: the last word of `type`, the status and the title."""

    MALFORMED = ("malformed", 400, "The body is no JSON")
    UNAUTHORIZED = ("unauthorized", 401, "There is no good key")
    NOT_ALLOWED = ("not-allowed", 403, "The key may not do this")
    NOT_FOUND = ("not-found", 404, "There is no such thing")
    PROTECTED = ("protected", 409, "The event is in protected mode")
    NOT_ACKNOWLEDGED = ("not-acknowledged", 409, "A consequence must be acknowledged")
    CHANGED_MEANWHILE = ("changed-meanwhile", 412, "Somebody else has changed it")
    TOO_LARGE = ("too-large", 413, "The body is too large")
    MEDIA_TYPE = ("media-type", 415, "The body is of another type")
    INVALID = ("invalid", 422, "A value cannot be")
    MAIL = ("mail", 422, "The mail cannot be tracked")
    EVENT_TYPE = ("event-type", 422, "The XML defines no event type")
    DESTINATION = ("destination", 422, "The URL cannot be a destination")
    IF_MATCH_MISSING = ("if-match-missing", 428, "It is not said which revision to change")
    FAULT = ("fault", 500, "Mailtrail has a fault")
    UNAVAILABLE = ("unavailable", 503, "The database cannot be reached")

    def __init__(self, word: str, status: int, title: str) -> None:
        self.word = word
        self.status = status
        self.title = title

    @property
    def type(self) -> str:
        return f"/problems/{self.word}"


class FieldError(BaseModel):
    """One of several values that cannot be."""

    field: str
    detail: str


class Problem(BaseModel):
    """Why a request was refused. `field` is what to mend, `acknowledge` the notice to send with the change."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    acknowledge: str | None = None
    line: int | None = None
    column: int | None = None
    errors: list[FieldError] | None = None


class Refusal(HTTPException):
    """A refusal that the API itself makes, before any rule of the settings is asked."""

    def __init__(
        self, kind: Kind, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(kind.status, detail, dict(headers or {}))
        self.kind = kind
        self.field = field


def handle_problems(app: FastAPI) -> None:
    """Every error that leaves a route or finds none becomes a problem."""
    app.add_exception_handler(StarletteHTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(MailtrailError, _of_ours)
    app.add_exception_handler(PostgresError, _of_postgres)


def fault(error: Exception) -> Response:
    """The answer to an error that nobody foresaw; only the log says where."""
    _log.error("a fault of the API", fault=place_of(error))
    return _answer(Kind.FAULT, "this is a fault of Mailtrail; its log says where", {})


# --- from errors to answers ------------------------------------------------------------------------------------------

_KINDS: tuple[tuple[type[MailtrailError], Kind], ...] = (
    (NotFound, Kind.NOT_FOUND),
    (ChangedMeanwhile, Kind.CHANGED_MEANWHILE),
    (EventProtected, Kind.PROTECTED),
    (NotAcknowledged, Kind.NOT_ACKNOWLEDGED),
    (EventTypeRefused, Kind.EVENT_TYPE),
    (SettingsError, Kind.INVALID),
    (DestinationRefused, Kind.DESTINATION),
    (MailRefused, Kind.MAIL),
    (NotAllowed, Kind.NOT_ALLOWED),
)
_OF_TRIGGERS = {
    "MT001": (Kind.INVALID, "the id of an event's definition never changes; correct it, or make another event"),
    "MT002": (Kind.PROTECTED, "the event is active and in protected mode; leave protected mode first"),
}
"""What the database refuses by itself where the rules saw the state of a moment before."""


async def _of_ours(_: Request, error: Exception) -> Response:
    if isinstance(error, StoreUnavailable):
        _log.warning(str(error))
        headers = {"retry-after": str(RETRY_SECONDS)}
        return _answer(Kind.UNAVAILABLE, "the database cannot be reached; nothing was changed, try again", {}, headers)
    for error_type, kind in _KINDS:
        if isinstance(error, error_type):
            return _answer(kind, str(error), _members(error))
    raise error


def _members(error: MailtrailError) -> dict[str, Any]:
    members: dict[str, Any] = {"field": getattr(error, "field", None)}
    if isinstance(error, NotAcknowledged):
        members["acknowledge"] = error.notice
    elif isinstance(error, EventTypeRefused):
        members |= {"field": "definition", "line": error.line, "column": error.column}
    elif isinstance(error, DestinationRefused):
        members["field"] = "destination"
    return members


async def _of_postgres(_: Request, error: Exception) -> Response:
    refused = _OF_TRIGGERS.get(getattr(error, "sqlstate", None) or "")
    if refused is None:
        raise error
    return _answer(*refused, {})


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error, Refusal):
        return _answer(error.kind, error.detail, {"field": error.field}, error.headers)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"allow": ", ".join(sorted(_methods(request)))}
        detail = f"this path takes {headers['allow']}"
    elif error.status_code == HTTPStatus.NOT_FOUND:
        detail = "there is no such path; /api/v1/openapi.json lists them"
    else:
        detail = HTTPStatus(error.status_code).description or HTTPStatus(error.status_code).phrase
    title = HTTPStatus(error.status_code).phrase
    return _problem({"type": "about:blank", "title": title, "status": error.status_code, "detail": detail}, headers)


def _methods(request: Request) -> Iterator[str]:
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            yield from route.methods or ()


async def _of_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [(_field(each["loc"]), str(each["msg"])) for each in error.errors()[:_MAX_ERRORS]]
    field, message = found[0]
    errors = [{"field": field, "detail": message} for field, message in found]
    return _answer(Kind.INVALID, f"{field}: {message}", {"field": field, "errors": errors})


def _field(location: tuple[int | str, ...]) -> str:
    """The name of a value as whoever sent it knows it, e.g. `scopes.0`."""
    return ".".join(map(str, location[1:] or location))[:_MAX_FIELD]


def _answer(kind: Kind, detail: str, members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    content = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": detail, **members}
    return _problem(content, headers)


def _problem(content: dict[str, Any], headers: Mapping[str, str] | None) -> Response:
    content["detail"] = content["detail"][:_MAX_DETAIL]
    shown = {name: value for name, value in content.items() if value is not None}
    # In ASCII: whatever a text holds can be written.
    return Response(json.dumps(shown), content["status"], dict(headers or {}), MEDIA_TYPE)
