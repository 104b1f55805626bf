"""A shipper's life: adopting, clearing away, losing the database and finding it again, stopping."""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from app.errors import StoreUnavailable
from app.journal.keeper import journal_bytes
from app.journal.segments import SHIPPER_LOCK, Stream, lock, segments
from app.metrics import Metrics
from app.shipper import ship
from app.shipper.journals import Journal
from app.shipper.postgres import PostgresStore
from app.shipper.ship import Shipper
from app.store.migrate import migrate
from app.store.pool import Connection
from tests.integration.shipping import (
    AGGREGATE,
    ANONYMIZED,
    NOW,
    PERSON,
    first,
    grow_old,
    ids,
    numbered,
    open_journal,
    settings_of,
    shipper_of,
    totals_agree,
    value,
    write,
    write_journal,
)


@pytest.fixture
async def store(connection: Connection) -> Connection:
    await migrate(connection)
    return connection


@contextlib.asynccontextmanager
async def running(shipper: Shipper) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(shipper.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)


async def journal_rows(store: Connection) -> int:
    rows: int = await store.fetchval("select count(*) from mailtrail.journals")
    return rows


# --- adopting and clearing away ---------------------------------------------------------------------------------------


async def test_a_dead_journal_is_removed_with_its_watermarks_when_its_time_is_over(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(5)) + numbered(ANONYMIZED, range(5, 9)))
    shipper, metrics = shipper_of(tmp_path, database_url, journal_keep_hours=2)
    assert await shipper.ship_once() == 9
    assert journal.exists()
    grow_old(journal, hours=1.9)
    assert await again(shipper) == 0
    assert (journal.exists(), await journal_rows(store)) == (True, 2)
    grow_old(journal, hours=2.1)
    assert await again(shipper) == 0
    assert (journal.exists(), await journal_rows(store)) == (False, 0)
    assert value(metrics, "journal_bytes") == 0
    assert value(metrics, "oldest_unshipped_seconds") == 0
    assert await again(shipper) == 0
    shipper.close()
    assert await ids(store) == Counter(range(9))


async def again(shipper: Shipper) -> int:
    """Ships once more as a shipper that has just started: it looks at every journal."""
    shipper.close()
    return await shipper.ship_once()


async def test_a_dead_journal_is_not_held_while_it_is_kept(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """Hundreds of them would take all descriptors."""
    journal = write_journal(tmp_path, numbered(PERSON, range(5)))
    shipper, _ = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 5
    descriptor = lock(journal, SHIPPER_LOCK)
    assert descriptor is not None
    os.close(descriptor)
    shipper.close()


async def test_old_segments_of_a_dead_journal_go_before_its_youngest(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(20)), segment_bytes=1_000)
    shipper, _ = shipper_of(tmp_path, database_url, journal_keep_hours=2)
    assert await shipper.ship_once() == 20
    grow_old(journal, hours=3)
    young = segments(journal, Stream.IDENTIFIED)[-1].path
    os.utime(young)
    assert await again(shipper) == 0
    assert [young] == [segment.path for stream in Stream for segment in segments(journal, stream)]
    assert await journal_rows(store) == 1
    assert await again(shipper) == 0
    grow_old(journal, hours=3)
    assert await again(shipper) == 0
    assert not journal.exists()
    shipper.close()
    assert await ids(store) == Counter(range(20))


async def test_only_full_shipped_old_segments_of_a_living_journal_go(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path, segment_bytes=1_000)
    write(writer, numbered(PERSON, range(20)))
    shipper, metrics = shipper_of(tmp_path, database_url, journal_keep_hours=1)
    assert await shipper.ship_once() == 20
    there = segments(writer.directory, Stream.IDENTIFIED)
    assert await shipper.ship_once() == 0
    assert there == segments(writer.directory, Stream.IDENTIFIED)
    grow_old(writer.directory, hours=2)
    assert await shipper.ship_once() == 0
    assert there[-1:] == segments(writer.directory, Stream.IDENTIFIED)
    assert len(segments(writer.directory, Stream.REDUCED)) == 1
    write(writer, numbered(PERSON, range(20, 40)))
    assert await shipper.ship_once() == 20
    assert value(metrics, "segments_missing") == 0
    shipper.close()
    writer.close()
    assert await ids(store) == Counter(range(40))


async def test_what_is_not_shipped_is_never_removed_however_old(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(20)), segment_bytes=1_000)
    grow_old(journal, hours=1_000)
    before = segments(journal, Stream.IDENTIFIED)
    lost, _ = shipper_of(tmp_path, "postgresql:///nowhere?host=/nonexistent", journal_keep_hours=0)
    with pytest.raises(StoreUnavailable):
        await lost.ship_once()
    lost.close()
    assert before == segments(journal, Stream.IDENTIFIED)
    shipper, _ = shipper_of(tmp_path, database_url, journal_keep_hours=0)
    assert await shipper.ship_once() == 20
    assert (journal.exists(), await journal_rows(store)) == (False, 0)
    shipper.close()


async def test_a_crash_in_the_middle_of_removing_leaves_nothing_to_ship_twice(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(5)))
    grow_old(journal, hours=2)
    shipper, _ = shipper_of(tmp_path, database_url, journal_keep_hours=1)

    class Crash(Exception):
        pass

    def crash(crashing: PostgresStore | Journal, *_: object) -> None:
        if isinstance(crashing, Journal):
            crashing.release()  # as the end of the process does
        raise Crash

    for method in ("forget", "remove_directory"):
        with monkeypatch.context() as patched:
            patched.setattr(PostgresStore if method == "forget" else Journal, method, crash)
            with pytest.raises(Crash):
                await shipper.ship_once()
        shipper.close()
        assert segments(journal, Stream.IDENTIFIED) == []
        assert await journal_rows(store) == (1 if method == "forget" else 0)
        grow_old(journal, hours=2)
    assert await shipper.ship_once() == 0
    assert not journal.exists()
    shipper.close()
    assert await ids(store) == Counter(range(5))


async def test_a_strangers_file_in_a_journal_is_left_alone(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    journal = write_journal(tmp_path, numbered(PERSON, range(5)))
    (journal / "note").write_text("mine")
    grow_old(journal, hours=2)
    shipper, metrics = shipper_of(tmp_path, database_url, journal_keep_hours=1)
    assert await shipper.ship_once() == 5
    assert await shipper.ship_once() == 0
    assert value(metrics, "ship_failures", reason="unreadable") == 1
    assert [path.name for path in journal.iterdir()] == ["note"]
    shipper.close()


async def test_more_journals_than_can_be_held_are_shipped_in_turn(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "MAX_HELD", 2)
    for number in range(5):
        write_journal(tmp_path, numbered(PERSON, [number]))
    shipper, _ = shipper_of(tmp_path, database_url)
    assert [await shipper.ship_once() for _ in range(4)] == [2, 2, 1, 0]
    shipper.close()


async def test_an_empty_journal_of_a_start_that_failed_is_removed(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    empty = tmp_path / "journals" / "00000000000000ff"
    empty.mkdir(parents=True)
    shipper, _ = shipper_of(tmp_path, database_url, journal_keep_hours=0)
    assert await shipper.ship_once() == 0
    assert list(empty.iterdir()) == []  # its writer may be about to lock it
    grow_old(empty, hours=1)
    assert await shipper.ship_once() == 0
    assert not empty.exists()
    shipper.close()


# --- the database comes and goes --------------------------------------------------------------------------------------


async def test_a_database_that_restarts_again_and_again_gets_each_hit_once(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "MAX_BACK_OFF_SECONDS", 0.05)
    writer = open_journal(tmp_path, segment_bytes=50_000)
    shipper, metrics = shipper_of(tmp_path, database_url, ship_batch_rows=11, ship_interval_seconds=0.01)
    async with running(shipper) as task:
        for start in range(0, 3_000, 300):
            write(writer, numbered(PERSON, range(start, start + 200)))
            write(writer, numbered(ANONYMIZED, range(start + 200, start + 300)))
            await until(lambda start=start: shipped(store, start))  # type: ignore[misc]
            await store.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mailtrail shipper'"
            )
        await until(lambda: shipped(store, 2_999))
        assert not task.done()
    writer.close()
    assert await shipper.drain() == 0
    assert await ids(store) == Counter(range(3_000))
    assert await totals_agree(store)
    assert value(metrics, "ship_failures", reason="unavailable") > 0
    assert value(metrics, "ship_failures", reason="other") == 0


async def shipped(store: Connection, more_than: int) -> bool:
    return (await ids(store)).total() > more_than


async def test_a_database_that_is_away_is_waited_for_and_said_once(
    store: Connection,
    server_url: str,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ship, "MAX_BACK_OFF_SECONDS", 0.05)
    name = database_url.partition("?")[0].rpartition("/")[2]
    writer = open_journal(tmp_path)
    shipper, metrics = shipper_of(tmp_path, database_url, ship_interval_seconds=0.01)
    server = await asyncpg.connect(server_url)
    async with running(shipper):
        write(writer, numbered(PERSON, range(10)))
        await until(lambda: shipped(store, 9))
        await store.close()
        await server.execute(f"alter database {name} with allow_connections false")
        await server.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
        old = replace(PERSON, at=datetime.now(UTC) - timedelta(hours=1))
        write(writer, numbered(old, range(10, 20)))
        await until(lambda: failed(metrics, 5))
        assert 3_600 <= value(metrics, "oldest_unshipped_seconds") < 3_700
        await server.execute(f"alter database {name} with allow_connections true")
        again = await asyncpg.connect(database_url)
        await until(lambda: shipped(again, 19))
        await until(lambda: caught_up(metrics))
        told = await printed(capsys, "hits are shipped again")
    assert await ids(again) == Counter(range(20))
    await again.close()
    await server.close()
    writer.close()
    told += capsys.readouterr().out
    # The lost connection and then the refused ones: as often as the trouble changed, not as often as it was met.
    assert 1 <= told.count("hits are not shipped") <= 3
    assert told.count("hits are shipped again") == 1
    assert "StoreUnavailable" not in told
    assert value(metrics, "ship_failures", reason="other") == 0


async def failed(metrics: Metrics, times: int) -> bool:
    return value(metrics, "ship_failures", reason="unavailable") >= times


async def printed(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """What is printed, up to and with the words: a shipper tells only after its figures show it."""
    told = ""

    async def is_there() -> bool:
        nonlocal told
        told += capsys.readouterr().out
        return words in told

    await until(is_there)
    return told


async def caught_up(metrics: Metrics) -> bool:
    return value(metrics, "oldest_unshipped_seconds") == 0


async def test_a_schema_that_is_not_ours_is_waited_for_with_the_mend(
    connection: Connection,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ship, "MAX_BACK_OFF_SECONDS", 0.05)
    write_journal(tmp_path, numbered(PERSON, range(5)))
    shipper, metrics = shipper_of(tmp_path, database_url)
    async with running(shipper):
        await until(lambda: failed(metrics, 3))
        await migrate(connection)
        await until(lambda: shipped(connection, 4))
    assert "run `mailtrail migrate`" in capsys.readouterr().out


async def test_a_fault_of_ours_ends_neither_the_shipper_nor_the_other_journals(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "MAX_BACK_OFF_SECONDS", 0.01)
    write = PostgresStore.write
    poison = write_journal(tmp_path, numbered(PERSON, range(5))).name

    async def write_or_fail(self: PostgresStore, batch: ship.Batch) -> ship.Written:
        if batch.journal == poison:
            raise ZeroDivisionError
        return await write(self, batch)

    monkeypatch.setattr(PostgresStore, "write", write_or_fail)
    for part in range(1, 4):
        write_journal(tmp_path, numbered(PERSON, range(5 * part, 5 * part + 5)))
    shipper, metrics = shipper_of(tmp_path, database_url)
    async with running(shipper) as task:
        await until(lambda: shipped(store, 14))
        await until(lambda: reported(metrics))
        assert not task.done()
        monkeypatch.setattr(PostgresStore, "write", write)
        await until(lambda: shipped(store, 19))
    assert await ids(store) == Counter(range(20))


async def reported(metrics: Metrics) -> bool:
    return value(metrics, "ship_failures", reason="other") > 1


async def test_housekeeping_that_fails_stops_no_shipping(store: Connection, database_url: str, tmp_path: Path) -> None:
    await store.execute("drop function vault.make_day_key")
    await store.execute("insert into mailtrail.quarantine (at, stream, reason, line) values ('2020-01-01', '', '', '')")
    write_journal(tmp_path, numbered(PERSON, range(5)))
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 5
    shipper.close()
    assert value(metrics, "housekeeping_failures") == 1
    assert await store.fetchval("select count(*) from mailtrail.quarantine") == 0  # the other duties were done


async def test_after_a_failure_the_store_is_asked_again_where_it_is(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """A restore takes the connections away: what was shipped before it is shipped again, out of what is kept."""
    journal = write_journal(tmp_path, numbered(PERSON, range(5)))
    shipper, _ = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 5
    await store.execute("truncate mailtrail.hits, mailtrail.hit_totals, mailtrail.journals")
    await store.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mailtrail shipper'"
    )
    writer = open_journal(tmp_path)
    write(writer, numbered(PERSON, range(5, 10)))
    with pytest.raises(StoreUnavailable):
        await shipper.ship_once()
    assert await shipper.ship_once() == 10
    shipper.close()
    writer.close()
    assert journal.exists()
    assert await ids(store) == Counter(range(10))


# --- waiting and stopping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hit", "seconds"), [(PERSON, 0), (ANONYMIZED, 60), (AGGREGATE, 3600)])
async def test_the_oldest_unshipped_hit_is_never_said_to_be_older_than_it_is(
    tmp_path: Path, hit: object, seconds: float
) -> None:
    assert isinstance(hit, type(PERSON))
    at = (NOW - timedelta(hours=5)).replace(minute=0, second=0, microsecond=0)
    write_journal(tmp_path, [replace(hit, at=at), replace(hit, at=at + timedelta(hours=1))])
    shipper, metrics = shipper_of(tmp_path, "postgresql:///nowhere?host=/nonexistent")
    with pytest.raises(StoreUnavailable):
        await shipper.ship_once()
    # Before the store has told where it stands, this much is sure: since then nothing was shipped.
    assert value(metrics, "oldest_unshipped_seconds") < 60
    for held in shipper._held.values():
        held.shipped = {}
    with pytest.raises(StoreUnavailable):
        await shipper.ship_once()
    age = time.time() - at.timestamp()
    assert age - seconds - 60 < value(metrics, "oldest_unshipped_seconds") <= age - seconds
    assert value(metrics, "journal_bytes") > 0
    shipper.close()


async def test_a_service_that_stops_ships_what_is_there(store: Connection, database_url: str, tmp_path: Path) -> None:
    writer = open_journal(tmp_path)
    shipper, _ = shipper_of(tmp_path, database_url, ship_interval_seconds=60)
    async with running(shipper):
        write(writer, numbered(PERSON, range(10)))
        await until(lambda: shipped(store, 9))
        write(writer, numbered(PERSON, range(10, 20)))  # it sleeps now
    writer.close()
    assert await shipper.drain() == 10
    assert await ids(store) == Counter(range(20))
    descriptor = lock(writer.directory, SHIPPER_LOCK)
    assert descriptor is not None
    os.close(descriptor)


async def test_a_service_that_stops_waits_for_no_database(tmp_path: Path) -> None:
    write_journal(tmp_path, numbered(PERSON, range(10)))
    shipper, _ = shipper_of(tmp_path, "postgresql:///nowhere?host=/nonexistent")
    assert await shipper.drain() == 0


async def test_a_drain_ends_in_its_time(store: Connection, database_url: str, tmp_path: Path) -> None:
    """Somebody's lock on the table holds the batch up: what was not committed is shipped by the next start."""
    journal = write_journal(tmp_path, numbered(PERSON, range(10)))
    await store.execute("select mailtrail.make_month($1)", PERSON.at.date())
    async with store.transaction():
        await store.execute("lock table mailtrail.journals in access exclusive mode")
        shipper, _ = shipper_of(tmp_path, database_url)
        async with asyncio.timeout(15):
            assert await shipper.drain(seconds=0.5) == 0
    assert first(journal).exists()
    again, _ = shipper_of(tmp_path, database_url)
    assert await again.drain() == 10
    assert await ids(store) == Counter(range(10))


async def test_cancelled_at_any_moment_it_holds_no_lock_and_loses_nothing(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    for _ in range(3):
        write_journal(tmp_path, numbered(PERSON, range(200)), segment_bytes=3_000)
    metrics = Metrics()
    shipper = Shipper(settings_of(tmp_path, ship_batch_rows=3), database_url, metrics)
    for turns in range(0, 400, 8):
        task = asyncio.create_task(shipper.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for directory in (tmp_path / "journals").iterdir():
            descriptor = lock(directory, SHIPPER_LOCK)
            assert descriptor is not None, "free again"
            os.close(descriptor)
    await shipper.drain(120)
    assert await ids(store) == Counter(dict.fromkeys(range(200), 3))


async def test_the_event_loop_goes_on_while_a_large_batch_is_shipped(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """Counted in turns of the loop, not in time: a batch of 5,000 is not one turn, or a handful."""
    write_journal(tmp_path, numbered(PERSON, range(5_000)), segment_bytes=2**26)
    shipper, _ = shipper_of(tmp_path, database_url)
    shipping = asyncio.create_task(shipper.ship_once())
    turns = 0
    while not shipping.done():
        await asyncio.sleep(0)
        turns += 1
    assert await shipping == 5_000
    assert turns > 30
    shipper.close()


def test_back_off_grows_to_its_bound_and_is_jittered() -> None:
    for failures in (0, 3, 10, 100_000):
        bound = min(ship.MAX_BACK_OFF_SECONDS, ship.MIN_BACK_OFF_SECONDS * 2 ** min(failures, 20))
        pauses = [ship._back_off_seconds(failures) for _ in range(200)]
        assert bound / 2 < max(pauses) <= bound
        assert min(pauses) < bound / 2


async def test_what_is_kept_for_restores_goes_early_before_it_costs_new_hits(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    dead = write_journal(tmp_path, numbered(PERSON, range(40)), segment_bytes=1_000)
    writer = open_journal(tmp_path, segment_bytes=1_000)
    write(writer, numbered(PERSON, range(40, 80)))
    used = journal_bytes(tmp_path / "journals")
    shipper, _ = shipper_of(
        tmp_path, database_url, journal_keep_hours=24, journal_segment_bytes=1_000, journal_max_bytes=3 * used
    )
    assert 80 == await shipper.ship_once() + await shipper.ship_once()
    assert used == journal_bytes(tmp_path / "journals")

    write(writer, numbered(PERSON, range(80, 180)))
    assert 100 == await shipper.ship_once()
    await shipper.ship_once()
    assert not dead.exists()
    assert 1_000 >= journal_bytes(tmp_path / "journals")
    assert Counter(range(180)) == await ids(store)
    shipper.close()
    writer.close()
