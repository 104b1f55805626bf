"""A real PostgreSQL for the tests: one server a session, a database of its own for each test."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from app.store import embedded
from app.store.pool import Connection


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return embedded.start(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
async def database_url(server_url: str) -> AsyncIterator[str]:
    name = f"test_{os.urandom(6).hex()}"
    server = await asyncpg.connect(server_url)
    await server.execute(f"create database {name}")
    yield server_url.replace("/postgres?", f"/{name}?")
    await server.execute(f"drop database {name} with (force)")
    await server.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()
