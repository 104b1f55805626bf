"""`collect`: collectors, which answer links and pixels and write hits to the journal."""

import gc
import os
import resource
import signal
import socket
import sys

import click
import structlog
import uvicorn

from ..collector.fastlane import fast_lane
from ..collector.protocol import BoundedHttp, within
from ..collector.room import Room, most_connections
from ..collector.runtime import CollectorRuntime
from ..collector.server import CollectorServer
from ..collector.sockets import bind
from ..config import Settings
from ..metrics import Metrics
from .processes import (
    call_when_parent_ends,
    end_with_parent_option,
    run_served,
    settings_of_server,
    telling_of_port,
    url_even_if_down,
)
from .supervisor import supervise
from .workers import collectors, number_of_workers, workers_option

GRACEFUL_SECONDS = 10
_log = structlog.get_logger()


@click.command()
@workers_option
@end_with_parent_option
@click.option("--socket", "descriptor", type=int, hidden=True)
@click.option("--worker", type=int, hidden=True)
def collect(workers: int | None, end_with_parent: bool, descriptor: int | None, worker: int | None) -> None:
    """Run collectors: answer links and pixels, write hits to the journal."""
    settings = settings_of_server(workers=workers, worker=worker)
    if descriptor is None and number_of_workers(settings) > 1:
        sys.exit(run_served(supervise([collectors(settings, os.environ)])))
    listening = None if descriptor is None else _take_socket(descriptor)
    run_served(_collect(settings, url_even_if_down(settings), end_with_parent, listening))


async def _collect(settings: Settings, url: str, end_with_parent: bool, given: socket.socket | None) -> None:
    _allow_connections()
    listening = given or _listen(settings)
    metrics = Metrics(settings.metrics_directory)
    room = Room(most_connections(), metrics)
    async with CollectorRuntime(settings, url, metrics) as runtime:
        server = CollectorServer(
            uvicorn.Config(
                runtime.app,
                http=within(room, fast_lane(runtime.app) if settings.fast_lane else BoundedHttp),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACEFUL_SECONDS,
            )
        )

        def stop() -> None:
            server.should_exit = True

        if end_with_parent:
            call_when_parent_ends(stop)
        # uvicorn repeats the signal when it has ended; the journal must be closed after that.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop())
        _freeze()
        _log.info("collector serves", address="{}:{}".format(*listening.getsockname()[:2]))
        await server.serve(sockets=[listening])


def _allow_connections() -> None:
    """As many open sockets as the system lets us have: the usual soft limit of 1,024 is for programs of the past."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _freeze() -> None:
    """Takes what stays until the end, some 60,000 objects, out of the garbage collector's sight.

    Else every full collection walks over all of it, and requests wait meanwhile: about 30 ms.
    """
    gc.collect()
    gc.freeze()


def _take_socket(descriptor: int) -> socket.socket:
    """The listening socket that the supervisor handed over; processes that we start do not get it."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def _listen(settings: Settings) -> socket.socket:
    with telling_of_port("", settings.host, settings.port):
        return bind(settings.host, settings.port)
