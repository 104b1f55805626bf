"""The campaign's proxy does to connections what the test says, and nothing else."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.proxy import Cut

START_UP = b"\0\0\0\x08\0\x03\0\0"


@pytest.fixture
async def ending_server(tmp_path: Path) -> AsyncIterator[str]:
    """A server that says one thing and ends the connection, as PostgreSQL does when a backend is terminated."""

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(START_UP))
        writer.write(b"E\0\0\0\x04")
        await writer.drain()
        writer.close()

    path = str(tmp_path / "s")
    async with await asyncio.start_unix_server(end, path):
        yield path


async def test_postgres_seed_12_a_client_that_waits_is_told_when_the_server_ends_the_connection(
    ending_server: str,
) -> None:
    """It waited for two minutes in the middle of a COPY, until its own timeout: the proxy had kept its side open."""
    cut = Cut(ending_server)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", cut.port)
        writer.write(START_UP)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while await reader.read(100):
                    pass
        writer.close()
        assert cut.cuts == 0
    finally:
        await asyncio.to_thread(cut.close)
    assert os.path.exists(ending_server)
