"""What commands that serve share: their settings, a schema that fits, and the end with their parent."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import click
import structlog
import uvloop

from .. import config, logs
from ..config import Settings
from ..errors import ConfigError, StoreUnavailable
from ..sockets import bind
from ..store import embedded, migrate, pool

_log = structlog.get_logger()
end_with_parent_option = click.option("--end-with-parent", is_flag=True, hidden=True)


def settings_of_server(*, workers: int | None = None, worker: int | None = None) -> Settings:
    """The settings, and a log as they ask for it."""
    settings = config.load()
    logs.configure(settings.log_format, settings.log_level, worker=worker)
    return settings if workers is None else settings.model_copy(update={"workers": workers})


def url_even_if_down(settings: Settings) -> str:
    """The database's URL, also while it is down: what has a copy of the settings starts without it."""
    try:
        return pool.url_of(settings)
    except StoreUnavailable as error:
        _log.error(str(error))
        return embedded.url(settings.data_directory)


async def check_schema(url: str) -> None:
    """Refuses to run on an unknown schema; a database that is down is waited for."""
    try:
        async with pool.connected(url) as connection:
            await migrate.check(connection)
    except StoreUnavailable as error:
        _log.warning(f"{error}; waiting for it")


@contextlib.contextmanager
def telling_of_port(of: str, host: str, port: int) -> Iterator[None]:
    """ConfigError if an address cannot be had; `of` is what its settings' names begin with, e.g. `ADMIN_`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"MAILTRAIL_{of}HOST, MAILTRAIL_{of}PORT: cannot listen on {host}:{port}"
            f" ({error.strerror or error}); choose another address or port, or end what uses it"
        ) from None


def listen(of: str, host: str, port: int) -> socket.socket:
    """A listening socket for ourselves alone; ConfigError as in `telling_of_port`."""
    with telling_of_port(of, host, port):
        return bind(host, port)


def run_served(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a server's work on its event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def call_when_parent_ends(stop: Callable[[], object]) -> None:
    """Calls when standard input, a pipe from the parent, comes to its end."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            stop()

    loop.add_reader(0, read)
