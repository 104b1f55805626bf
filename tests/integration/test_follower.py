"""The follower on a real PostgreSQL: in effect within a second, alive without the database, keys never come back."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from app.config import Settings
from app.errors import SchemaError
from app.metrics import Metrics
from app.store import follower as follower_module
from app.store import snapshot
from app.store.day_keys import keep_day_keys
from app.store.follower import SnapshotFollower
from app.store.installation import install
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.modes import Mode

TODAY = datetime.now(UTC).date()


@pytest.fixture
async def store(connection: Connection) -> Connection:
    await migrate(connection)
    await connection.execute("insert into mailtrail.spaces (id, name) values (7, 'Shop')")
    await keep_day_keys(connection, anonymization_days=60)
    return connection


def follower_of(url: str, file: Path, max_age_seconds: float = 3600) -> SnapshotFollower:
    return SnapshotFollower(url, file, anonymization_days=60, max_age_seconds=max_age_seconds, metrics=Metrics())


@contextlib.asynccontextmanager
async def running(follower: SnapshotFollower) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], seconds: float = 30) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "never came true"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


async def test_a_change_is_in_effect_by_notification(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "POLL_SECONDS", 3600)
    follower = follower_of(database_url, tmp_path / "snapshot")
    async with running(follower):
        await until(lambda: follower.current is not None)
        await store.execute("update mailtrail.spaces set default_mode = 'person_based'")
        await until(lambda: follower.current.spaces[7].default_mode is Mode.PERSON_BASED)


async def test_a_change_without_a_notification_is_in_effect_by_polling(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    """As a replica or a lost notification leaves it."""
    follower = follower_of(database_url, tmp_path / "snapshot")
    async with running(follower):
        await until(lambda: follower.current is not None)
        await store.execute("alter table mailtrail.spaces disable trigger settings_changed")
        await store.execute("update mailtrail.spaces set default_mode = 'person_based'")
        await store.execute("update mailtrail.settings_version set version = version + 1")
        await until(lambda: follower.current.spaces[7].default_mode is Mode.PERSON_BASED)


async def test_without_the_database_the_copy_answers_until_it_is_too_old(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "snapshot"
    await follower_of(database_url, file).refresh()
    assert file.stat().st_mode & 0o777 == 0o600
    lost = follower_of("postgresql:///nowhere?host=/nonexistent", file, max_age_seconds=100)
    lost.restore()
    assert lost.current is not None
    assert set(lost.current.spaces) == {7}
    assert TODAY in lost.current.day_keys
    assert lost.confirmed
    two_minutes_ago = time.time() - 120
    os.utime(file, (two_minutes_ago, two_minutes_ago))
    lost.restore()
    assert not lost.confirmed
    async with running(lost):
        await asyncio.sleep(0.2)
        assert set(lost.current.spaces) == {7}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1}', b"\x00" * 99])
async def test_a_damaged_copy_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "snapshot"
    file.write_bytes(content)
    follower = follower_of("postgresql:///nowhere?host=/nonexistent", file)
    follower.restore()
    assert follower.current is None


async def test_keys_past_their_day_are_not_taken_from_the_copy(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "snapshot"
    rows = await snapshot.read_rows(store)
    old = TODAY - timedelta(days=61)
    snapshot.save(file, rows, {old: b"o" * 32, TODAY: b"t" * 32})
    restored = snapshot.restore(file)
    assert restored is not None
    assert set(snapshot.build(restored[0], 60).day_keys) == {TODAY}


async def test_after_a_crash_a_collector_puts_the_day_keys_back(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    before = dict(await store.fetch("select day, key from vault.day_keys"))
    follower = follower_of(database_url, tmp_path / "snapshot")
    async with running(follower):
        await until(lambda: follower.current is not None)
        # What a crash does to unlogged tables, and a key that is not the one that was made.
        for (table,) in await store.fetch(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'vault.day_keys'::regclass"
        ):
            await store.execute(f"truncate {table}")
        await store.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid <> pg_backend_pid() and datname = current_database()"
        )
        for _ in range(200):
            await asyncio.sleep(0.02)
            if await store.fetchval("select count(*) from vault.day_keys") == len(before):
                break
    assert dict(await store.fetch("select day, key from vault.day_keys")) == before
    await keep_day_keys(store, anonymization_days=60)
    assert dict(await store.fetch("select day, key from vault.day_keys")) == before


async def test_a_destroyed_key_does_not_come_back_from_a_collector(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "snapshot"
    follower = follower_of(database_url, file)
    async with running(follower):
        await until(lambda: follower.current is not None)
        key = follower.current.day_keys[TODAY]
        assert await store.fetchval("select vault.destroy_day_key($1)", TODAY)
        await until(lambda: TODAY not in follower.current.day_keys)
    assert key.hex().encode() not in file.read_bytes()
    late = follower_of(database_url, file)
    late.current = follower.current
    await late.refresh()
    await keep_day_keys(store, anonymization_days=60)
    assert await store.fetchval("select count(*) from vault.day_keys where day = $1", TODAY) == 0


async def test_an_unknown_schema_is_refused(connection: Connection, database_url: str, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="mailtrail migrate"):
        await follower_of(database_url, tmp_path / "snapshot").refresh()


async def test_no_error_of_any_kind_ends_the_follower(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = follower_of(database_url, tmp_path / "snapshot")
    real = follower._connect
    failures = iter([EOFError("planted"), ValueError("planted"), asyncpg.InternalClientError("planted")])

    async def connect() -> Connection:
        for failure in failures:
            raise failure
        return await real()

    monkeypatch.setattr(follower, "_connect", connect)
    monkeypatch.setattr(follower_module, "POLL_SECONDS", 0.01)
    async with running(follower):
        await until(lambda: follower.current is not None)


async def test_a_copy_that_is_gone_is_written_anew_and_is_never_empty(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "snapshot"
    monkeypatch.setattr(follower_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(follower_module, "_TOUCH_SECONDS", 0.0)
    follower = follower_of(database_url, file)
    async with running(follower):
        await until(file.exists)
        file.unlink()
        await until(file.exists)
        assert snapshot.restore(file) is not None


async def test_a_start_clears_away_what_a_killed_process_left(tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    dead, alive, other = (tmp_path / f"snapshot.{end}" for end in (2**22 + 1, os.getpid(), "kept"))
    for left in (dead, alive, other):
        left.write_bytes(b"keys")
    follower_of("postgresql:///nowhere?host=/nonexistent", file).restore()
    assert [False, True, True] == [left.exists() for left in (dead, alive, other)]


async def test_keys_past_their_day_leave_the_copy_too_while_the_database_is_away(
    store: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "snapshot"
    await follower_of(database_url, file).refresh()
    monkeypatch.setattr(follower_module, "POLL_SECONDS", 0.01)
    lost = follower_of("postgresql:///nowhere?host=/nonexistent", file)
    lost.restore()
    assert lost.current is not None
    key, long_ago = b"o" * 32, TODAY - timedelta(days=99)
    lost.current = replace(lost.current, day_keys={**lost.current.day_keys, long_ago: key})
    lost._save()
    confirmed_at = time.time() - 500
    os.utime(file, (confirmed_at, confirmed_at))
    lost._confirmed_at = time.monotonic() - 500
    assert key.hex().encode() in file.read_bytes()
    async with running(lost):
        await until(lambda: key.hex().encode() not in file.read_bytes())
    assert abs(file.stat().st_mtime - confirmed_at) < 60
    assert TODAY in lost.current.day_keys


async def test_a_day_that_a_restored_database_never_heard_of_keeps_its_key(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    follower = follower_of(database_url, tmp_path / "snapshot")
    await follower.refresh()
    assert follower.current is not None
    held = dict(follower.current.day_keys)
    await store.execute("truncate vault.day_keys")
    await store.execute("delete from vault.day_key_log")
    await follower.refresh()
    await keep_day_keys(store, anonymization_days=60)
    assert held == dict(await store.fetch("select day, key from vault.day_keys"))
    assert held == follower.current.day_keys


async def test_a_start_on_a_restored_database_takes_the_keys_of_the_copy(
    store: Connection, database_url: str, tmp_path: Path
) -> None:
    settings = Settings(data_directory=tmp_path)
    await follower_of(database_url, settings.snapshot_file).refresh()
    before = dict(await store.fetch("select day, key from vault.day_keys"))
    await store.execute("truncate vault.day_keys")
    await store.execute("delete from vault.day_key_log where day >= $1", TODAY)
    await install(store, settings)
    assert before == dict(await store.fetch("select day, key from vault.day_keys"))
