"""Mailtrail as real processes, for tests that go the whole way: HTTP in, SQL out."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

CHECKOUT = Path(__file__).parents[2]
WAIT_SECONDS = 120.0
SERVER = (sys.executable, "-m", "uvicorn", "app.main:app", "--log-level", "warning", "--no-access-log", "--port")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS, log: Path | None = None) -> Any:
    """Waits until the condition holds and gives its value; a failure shows the end of the log."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            end = log.read_text()[-3000:] if log and log.exists() else ""
            raise AssertionError(f"never: {what}\n{end}")
        time.sleep(0.02)
    return value


def query(url: str, sql: str, *values: Any) -> list[asyncpg.Record]:
    """One statement on a connection of its own."""

    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(sql, *values)
        finally:
            await connection.close()

    return asyncio.run(ask())


@dataclass
class Answered:
    status: int
    location: str | None
    body: bytes


@dataclass
class Service:
    """A data directory, a database and the processes that a test starts on them.

    Without a `database_url` it is the embedded PostgreSQL under the data directory.
    """

    directory: Path
    database_url: str
    port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "test.log"

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAILTRAIL_")}
        own = {
            "MAILTRAIL_DATA_DIRECTORY": str(self.directory / "data"),
            "MAILTRAIL_DATABASE_URL": self.database_url,
            "MAILTRAIL_PORT": str(self.port),
            "MAILTRAIL_PRIVATE_PORT": "0",
            "MAILTRAIL_RELAY_PRIVATE_PORT": "0",
            "MAILTRAIL_ADMIN_PORT": "0",
            "MAILTRAIL_PUBLIC_URL": self.base,
            "MAILTRAIL_METRICS_PUBLIC": "true",
            "MAILTRAIL_SHIP_INTERVAL_SECONDS": "0.05",
        }
        if not self.database_url:
            del own["MAILTRAIL_DATABASE_URL"]
        return clean | own | self.settings

    def run(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """One command of ours, to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            input=stdin,
            capture_output=True,
            cwd=CHECKOUT,
            env=self.environment(),
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr.decode()
        return done

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A process that stays, its output in the log: a command of ours, or any program by its path."""
        arguments = command if command[0].startswith("/") else (sys.executable, "-m", "app", *command)
        with self.log.open("ab") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, cwd=CHECKOUT, env=self.environment())
        self.processes.append(process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        """The bare server: `uvicorn app.main:app`, ready."""
        process = self.start(*SERVER, str(self.port))
        self.wait_ready()
        return process

    def wait_ready(self) -> None:
        until(self._is_ready, "ready", log=self.log)

    def _is_ready(self) -> bool:
        assert all(process.poll() is None for process in self.processes[-1:]), self.log.read_text()[-3000:]
        try:
            return self.get("/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, target: str, headers: Sequence[tuple[str, str]] = (), method: str = "GET") -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest(method, target.removeprefix(self.base), skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answered(answer.status, answer.getheader("location"), answer.read())
        finally:
            connection.close()

    def query(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        return query(self.database_url, sql, *values)

    def wait_for_hits(self, number: int, seconds: float = WAIT_SECONDS) -> None:
        until(
            lambda: self.query("select count(*) from mailtrail.hits")[0][0] >= number,
            f"{number} hits",
            seconds,
            self.log,
        )

    def wait_for_hits_of(self, mailing: str, mode: str, number: int) -> None:
        sql = "select count(*) from analytics.hits where mailing = $1 and mode = $2"
        until(lambda: self.query(sql, mailing, mode)[0][0] >= number, f"{number} {mode} hits of {mailing}")

    def wait_for_version(self) -> None:
        """Until the running server has the settings that the database has."""
        ((version,),) = self.query("select version from mailtrail.settings_version")
        line = f"mailtrail_snapshot_version {float(version)}".encode()
        until(lambda: line in self.get("/metrics").body, f"version {version} in effect")

    def stop(self) -> None:
        """Ends what still runs, gently; whoever does not end in time is killed and fails the test."""
        alive = [process for process in self.processes if process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGTERM)
        late = []
        for process in alive:
            try:
                process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                late.append(process.args)
        self.processes.clear()
        assert not late
