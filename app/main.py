"""The ASGI application for any server: `uvicorn app.main:app`.

It is everything on one machine but the supervision: collector and shipper in one process, with the embedded PostgreSQL
where no database is configured. Invariant: importing it opens no file and no connection; the server's start does.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from . import config, logs
from .collector.runtime import CollectorRuntime
from .errors import ConfigError, MailtrailError
from .metrics import Metrics
from .shipper.ship import Shipper
from .store import embedded, pool
from .store.installation import install

_log = structlog.get_logger()


class Application:
    """Answers once the server has run its lifespan."""

    def __init__(self, settings: config.Settings) -> None:
        self._settings = settings
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is None:
            raise RuntimeError("the server must run the application's lifespan; do not switch it off")
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._running():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except MailtrailError as error:
            await send({"type": "lifespan.startup.failed", "message": f"mailtrail: {error}"})
            return
        await send({"type": "lifespan.shutdown.complete"})

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        settings = self._settings
        _silence_access_log()
        metrics = Metrics(settings.metrics_directory)
        url = await asyncio.to_thread(pool.url_of, settings)
        beside = []
        async with contextlib.AsyncExitStack() as stack:
            if settings.database_url is None:
                stack.push_async_callback(asyncio.to_thread, embedded.leave, settings.data_directory)
                async with pool.connected(url) as connection:
                    await install(connection, settings)
                beside.append(embedded.keep_running(settings.data_directory))
            shipper = Shipper(settings, url, metrics)
            stack.push_async_callback(shipper.drain)
            runtime = await stack.enter_async_context(CollectorRuntime(settings, url, metrics))
            stack.push_async_callback(_end, [asyncio.create_task(work) for work in (*beside, shipper.run())])
            self._app = runtime.app
            yield


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _silence_access_log() -> None:
    """uvicorn's log of requests has addresses beside tokens: with the key it tells whose an anonymized hit is."""
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def _create() -> Application:
    try:
        settings = config.load()
    except ConfigError as error:
        sys.stderr.write(f"mailtrail: {error}\n")
        sys.exit(error.exit_code)
    logs.configure(settings.log_format, settings.log_level)
    return Application(settings)


app = _create()
