"""`up`: everything on one machine, the database, collectors, shipper, pages and API."""

import asyncio
import contextlib
import http.client
import os
import sys
from functools import partial

import asyncpg
import click
import structlog

from .. import config
from ..config import Settings
from ..errors import MailtrailError, StoreUnavailable
from ..store import embedded, pool
from ..store.installation import install
from . import admin, demo
from .processes import listen, run_served, settings_of_server, url_even_if_down
from .supervisor import Child, Command, supervise
from .workers import collectors, workers_option

RETRY_SECONDS = 0.1
INSTALL_RETRY_SECONDS = 1.0
ANSWER_SECONDS = 5.0
_log = structlog.get_logger()


@click.command()
@click.option("--demo", "plays_demo", is_flag=True, help="On the first start, play the demo.")
@workers_option
def up(plays_demo: bool, workers: int | None) -> None:
    """Run everything on one machine: database, collectors, shipper, pages and API. Ctrl-C stops it."""
    settings = settings_of_server(workers=workers)
    _check_port(settings)
    url = url_even_if_down(settings) if settings.snapshot_file.exists() else pool.url_of(settings)
    sys.exit(run_served(_up(settings, url, plays_demo)))


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
    wanted = {"admin": settings.admin_port, "relay": settings.relay_upstream}
    beside = [Command(name, environment, needed=False) for name, is_wanted in wanted.items() if is_wanted]
    groups: list[list[Child]] = [[*collectors(settings, environment), *beside], [Command("ship", environment)]]
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


def _check_port(settings: Settings) -> None:
    """Tells at once, before anything is started, what the collector would tell later."""
    listen("", settings.host, settings.port).close()
