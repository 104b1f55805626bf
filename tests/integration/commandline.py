"""Commands run in this process on a database of the test's own."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from app.cli import cli
from app.errors import MailtrailError
from app.store import pool
from app.store.migrate import migrate
from tests.integration.service import query


@dataclass(frozen=True)
class CommandLine:
    url: str

    def invoke(self, *arguments: str, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(cli, arguments, input=stdin)

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        """A command that succeeds."""
        result = self.invoke(*arguments, stdin=stdin)
        assert (0, None) == (result.exit_code, result.exception), result.output
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout_bytes)

    def refusal(self, *arguments: str, stdin: bytes = b"") -> str:
        """The one line of a command that the domain refuses; nothing is on stdout."""
        result = self.invoke(*arguments, stdin=stdin)
        assert isinstance(result.exception, MailtrailError), result.output
        assert b"" == result.stdout_bytes
        line = str(result.exception)
        assert "\n" not in line
        return line

    def misuse(self, *arguments: str, stdin: bytes = b"") -> str:
        """What click says to a wrong use."""
        result = self.invoke(*arguments, stdin=stdin)
        assert (2, b"") == (result.exit_code, result.stdout_bytes), result.output
        return result.stderr

    def query(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        return query(self.url, sql, *values)


@pytest.fixture(scope="session")
def migrated(server_url: str) -> str:
    """The name of a database that others are copied from, one for each module that imports this."""
    name = f"commandline_{os.urandom(6).hex()}"

    async def make() -> None:
        async with pool.connected(server_url) as server:
            await server.execute(f"create database {name}")
        async with pool.connected(_url(server_url, name)) as connection:
            await migrate(connection)

    asyncio.run(make())
    return name


@pytest.fixture
def mailtrail(server_url: str, migrated: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    name = f"{migrated}_{os.urandom(6).hex()}"
    query(server_url, f"create database {name} template {migrated}")
    monkeypatch.setenv("MAILTRAIL_DATABASE_URL", _url(server_url, name))
    monkeypatch.setenv("MAILTRAIL_PUBLIC_URL", "https://t.example")
    yield CommandLine(_url(server_url, name))
    query(server_url, f"drop database {name} with (force)")


def _url(server_url: str, name: str) -> str:
    return server_url.replace("/postgres?", f"/{name}?")
