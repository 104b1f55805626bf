"""A real PostgreSQL for the tests: one server a session, a database of its own for each test."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from app.store import embedded, events
from app.store import settings as store
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.settings import Notice
from tests.integration.service import Service

WHO = "test"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return embedded.start(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
async def database_url(server_url: str) -> AsyncIterator[str]:
    url = await _create_database(server_url)
    yield url
    await _drop_database(server_url, url)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def shop(connection: Connection) -> Connection:
    """The space Shop, person_based, with the events news (inherits) and invoice (by permission)."""
    await migrate(connection)
    space = await store.create_space(connection, WHO, "Shop", default="person_based", acknowledged=[Notice.CONSENT])
    await events.create_event(connection, WHO, space["id"], "news")
    await events.create_event(connection, WHO, space["id"], "invoice", by_permission=True)
    return connection


@pytest.fixture(scope="module")
def service(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Mailtrail on a migrated database of the module's own; nothing is started yet."""
    url = asyncio.run(_create_database(server_url))
    made = Service(tmp_path_factory.mktemp("service"), url)
    made.run("migrate")
    yield made
    made.stop()
    asyncio.run(_drop_database(server_url, url))


async def _create_database(server_url: str) -> str:
    name = f"test_{os.urandom(6).hex()}"
    server = await asyncpg.connect(server_url)
    await server.execute(f"create database {name}")
    await server.close()
    return server_url.replace("/postgres?", f"/{name}?")


async def _drop_database(server_url: str, url: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    server = await asyncpg.connect(server_url)
    await server.execute(f"drop database {name} with (force)")
    await server.close()
