"""PostgreSQL as the shipper's store: a batch, its totals and its watermark in one transaction.

Invariants: a batch is written only from the watermark that was read, so that no line is ever written twice; a row that
the database refuses for its data is quarantined and takes no other row with it; whatever hangs is ended by a timeout,
here and in the server.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import structlog

from ..errors import StoreUnavailable
from ..journal.segments import Stream
from ..logs import place_of
from ..store import migrate
from ..store.day_keys import keep_day_keys
from ..store.pool import Connection
from ..store.queries import queries
from ..tracking.hits import Hit
from ..tracking.modes import Mode
from ..tracking.tokens import Kind
from .batches import Batch, Conflict, Line, Written
from .journals import Position

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 60.0
SLICE_ROWS = 1_000
"""Rows of one statement: encoding them holds the event loop up for some milliseconds."""

QUARANTINED_BYTES = 64 * 2**10
QUARANTINE_DAYS = 30
"""Long enough to look at a line, whoever may be in it; single hits may be kept for longer."""

COLUMNS = (
    "at",
    "id",
    "kind",
    "mode",
    "space_id",
    "event_id",
    "mailing_id",
    "link",
    "registered",
    "agent",
    "agent_family",
    "recipient",
    "nonce",
    "pseudonym",
    "pseudonym_gap",
    "client_address",
    "user_agent",
    "url",
    "outcome",
    "clock_clamped",
)
Row = tuple[Any, ...]
"""One hit in the order of COLUMNS."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""No collector writes an earlier time, however long hits are kept."""

_SERVER_SETTINGS = {
    "application_name": "mailtrail shipper",
    "statement_timeout": "60s",
    "lock_timeout": "20s",
    # A shipper that was stopped in the middle must not hold its locks for ever.
    "idle_in_transaction_session_timeout": "60s",
}
_UNAVAILABLE = ("08", "28", "3D", "53", "57", "58")
"""Classes of SQLSTATE: connection, authorization, database, resources, operator, system."""

_REFUSALS = ("22", "23")
"""Data and constraints: it is the row that is at fault, and no other try will help."""

_MODES = tuple(mode.label for mode in sorted(Mode))
_KINDS = {kind: kind.name.lower() for kind in Kind}
_SQL = queries("shipper")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Window:
    """The times that hits may have: from the first month that is kept to a day ahead of the database's clock."""

    clock: datetime
    earliest: datetime
    latest: datetime

    @classmethod
    def around(cls, clock: datetime, retention_days: int) -> "Window":
        first_kept = clock - timedelta(days=min(retention_days, (clock - EPOCH).days))
        earliest = first_kept.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return cls(clock, earliest, clock + timedelta(days=1))

    def holds(self, at: datetime) -> bool:
        return self.earliest <= at <= self.latest

    def now(self, mode: Mode) -> datetime:
        """The database's clock, as exact as the mode allows."""
        if mode is Mode.PERSON_BASED:
            return self.clock
        minute = self.clock.minute if mode is Mode.ANONYMIZED else 0
        return self.clock.replace(minute=minute, second=0, microsecond=0)


class PostgresStore:
    """The `Store` on one connection, made when it is needed; not for several tasks at once."""

    def __init__(self, database_url: str, *, anonymization_days: int, retention_days: int) -> None:
        self._url = database_url
        self._anonymization_days = anonymization_days
        self._retention_days = retention_days
        self._connection: Connection | None = None
        self._months: set[date] = set()

    async def watermarks(self, journal: str) -> dict[Stream, Position]:
        async with self._connected() as connection:
            rows = await connection.fetch(_SQL["watermarks"], journal)
        return {Stream(row["stream"]): Position(row["segment"], row["byte_offset"]) for row in rows}

    async def write(self, batch: Batch) -> Written:
        async with self._connected() as connection:
            window = Window.around(await connection.fetchval(_SQL["clock"]), self._retention_days)
            await self._make_months(connection, batch.hits, window)
            async with connection.transaction(isolation="read_committed"):
                await _move_watermark(connection, batch)
                await _quarantine(connection, batch.stream, "damaged", batch.damaged)
                return await _insert(connection, batch, window)

    async def forget(self, journal: str) -> None:
        async with self._connected() as connection:
            await connection.execute(_SQL["forget_journal"], journal)

    async def keep_house(self) -> list[Exception]:
        try:
            async with self._connected():
                failed: list[Exception] = []
        except Exception as error:
            return [error]
        for duty in (self._keep_day_keys, self._make_coming_months, self._drop_months, self._clear_quarantine):
            try:
                async with self._connected() as connection:
                    await duty(connection)
            except Exception as error:
                failed.append(error)
        return failed

    def disconnect(self) -> None:
        self._months.clear()
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _keep_day_keys(self, connection: Connection) -> None:
        await keep_day_keys(connection, anonymization_days=self._anonymization_days)

    async def _make_coming_months(self, connection: Connection) -> None:
        await connection.execute(_SQL["make_coming_months"])

    async def _drop_months(self, connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(_SQL["wait_briefly"])
            dropped = await connection.fetch(_SQL["drop_months"], self._retention_days)
        for row in dropped:
            _log.info("hits past their retention dropped", month=row["month"])

    async def _clear_quarantine(self, connection: Connection) -> None:
        await connection.execute(_SQL["clear_quarantine"], QUARANTINE_DAYS)

    async def _make_months(self, connection: Connection, hits: Sequence[Line], window: Window) -> None:
        """Before the batch and on its own, so that nobody waits for the batch to see a month."""
        if not hits:
            return
        times = {hit.at.date() for hit, _ in hits if window.holds(hit.at)} | {window.clock.date()}
        for month in {day.replace(day=1) for day in times} - self._months:
            await connection.execute(_SQL["make_month"], month)
            self._months.add(month)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """The connection; after anything but a Conflict it is dropped, for nobody knows what it has seen."""
        if self._connection is None:
            self._connection = await _connect(self._url)
        connection = self._connection
        try:
            yield connection
        except Conflict:
            raise
        except Exception as error:
            # Losing it in the middle of a COPY shows as whatever the driver trips over next.
            lost = connection.is_closed()
            self.disconnect()
            if lost or _is_unavailable(error):
                raise _unavailable(error) from error
            raise
        except BaseException:
            self.disconnect()
            raise


async def _connect(url: str) -> Connection:
    try:
        connection = await asyncpg.connect(
            url, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS, server_settings=_SERVER_SETTINGS
        )
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _unavailable(error) from error
    try:
        await migrate.check(connection)
    except BaseException as error:
        connection.terminate()
        if _is_unavailable(error):
            raise _unavailable(error) from error
        raise
    return connection


def _is_unavailable(error: BaseException) -> bool:
    """Whether the server goes away, is full or takes too long; else it is only this batch that it does not take."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in _UNAVAILABLE
    return isinstance(error, OSError | asyncpg.InterfaceError)


def _unavailable(error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(
        f"PostgreSQL cannot be reached or refuses us ({place_of(error)});"
        " check MAILTRAIL_DATABASE_URL and whether the server runs"
    )


async def _move_watermark(connection: Connection, batch: Batch) -> None:
    to = (batch.journal, batch.stream.value, batch.end.segment, batch.end.offset)
    if batch.start is None:
        moved = await connection.fetchval(_SQL["set_watermark"], *to)
    else:
        moved = await connection.fetchval(_SQL["move_watermark"], *to, batch.start.segment, batch.start.offset)
    if not moved:
        raise Conflict("another shipper ships this journal; going on from where it is")


async def _insert(connection: Connection, batch: Batch, window: Window) -> Written:
    totals: Counter[Row] = Counter()
    refused: list[bytes] = []
    clamped = 0
    for start in range(0, len(batch.hits), SLICE_ROWS):
        entries = [(_row(hit, window), line) for hit, line in batch.hits[start : start + SLICE_ROWS]]
        for row in await _copy(connection, entries, refused):
            totals[_total_key(row)] += 1
            clamped += row[-1]
    await _quarantine(connection, batch.stream, "refused", refused)
    await _add_totals(connection, totals)
    return Written(len(batch.hits) - len(refused), clamped, len(refused))


async def _add_totals(connection: Connection, totals: Counter[Row]) -> None:
    keys = sorted(totals)
    for start in range(0, len(keys), SLICE_ROWS):
        some = keys[start : start + SLICE_ROWS]
        await connection.execute(_SQL["add_totals"], *zip(*some, strict=True), [totals[key] for key in some])


async def _copy(connection: Connection, entries: Sequence[tuple[Row, bytes]], refused: list[bytes]) -> list[Row]:
    """COPYs the rows and returns them, without those that the database refuses for their data, found by halving.

    The lines of these are added to `refused`.
    """
    rows = [row for row, _ in entries]
    try:
        async with connection.transaction():
            await connection.copy_records_to_table("hits", schema_name="mailtrail", columns=COLUMNS, records=rows)
        return rows
    except asyncpg.PostgresError as error:
        if not _is_refusal(error):
            raise
    if len(entries) == 1:
        refused.append(entries[0][1])
        return []
    middle = len(entries) // 2
    accepted = await _copy(connection, entries[:middle], refused)
    return accepted + await _copy(connection, entries[middle:], refused)


def _is_refusal(error: asyncpg.PostgresError) -> bool:
    """Whether a row's data is at fault. A month that is missing has the same class, but no constraint's name."""
    if isinstance(error, asyncpg.CheckViolationError) and not error.constraint_name:
        return False
    return (error.sqlstate or "")[:2] in _REFUSALS


async def _quarantine(connection: Connection, stream: Stream, reason: str, lines: Iterable[bytes]) -> None:
    cut = [line[:QUARANTINED_BYTES] for line in lines]
    if cut:
        await connection.execute(_SQL["quarantine"], stream.value, reason, cut)


def _row(hit: Hit, window: Window) -> Row:
    fits = window.holds(hit.at)
    gap = hit.pseudonym_gap
    return (
        hit.at if fits else window.now(hit.mode),
        hit.hit_id,
        _KINDS[hit.kind],
        _MODES[hit.mode],
        hit.space,
        hit.event,
        hit.mailing,
        hit.link,
        hit.link_registered,
        hit.agent_kind,
        hit.agent_family,
        hit.recipient,
        hit.nonce,
        hit.pseudonym,
        None if gap is None else gap.value,
        hit.client_address,
        hit.user_agent,
        hit.url,
        hit.outcome.value,
        not fits,
    )


def _total_key(row: Row) -> Row:
    """The totals' key in the order that `add_totals` takes."""
    at, _, kind, mode, space, event, mailing, link, registered, agent, *_ = row
    return mailing, at.replace(minute=0, second=0, microsecond=0), kind, link, registered, mode, agent, space, event
