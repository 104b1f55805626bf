"""`collect`: collectors, which answer links and pixels and write hits to the journal."""

import gc
import os
import resource
import sys

import click
import structlog

from ..collector.fastlane import fast_lane
from ..collector.protocol import BoundedHttp, within
from ..collector.room import Room, most_connections
from ..collector.runtime import CollectorRuntime
from ..collector.server import CollectorServer
from ..config import Settings
from ..metrics import Metrics
from .http_server import configure, end_when_asked
from .processes import end_with_parent_option, listen, run_served, settings_of_server, url_even_if_down
from .reserve import Orders, await_orders
from .supervisor import supervise
from .workers import collectors, number_of_workers, workers_option

GRACEFUL_SECONDS = 10
_log = structlog.get_logger()


@click.command()
@workers_option
@click.option("--ordered", "is_ordered", is_flag=True, hidden=True, help="Wait on standard input for orders.")
@end_with_parent_option
def collect(workers: int | None, is_ordered: bool, end_with_parent: bool) -> None:
    """Run collectors: answer links and pixels, write hits to the journal."""
    orders = await_orders() if is_ordered else None
    if is_ordered and orders is None:
        return
    settings = settings_of_server(workers=workers, worker=orders.worker if orders else None)
    if orders is None and number_of_workers(settings) > 1:
        sys.exit(run_served(supervise([collectors(settings, os.environ)])))
    run_served(_collect(settings, url_even_if_down(settings), orders, with_parent=is_ordered or end_with_parent))


async def _collect(settings: Settings, url: str, orders: Orders | None, *, with_parent: bool) -> None:
    _allow_connections()
    listening = orders.listening if orders else listen("", settings.host, settings.port)
    metrics = Metrics(settings.metrics_directory)
    room = Room(most_connections(), metrics)
    async with CollectorRuntime(settings, url, metrics) as runtime:
        http = within(room, fast_lane(runtime.app) if settings.fast_lane else BoundedHttp)
        server = CollectorServer(configure(runtime.app, GRACEFUL_SECONDS, http=http))
        end_when_asked(server, with_parent=with_parent)
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
