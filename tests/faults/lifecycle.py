"""Stops, restarts and a database that is away, under load: what fails, what is lost, how long it takes.

    python -m tests.faults.lifecycle [--restarts 50] [--kills 5] [--backlog 300000] [--rounds 3]

Invariant: every answer is judged hit by hit, as in a campaign, save in the measurements of latency, whose load is
h2load's.
"""

import asyncio
import contextlib
import itertools
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import psutil
from rich.console import Console
from rich.progress import Progress

from loadtests import generators
from loadtests.generators import OpenLoop
from loadtests.latency import percentile
from loadtests.machine import end_in_order
from tests.integration.service import Service, until

from .asks import Ask, asks
from .clients import Clients, Outcome
from .gauges import readiness
from .postgres import Postgres, patiently
from .rig import Part, Rig
from .verdict import Verdict

RATE = 1_000
LOAD_SECONDS = 5.0
BACKLOG_RATE = 10_000
_WARM_UP_SECONDS = 1.0
_SEGMENT = "67108864"
_IS_RECORDED = "select true from mailtrail.hits where mailing_id = $1 and nonce = $2"
_console = Console(stderr=True)


class Visitors(Clients):
    """Clients for which a connection that is refused is a failure too.

    With `keeps` they ask on over one connection until the server ends it; without, each request has its own. Without
    `returns` they do not come back when their connection was ended.
    """

    keeps = True
    returns = True
    unreached = 0

    @property
    def failed(self) -> int:
        """Requests without the answer that they should have."""
        outcome = self.outcome
        return self.unreached + len(outcome.open) + len(outcome.refused) + len(outcome.wrong)

    async def _ask(self, number: int) -> None:
        while not self._ends.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[0])
            except OSError:
                self.unreached += 1
                await asyncio.sleep(self._pause_seconds)
                continue
            try:
                while await self._ask_once(reader, writer) and self.keeps and not self._ends.is_set():
                    await asyncio.sleep(self._pause_seconds)
            finally:
                writer.transport.abort()
            if not self.returns:
                return


@dataclass
class House:
    """One installation under a command that runs everything, and its visitors."""

    rig: Rig
    part: Part

    @property
    def service(self) -> Service:
        return self.rig.service

    def visitors(self, seed: int = 1, *, keeps: bool = True, returns: bool = True) -> Visitors:
        asked = asks(self.rig.keys, self.rig.space, self.rig.day_keys(), seed)
        if seed > 1:  # aggregate hits of several seeds cannot be told apart
            asked = (ask for ask in asked if ask.mode != "aggregate")
        made = Visitors([self.service.port], asked)
        made.keeps, made.returns = keeps, returns
        return made

    def worker(self, number: int) -> psutil.Process:
        """The process of a numbered worker, as soon as there is one; number 0 is the only one of an `up`."""
        assert self.part.process is not None
        parent = psutil.Process(self.part.process.pid)
        name = f"worker {number}" if number else "worker"

        def find() -> psutil.Process | None:
            for process in parent.children():
                with contextlib.suppress(psutil.Error):  # it has just ended
                    if process.name() == name:
                        return process
            return None

        found = until(find, f"worker {number}", log=self.service.log)
        assert isinstance(found, psutil.Process)
        return found

    def serving(self) -> int:
        """How many collectors have begun to serve so far."""
        return self.service.log.read_text().count("collector serves")


@contextlib.contextmanager
def house(postgres: Postgres, directory: Path, *command: str, workers: int = 1, **settings: str) -> Iterator[House]:
    """Everything that a command runs, from its readiness to its end; a server's command is given its port."""
    rig = Rig(directory, postgres, collectors=0, shippers=0, settings=settings)
    is_server = command[0].startswith("/")
    part = Part(command[0], (*command, str(rig.service.port)) if is_server else command, rig.service)
    rig.parts = [part]
    try:
        part.start()
        rig.service.wait_ready()
        made = House(rig, part)
        until(lambda: is_server or made.serving() >= workers, "all serve", log=rig.service.log)
        until(rig.day_keys, "day keys")
        rig.service.wait_for_version()
        yield made
    finally:
        rig.close()


def restart_workers(home: House, times: int, progress: Progress | None = None) -> list[tuple[Visitors, Outcome]]:
    """Ends workers in turn, each when the next one serves, while two kinds of visitors ask; gives what these met."""
    visitors = [home.visitors(1), home.visitors(2, keeps=False)]
    for each in visitors:
        each.start()
    try:
        for number in range(times):
            seen = home.serving()
            home.worker(1 + number % 2).send_signal(signal.SIGTERM)
            until(lambda seen=seen: home.serving() > seen, "the next one serves", log=home.service.log)
            if progress is not None:
                progress.advance(progress.task_ids[0])
    finally:
        outcomes = [each.stop() for each in visitors]
    return list(zip(visitors, outcomes, strict=True))


def words(verdict: Verdict) -> str:
    """A verdict's faults by their names; what they were follows."""
    faults = ("missing", "twice", "altered", "spurious", "quarantined", "uncounted", "wrong")
    return ", ".join(f"{getattr(verdict, name)} {name}" for name in faults) + "".join(f"\n{w}" for w in verdict.words)


def together(*outcomes: Outcome) -> Outcome:
    """What several clients met, for one verdict."""
    made = Outcome()
    for each in outcomes:
        made.answered += each.answered
        made.open += each.open
        made.refused += each.refused
        made.wrong += each.wrong
    return made


def seconds_to_be_back(home: House) -> float:
    """From the kill -9 of the only worker to the first answer of the next."""
    worker = home.worker(0)
    begun = time.monotonic()
    worker.kill()
    worker.wait()
    with contextlib.closing(socket.create_connection(("127.0.0.1", home.service.port), timeout=30)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    return time.monotonic() - begun


@dataclass(frozen=True, slots=True)
class Drained:
    """How a backlog went: its hits, the seconds from the database's return to its end, and what new hits waited."""

    hits: int
    seconds: float
    lags: list[float]


def drain_backlog(rig: Rig, hits: int) -> Drained:
    """Fills the one collector's journal while the database is away, and has it back; new hits come meanwhile."""
    load = OpenLoop(rig.ports[0], _uris(rig, hits), (), BACKLOG_RATE, hits / BACKLOG_RATE)
    probes = asks(rig.keys, rig.space, rig.day_keys(), 8)
    rig.postgres.stop("fast")
    generators.run_h2load(load, rig.directory / "h2load.log")
    rig.postgres.start()
    back, lags, left = time.monotonic(), [], 1
    while left:
        lags.append(_seconds_until_recorded(rig, next(ask for ask in probes if ask.mode == "person_based")))
        ((shipped,),) = patiently(rig.service.database_url, "select count(*) from mailtrail.hits")
        left = shipped < load.requests + len(lags)
    return Drained(load.requests, time.monotonic() - back, lags)


def _seconds_until_recorded(rig: Rig, ask: Ask) -> float:
    with contextlib.closing(socket.create_connection(("127.0.0.1", rig.ports[0]), timeout=30)) as connection:
        connection.sendall(ask.request)
        connection.recv(1000)
    answered = time.monotonic()
    mailing, nonce = ask.row[4], ask.row[10]
    until(lambda: patiently(rig.service.database_url, _IS_RECORDED, mailing, nonce), "a new hit in SQL", 600)
    return time.monotonic() - answered


def _uris(rig: Rig, number: int) -> Path:
    """A file with links of all modes for h2load, which goes round in it."""
    file = rig.directory / "uris"
    chosen = itertools.islice(asks(rig.keys, rig.space, rig.day_keys(), 7), min(number, 2_000))
    paths = [ask.request.split(b" ", 2)[1].decode() for ask in chosen]
    file.write_text("".join(f"http://127.0.0.1:{rig.ports[0]}{path}\n" for path in paths))
    return file


def p99_microseconds(rig: Rig) -> float:
    """At a fixed rate over kept connections, the first second left out."""
    load = OpenLoop(rig.ports[0], rig.directory / "uris", (), RATE, LOAD_SECONDS + _WARM_UP_SECONDS, RATE // 20)
    log = rig.directory / "h2load.log"
    generators.run_h2load(load, log)
    return percentile(sorted(generators.parse_log(log.read_text(), _WARM_UP_SECONDS)), 0.99)


@click.command()
@click.option("--restarts", default=50, show_default=True, help="Workers that are ended in turn under load.")
@click.option("--kills", default=5, show_default=True, help="Workers that are killed, to see when the next answers.")
@click.option("--backlog", default=300_000, show_default=True, help="Hits that wait when the database is back.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of latency with and without the database.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where everything keeps its files.")
def lifecycle(restarts: int, kills: int, backlog: int, rounds: int, directory: Path | None) -> None:
    """Stop, restart and kill under load, with a database that is away; prints the figures. 0 leaves a part out."""
    base = directory or Path(tempfile.mkdtemp(prefix="lifecycle-"))
    postgres = Postgres(base)
    try:
        with Progress(console=_console, refresh_per_second=1) as progress:
            progress.add_task("", total=restarts + kills + 2 * rounds + bool(backlog))
            for name, number, run in (
                ("restarts", restarts, lambda: _restarts(postgres, base, restarts, progress)),
                ("kills", kills, lambda: _kills(postgres, base, kills, progress)),
                ("latency", rounds, lambda: _latency(postgres, base, rounds, progress)),
                ("backlog", backlog, lambda: _backlog(postgres, base, backlog, progress)),
            ):
                if number:
                    progress.update(progress.task_ids[0], description=name)
                    progress.print(run(), markup=False, highlight=False)
    finally:
        postgres.leave()


def _restarts(postgres: Postgres, base: Path, times: int, progress: Progress) -> str:
    with house(postgres, base / "restarts", "up", "--workers", "2", workers=2) as home:
        met = restart_workers(home, times, progress)
        verdict: Verdict = home.rig.finish(together(*(outcome for _, outcome in met)))
    failed = sum(each.failed for each, _ in met)
    slowest = max(outcome.slowest_seconds for _, outcome in met)
    return f"{times} restarts: {verdict.answered} answered, {failed} failed, slowest {slowest:.2f} s; {words(verdict)}"


def _kills(postgres: Postgres, base: Path, times: int, progress: Progress) -> str:
    seconds = []
    for number in range(times):
        with house(postgres, base / f"kill-{number}", "up") as home:
            seconds.append(seconds_to_be_back(home))
        progress.advance(progress.task_ids[0])
    return f"killed worker, next answer after: median {median(seconds):.2f} s, longest {max(seconds):.2f} s"


def _latency(postgres: Postgres, base: Path, rounds: int, progress: Progress) -> str:
    with rig_of_one(postgres, base / "latency") as rig:
        _uris(rig, 2_000)
        up, down = [], []
        for _ in range(rounds):
            up.append(p99_microseconds(rig))
            progress.advance(progress.task_ids[0])
            postgres.stop("fast")
            until(lambda: "database_away" in readiness(rig.workers[0].service)[1], "it is noticed")
            down.append(p99_microseconds(rig))
            postgres.start()
            until(lambda: "database_away" not in readiness(rig.workers[0].service)[1], "it is back")
            progress.advance(progress.task_ids[0])
    ratio = median(d / u for d, u in zip(down, up, strict=True))
    return f"p99 at {RATE}/s: {median(up):.0f} µs, database down {median(down):.0f} µs; median ratio {ratio:.2f}"


def _backlog(postgres: Postgres, base: Path, hits: int, progress: Progress) -> str:
    with rig_of_one(postgres, base / "backlog", MAILTRAIL_JOURNAL_SEGMENT_BYTES=_SEGMENT) as rig:
        done = drain_backlog(rig, hits)
    progress.advance(progress.task_ids[0])
    lags = ", ".join(f"{lag:.2f}" for lag in done.lags)
    return f"backlog of {done.hits} hits drained in {done.seconds:.1f} s; new hits waited for SQL: {lags} s"


@contextlib.contextmanager
def rig_of_one(postgres: Postgres, directory: Path, **settings: str) -> Iterator[Rig]:
    """One collector and one shipper."""
    rig = Rig(directory, postgres, collectors=1, shippers=1, settings=settings)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


if __name__ == "__main__":
    end_in_order()
    lifecycle()
