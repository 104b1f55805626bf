"""The private port: metrics and health, for operators only.

All processes of a data directory share it: whoever gets the port serves the metrics of all, and when it ends another
one takes over. Invariant: trouble with this port never touches the public one.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import structlog
import uvicorn
from starlette.types import ASGIApp

from .sockets import bind

RETRY_SECONDS = 1.0
_log = structlog.get_logger()


class _NestedServer(uvicorn.Server):
    """A server inside a process whose signals belong to another one."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_private(app: ASGIApp, host: str, port: int) -> None:
    """Serves `app` until cancelled; waits while another process has the port."""
    listening = await _bind(host, port)
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


async def _bind(host: str, port: int) -> socket.socket:
    told = False
    while True:
        try:
            listening = bind(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE and not told:
                told = True
                _log.error("the private port cannot be served; check MAILTRAIL_PRIVATE_HOST", error=error.strerror)
        else:
            _log.info("metrics and health", url=f"http://{host}:{listening.getsockname()[1]}/metrics")
            return listening
        await asyncio.sleep(RETRY_SECONDS)
