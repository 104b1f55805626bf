"""The private application: the API under /api/v1, and the pages. It is never mounted on a public port."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config import Settings
from ..store.pool import Database
from .api import ApiMount, api
from .pages import page_routes

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self';"
        b" frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-robots-tag", b"noindex"),
)


def application(settings: Settings, database: Database) -> Starlette:
    """Pages and API on these settings and this database."""
    return Starlette(
        routes=[
            Route("/livez", _livez),
            ApiMount("/api/v1", api(settings, database)),
            *page_routes(settings, database),
        ],
        middleware=[Middleware(_Hardened)],
    )


async def _livez(_: Request) -> Response:
    return PlainTextResponse("ok\n", headers={"cache-control": "no-store"})


class _Hardened:
    """What every answer tells browsers: nothing from elsewhere, nothing inline, in nobody's frame."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, hardened)
