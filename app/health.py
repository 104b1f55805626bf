"""What operators ask a process: its metrics, and whether it does its work; and the private port where they ask.

Collectors of a data directory share a port: whoever gets it serves the metrics of all, and when it ends another one
takes over. Invariant: trouble with this port never touches the work itself.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from .lasting import LastingServer
from .logs import place_of
from .metrics import CONTENT_TYPE, Metrics
from .sockets import bind

RETRY_SECONDS = 1.0
PLAIN_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "x-robots-tag": "noindex"}
_log = structlog.get_logger()


class Health(NamedTuple):
    """Words for what keeps this process from its work (it is not ready then), and for what will if nobody looks."""

    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()


Readiness = Callable[[], Health]


def private_app(metrics: Metrics, readiness: Readiness) -> Starlette:
    """The private port's application: metrics and health."""
    return Starlette(routes=[metrics_route(metrics), *health_routes(readiness)])


def health_routes(readiness: Readiness) -> list[BaseRoute]:
    """`/livez` answers as long as the process does, `/readyz` with the words of its health: 503 with a problem."""

    async def readyz(_: Request) -> Response:
        try:
            health = readiness()
        except Exception as error:
            _log.error("readiness could not be told", fault=place_of(error))
            health = Health(["fault"])
        told = {"ready": not health.problems, "problems": list(health.problems), "warnings": list(health.warnings)}
        return JSONResponse(told, 503 if health.problems else 200, PLAIN_HEADERS)

    return [Route("/livez", _livez), Route("/readyz", readyz)]


async def _livez(_: Request) -> Response:
    return PlainTextResponse("alive\n", headers=PLAIN_HEADERS)


def metrics_route(metrics: Metrics) -> Route:
    """`/metrics` for Prometheus."""

    # Not async: reading the files of all processes must not hold up the loop, so Starlette runs it in a thread.
    def render(_: Request) -> Response:
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE})

    return Route("/metrics", render)


# --- the private port -----------------------------------------------------------------------------------------------


class _NestedServer(LastingServer):
    """A server inside a process whose signals belong to another one."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_private(app: ASGIApp, host: str, port: int, *, is_shared: bool = True) -> None:
    """Serves `app` until cancelled; waits while another process has the port, and says so unless it is `is_shared`."""
    listening = await _bind(host, port, is_shared)
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, server_header=False)
    server = _NestedServer(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = server.force_exit = True
        await serving
        raise
    finally:
        listening.close()


async def _bind(host: str, port: int, is_shared: bool) -> socket.socket:
    told = False
    while True:
        try:
            listening = bind(host, port)
        except OSError as error:
            if not (told or (is_shared and error.errno == errno.EADDRINUSE)):
                told = True
                _log.error("the private port cannot be served; trying on", port=port, error=error.strerror)
        else:
            _log.info("metrics and health", url=f"http://{host}:{listening.getsockname()[1]}/metrics")
            return listening
        await asyncio.sleep(RETRY_SECONDS)
