"""PostgreSQL as the shipper's store: a batch, its totals and its watermark in one transaction.

Invariants: a batch is written only from the watermark that was read, so that no line is ever written twice; a row that
the database refuses for its data is quarantined and takes no other row with it; whatever hangs is ended by a timeout,
here and in the server.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import asyncpg
import structlog

from ..errors import StoreUnavailable
from ..journal.segments import Stream
from ..logs import place_of
from ..store import migrate
from ..store.day_keys import keep_day_keys
from ..store.pool import Connection
from ..store.queries import queries
from ..tracking.modes import Mode
from .batches import Batch, Conflict, Written
from .copying import COLUMNS, Encoded, RowEncoder, stream, with_clock
from .journals import Position

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 60.0
TOTALS_ROWS = 1_000
"""Totals of one statement."""

QUARANTINED_BYTES = 64 * 2**10
QUARANTINE_DAYS = 30
"""Long enough to look at a line, whoever may be in it; single hits may be kept for longer."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""No collector writes an earlier time, however long hits are kept."""

Total = tuple[datetime, int, str, int, bool, str, str, int, int]
"""Hour, mailing, kind, link, registered, mode, agent, space, event."""

T = TypeVar("T")

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

    def now(self, mode: str) -> datetime:
        """The database's clock, as exact as the mode of this label allows."""
        if mode == Mode.PERSON_BASED.label:
            return self.clock
        minute = self.clock.minute if mode == Mode.ANONYMIZED.label else 0
        return self.clock.replace(minute=minute, second=0, microsecond=0)


class PostgresStore:
    """The `Store` on one connection, made when it is needed; not for several tasks at once."""

    def __init__(self, database_url: str, *, anonymization_days: int, retention_days: int) -> None:
        self._url = database_url
        self._anonymization_days = anonymization_days
        self._retention_days = retention_days
        self._connection: Connection | None = None
        self.pack = RowEncoder().encode
        self._months: set[date] = set()

    async def watermarks(self, journal: str) -> dict[Stream, Position]:
        async with self._connected() as connection:
            rows = await connection.fetch(_SQL["watermarks"], journal)
        return {Stream(row["stream"]): Position(row["segment"], row["byte_offset"]) for row in rows}

    async def write(self, batch: Batch[Encoded]) -> Written:
        async with self._connected() as connection:
            window = Window.around(await connection.fetchval(_SQL["clock"]), self._retention_days)
            rows, clamped = _fit(batch.rows, window)
            await self._make_months(connection, rows)
            async with connection.transaction(isolation="read_committed"):
                await _move_watermark(connection, batch)
                await _quarantine(connection, batch.stream, "damaged", batch.damaged)
                refused = await _insert(connection, batch, rows)
        return Written(len(rows) - len(refused), len(clamped - refused), len(refused))

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

    async def _make_months(self, connection: Connection, rows: Sequence[Encoded]) -> None:
        """Before the batch and on its own, so that nobody waits for the batch to see a month."""
        for month in _by_period(rows, _month).keys() - self._months:
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


async def _move_watermark(connection: Connection, batch: Batch[Encoded]) -> None:
    to = (batch.journal, batch.stream.value, batch.end.segment, batch.end.offset)
    if batch.start is None:
        moved = await connection.fetchval(_SQL["set_watermark"], *to)
    else:
        moved = await connection.fetchval(_SQL["move_watermark"], *to, batch.start.segment, batch.start.offset)
    if not moved:
        raise Conflict("another shipper ships this journal; going on from where it is")


async def _insert(connection: Connection, batch: Batch[Encoded], rows: Sequence[Encoded]) -> frozenset[int]:
    """Writes the batch's rows and their totals; returns the places of those that the database refuses."""
    refused = frozenset([place async for place in _copy(connection, rows, 0, len(rows))])
    if refused:
        await _quarantine(connection, batch.stream, "refused", [batch.lines[place] for place in sorted(refused)])
        rows = [row for place, row in enumerate(rows) if place not in refused]
    await _add_totals(connection, _totals(rows))
    return refused


async def _add_totals(connection: Connection, totals: Counter[Total]) -> None:
    keys = sorted(totals)
    for start in range(0, len(keys), TOTALS_ROWS):
        some = keys[start : start + TOTALS_ROWS]
        await connection.execute(_SQL["add_totals"], *zip(*some, strict=True), [totals[key] for key in some])


async def _copy(connection: Connection, rows: Sequence[Encoded], start: int, end: int) -> AsyncIterator[int]:
    """COPYs rows; gives the places of those that the database refuses for their data, which are found by halving."""
    if start == end:
        return
    try:
        async with connection.transaction():
            await connection.copy_to_table(
                "hits", schema_name="mailtrail", columns=COLUMNS, format="binary", source=stream(rows[start:end])
            )
        return
    except asyncpg.PostgresError as error:
        if not _is_refusal(error):
            raise
    if end - start == 1:
        yield start
        return
    middle = (start + end) // 2
    for half in ((start, middle), (middle, end)):
        async for place in _copy(connection, rows, *half):
            yield place


def _is_refusal(error: asyncpg.PostgresError) -> bool:
    """Whether a row's data is at fault. A month that is missing has the same class, but no constraint's name."""
    if isinstance(error, asyncpg.CheckViolationError) and not error.constraint_name:
        return False
    return (error.sqlstate or "")[:2] in _REFUSALS


async def _quarantine(connection: Connection, stream: Stream, reason: str, lines: Iterable[bytes]) -> None:
    cut = [line[:QUARANTINED_BYTES] for line in lines]
    if cut:
        await connection.execute(_SQL["quarantine"], stream.value, reason, cut)


def _fit(rows: Sequence[Encoded], window: Window) -> tuple[Sequence[Encoded], frozenset[int]]:
    """The rows with times that the window holds, and the places of those that had another."""
    if all(map(window.holds, _extremes(rows))):
        return rows, frozenset()
    clamped = frozenset(place for place, (_, at, _) in enumerate(rows) if not window.holds(at))
    fitted = list(rows)
    for place in clamped:
        _, _, shared = rows[place]
        fitted[place] = with_clock(rows[place], window.now(shared.mode))
    return fitted, clamped


def _totals(rows: Sequence[Encoded]) -> Counter[Total]:
    """How many rows there are of each key of the totals, in the order that `add_totals` takes."""
    totals: Counter[Total] = Counter()
    for hour, of_hour in _by_period(rows, _hour).items():
        for shared, number in Counter([shared for _, _, shared in of_hour]).items():
            kind, mode, space, event, mailing, link, registered, agent, *_ = shared.values
            totals[hour, mailing, kind, link, registered, mode, agent, space, event] += number
    return totals


def _by_period(rows: Sequence[Encoded], period: Callable[[datetime], T]) -> dict[T, Sequence[Encoded]]:
    """The rows by the hour or month of their times."""
    found = {period(at) for at in _extremes(rows)}
    if len(found) <= 1:  # as nearly always: hits are shipped as they come
        return dict.fromkeys(found, rows)
    by_period: defaultdict[T, list[Encoded]] = defaultdict(list)
    for row in rows:
        by_period[period(row[1])].append(row)
    return dict(by_period)


def _extremes(rows: Sequence[Encoded]) -> tuple[datetime, ...]:
    """The earliest and the latest time; nothing of no rows."""
    times = [at for _, at, _ in rows]
    return (min(times), max(times)) if times else ()


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _month(at: datetime) -> date:
    return at.date().replace(day=1)
