"""`doctor`: checks configuration, database, clocks, disk, keys and reach, and says what to do.

Invariant: it changes no data; one check that fails never keeps the others from running.
"""

import asyncio
import http.client
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

import asyncpg
import click
from rich.text import Text

from .. import config
from ..config import Settings
from ..errors import ConfigError, MailtrailError, UpstreamUnavailable
from ..journal.keeper import NEARLY_FULL, journal_bytes
from ..journal.segments import SHIPPER_LOCK, WRITER_LOCK, Stream, bytes_behind, is_held
from ..sending.upstream import UpstreamAddress, open_session
from ..shipper.journals import START, Position, find_journals
from ..shipper.ship import BACKLOG_BYTES
from ..store import migrate, pool
from ..store.pool import Connection
from ..store.queries import queries
from .context import run
from .tables import show_rows

_SQL = queries("doctor")
REACH_SECONDS = 5.0
MAX_CLOCK_SECONDS = 2.0
MIN_FREE_PART = 0.05
SLOW_SYNC_SECONDS = 0.05


class Level(Enum):
    """How bad a finding is."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


_STYLES = {Level.GOOD: "green", Level.WARNING: "yellow", Level.BAD: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `mend` says what to do, empty where nothing is."""

    level: Level
    about: str
    says: str
    mend: str = ""


@click.command()
def doctor() -> None:
    """Check configuration, database, clocks, disk, keys and reach; say what to do."""
    settings = config.load()
    findings = run(_examine(settings))
    show_rows(
        ("", "check", "finding", "what to do"),
        [(Text(f.level.value, _STYLES[f.level]), f.about, f.says, f.mend) for f in findings],
    )
    sys.exit(1 if any(finding.level is Level.BAD for finding in findings) else 0)


async def _examine(settings: Settings) -> list[Finding]:
    findings = [*_variables(), *_disk(settings), *_reach(settings.public_url, "MAILTRAIL_PUBLIC_URL")]
    findings += [finding async for finding in _relay(settings)]
    try:
        url = await asyncio.to_thread(pool.url_of, settings, may_create=False)
        async with pool.connected(url) as connection:
            findings += [finding async for finding in _database(connection, settings)]
    except MailtrailError as error:
        findings.append(Finding(Level.BAD, "database", "not usable", str(error)))
    except asyncpg.PostgresError as error:
        findings.append(Finding(Level.BAD, "database", f"refuses: {error}", "check the rights of the database's user"))
    return findings


def _variables() -> Iterator[Finding]:
    unknown = config.unknown_variables(os.environ)
    for name, meant in unknown:
        mend = f"did you mean {meant}?" if meant else "`mailtrail config` lists all settings"
        yield Finding(Level.WARNING, "settings", f"{name} is not read by anything", mend)
    if not unknown:
        yield Finding(Level.GOOD, "settings", "all can be read")


def _disk(settings: Settings) -> Iterator[Finding]:
    directory = settings.data_directory
    if not directory.exists():
        yield Finding(Level.WARNING, "disk", f"there is no {directory} yet", "it is made at the first start")
        return
    try:
        seconds = _sync_seconds(settings)
        usage = shutil.disk_usage(directory)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        yield Finding(Level.BAD, "disk", f"{directory}: {reason}", "give the user the right to write there")
        return
    free, part = usage.free, usage.free / usage.total
    says = f"{free / 2**30:.1f} GiB free ({part:.0%}) under {directory}"
    if free < settings.journal_segment_bytes * 4 or part < MIN_FREE_PART:
        yield Finding(Level.WARNING, "disk", says, "make room: a full disk costs hits, not redirects")
    else:
        yield Finding(Level.GOOD, "disk", says)
    says = f"a line is safe on the disk after {seconds * 1000:.1f} ms"
    slow = settings.durability == "disk" and seconds > SLOW_SYNC_SECONDS
    mend = "durability `disk` makes every answer wait that long; use a faster disk" if slow else ""
    yield Finding(Level.WARNING if slow else Level.GOOD, "disk", says, mend)
    fill = journal_bytes(settings.journals_directory) / settings.journal_max_bytes
    full = fill >= NEARLY_FULL
    mend = "see that the shipper runs and reaches the database, or raise MAILTRAIL_JOURNAL_MAX_BYTES" if full else ""
    yield Finding(Level.WARNING if full else Level.GOOD, "journals", f"{fill:.0%} of their bound", mend)
    yield from _shipper(settings)


def _shipper(settings: Settings) -> Iterator[Finding]:
    """Whether the journals of the collectors that run here are read by somebody."""
    journals = settings.journals_directory
    written = [made for made in journals.glob("*") if made.is_dir() and is_held(made, WRITER_LOCK)]
    unread = sum(not is_held(journal, SHIPPER_LOCK) for journal in written)
    if unread:
        says = f"{unread} of {len(written)} collectors write a journal that no shipper reads"
        yield Finding(Level.BAD, "shipper", says, "start `mailtrail ship`, or see in its log why it ends")
    elif written:
        yield Finding(Level.GOOD, "shipper", f"reads the journals of all collectors: {len(written)}")


def _sync_seconds(settings: Settings) -> float:
    probe = settings.data_directory / f".doctor.{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"x" * 300)
            file.flush()
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            return time.perf_counter() - start
    finally:
        probe.unlink(missing_ok=True)


def _reach(base: str, named: str) -> Iterator[Finding]:
    """Whether recipients reach a collector under this base, over https."""
    parts = urlsplit(base)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https":
        level = Level.WARNING
        mend = "only for trying out" if local else "put a proxy with a certificate in front and use its https URL"
        yield Finding(level, "reach", f"{named} is {base}, without https", mend)
    try:
        status = _get_status(base)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        yield Finding(
            Level.WARNING, "reach", f"{base} does not answer ({reason})", "start the collector, or correct " + named
        )
        return
    if status == 200:
        yield Finding(Level.GOOD, "reach", f"{base} leads to a collector")
    else:
        yield Finding(Level.BAD, "reach", f"{base}/livez answers {status}", f"{named} does not lead to a collector")


def _get_status(base: str) -> int:
    parts = urlsplit(base)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=REACH_SECONDS)
    try:
        connection.request("GET", f"{parts.path}/livez")
        return connection.getresponse().status
    finally:
        connection.close()


async def _relay(settings: Settings) -> AsyncIterator[Finding]:
    """Whether the relay, where there is one, would reach the next mail server, and what that takes."""
    if settings.relay_upstream is None:
        return
    try:
        address = UpstreamAddress.of(settings)
        session = await open_session(address, await asyncio.to_thread(socket.getfqdn), REACH_SECONDS)
    except ConfigError as error:
        yield Finding(Level.BAD, "relay", "cannot start", str(error))
        return
    except UpstreamUnavailable as error:
        mend = "start that server, or correct MAILTRAIL_RELAY_UPSTREAM and what belongs to it"
        yield Finding(Level.BAD, "relay", f"{settings.relay_upstream} cannot be used ({error})", mend)
        return
    missing = [name for name in ("8BITMIME", "SMTPUTF8") if name.lower() not in session.extensions]
    await session.quit()
    says = f"{settings.relay_upstream} takes mails{', but without ' + ' and '.join(missing) if missing else ''}"
    mend = "mails that need it are refused with 554" if missing else ""
    yield Finding(Level.WARNING if missing else Level.GOOD, "relay", says, mend)


async def _database(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    server = await connection.fetchrow(_SQL["server"], time.time())
    assert server is not None, "a statement without a table gives one row"
    yield Finding(Level.GOOD, "database", f"PostgreSQL {server['version']} answers")
    ahead = float(server["clock_ahead"])
    wrong = abs(ahead) > MAX_CLOCK_SECONDS
    mend = "let both machines follow a time server: pseudonyms and months depend on the day" if wrong else ""
    yield Finding(Level.BAD if wrong else Level.GOOD, "clock", f"the database is {ahead:+.2f} s ahead of us", mend)
    await migrate.check(connection)
    yield Finding(Level.GOOD, "schema", "is this program's")
    for check in (_backlog, _keys, _day_keys, _quarantine, _tracking_urls):
        async for finding in check(connection, settings):
            yield finding


async def _backlog(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    shipped = {
        (row["id"], row["stream"]): Position(row["segment"], row["byte_offset"])
        for row in await connection.fetch(_SQL["shipped"])
    }
    waiting = 0
    for journal in find_journals(settings.journals_directory):
        for stream in Stream:
            position = shipped.get((journal.name, stream.value), START)
            try:
                waiting += bytes_behind(journal, stream, position.segment, position.offset)
            except OSError as error:
                mend = "give the user the right to read it; a shipper that may not read it ships none of its hits"
                yield Finding(Level.BAD, "backlog", f"{journal}: {error.strerror}", mend)
    says = f"{waiting / 2**20:.1f} MiB of hits wait to be shipped"
    if waiting > BACKLOG_BYTES:
        mend = "it shrinks while `mailtrail ship` runs, new hits do not wait for it; see the shipper's log if it grows"
        yield Finding(Level.WARNING, "backlog", says, mend)
    else:
        yield Finding(Level.GOOD, "backlog", says)


async def _keys(connection: Connection, _: Settings) -> AsyncIterator[Finding]:
    keys = await connection.fetchrow(_SQL["keys"])
    assert keys is not None, "a statement without a table gives one row"
    if keys["spaces_without_key"]:
        says = f"spaces that cannot make links: {keys['spaces_without_key']}"
        yield Finding(Level.BAD, "keys", says, "run `mailtrail keys create --space …`")
    if keys["keys_not_exported"]:
        says = f"keys that were never exported: {keys['keys_not_exported']}"
        mend = "run `mailtrail keys export` and keep the file safe: without its key every sent link is dead"
        yield Finding(Level.WARNING, "keys", says, mend)
    elif not keys["spaces_without_key"]:
        yield Finding(Level.GOOD, "keys", f"all exported; spaces: {keys['spaces']}")


async def _day_keys(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    found = await connection.fetchrow(_SQL["day_keys"], settings.anonymization_days)
    assert found is not None, "a statement without a table gives one row"
    if not found["has_today"]:
        yield Finding(Level.BAD, "day keys", "there is none for today", "start the shipper, which makes them ahead")
    if found["missing"]:
        says = f"missing: {found['missing']}; their anonymized hits count in totals only"
        yield Finding(Level.WARNING, "day keys", says, "start a collector that still holds them; it puts them back")
    if found["overdue"]:
        yield Finding(Level.BAD, "day keys", f"should be destroyed: {found['overdue']}", "start the shipper")
    if found["has_today"] and not found["missing"] and not found["overdue"]:
        yield Finding(Level.GOOD, "day keys", "all there, none overdue")


async def _quarantine(connection: Connection, _: Settings) -> AsyncIterator[Finding]:
    rows = await connection.fetch(_SQL["quarantine"])
    for row in rows:
        says = f"journal lines that are {row['reason']}: {row['lines']}"
        yield Finding(Level.WARNING, "quarantine", says, "look at mailtrail.quarantine; nothing waits for them")
    if not rows:
        yield Finding(Level.GOOD, "quarantine", "empty")


async def _tracking_urls(connection: Connection, _: Settings) -> AsyncIterator[Finding]:
    for row in await connection.fetch(_SQL["tracking_urls"]):
        for finding in await asyncio.to_thread(list, _reach(row["tracking_url"], f"the URL of space {row['name']}")):
            yield finding
