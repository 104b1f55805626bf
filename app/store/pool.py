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


def url_of(settings: Settings, *, may_create: bool = True) -> str:
    """The database's URL; starts or joins the embedded PostgreSQL where none is configured.

    StoreUnavailable if it may not be created and is not there.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    if not may_create and not embedded.exists(settings.data_directory):
        raise StoreUnavailable(
            f"there is no database in {settings.data_directory} yet; check MAILTRAIL_DATA_DIRECTORY, or make one with"
            " `mailtrail up` or `mailtrail migrate`"
        )
    return embedded.start(settings.data_directory)


def _reason(error: Exception) -> str:
    """What to tell of it; a ValueError is the driver's about the URL, and may quote the password."""
    return type(error).__name__ if isinstance(error, ValueError) else str(error) or type(error).__name__


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection of one's own; StoreUnavailable says why there is none and never quotes the URL's password."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError, OverflowError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(
            f"PostgreSQL cannot be reached ({_reason(error)}); check MAILTRAIL_DATABASE_URL and whether the server runs"
        ) from None
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, asyncpg.InterfaceError):
            await connection.close(timeout=CONNECT_SECONDS)
