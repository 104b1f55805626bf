"""What commands share: the settings, a database of the right schema, and who is asking."""

import asyncio
import contextlib
import getpass
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from .. import config
from ..store import migrate, pool
from ..store.pool import Connection

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a command's asynchronous part."""
    return asyncio.run(coroutine)


@contextlib.asynccontextmanager
async def database(settings: config.Settings | None = None) -> AsyncIterator[Connection]:
    """The configured database, its schema checked: SchemaError says what to run, StoreUnavailable what is wrong."""
    url = pool.url_of(settings or config.load(), may_create=False)
    async with pool.connected(url) as connection:
        await migrate.check(connection)
        yield connection


def in_database(work: Callable[[Connection], Awaitable[T]], settings: config.Settings | None = None) -> T:
    """Runs a command's work on the configured database."""

    async def connected() -> T:
        async with database(settings) as connection:
            return await work(connection)

    return run(connected())


def who() -> str:
    """The name in the audit log: whoever runs the command line."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # an id without a name, as in many containers
        return "cli"
