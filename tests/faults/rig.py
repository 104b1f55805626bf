"""The rig: collectors, shippers and a database as real processes, which can be killed, frozen and started one by one.

It keeps its processes itself, without a supervisor, so that nothing backs off and the moment of a fault is ours alone.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from app.journal.segments import MOVE_ON, WRITER_LOCK, is_held
from app.tracking.tokens import Key, KeyRing
from tests.integration.service import Service, free_port, until

from .asks import COLUMNS, EVENT
from .clients import Outcome
from .postgres import Postgres, patiently
from .proxy import Cut
from .verdict import Verdict, judge

DRAIN_SECONDS = 120.0
STOP_SECONDS = 60.0


@dataclass(slots=True)
class Part:
    """One process of the rig, by its place."""

    name: str
    command: tuple[str, ...]
    service: Service
    process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it if it does not run."""
        if not self.runs:
            self.process = self.service.start(*self.command)
            self.service.processes.clear()  # it is ours to end

    def send(self, number: int) -> None:
        """A signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and waits for its end."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def end(self) -> None:
        """SIGTERM, and waits for its end; AssertionError if it does not come in time or with another exit code."""
        self.send(signal.SIGTERM)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            ended = self.process.poll()
            self.process.kill()
            # A process that had only begun to start ends by the signal itself.
            assert ended in (0, -signal.SIGTERM), f"{self.name} ended with {ended}"


@dataclass
class Rig:
    """One installation: a data directory, a database of its own, some collectors on a port each, and shippers."""

    directory: Path
    postgres: Postgres
    collectors: int = 2
    shippers: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    through: Cut | None = None
    """What lies between the shippers and the database."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        url = self.postgres.create_database(f"faults_{os.urandom(6).hex()}")
        self.service = Service(self.directory, url)
        self.service.settings |= {"MAILTRAIL_JOURNAL_SEGMENT_BYTES": "262144", **self.settings}
        self.service.run("migrate")
        self.service.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
        ((number, self.space, secret),) = self.service.query("select id, space_id, secret from vault.token_keys")
        self.keys = KeyRing({number: Key(number, self.space, secret)})
        self.service.query("insert into mailtrail.events (space_id, id, name) values ($1, $2, 'n')", self.space, EVENT)
        self.parts = [self._collector() for _ in range(self.collectors)]
        shipping = replace(self.service, database_url=self.through.url(url) if self.through else url, processes=[])
        self.parts += [Part(f"shipper {number}", ("ship",), shipping) for number in range(self.shippers)]

    def _collector(self) -> Part:
        port = free_port()
        of_its_own = replace(self.service, port=port, processes=[])
        return Part(f"collector on {port}", ("collect",), of_its_own)

    @property
    def ports(self) -> list[int]:
        return [part.service.port for part in self.workers]

    @property
    def workers(self) -> list[Part]:
        return self.parts[: self.collectors]

    @property
    def ships(self) -> list[Part]:
        return self.parts[self.collectors :]

    def start(self) -> None:
        """Starts everything and waits until it works."""
        for part in self.parts:
            part.start()
        for part in self.workers:
            part.service.wait_ready()
        until(self.day_keys, "day keys", log=self.service.log)
        for part in self.workers:
            part.service.wait_for_version()

    def day_keys(self) -> dict[date, bytes]:
        """The keys of pseudonyms, by UTC day."""
        rows = patiently(self.service.database_url, "select day, key from vault.day_keys")
        return {row["day"]: row["key"] for row in rows}

    def revive(self) -> None:
        """Starts whatever does not run."""
        if self.postgres.pid is None:
            self.postgres.start()
        for part in self.parts:
            part.start()

    def finish(self, outcome: Outcome) -> Verdict:
        """Drains everything and judges."""
        self.drain()
        return self.judge(outcome)

    def drain(self) -> None:
        """Revives everything, waits until all that was answered is recorded, and ends everything."""
        self.revive()
        for part in self.workers:
            part.end()
        until(self._is_drained, "everything is shipped", DRAIN_SECONDS, self.service.log)
        for part in self.ships:
            part.end()
        self._check_log()

    def _is_drained(self) -> bool:
        """Whether no journal holds more than was shipped from it."""
        self.revive_ships()
        url, shipped = self.service.database_url, {}
        for row in patiently(url, "select id, stream, segment, byte_offset from mailtrail.journals"):
            shipped[row["id"], row["stream"]] = (row["segment"], row["byte_offset"])
        for journal in (self.directory / "data" / "journals").iterdir():
            for segment in journal.glob("*.seg"):
                stream, _, number = segment.stem.rpartition("-")
                to, offset = shipped.get((journal.name, stream), (0, 0))
                size = _whole_lines(segment)
                if size and (int(number) > to or (int(number) == to and size > offset)):
                    return False
        return True

    def move_on(self) -> None:
        """Asks every collector to go on in another journal, as the shipper does before a backlog."""
        for journal in (self.directory / "data" / "journals").iterdir():
            if is_held(journal, WRITER_LOCK):
                (journal / MOVE_ON).touch()

    def revive_ships(self) -> None:
        for part in self.ships:
            part.start()

    def judge(self, outcome: Outcome) -> Verdict:
        """What the database says now, beside what was answered."""
        url = self.service.database_url
        rows = patiently(url, f"select at, {', '.join(COLUMNS)} from mailtrail.hits")
        ((totals,),) = patiently(url, "select coalesce(sum(hits), 0)::bigint from mailtrail.hit_totals")
        ((quarantined,),) = patiently(url, "select count(*) from mailtrail.quarantine")
        return judge(outcome, rows, totals, quarantined)

    def _check_log(self) -> None:
        log = self.service.log.read_text()
        assert "Traceback" not in log, log[log.index("Traceback") - 1000 :][:4000]
        assert "fault=" not in log, log[-3000:]

    def close(self) -> None:
        """Kills what still runs and drops the database."""
        for part in self.parts:
            part.send(signal.SIGCONT)
            part.kill()
        name = self.service.database_url.partition("?")[0].rpartition("/")[2]
        self.postgres.execute(f"drop database if exists {name} with (force)")


def _whole_lines(segment: Path) -> int:
    """The bytes of whole lines in a segment; 0 if it is gone."""
    try:
        return segment.read_bytes().rfind(b"\n") + 1
    except FileNotFoundError:
        return 0


def freeze(parts: Sequence[Part], seconds: float) -> None:
    """SIGSTOP, a pause, SIGCONT."""
    for part in parts:
        part.send(signal.SIGSTOP)
    time.sleep(seconds)
    for part in parts:
        part.send(signal.SIGCONT)
