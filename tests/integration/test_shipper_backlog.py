"""A backlog holds up no new hits: the writer is asked to move on, and its new journal has its turns first."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from app.errors import StoreUnavailable
from app.journal.keeper import JournalKeeper
from app.journal.segments import MOVE_ON
from app.shipper import ship
from app.shipper.batches import Batch, Written
from app.shipper.postgres import PostgresStore
from app.store.migrate import migrate
from app.store.pool import Connection
from tests.integration.shipping import (
    ANONYMIZED,
    PERSON,
    ids,
    numbered,
    open_journal,
    shipper_of,
    value,
    write,
    write_journal,
)

AWAY = "postgresql://127.0.0.1:9/none"
HITS = 1_000
BATCH = 10
NEW = HITS + 1


@pytest.fixture
async def store(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setattr(ship, "BACKLOG_BYTES", 10_000)
    await migrate(connection)
    return connection


async def test_new_hits_overtake_a_backlog_of_their_own_collector(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = asyncio.Semaphore(1)
    real = PostgresStore.write
    batches = 0

    async def write_when_told(to: PostgresStore, batch: Batch[Any]) -> Written:
        nonlocal batches
        if batch.journal == backlog.name:
            await may_write.acquire()
            batches += 1
        return await real(to, batch)

    monkeypatch.setattr(PostgresStore, "write", write_when_told)
    monkeypatch.setattr(ship, "ROUND_SECONDS", 0.0)
    writer = open_journal(tmp_path)
    backlog = writer.directory
    write(writer, numbered(PERSON, range(HITS)))
    keeper = JournalKeeper(writer, tmp_path / "journals", max_bytes=2**30)
    keeper.start()
    shipper, metrics = shipper_of(tmp_path, database_url, ship_batch_rows=BATCH, ship_interval_seconds=0.01)
    running = asyncio.create_task(shipper.run())
    try:
        async with asyncio.timeout(60):
            while not (backlog / MOVE_ON).exists():
                await asyncio.sleep(0.01)
            while writer.directory == backlog:
                write(writer, numbered(ANONYMIZED, [NEW]))
                await asyncio.sleep(0.05)
            write(writer, numbered(PERSON, [NEW + 1]))
            while NEW + 1 not in await ids(store):
                may_write.release()
                await asyncio.sleep(0.05)
            assert batches < HITS // BATCH
            assert not {*range(HITS)} <= {*await ids(store)}
            while len(await ids(store)) < HITS + 2:
                may_write.release()
                await asyncio.sleep(0)
    finally:
        running.cancel()
        await asyncio.wait([running])
        keeper.close()
    assert {*range(HITS), NEW, NEW + 1} == {*await ids(store)}
    assert value(metrics, "ship_failures") == 0
    assert len(list((tmp_path / "journals").iterdir())) == 2


async def test_only_a_writer_that_lives_is_asked_to_move_on_and_only_before_a_backlog(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """Also while the database is away: when it is back, little waits before what comes."""
    hits = iter(numbered(PERSON, range(4 * HITS)))
    much, little = open_journal(tmp_path), open_journal(tmp_path)
    left = write_journal(tmp_path, itertools.islice(hits, HITS))

    def asked() -> list[bool]:
        return [(directory / MOVE_ON).exists() for directory in (much.directory, little.directory, left)]

    shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=BATCH)
    write(much, itertools.islice(hits, HITS))
    await shipper.ship_once()
    assert asked() == [False, False, False]
    shipper.close()
    shipper, _ = shipper_of(tmp_path, AWAY, ship_batch_rows=BATCH)
    write(little, itertools.islice(hits, 20))
    write(much, itertools.islice(hits, HITS))
    with pytest.raises(StoreUnavailable):
        await shipper.ship_once()
    assert asked() == [True, False, False]
    shipper.close()
    for writer in (much, little):
        writer.close()


@pytest.mark.usefixtures("store")
async def test_the_more_waits_the_more_may_wait_in_one_journal(tmp_path: Path) -> None:
    """Or a long absence of the database would leave thousands of journals."""
    shipper, _ = shipper_of(tmp_path, AWAY)
    writer = open_journal(tmp_path)
    hits = iter(numbered(PERSON, range(100_000)))
    made = []
    for _ in range(40):
        for _ in range(12):
            write(writer, itertools.islice(hits, 20))
            with pytest.raises(StoreUnavailable):
                await shipper.ship_once()
            if (writer.directory / MOVE_ON).exists() and writer.directory not in made:
                made.append(writer.directory)
                writer.move_on()
    sizes = [sum(path.stat().st_size for path in journal.glob("*.seg")) for journal in made]
    assert 16 < len(made) < 60
    assert sizes[-1] > 2 * sizes[0]
    shipper.close()
    writer.close()


async def test_a_journal_is_removed_with_what_its_writer_was_asked(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """A writer that was killed has not taken it away."""
    journal = write_journal(tmp_path, numbered(PERSON, range(3)))
    (journal / MOVE_ON).touch()
    shipper, _ = shipper_of(tmp_path, database_url, journal_keep_hours=0)
    assert await shipper.ship_once() == 3
    shipper.close()
    assert not journal.exists()


async def test_the_journals_that_were_left_have_their_turns_one_after_the_other(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = PostgresStore.write

    async def note(to: PostgresStore, batch: Batch[Any]) -> Written:
        order.append(batch.journal)
        return await real(to, batch)

    left = [write_journal(tmp_path, numbered(PERSON, range(100 * n, 100 * n + 50))) for n in range(3)]
    writer = open_journal(tmp_path)
    write(writer, numbered(PERSON, range(1_000, 1_050)))
    shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=BATCH)
    await shipper._round(0.0)  # every journal counts as written until it was read once
    while len(await ids(store)) < 200:
        monkeypatch.setattr(PostgresStore, "write", note)
        await shipper._round(0.0)
    expected = {path.name for path in left}
    written = [name == writer.directory.name for name in order]
    assert written[:8] == [True, False] * 4
    assert {*order[1:7:2]} == expected
    shipper.close()
    writer.close()
