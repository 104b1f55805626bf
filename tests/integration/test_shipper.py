"""Exactly once: whoever ships, however often, and whenever it is killed, each accepted hit is one row."""

import asyncio
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.errors import StoreUnavailable
from app.journal.segments import Stream, segments
from app.shipper import journals, postgres
from app.shipper.ship import Shipper
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.hits import Outcome, PseudonymGap
from tests.integration.shipping import (
    AGGREGATE,
    ANONYMIZED,
    PERSON,
    ids,
    numbered,
    open_journal,
    quarantined,
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


async def test_every_field_arrives(store: Connection, database_url: str, tmp_path: Path) -> None:
    full = replace(
        PERSON,
        hit_id=2**63 - 1,
        agent_family="Firefox",
        nonce=b"nonce---",
        client_address="2001:db8::7",
        user_agent='Mozilla "5" \\ \n ü',
        url="https://a.example/?q=%00&ü=1",
        outcome=Outcome.CORRECTED,
        correlation_ids=("order 17", None, 'ü,"}\\'),
    )
    gap = replace(ANONYMIZED, pseudonym=None, pseudonym_gap=PseudonymGap.KEY_DESTROYED, agent_family="Apple Mail")
    hits = [full, ANONYMIZED, replace(gap, hit_id=3), replace(AGGREGATE, hit_id=4, outcome=Outcome.GONE)]
    write_journal(tmp_path, hits)
    shipper, metrics = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 4
    rows = {row["id"]: row for row in await store.fetch("select * from mailtrail.hits")}
    for hit in hits:
        row = rows[hit.hit_id]
        expected = (
            *(hit.at, hit.kind.name.lower(), hit.mode.label, hit.space, hit.event, hit.mailing, hit.link),
            *(hit.link_registered, hit.agent_kind, hit.agent_family, hit.recipient, hit.nonce, hit.pseudonym),
            hit.pseudonym_gap and hit.pseudonym_gap.value,
            *(hit.client_address, hit.user_agent, hit.url, hit.outcome.value, False),
            list(hit.correlation_ids) or None,
        )
        names = "at kind mode space_id event_id mailing_id link registered agent agent_family recipient nonce pseudonym"
        names += " pseudonym_gap client_address user_agent url outcome clock_clamped correlation_ids"
        stored = [row[name] for name in names.split()]
        stored[14] = stored[14] and str(stored[14])
        assert list(expected) == stored
    assert await totals_agree(store)
    assert value(metrics, "hits_shipped", stream="identified") == 1
    assert value(metrics, "hits_shipped", stream="reduced") == 3
    shipper.close()


async def test_values_at_their_bounds_arrive(store: Connection, database_url: str, tmp_path: Path) -> None:
    """What COPY is given is ours, byte by byte: each length, sign and null in it."""
    hits = [
        replace(PERSON, hit_id=-(2**63), space=-1, event=2**63 - 1, mailing=-(2**63), link=-(2**31), recipient=""),
        replace(PERSON, hit_id=-1, link=2**31 - 1, link_registered=False, nonce=b"", client_address="0.0.0.0"),
        replace(PERSON, hit_id=0, at=datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), client_address="::"),
        replace(PERSON, hit_id=1, at=datetime(1970, 1, 1, tzinfo=UTC), client_address="255.255.255.255"),
        replace(ANONYMIZED, hit_id=2, pseudonym=bytes(16)),
        replace(ANONYMIZED, hit_id=3, pseudonym=b"\xff" * 17, agent_family="ü" * 300),
        replace(ANONYMIZED, hit_id=4, pseudonym=b""),
        replace(ANONYMIZED, hit_id=5, pseudonym=None),
    ]
    write_journal(tmp_path, hits)
    shipper, metrics = shipper_of(tmp_path, database_url, hits_retention_days=40_000)
    assert await shipper.ship_once() == len(hits)
    shipper.close()
    rows = {row["id"]: row for row in await store.fetch("select * from mailtrail.hits")}
    for hit in hits:
        row = rows[hit.hit_id]
        expected = (
            *(hit.at, hit.space, hit.event, hit.mailing, hit.link, hit.link_registered, hit.agent_family),
            *(hit.recipient, hit.nonce, hit.pseudonym, hit.client_address, False),
        )
        names = "at space_id event_id mailing_id link registered agent_family recipient nonce pseudonym client_address"
        stored = [row[name] for name in (*names.split(), "clock_clamped")]
        stored[10] = stored[10] and str(stored[10])
        assert list(expected) == stored
    assert await totals_agree(store)
    assert value(metrics, "lines_quarantined") == 0


async def test_a_shipper_goes_on_where_it_or_another_stopped(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path, segment_bytes=2_000)
    for round_ in range(6):
        shipper, _ = shipper_of(tmp_path, database_url, ship_batch_rows=7)
        for part in range(2):
            start = 40 * (2 * round_ + part)
            write(writer, numbered(PERSON, range(start, start + 20)))
            write(writer, numbered(ANONYMIZED, range(start + 20, start + 40)))
            assert await shipper.ship_once() == 40
            assert await shipper.ship_once() == 0
        shipper.close()
    assert len(segments(writer.directory, Stream.IDENTIFIED)) > 10
    writer.close()
    assert await ids(store) == Counter(range(480))
    assert await totals_agree(store)


async def test_totals_are_what_sql_counts(store: Connection, database_url: str, tmp_path: Path) -> None:
    chance = random.Random(7)
    shapes = [PERSON, ANONYMIZED, AGGREGATE, replace(PERSON, agent_kind="bot"), replace(ANONYMIZED, link=5, space=1)]
    hits = [
        replace(
            chance.choice(shapes), hit_id=number, mailing=chance.randrange(3), link_registered=chance.random() < 0.5
        )
        for number in range(2_500)
    ]
    for part in range(3):
        write_journal(tmp_path, hits[part::3])
    shippers = [shipper_of(tmp_path, database_url, ship_batch_rows=100)[0] for _ in range(2)]
    assert sum(await asyncio.gather(*(shipper.ship_once() for shipper in shippers))) == 2_500
    assert await totals_agree(store)
    assert await ids(store) == Counter(range(2_500))
    for shipper in shippers:
        shipper.close()


async def test_a_journal_has_one_shipper_at_a_time(store: Connection, database_url: str, tmp_path: Path) -> None:
    writer = open_journal(tmp_path)
    write(writer, numbered(PERSON, range(10)))
    (one, _), (two, metrics) = (shipper_of(tmp_path, database_url) for _ in range(2))
    assert await one.ship_once() == 10
    write(writer, numbered(PERSON, range(10, 20)))
    assert await two.ship_once() == 0
    one.close()
    assert await two.ship_once() == 10
    assert value(metrics, "ship_failures") == 0
    two.close()
    writer.close()
    assert await ids(store) == Counter(range(20))


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the shipper's lock away from all: as if the file system did not know locks."""
    monkeypatch.setattr("app.shipper.ship.adopt", lambda directory: journals.Journal(directory, -1))


async def test_the_watermark_alone_keeps_two_shippers_apart(
    store: Connection, database_url: str, tmp_path: Path, no_locks: None
) -> None:
    writer = open_journal(tmp_path, segment_bytes=5_000)
    write(writer, numbered(PERSON, range(10)))
    (one, metrics), (two, _) = (shipper_of(tmp_path, database_url, ship_batch_rows=5) for _ in range(2))
    assert await one.ship_once() == 10
    write(writer, numbered(PERSON, range(10, 20)))
    assert await two.ship_once() == 10
    write(writer, numbered(PERSON, range(20, 30)))
    assert await one.ship_once() == 10  # what it remembers is not true any more
    assert value(metrics, "ship_failures", reason="conflict") == 1
    one.close()
    two.close()
    writer.close()
    assert await ids(store) == Counter(range(30))


async def test_four_shippers_in_a_race_without_locks_write_each_hit_once(
    store: Connection, database_url: str, tmp_path: Path, no_locks: None
) -> None:
    for part in range(2):
        hits = range(1_000 * part, 1_000 * part + 500)
        write_journal(tmp_path, numbered(PERSON, hits), segment_bytes=20_000)
        write_journal(tmp_path, numbered(ANONYMIZED, (number + 500 for number in hits)))
    shippers = [shipper_of(tmp_path, database_url, ship_batch_rows=40)[0] for _ in range(4)]
    shipped = await asyncio.gather(*(shipper.ship_once() for shipper in shippers))
    assert sum(shipped) == 2_000
    assert await ids(store) == Counter(range(2_000))
    assert await totals_agree(store)
    for shipper in shippers:
        shipper.close()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_connection_lost_around_the_commit_neither_loses_nor_doubles(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Lost before: nothing was written. Lost after, with the answer underway: all was, and nobody told the shipper."""
    write_journal(tmp_path, numbered(PERSON, range(10)))
    insert = postgres._insert

    async def insert_and_die(connection: Connection, *batch: object) -> object:
        monkeypatch.setattr(postgres, "_insert", insert)
        written = await insert(connection, *batch)  # type: ignore[arg-type]
        if when == "after":
            await connection.execute("commit")
        await store.execute("select pg_terminate_backend($1)", connection.get_server_pid())
        return written

    monkeypatch.setattr(postgres, "_insert", insert_and_die)
    shipper, metrics = shipper_of(tmp_path, database_url)
    with pytest.raises(StoreUnavailable):
        await shipper.ship_once()
    assert await shipper.ship_once() == (10 if when == "before" else 0)
    assert await ids(store) == Counter(range(10))
    assert await totals_agree(store)
    assert value(metrics, "ship_failures", reason="unavailable") == 1
    shipper.close()


async def test_killed_again_and_again_a_shipper_ships_each_hit_once(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path, segment_bytes=100_000)
    code = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from tests.integration.shipping import shipper_of
        shipper, _ = shipper_of(Path({str(tmp_path)!r}), {database_url!r}, ship_batch_rows=7)
        asyncio.run(shipper.run())
    """)
    chance = random.Random()
    written = in_the_middle = 0
    for _ in range(4):
        write(writer, numbered(PERSON, range(written, written + 1_000)))
        write(writer, numbered(ANONYMIZED, range(written + 1_000, written + 2_000)))
        written += 2_000
        process = subprocess.Popen([sys.executable, "-c", code], cwd=Path.cwd())
        before = (await ids(store)).total()
        while (await ids(store)).total() == before:
            assert process.poll() is None
            await asyncio.sleep(0.01)
        await asyncio.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        in_the_middle += (await ids(store)).total() < written
    assert in_the_middle > 0
    writer.close()
    shipper, _ = shipper_of(tmp_path, database_url)
    await shipper.ship_once()
    shipper.close()
    assert await ids(store) == Counter(range(written))
    assert await totals_agree(store)
    assert await quarantined(store) == []


async def test_a_hit_between_the_end_and_the_successor_is_not_left_behind(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """A writer that rotates with every few hits, while the shipper reads as fast as it can."""
    writer = open_journal(tmp_path, segment_bytes=500)
    shipper = Shipper(settings_of(tmp_path, ship_interval_seconds=0.001), database_url, shipper_of(tmp_path, "")[1])
    shipping = asyncio.create_task(shipper.run())
    for number in range(300):
        write(writer, numbered(PERSON, [number]))
        if number % 3 == 0:
            await asyncio.sleep(0)
    while (await ids(store)).total() < 300:
        assert not shipping.done()
        await asyncio.sleep(0.01)
    shipping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shipping
    writer.close()
    assert await shipper.drain() == 0
    assert await ids(store) == Counter(range(300))
