"""Times, months, retention, and the order of reduced hits: what the table keeps of when."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from app.store.migrate import migrate
from app.store.pool import Connection
from tests.integration.shipping import (
    AGGREGATE,
    ANONYMIZED,
    NOW,
    PERSON,
    first,
    ids,
    numbered,
    open_journal,
    shipper_of,
    totals_agree,
    value,
    write,
    write_journal,
)

DAY = timedelta(days=1)
MONTHS = """
    select right(months.relname, 7) as month
    from pg_inherits as of_mode
    join pg_inherits as of_month on of_month.inhparent = of_mode.inhrelid
    join pg_class as months on months.oid = of_month.inhrelid
    where of_mode.inhparent = 'mailtrail.hits'::regclass
    group by 1 having count(*) = 3"""


@pytest.fixture
async def store(connection: Connection) -> Connection:
    await migrate(connection)
    return connection


async def months(store: Connection) -> set[str]:
    return {row["month"] for row in await store.fetch(MONTHS)}


def name(day: datetime) -> str:
    return f"{day:%Y_%m}"


@pytest.mark.parametrize("hit", [PERSON, ANONYMIZED, AGGREGATE], ids=lambda hit: hit.mode.label)
async def test_impossible_times_get_the_databases_clock_as_coarse_as_the_mode(
    store: Connection, database_url: str, tmp_path: Path, hit: object
) -> None:
    assert isinstance(hit, type(PERSON))
    future, past = NOW.replace(minute=0, second=0, microsecond=0) + 2 * DAY, datetime(1970, 1, 1, tzinfo=UTC)
    times = [hit.at, future, past, future.replace(year=9999)]
    write_journal(tmp_path, [replace(hit, hit_id=number, at=at) for number, at in enumerate(times)])
    shipper, metrics = shipper_of(tmp_path, database_url)
    before = await store.fetchval("select now()")
    assert await shipper.ship_once() == 4
    after = await store.fetchval("select now()")
    shipper.close()
    rows = await store.fetch("select id, at, clock_clamped from mailtrail.hits order by id")
    assert (hit.at, False) == (rows[0]["at"], rows[0]["clock_clamped"])
    coarse = {"person_based": {}, "anonymized": {"second": 0}, "aggregate": {"minute": 0, "second": 0}}[hit.mode.label]
    start = before.replace(microsecond=0, **coarse) if coarse else before
    for row in rows[1:]:
        assert row["clock_clamped"]
        assert start <= row["at"] <= after
    assert value(metrics, "clock_clamped") == 3
    assert value(metrics, "lines_quarantined") == 0
    assert await totals_agree(store)


async def test_times_within_the_bounds_are_kept(store: Connection, database_url: str, tmp_path: Path) -> None:
    clock = await store.fetchval("select now()")
    oldest = (clock - 100 * DAY).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    times = [oldest, clock - 50 * DAY, clock + DAY - timedelta(minutes=1)]
    write_journal(tmp_path, [replace(PERSON, hit_id=number, at=at) for number, at in enumerate(times)])
    write_journal(tmp_path, [replace(PERSON, hit_id=9, at=oldest - timedelta(microseconds=1))])
    shipper, metrics = shipper_of(tmp_path, database_url, hits_retention_days=100)
    assert await shipper.ship_once() == 4
    shipper.close()
    stored = await store.fetch("select at from mailtrail.hits where not clock_clamped order by at")
    assert times == [row["at"] for row in stored]
    assert value(metrics, "clock_clamped") == 1
    assert {name(at) for at in times} <= await months(store)


async def test_a_retention_without_end_is_one(store: Connection, database_url: str, tmp_path: Path) -> None:
    write_journal(tmp_path, [replace(PERSON, at=datetime(1970, 1, 1, tzinfo=UTC))])
    shipper, metrics = shipper_of(tmp_path, database_url, hits_retention_days=40_000)
    assert await shipper.ship_once() == 1
    shipper.close()
    assert value(metrics, "clock_clamped") == 0
    assert value(metrics, "housekeeping_failures") == 0


async def test_months_are_made_and_dropped_by_whoever_comes_first(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    old = await store.fetchval("select (now() - interval '200 days') at time zone 'UTC'")
    await store.execute("select mailtrail.make_month($1)", old.date())
    writer = open_journal(tmp_path)
    write(writer, [replace(PERSON, hit_id=number, at=PERSON.at - 31 * DAY * (number % 3)) for number in range(60)])
    writer.close()
    shippers = [shipper_of(tmp_path, database_url, hits_retention_days=100) for _ in range(3)]
    await asyncio.gather(*(shipper.ship_once() for shipper, _ in shippers))
    for shipper, metrics in shippers:
        shipper.close()
        assert value(metrics, "housekeeping_failures") == 0
        assert value(metrics, "ship_failures") == 0
    assert name(old) not in await months(store)
    assert {name(PERSON.at - 31 * DAY * n) for n in range(3)} | {name(NOW), name(NOW + DAY)} == await months(store)
    assert await ids(store) == Counter(range(60))


async def test_many_at_once_make_a_month_once(store: Connection, database_url: str) -> None:
    connections = [await asyncpg.connect(database_url) for _ in range(4)]
    made = await asyncio.gather(
        *(c.fetchval("select mailtrail.make_month('2031-01-31')") for c in connections),
    )
    assert Counter(made) == {True: 1, False: 3}
    for opened in connections:
        await opened.close()


async def test_a_long_query_of_an_analyst_holds_up_no_new_month(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    analyst = await asyncpg.connect(database_url)
    async with analyst.transaction():
        assert await analyst.fetch("select * from mailtrail.hits") == []
        write_journal(tmp_path, numbered(PERSON, range(3)))
        shipper, metrics = shipper_of(tmp_path, database_url)
        async with asyncio.timeout(10):
            assert await shipper.ship_once() == 3
        shipper.close()
    await analyst.close()
    assert value(metrics, "housekeeping_failures") == 0


async def test_retention_that_must_wait_gives_way_to_shipping(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    await store.execute("select mailtrail.make_month((now() - interval '200 days')::date)")
    write_journal(tmp_path, numbered(PERSON, range(3)))
    shipper, metrics = shipper_of(tmp_path, database_url, hits_retention_days=31)
    analyst = await asyncpg.connect(database_url)
    async with analyst.transaction():
        assert await analyst.fetch("select * from mailtrail.hits") == []
        assert await shipper.ship_once() == 3
    await analyst.close()
    assert value(metrics, "housekeeping_failures") == 1
    shipper.close()


async def test_quarantined_lines_go_with_their_time(store: Connection, database_url: str, tmp_path: Path) -> None:
    await store.execute(
        "insert into mailtrail.quarantine (at, stream, reason, line)"
        " select now() - make_interval(days => age), 'reduced', 'damaged', ''"
        " from unnest('{20, 29, 31}'::integer[]) as age"
    )
    shipper, _ = shipper_of(tmp_path, database_url, hits_retention_days=100)
    await shipper.ship_once()
    shipper.close()
    assert await store.fetchval("select count(*) from mailtrail.quarantine") == 2


async def test_day_keys_are_there_after_the_start(store: Connection, database_url: str, tmp_path: Path) -> None:
    shipper, _ = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 0
    shipper.close()
    today = await store.fetchval("select count(*) from vault.day_keys where day = (now() at time zone 'UTC')::date")
    assert today == 1
    assert {name(NOW), name(NOW + DAY)} <= await months(store)


async def test_reduced_hits_are_stored_apart_and_in_no_order(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    hits = []
    for number in range(200):
        hits += numbered(PERSON, [number]) + numbered(ANONYMIZED, [1_000 + number])
    journal = write_journal(tmp_path, hits)
    shipper, _ = shipper_of(tmp_path, database_url)
    assert await shipper.ship_once() == 400
    shipper.close()
    rows = await store.fetch("select xmin::text::bigint as by, id, mode from mailtrail.hits order by ctid")
    modes_by_transaction: dict[int, set[str]] = {}
    for row in rows:
        modes_by_transaction.setdefault(row["by"], set()).add(row["mode"])
    assert sorted(modes_by_transaction.values(), key=sorted) == [{"anonymized"}, {"person_based"}]
    assert [row["id"] for row in rows if row["mode"] == "person_based"] == list(range(200))
    reduced = [row["id"] for row in rows if row["mode"] == "anonymized"]
    assert sorted(reduced) == list(range(1_000, 1_200))
    assert reduced != sorted(reduced)
    assert first(journal).exists()


async def test_the_watermark_of_reduced_hits_does_not_time_the_last_one(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path)
    shipper, _ = shipper_of(tmp_path, database_url)
    for number in range(2):  # the first one inserts the watermark, the second moves it
        write(writer, numbered(ANONYMIZED, [number]))
        assert await shipper.ship_once() == 1
        at = await store.fetchval("select updated_at from mailtrail.journals where stream = 'reduced'")
        assert at == at.replace(minute=0, second=0, microsecond=0)
    shipper.close()
    writer.close()


async def test_a_plain_scan_does_not_put_an_anonymized_hit_between_timed_ones(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    writer = open_journal(tmp_path)
    shipper, _ = shipper_of(tmp_path, database_url)
    for number, hit in enumerate([PERSON, ANONYMIZED, PERSON, AGGREGATE, ANONYMIZED, PERSON]):
        write(writer, [replace(hit, hit_id=number)])
        assert await shipper.ship_once() == 1
    shipper.close()
    writer.close()
    await store.execute("set role mailtrail_analyst")
    modes = [row["mode"] for row in await store.fetch("select mode from analytics.hits")]
    assert Counter(modes) == {"person_based": 3, "anonymized": 2, "aggregate": 1}
    assert len(list(groupby(modes))) == 3
