"""Batches: a template and a line for each recipient in, a line for each mail out, both while they come.

Invariants: memory does not grow with the number of recipients; who does not read the answers is not read either; no
connection of the database is held while a client is waited for, and a key that is revoked ends its batches.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...errors import StoreUnavailable
from ...sending.batch import (
    Batch,
    BrokenOff,
    EventsHead,
    Feed,
    Head,
    LineTooLong,
    MessagesHead,
    answers,
    compile_template,
    read_head,
)
from ...sending.bulk import Sending, open_sending_of
from ...sending.strict_json import NoJson
from ...store import events as store
from ...tracking.event_types import EventType
from ...tracking.settings import ceiling, check_name
from .event_data import definition_of
from .identity import Caller, MintingMany
from .messages import naming
from .problems import Kind, Refusal
from .requests import StreamedRoute

router = APIRouter(route_class=StreamedRoute, tags=["messages"])

MEDIA_TYPE = "application/x-ndjson"
IDLE_SECONDS = 300.0
"""A batch ends when its client neither sends nor reads for so long."""

KEY_SECONDS = 1.0
"""How long a key is believed to be good."""

_LINES = {MEDIA_TYPE: {"schema": {"type": "string", "description": "JSON values, one a line"}}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "A line for each line behind the first, and one that says how many", "content": _LINES}
}
_ASKED = {"requestBody": {"required": True, "content": _LINES}}
_log = structlog.get_logger()


@router.post("/messages/batch", response_class=Response, responses=_ANSWER, openapi_extra=_ASKED)
async def make_messages(caller: MintingMany, request: Request) -> Response:
    """Personalises a template for many: first `space`, `event`, `mailing`, `html`, `fields`, then the recipients."""
    feed = _feed(caller, request)
    head = await _head(feed, MessagesHead)
    with naming("mailing"):
        check_name(head.mailing, "mailing")
    async with caller.visit() as visit:
        space = await visit.named_space(head.space)
        event = await visit.named_event(space["id"], head.event)
    return _Answered(_open(caller, head, space["id"], event["id"], head.mailing), None, feed)


@router.post("/events/batch", response_class=Response, responses=_ANSWER, openapi_extra=_ASKED)
async def take_events(caller: MintingMany, request: Request) -> Response:
    """The same for one event's data: first `space`, `event`, `mailing`, `html`, `fields`, then the payloads."""
    feed = _feed(caller, request)
    head = await _head(feed, EventsHead)
    async with caller.visit() as visit:
        space = await visit.named_space(head.space)
        event = await store.event_of_type(visit.connection, space["id"], head.event)
    name = event["name"] if head.mailing is None else head.mailing
    with naming("mailing"):
        check_name(name, "mailing")
    return _Answered(_open(caller, head, space["id"], event["id"], name), definition_of(event), feed)


def _open(
    caller: Caller, head: MessagesHead | EventsHead, space: int, event: int, mailing: str
) -> AbstractAsyncContextManager[Sending]:
    template = compile_template(head, caller.settings)
    who, limit = caller.principal.who, ceiling(head.ceiling)
    return open_sending_of(caller.database, caller.settings, who, space, event, mailing, template, ceiling=limit)


# --- what comes ------------------------------------------------------------------------------------------------------


def _feed(caller: Caller, request: Request) -> Feed:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != MEDIA_TYPE:
        raise Refusal(Kind.MEDIA_TYPE, f"a batch is lines of JSON; send it with content-type: {MEDIA_TYPE}")
    return Feed(_chunks(caller, request))


async def _head(feed: Feed, head: type[Head]) -> Head:
    try:
        return read_head(await feed.first(), head)
    except NoJson:
        raise Refusal(Kind.MALFORMED, "the first line is no JSON in UTF-8; correct it") from None
    except LineTooLong as error:
        raise Refusal(Kind.TOO_LARGE, str(error)) from None
    except BrokenOff as error:
        raise Refusal(Kind.MALFORMED, str(error)) from None


async def _chunks(caller: Caller, request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; BrokenOff for who says nothing for long, or whose key was revoked."""
    stream = request.stream()
    good_at = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise BrokenOff("idle", f"nothing came for {IDLE_SECONDS:.0f} seconds; send the rest anew") from None
        except asyncio.CancelledError:  # only a server that stops does that, and it gives time for the rest
            raise BrokenOff("stopped", "the server stops; send the lines without an answer again") from None
        if chunk is None:
            return
        if time.monotonic() - good_at >= KEY_SECONDS:
            await _check_key(caller)
            good_at = time.monotonic()
        yield chunk


async def _check_key(caller: Caller) -> None:
    try:
        async with caller.visit():
            return
    except Refusal as refused:
        raise BrokenOff(refused.kind.word, refused.detail) from None


# --- what goes -------------------------------------------------------------------------------------------------------


class _Answered(Response):
    """The answer to a batch. Until its send is open, whatever is wrong is a problem as anywhere else."""

    media_type = MEDIA_TYPE

    def __init__(self, sending: AbstractAsyncContextManager[Sending], event_type: EventType | None, feed: Feed) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._sending = sending
        self._event_type = event_type
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False
        try:
            async with self._sending as sending:
                has_begun = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for lines in answers(Batch(sending, self._event_type), self._feed):
                    await _hand_on(send, lines)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except StoreUnavailable:
            if not has_begun:
                raise
            _log.warning("the last mails of a batch could not be counted: the database cannot be reached")
        except asyncio.CancelledError:
            if not has_begun:
                raise
            _log.warning("a batch broke off, because the server stops and its client does not read")


async def _hand_on(send: Send, lines: bytes) -> None:
    """TimeoutError for who reads nothing for long."""
    async with asyncio.timeout(IDLE_SECONDS):
        await send({"type": "http.response.body", "body": lines, "more_body": True})
