"""Connections to PostgreSQL, and their type."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg

from ..config import Settings
from ..errors import StoreUnavailable
from . import embedded

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    # asyncpg's class takes no type argument at run time.
    Connection = asyncpg.Connection

CONNECT_SECONDS = 10.0


def url_of(settings: Settings) -> str:
    """The database's URL; starts or joins the embedded PostgreSQL where none is configured."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return embedded.start(settings.data_directory)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection of one's own; StoreUnavailable says why there is none and never quotes the URL's password."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(
            f"PostgreSQL cannot be reached ({error or type(error).__name__});"
            " check MAILTRAIL_DATABASE_URL and whether the server runs"
        ) from None
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, asyncpg.InterfaceError):
            await connection.close(timeout=CONNECT_SECONDS)
