"""Reading ahead: what waits in memory while the batch before it fails or is given up is never written wrongly."""

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.errors import StoreUnavailable
from app.journal.segments import Stream
from app.shipper.batches import Batch, Conflict, Written
from app.shipper.journals import Journal, Reading
from app.shipper.postgres import PostgresStore
from app.store.migrate import migrate
from app.store.pool import Connection
from tests.integration.shipping import ANONYMIZED, PERSON, ids, numbered, shipper_of, totals_agree, write_journal

HITS = 60
BATCH = 10


@dataclass
class Course:
    """What the shipper has read and written, and what happens to its second write while a third batch is ahead."""

    read: int = 0
    written: int = 0
    ahead: list[int] = field(default_factory=list)
    before: Exception | None = None
    after: Exception | None = None
    hang: bool = False
    hanging: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
async def store(connection: Connection) -> Connection:
    await migrate(connection)
    return connection


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch) -> Course:
    course = Course()
    read, write = Journal.read, PostgresStore.write

    def note_reading(journal: Journal, stream: Stream, *where: Any) -> Reading:
        reading = read(journal, stream, *where)
        if reading.lines:
            course.read += 1
        return reading

    async def write_or_fail(store: PostgresStore, batch: Batch[Any]) -> Written:
        course.written += 1
        if course.written > 2:
            return await write(store, batch)
        async with asyncio.timeout(30):
            while course.read <= course.written:
                await asyncio.sleep(0.001)
        course.ahead.append(course.read - course.written)
        if course.written == 1:
            return await write(store, batch)
        if course.hang:
            course.hanging.set()
            await asyncio.Event().wait()
        if course.before is not None:
            raise course.before
        written = await write(store, batch)
        if course.after is not None:
            raise course.after
        return written

    monkeypatch.setattr(Journal, "read", note_reading)
    monkeypatch.setattr(PostgresStore, "write", write_or_fail)
    return course


def write_hits(data: Path, identified: int = HITS // 2) -> None:
    """Of none identified, the next batch is always one of the same stream; else one of the other."""
    write_journal(data, numbered(PERSON, range(identified)) + numbered(ANONYMIZED, range(identified, HITS)))


async def test_the_next_batch_is_read_while_one_is_written_and_only_the_next(
    store: Connection, database_url: str, tmp_path: Path, course: Course
) -> None:
    write_hits(tmp_path)
    shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=BATCH)
    assert await shipper.ship_once() == HITS
    assert course.ahead == [1, 1]
    shipper.close()


@pytest.mark.parametrize("error", [StoreUnavailable("away"), Conflict("other"), ZeroDivisionError()], ids=repr)
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("identified", [0, HITS // 2])
async def test_a_write_that_fails_with_a_batch_ahead_neither_loses_nor_doubles(
    store: Connection,
    database_url: str,
    tmp_path: Path,
    course: Course,
    error: Exception,
    committed: bool,
    identified: int,
) -> None:
    write_hits(tmp_path, identified)
    course.before, course.after = (None, error) if committed else (error, None)
    shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=BATCH)
    if not isinstance(error, Conflict):
        with pytest.raises(type(error)):
            await shipper.ship_once()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    await shipper.ship_once()
    shipper.close()
    assert await ids(store) == Counter(range(HITS))
    assert await totals_agree(store)


async def test_who_is_cancelled_with_a_batch_ahead_leaves_nothing_running_and_loses_nothing(
    store: Connection, database_url: str, tmp_path: Path, course: Course
) -> None:
    write_hits(tmp_path)
    course.hang = True
    shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=BATCH)
    shipping = asyncio.create_task(shipper.run())
    await course.hanging.wait()
    shipping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shipping
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await shipper.drain()
    assert await ids(store) == Counter(range(HITS))
    assert await totals_agree(store)


async def test_a_journal_is_not_given_up_while_it_is_read_ahead(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hits(tmp_path)
    reads, told = 0, []
    reading_on, may_end = threading.Event(), threading.Event()
    read, release, write = Journal.read, Journal.release, PostgresStore.write

    def read_slowly(journal: Journal, *where: Any) -> Reading:
        nonlocal reads
        reads += 1
        if reads == 2:
            reading_on.set()
            assert may_end.wait(30)
            told.append("read")
        return read(journal, *where)

    def note_release(journal: Journal) -> None:
        told.append("released")
        release(journal)

    async def write_and_be_cancelled(store: PostgresStore, batch: Batch[Any]) -> Written:
        assert await asyncio.to_thread(reading_on.wait, 30)
        shipping.cancel()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        return await write(store, batch)

    monkeypatch.setattr(Journal, "read", read_slowly)
    monkeypatch.setattr(Journal, "release", note_release)
    monkeypatch.setattr(PostgresStore, "write", write_and_be_cancelled)
    shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=BATCH)
    shipping = asyncio.create_task(shipper.run())
    with pytest.raises(asyncio.CancelledError):
        await shipping
    assert told[0] == "read"
    assert "released" in told
    monkeypatch.setattr(PostgresStore, "write", write)
    await shipper.drain()
    assert await ids(store) == Counter(range(HITS))
