"""Migrations on a real PostgreSQL: applied once, never half, never onto a schema that is not ours."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from app.errors import SchemaError
from app.store.migrate import Migration, check, known_migrations, migrate
from app.store.pool import Connection


async def test_a_second_run_finds_nothing_to_do(connection: Connection) -> None:
    names = [migration.name for migration in known_migrations()]
    assert names == await migrate(connection)
    assert await migrate(connection) == []
    await check(connection)


async def test_two_at_once_apply_each_migration_once(database_url: str) -> None:
    connections = [await asyncpg.connect(database_url) for _ in range(4)]
    applied = await asyncio.gather(*(migrate(c) for c in connections))
    assert sorted(map(len, applied)) == [0, 0, 0, len(known_migrations())]
    for opened in connections:
        await opened.close()


async def test_an_empty_and_an_older_database_are_refused_with_the_mend(connection: Connection) -> None:
    with pytest.raises(SchemaError, match="run `mailtrail migrate`"):
        await check(connection)
    await migrate(connection)
    newer = [*known_migrations(), Migration(9999, "9999_next", "create table mailtrail.next ()")]
    with pytest.raises(SchemaError, match="lacks 9999_next; run `mailtrail migrate`"):
        await check(connection, newer)


async def test_a_newer_database_and_a_changed_file_are_refused(connection: Connection) -> None:
    next_one = Migration(9999, "9999_next", "create table mailtrail.next ()")
    await migrate(connection, [*known_migrations(), next_one])
    for refuse in (check, migrate):
        with pytest.raises(SchemaError, match="does not know"):
            await refuse(connection)
        with pytest.raises(SchemaError, match="not the file that was applied"):
            await refuse(connection, [*known_migrations(), replace(next_one, sql="select 1")])


async def test_a_failing_migration_leaves_nothing_behind(connection: Connection) -> None:
    await migrate(connection)
    failing = Migration(9999, "9999_bad", "create table mailtrail.half (); select 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection, [*known_migrations(), failing])
    assert await connection.fetchval("select to_regclass('mailtrail.half')") is None
    await check(connection)
    assert await migrate(connection) == []


@pytest.mark.parametrize(
    ("mode", "column", "value"),
    [
        ("anonymized", "recipient", "'erika'"),
        ("anonymized", "nonce", "'\\x00'"),
        ("anonymized", "client_address", "'203.0.113.7'"),
        ("anonymized", "user_agent", "'x'"),
        ("anonymized", "url", "'https://a/'"),
        ("anonymized", "at", "'2026-11-24 10:00:01Z'"),
        ("aggregate", "pseudonym", "'\\x00'"),
        ("aggregate", "at", "'2026-11-24 10:01:00Z'"),
        ("person_based", "pseudonym", "'\\x00'"),
        ("off", "recipient", "null"),
    ],
)
async def test_the_database_itself_refuses_what_a_mode_forbids(
    connection: Connection, mode: str, column: str, value: str
) -> None:
    await migrate(connection)
    await connection.execute("select mailtrail.make_month('2026-11-24')")
    fields = {"at": "'2026-11-24 10:00:00Z'", "id": "1", "kind": "'open'", "mode": f"'{mode}'", "agent": "'human'"}
    fields |= {"space_id": "1", "event_id": "1", "mailing_id": "1", "link": "0", "registered": "true"}
    insert = "insert into mailtrail.hits ({}) values ({})"
    if mode != "off":
        await connection.execute(insert.format(", ".join(fields), ", ".join(fields.values())))
    fields |= {column: value}
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(insert.format(", ".join(fields), ", ".join(fields.values())))


async def test_analysts_read_the_views_and_nothing_else(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("set role mailtrail_analyst")
    for view in ("hits", "mailings", "links", "hours", "unique_hours", "events"):
        assert await connection.fetch(f"select * from analytics.{view}") == []
    for table in ("vault.token_keys", "vault.day_keys", "vault.day_key_log", "mailtrail.hits", "mailtrail.audit"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"select * from {table}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("select vault.destroy_day_key(current_date)")


async def test_views_are_renewed_when_their_text_changed(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("update mailtrail.migrations set checksum = 'old' where number = 0")
    with pytest.raises(SchemaError, match="views are not this program's; run `mailtrail migrate`"):
        await check(connection)
    await migrate(connection)
    await check(connection)
