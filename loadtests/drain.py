"""How fast the shipper drains a journal, beside a bare COPY of the very same rows: the work that cannot be saved.

    python -m loadtests.drain [rounds]

Both fill the same tables of the same real PostgreSQL in turns, over one connection each, a transaction a batch. The
bare COPY is given what the shipper wrote, as Python tuples that are ready; the shipper reads, checks and decodes the
journal's lines, adds up totals and moves its watermark with every batch.
"""

import asyncio
import atexit
import gc
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import psutil
import uvloop

from app.config import Settings
from app.journal.segments import Stream
from app.journal.writer import JournalWriter
from app.metrics import Metrics
from app.shipper.ship import Shipper
from app.store import embedded
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.agents import verdict
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from app.tracking.pseudonyms import new_day_key, pseudonym
from app.tracking.tokens import Kind

HITS = 200_000
ROUNDS = 5
HITS_A_SECOND = 2_000
"""How close in time the hits lie: the journal of a hundred busy seconds."""

MAILINGS = 5
LINKS = 12
PERSON_BASED_PART = 0.2
OPENS_PART = 0.7
USER_AGENTS = [
    b"Mozilla/5.0",
    b"Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    b"Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1"
    b" Mobile/15E148 Safari/604.1",
    b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Thunderbird/145.0",
]

_EMPTY = "truncate mailtrail.hits, mailtrail.hit_totals, mailtrail.journals"
_MODES = {Stream.IDENTIFIED: ("person_based",), Stream.REDUCED: ("anonymized", "aggregate")}
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Drained:
    """One filling of the tables: rows a second, and CPU microseconds a row in this process and in PostgreSQL's."""

    rows_per_second: float
    own_cpu_us: float
    postgres_cpu_us: float


@dataclass(frozen=True, slots=True)
class Drain:
    """All rounds, in the order in which they were measured: each a bare COPY and then the shipper."""

    rows: int
    batch_rows: int
    bare: list[Drained]
    shipper: list[Drained]

    @property
    def ratios(self) -> list[float]:
        """The shipper's rate in parts of the bare COPY's of the same round."""
        pairs = zip(self.shipper, self.bare, strict=True)
        return [shipper.rows_per_second / bare.rows_per_second for shipper, bare in pairs]


def measure(rounds: int = ROUNDS, hits: int = HITS) -> Drain:
    """Fills the tables of a PostgreSQL of its own in turns; takes about ten seconds and then five a round."""
    with tempfile.TemporaryDirectory(prefix="drain-") as directory:
        data = Path(directory)
        # The wheel locks the server once more when the process ends, and makes the directory anew for it.
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        journal = write_journal(data / "written", realistic_hits(hits, random.Random(20261124)))
        url = embedded.start(data)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_measure(data, journal, url, rounds, hits))
        finally:
            embedded.leave(data)


def realistic_hits(number: int, chance: random.Random) -> Iterator[Hit]:
    """Hits as a collector reduces them: a few mailings, most anonymized, some person-based with agent and URL."""
    space, event, day_key = chance.getrandbits(32), chance.getrandbits(32), new_day_key()
    mailings = [chance.getrandbits(48) for _ in range(MAILINGS)]
    begin = datetime.now(UTC) - timedelta(seconds=number / HITS_A_SECOND)
    for count in range(number):
        at = begin + timedelta(seconds=count / HITS_A_SECOND)
        is_person = chance.random() < PERSON_BASED_PART
        link = 0 if chance.random() < OPENS_PART else 1 + chance.randrange(LINKS)
        mailing, nonce, user_agent = chance.choice(mailings), chance.randbytes(8), chance.choice(USER_AGENTS)
        recipient = str(chance.randrange(10**7))
        url = f"https://shop.example/articles/{link}?utm_source=mail&customer={recipient}" if link else None
        agent = verdict(user_agent)
        yield Hit(
            hit_id=chance.getrandbits(63),
            kind=Kind.CLICK if link else Kind.OPEN,
            mode=Mode.PERSON_BASED if is_person else Mode.ANONYMIZED,
            at=at if is_person else at.replace(second=0, microsecond=0),
            space=space,
            event=event,
            mailing=mailing,
            link=link,
            link_registered=True,
            agent_kind=agent.kind,
            agent_family=agent.family,
            recipient=recipient if is_person else None,
            nonce=nonce if is_person else None,
            pseudonym=None if is_person else pseudonym(day_key, space, mailing, nonce),
            user_agent=user_agent.decode() if is_person else None,
            url=url if is_person else None,
        )


def write_journal(journals: Path, hits: Iterator[Hit]) -> Path:
    """The directory of a journal whose writer is gone."""
    writer = JournalWriter(journals, segment_bytes=2**26, max_bytes=2**33)
    for hit in hits:
        loss = writer.append(hit)
        assert loss is None, loss
    writer.close()
    return writer.directory


async def _measure(data: Path, journal: Path, url: str, rounds: int, hits: int) -> Drain:
    connection = await asyncpg.connect(url)
    await migrate(connection)
    postmaster = psutil.Process(int((data / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0]))
    # Once for nothing: it makes the month, and the rows.
    await _ship(data, journal, url, postmaster, hits)
    rows = {stream: await _written_rows(connection, stream) for stream in Stream}
    columns = await _columns(connection)
    gc.freeze()  # what is ready is no work for the shipper's garbage collection
    batch_rows = Settings(data_directory=data).ship_batch_rows
    drain = Drain(hits, batch_rows, [], [])
    for _ in range(rounds):
        await _prepare(connection)
        drain.bare.append(await _copy(connection, columns, rows, batch_rows, postmaster))
        await _prepare(connection)
        drain.shipper.append(await _ship(data, journal, url, postmaster, hits))
    await connection.close()
    return drain


async def _prepare(connection: Connection) -> None:
    await connection.execute(_EMPTY)
    await connection.execute("checkpoint")
    gc.collect()


async def _columns(connection: Connection) -> list[str]:
    return [attribute.name for attribute in (await connection.prepare("select * from mailtrail.hits")).get_attributes()]


async def _written_rows(connection: Connection, stream: Stream) -> Rows:
    sql = "select * from mailtrail.hits where mode = any($1) order by tableoid, ctid"
    return [tuple(record) for record in await connection.fetch(sql, _MODES[stream])]


async def _copy(
    connection: Connection, columns: list[str], rows: dict[Stream, Rows], batch_rows: int, postmaster: psutil.Process
) -> Drained:
    number = sum(map(len, rows.values()))
    with _measured(postmaster, number) as drained:
        for of_stream in rows.values():
            for start in range(0, len(of_stream), batch_rows):
                async with connection.transaction():
                    await connection.copy_records_to_table(
                        "hits", schema_name="mailtrail", columns=columns, records=of_stream[start : start + batch_rows]
                    )
    return drained[0]


async def _ship(data: Path, journal: Path, url: str, postmaster: psutil.Process, hits: int) -> Drained:
    settings = Settings(data_directory=data)
    shipper = Shipper(settings, url, Metrics())
    assert await shipper.ship_once() == 0  # it is connected, and has seen to its house
    copy = settings.journals_directory / journal.name
    shutil.copytree(journal, copy)
    with _measured(postmaster, hits) as drained:
        assert await shipper.ship_once() == hits
    shipper.close()
    shutil.rmtree(copy)
    return drained[0]


@contextmanager
def _measured(postmaster: psutil.Process, rows: int) -> Iterator[list[Drained]]:
    """The list gets what was measured at the end."""
    drained: list[Drained] = []
    begun, own, postgres = time.perf_counter(), time.process_time(), _cpu_seconds(postmaster)
    yield drained
    took, own, postgres = time.perf_counter() - begun, time.process_time() - own, _cpu_seconds(postmaster) - postgres
    drained.append(Drained(rows / took, own / rows * 1e6, postgres / rows * 1e6))


def _cpu_seconds(postmaster: psutil.Process) -> float:
    """Of all PostgreSQL's processes, those that have ended too."""
    ended = postmaster.cpu_times()
    alive = [process.cpu_times() for process in (postmaster, *postmaster.children())]
    return float(ended.children_user + ended.children_system + sum(times.user + times.system for times in alive))


def main(rounds: int = ROUNDS) -> None:
    """Measures and prints each round and the medians."""
    drain = measure(rounds)
    print(f"{drain.rows} rows in batches of {drain.batch_rows}; CPU in microseconds a row\n")
    print("round    bare rows/s   CPU  PostgreSQL   shipper rows/s   CPU  PostgreSQL   shipper ÷ bare")
    for number, (bare, shipper, ratio) in enumerate(zip(drain.bare, drain.shipper, drain.ratios, strict=True), 1):
        print(f"{number:<6}{_shown(bare)}{_shown(shipper)}{ratio:>17.2f}")
    print(f"median{_shown(_median(drain.bare))}{_shown(_median(drain.shipper))}{median(drain.ratios):>17.2f}")


def _median(drained: list[Drained]) -> Drained:
    return Drained(
        median(one.rows_per_second for one in drained),
        median(one.own_cpu_us for one in drained),
        median(one.postgres_cpu_us for one in drained),
    )


def _shown(drained: Drained) -> str:
    return f"{drained.rows_per_second:>14,.0f}{drained.own_cpu_us:>6.1f}{drained.postgres_cpu_us:>12.1f}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
