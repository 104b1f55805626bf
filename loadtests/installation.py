"""A migrated database of its own with a space of each default mode, and the tracked paths that are asked for.

Invariant: everything is as in real use: the tokens are minted with the space's own key, their events and mailings are
in the database, their messages differ, and the day keys of their pseudonyms exist.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from app.config import Settings
from app.store import embedded, events, keys, pool
from app.store import settings as store
from app.store.installation import install
from app.store.pool import Connection
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.settings import Notice
from app.tracking.tokens import KeyRing, Message

from . import machine
from .requests import SEED, destinations

MESSAGES = 8_192
"""Messages of each mode; clicks and opens of all of them rotate."""

LINKS = 12
DESTINATIONS = 500
_WHO = "bench"


@dataclass(frozen=True, slots=True)
class Mailed:
    """A mailing of one mode, and the paths that its recipients' mail clients ask for: one a message."""

    space: int
    event: int
    mailing: int
    mode: Mode
    clicks: list[str]
    opens: list[str]


@dataclass(frozen=True, slots=True)
class Installation:
    """`directory` is a data directory whose embedded PostgreSQL runs."""

    directory: Path
    url: str
    location: str
    """A destination of middle length, for servers that answer with a constant."""
    person_based: Mailed
    anonymized: Mailed

    @property
    def postmaster(self) -> int:
        """The process id of PostgreSQL's first process."""
        return int((self.directory / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])

    def query(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """One statement on a connection of its own."""

        async def ask() -> list[asyncpg.Record]:
            async with pool.connected(self.url) as connection:
                return await connection.fetch(sql, *values)

        return asyncio.run(ask())


@contextlib.contextmanager
def installed(directory: Path, *cores: int) -> Iterator[Installation]:
    """Makes and migrates the database; PostgreSQL runs on these cores and ends with the context."""
    directory.mkdir(parents=True)
    with machine.on_cores(*cores):
        url = embedded.start(directory)
    try:
        yield asyncio.run(_install(directory, url))
    finally:
        embedded.leave(directory)


async def _install(directory: Path, url: str) -> Installation:
    chance = random.Random(SEED)
    urls = destinations(DESTINATIONS, chance)
    async with pool.connected(url) as connection:
        await install(connection, Settings(data_directory=directory))
        mailed = [await _mail(connection, mode, urls, chance) for mode in (Mode.PERSON_BASED, Mode.ANONYMIZED)]
    return Installation(directory, url, sorted(urls, key=len)[len(urls) // 2], *mailed)


async def _mail(connection: Connection, mode: Mode, urls: list[str], chance: random.Random) -> Mailed:
    space = await store.create_space(
        connection, _WHO, f"{mode.label} shop", default=mode.label, acknowledged=[Notice.CONSENT]
    )
    event = await events.create_event(connection, _WHO, space["id"], "newsletter")
    mailing = await store.create_mailing(connection, _WHO, space["id"], event["id"], "autumn")
    ring = await keys.key_ring(connection, space["id"])
    ids = space["id"], event["id"], mailing["id"]
    messages = [_message(*ids, mode, chance) for _ in range(MESSAGES)]
    return Mailed(*ids, mode, *_paths(ring, messages, urls, chance))


def _message(space: int, event: int, mailing: int, mode: Mode, chance: random.Random) -> Message:
    # Most are opened on the day they come, some on the next; both days have a key.
    issue_day = (datetime.now(UTC) - timedelta(days=chance.randrange(2))).date()
    customer = f"{chance.randrange(10**6, 10**8)}"
    return Message(space, event, mailing, Origin.EVENT, mode, Permission.UNKNOWN, issue_day, customer)


def _paths(
    ring: KeyRing, messages: list[Message], urls: list[str], chance: random.Random
) -> tuple[list[str], list[str]]:
    clicks = [
        f"/c/{ring.mint_click(message, chance.choice(urls), 1 + chance.randrange(LINKS))}" for message in messages
    ]
    return clicks, [f"/o/{ring.mint_open(message)}.gif" for message in messages]


def alternating(*kinds: list[str]) -> list[str]:
    """One path of each kind in turn."""
    return [path for together in zip(*kinds, strict=True) for path in together]
