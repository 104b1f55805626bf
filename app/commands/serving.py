"""Commands that serve: `up` (everything on one machine), `collect` and `ship` (its parts)."""

import asyncio
import contextlib
import gc
import http.client
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from functools import partial

import asyncpg
import click
import structlog
import uvicorn

from .. import config
from ..collector.fastlane import fast_lane
from ..collector.protocol import BoundedHttp, within
from ..collector.room import Room, most_connections
from ..collector.runtime import CollectorRuntime
from ..collector.server import CollectorServer
from ..collector.sockets import bind, listeners
from ..config import Settings
from ..errors import MailtrailError, StoreUnavailable
from ..metrics import Metrics
from ..shipper.ship import Shipper
from ..store import embedded, pool
from ..store.installation import install
from . import admin, demo
from .processes import (
    call_when_parent_ends,
    check_schema,
    end_with_parent_option,
    run_served,
    settings_of_server,
    telling_of_port,
    url_even_if_down,
)
from .supervisor import Child, supervise

GRACEFUL_SECONDS = 10
RETRY_SECONDS = 0.1
INSTALL_RETRY_SECONDS = 1.0
ANSWER_SECONDS = 5.0
_log = structlog.get_logger()
_workers = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    help="Collector processes that share the port; 0: one per core that they may use. [default: MAILTRAIL_WORKERS]",
)


@click.command()
@click.option("--demo", "plays_demo", is_flag=True, help="On the first start, play the demo.")
@_workers
def up(plays_demo: bool, workers: int | None) -> None:
    """Run everything on one machine: database, collectors, shipper, pages and API. Ctrl-C stops it."""
    settings = settings_of_server(workers=workers)
    _check_port(settings)
    url = url_even_if_down(settings) if settings.snapshot_file.exists() else pool.url_of(settings)
    sys.exit(run_served(_up(settings, url, plays_demo)))


@click.command()
@_workers
@end_with_parent_option
@click.option("--socket", "descriptor", type=int, hidden=True)
@click.option("--worker", type=int, hidden=True)
def collect(workers: int | None, end_with_parent: bool, descriptor: int | None, worker: int | None) -> None:
    """Run collectors: answer links and pixels, write hits to the journal."""
    settings = settings_of_server(workers=workers, worker=worker)
    if descriptor is None and _number_of_workers(settings) > 1:
        sys.exit(run_served(supervise([_collectors(settings, os.environ)])))
    listening = None if descriptor is None else _take_socket(descriptor)
    run_served(_collect(settings, url_even_if_down(settings), end_with_parent, listening))


@click.command()
@end_with_parent_option
def ship(end_with_parent: bool) -> None:
    """Run the shipper: move hits from the journals into the database."""
    settings = settings_of_server()
    run_served(_ship(settings, url_even_if_down(settings), end_with_parent))


async def _up(settings: Settings, url: str, plays_demo: bool) -> int:
    try:
        is_first = await _install(settings, url)
    except StoreUnavailable as error:
        if not settings.snapshot_file.exists():
            raise
        # After a restart of the machine links must not wait for the database.
        _log.warning(f"{error}; starting without it")
        is_first = None
    environment = {**os.environ, f"{config.PREFIX}DATABASE_URL": url}
    beside = [Child("admin", environment, needed=False)] if settings.admin_port else []
    groups = [[*_collectors(settings, environment), *beside], [Child("ship", environment)]]
    watching = asyncio.create_task(_keep_database(settings))
    try:
        return await supervise(groups, partial(_begin, settings, url, plays_demo, is_first))
    finally:
        watching.cancel()


async def _install(settings: Settings, url: str) -> bool:
    """Brings the schema up to date; whether the installation is new, without any space."""
    async with pool.connected(url) as connection:
        applied = await install(connection, settings)
        is_first = not await connection.fetchval("select exists (select from mailtrail.spaces)")
    if applied:
        _log.info("database migrated", applied=applied)
    return is_first


def _collectors(settings: Settings, environment: Mapping[str, str]) -> list[Child]:
    """A collector for each worker, to be supervised; the sockets listen already."""
    number = _number_of_workers(settings)
    with telling_of_port("", settings.host, settings.port):
        made = listeners(settings.host, settings.port, number)
    if number == 1:
        return [Child("collect", environment, made[0])]
    return [Child("collect", environment, listener, worker) for worker, listener in enumerate(made, 1)]


def _number_of_workers(settings: Settings) -> int:
    return settings.workers or len(os.sched_getaffinity(0))


async def _keep_database(settings: Settings) -> None:
    if settings.database_url is None:
        await embedded.keep_running(settings.data_directory)


async def _begin(settings: Settings, url: str, plays_demo: bool, is_first: bool | None) -> None:
    """What is left to do when everything runs; `is_first` is None if the database was away."""
    await _greet(settings, url, plays_demo and bool(is_first))
    while is_first is None:
        await asyncio.sleep(INSTALL_RETRY_SECONDS)
        with contextlib.suppress(StoreUnavailable):  # told at the start; collectors and shipper tell it, too
            is_first = await _install(settings, url)


async def _greet(settings: Settings, url: str, plays_demo: bool) -> None:
    if plays_demo:
        try:
            await demo.play(settings, url)
        except (MailtrailError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # The server is more important than its demo.
            _log.error(f"the demo was not played to its end: {error}")
    while not await asyncio.to_thread(_answers, settings):
        await asyncio.sleep(RETRY_SECONDS)
    if settings.admin_port:
        await _greet_administrators(settings, url)
    click.echo(f"Mailtrail serves {settings.public_url}. Ctrl-C stops it.")


async def _greet_administrators(settings: Settings, url: str) -> None:
    click.echo(f"Settings: {admin.address_of(settings)}")
    with contextlib.suppress(StoreUnavailable):  # told at the start
        once = await admin.first_sign_in(url, settings)
        if once is not None:
            click.echo(f"Sign in as admin, once, within an hour: {once}")


def _answers(settings: Settings) -> bool:
    # Connections are taken by the supervisor's socket long before anybody answers.
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):  # it is still starting, or starting again
        return False
    finally:
        connection.close()


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


async def _ship(settings: Settings, url: str, end_with_parent: bool) -> None:
    await check_schema(url)
    shipper = Shipper(settings, url, Metrics(settings.metrics_directory))
    shipping = asyncio.create_task(shipper.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, shipping.cancel)
    if end_with_parent:
        call_when_parent_ends(shipping.cancel)
    _log.info("shipper runs", journals=str(settings.journals_directory))
    await asyncio.gather(shipping, return_exceptions=True)
    await shipper.drain()


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


def _check_port(settings: Settings) -> None:
    """Tells at once, before anything is started, what the collector would tell later."""
    _listen(settings).close()
