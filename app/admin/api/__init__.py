"""The API under /api/v1, for programs: settings, dispatches, messages, reports, links, keys and audit.

Invariants: nothing is answered without a key but the OpenAPI document; nothing is kept by caches; every refusal, also
of a path or a fault, is a problem document.
"""

import re

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ... import __version__
from ...config import Settings
from ...logs import place_of
from ...store.pool import Database
from . import (
    audit,
    batches,
    dispatches,
    event_data,
    events,
    explain,
    keys,
    links,
    mailings,
    messages,
    spaces,
)
from .description import described
from .problems import fault, handle_problems

_NOUNS = (spaces, events, dispatches, mailings, links, messages, event_data, batches, keys, audit, explain)
_log = structlog.get_logger()


def api(settings: Settings, database: Database) -> FastAPI:
    """The API's application."""
    app = FastAPI(
        title="Mailtrail",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=[route for noun in _NOUNS for route in noun.router.routes],
        middleware=[Middleware(_Guarded)],
    )
    app.state.settings = settings
    app.state.database = database
    app.openapi = described(app)  # type: ignore[method-assign]
    handle_problems(app)
    return app


class ApiMount(Mount):
    """Mounts the API. Line breaks in a path are the API's to answer too, which a mount's `.*` leaves out."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        super().__init__(path, app)
        self.path_regex = re.compile(self.path_regex.pattern, re.DOTALL)


class _Guarded:
    """Keeps answers out of caches, and faults out of answers and logs: an error's text may quote a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def uncached(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message.get("headers", ()), (b"cache-control", b"no-store")]
            await send(message)

        try:
            await self._app(scope, receive, uncached)
        except ClientDisconnect:
            return
        except Exception as error:
            if scope["type"] != "http":
                raise
            if has_begun:  # the server ends the connection, so that nobody takes a part for the whole
                _log.error("an answer of the API broke off", fault=place_of(error))
                return
            await fault(error)(scope, receive, uncached)
