"""The plain ASGI lane: a small class answers /c/ and /o/, Starlette's router serves everything else.

Invariant: a tracking request is answered with what the collector says, byte for byte, after its hit is as durable as
the settings promise; whatever else goes wrong, no answer tells more than one short line.
"""

import asyncio
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ..config import Settings
from ..health import PLAIN_HEADERS, Readiness, health_routes, metrics_route
from ..metrics import Metrics
from .answer import CLICK_PATH, OPEN_PATH, Answer
from .client import client_of_headers
from .collector import Collector
from .turn import JournalDurable, Turn

_TRACKING = (CLICK_PATH, OPEN_PATH)


class TrackingLane:
    """Answers paths below /c/ and /o/; every other path and kind of connection goes to `elsewhere`."""

    def __init__(self, turn: Turn, elsewhere: ASGIApp) -> None:
        self.turn = turn
        self._elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = _raw_path(scope)
            if path.startswith(_TRACKING):
                await _send(send, await self._answer(scope, path))
                return
        await self._elsewhere(scope, receive, send)

    async def _answer(self, scope: Scope, path: bytes) -> Answer:
        made: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        client = client_of_headers(scope["headers"], _peer(scope))
        self.turn.add(scope["method"], path, client, partial(_resolve, made))
        return await made


def _resolve(future: "asyncio.Future[Answer]", made: Answer) -> None:
    if not future.done():  # cancelled, if the server has given up on its client
        future.set_result(made)


async def _send(send: Send, made: Answer) -> None:
    await send({"type": "http.response.start", "status": made.status, "headers": made.headers})
    await send({"type": "http.response.body", "body": made.body})


def _peer(scope: Scope) -> str | None:
    """The connection's address. A server that put a forwarded one in its place, uvicorn with port 0, hides it: none."""
    client = scope.get("client")
    return client[0] if client and client[1] else None


def _raw_path(scope: Scope) -> bytes:
    """The path's bytes as they came, below the path that the server was mounted on."""
    path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
    root = scope.get("root_path")
    return path.removeprefix(root.encode("utf-8", "replace")) if root else path


def public_app(
    collector: Collector,
    settings: Settings,
    metrics: Metrics,
    readiness: Readiness,
    *,
    journal_durable: JournalDurable | None = None,
) -> TrackingLane:
    """The public port's application. `journal_durable` is given where answers wait for the disk."""
    routes = [Route("/robots.txt", _robots), *health_routes(readiness)]
    if settings.metrics_public:
        routes.append(metrics_route(metrics))
    # The router alone: Starlette's error pages and its redirects to other spellings of a path are not for the public.
    router = Router(routes, redirect_slashes=False, default=_not_found)
    return TrackingLane(Turn(collector, journal_durable), router)


async def _robots(_: Request) -> Response:
    return PlainTextResponse("User-agent: *\nDisallow: /\n")


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    await PlainTextResponse("Not found\n", 404, PLAIN_HEADERS)(scope, receive, send)
