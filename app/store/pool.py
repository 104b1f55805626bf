"""Connections to PostgreSQL, and their type."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import asyncpg

from ..config import Settings
from ..errors import StoreUnavailable
from . import embedded

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    # asyncpg's class takes no type argument at run time.
    Connection = asyncpg.Connection

Row = asyncpg.Record
CONNECT_SECONDS = 10.0
_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InternalClientError,  # the driver's for the server's good-bye where it waits for something else
)
_UNREACHABLE = (OSError, TimeoutError, ValueError, OverflowError, asyncpg.PostgresError, asyncpg.InterfaceError)


def existing(row: Row | None) -> Row:
    """The row of a statement that cannot fail to give one."""
    assert row is not None, "the row is locked in this transaction"
    return row


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


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(
        f"PostgreSQL cannot be reached ({_reason(error)}); check MAILTRAIL_DATABASE_URL and whether the server runs"
    )


def _is_gone(taken: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]") -> bool:
    try:
        return taken.is_closed()
    except asyncpg.InterfaceError:  # the pool has noticed it first
        return True


class Database:
    """Connections for many requests at once; each is opened when it is needed, and given back.

    `async with database.connection() as connection`: StoreUnavailable while PostgreSQL is away.
    """

    def __init__(self, url: str, *, most: int = 10) -> None:
        self._url = url
        self._most = most
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        try:
            pool = await self._opened()
            taken = await pool.acquire(timeout=CONNECT_SECONDS)
        except _UNREACHABLE as error:
            raise _unavailable(error) from None
        try:
            yield cast(Connection, taken)  # the proxy has everything that a connection has
        except _LOST as error:  # it went away under the statement
            raise _unavailable(error) from None
        except asyncpg.InterfaceError as error:  # or under the end of a transaction
            if not _is_gone(taken):
                raise
            raise _unavailable(error) from None
        finally:
            with contextlib.suppress(*_UNREACHABLE):  # what cannot be given back is closed
                await pool.release(taken)

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url, min_size=0, max_size=self._most, timeout=CONNECT_SECONDS
                )
        return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection of one's own; StoreUnavailable says why there is none and never quotes the URL's password."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except _UNREACHABLE as error:
        raise _unavailable(error) from None
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError, asyncpg.InterfaceError):
            await connection.close(timeout=CONNECT_SECONDS)
