"""The sender's side of a load: a space of its own for every run, mails minted with the real library, what came of them.

Invariant: nothing that was there before is touched; a run's hits are all in its own space, and nobody else's are.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

from app.config import Settings
from app.errors import MailtrailError
from app.sending.dispatch import Dispatch, read_terms
from app.store import events, keys, migrate, pool
from app.store import settings as store
from app.store.pool import Connection
from app.tracking.destinations import normalise
from app.tracking.fingerprints import SHOWN_RECIPIENTS
from app.tracking.links import number_occurrences, pattern_of
from app.tracking.modes import Mode, Permission
from app.tracking.settings import Notice
from app.tracking.tokens import Link, Message

from .reckoning import COLUMNS, Ledger, Line, Name, Recorded, Sent, reckon_figures
from .requests import destinations

LINKS = 12
LEAST_MAILS = 10
WHO = "load"
SHIPPED_SECONDS = 60.0
SETTLED_SECONDS = 2.0
"""Hits that must not be there could still be on their way when all others have come: so long no more may come."""

_RETRY_SECONDS = 0.25
_PERMISSIONS = (Permission.GRANTED, Permission.DENIED, Permission.UNKNOWN)
_PERMISSION_WEIGHTS = (50, 20, 30)
_NEWSLETTER, _INVOICE = "newsletter", "invoice"
_NEWSLETTER_PART = 0.75
_MARKED_RECIPIENTS = 3 * SHOWN_RECIPIENTS

_RECORDED = """
select mailing, mode, kind, coalesce(link, 0) as link, agent, coalesce(recipient, '') as recipient, count(*) as hits
from analytics.hits where space_id = $1 group by 1, 2, 3, 4, 5, 6
"""
_HITS = "select count(*) from analytics.hits where space_id = $1"
_FIGURES = "select * from analytics.mailings where mailing_id = any ($1)"


class LoadFailed(MailtrailError):
    """The load cannot be put on the server."""


def check_host(url: str, *, remote_allowed: bool) -> None:
    """LoadFailed for a server that is not on this machine, unless that is allowed."""
    host = urlsplit(url).hostname or ""
    if not (remote_allowed or host == "localhost" or _is_loopback(host)):
        raise LoadFailed(
            f"{url} is not on this machine; name the collector itself, as in `make load HOST=http://127.0.0.1:8080`,"
            " or allow a server of your own elsewhere with --allow-remote (make load REMOTE=1)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail that went out: the pixel's token first, then those of its links in their order."""

    sent: Sent
    tokens: list[str]


@dataclass(frozen=True, slots=True)
class Mailing:
    """A mailing with its links, in the order in which they stand in its mails."""

    id: int
    links: list[Link]


@dataclass(frozen=True, slots=True)
class Post:
    """All that one run has sent; the mails of its mailings are mixed."""

    space: int
    name: str
    mailings: dict[str, Mailing]
    mails: list[Mail]

    def link(self, mail: Mail, position: int) -> Link:
        """The link at a position of a mail, from 1."""
        return self.mailings[mail.sent.mailing].links[position - 1]


class Sender:
    """A sender with the database; everything in it blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = pool.url_of(settings, may_create=False)

    def send(self, mails: int, chance: random.Random) -> Post:
        """Makes a space with an event that tracks by permission and one that does not, and sends a mailing of each."""
        if mails < LEAST_MAILS:
            raise LoadFailed(f"{mails} recipients are too few for two mailings; give at least {LEAST_MAILS}")
        return asyncio.run(self._send(mails, chance))

    def recorded(self, post: Post, ledger: Ledger) -> tuple[list[Recorded], list[Line]]:
        """Waits until all that was answered is in the database, at most `SHIPPED_SECONDS`; gives what there is then."""
        return asyncio.run(self._recorded(post, ledger))

    async def _send(self, mails: int, chance: random.Random) -> Post:
        async with pool.connected(self._url) as connection:
            await migrate.check(connection)
            name = f"Load {datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"
            made = await store.create_space(
                connection, WHO, name, default=Mode.PERSON_BASED.label, acknowledged=[Notice.CONSENT]
            )
            space = made["id"]
            newsletters = round(mails * _NEWSLETTER_PART)
            mailings: dict[str, Mailing] = {}
            sent: list[Mail] = []
            for event, by_permission, number in (
                (_NEWSLETTER, True, newsletters),
                (_INVOICE, False, mails - newsletters),
            ):
                event_id = (await events.create_event(connection, WHO, space, event, by_permission=by_permission))["id"]
                mailing = (await store.create_mailing(connection, WHO, space, event_id, event))["id"]
                dispatches = _dispatches(space, event_id, mailing, number, chance)
                links = await self._register(connection, dispatches, destinations(LINKS, chance))
                mailings[event] = Mailing(mailing, links)
                sent += await self._mint(connection, event, dispatches, links)
        chance.shuffle(sent)
        return Post(space, name, mailings, sent)

    async def _register(self, connection: Connection, dispatches: Sequence[Dispatch], urls: list[str]) -> list[Link]:
        """The links with their numbers, shown as soon as enough recipients have had them."""
        targets = [normalise(url) for url in urls]
        entries = number_occurrences(map(pattern_of, targets))
        numbers: list[int] = []
        for dispatch in dispatches[:_MARKED_RECIPIENTS]:
            fingerprints = await store.link_fingerprints(connection, dispatch.mailing)
            described, mark = [fingerprints.describe(entry) for entry in entries], fingerprints.mark(dispatch.recipient)
            numbered = await store.number_links(connection, dispatch.mailing, described, mark)
            await store.mark_links(connection, dispatch.mailing, numbered, mark)
            numbers = [each.number for each in numbered]
        return [Link(number, target) for number, target in zip(numbers, targets, strict=True)]

    async def _mint(
        self, connection: Connection, name: str, dispatches: Sequence[Dispatch], links: list[Link]
    ) -> list[Mail]:
        """The mails under what the settings allow now, counted as sent in one transaction."""
        messages = await self._messages(connection, dispatches)
        ring = await keys.key_ring(connection, dispatches[0].space)
        async with connection.transaction():
            for ceiling in {message.ceiling for message in messages}:
                number = sum(message.ceiling is ceiling for message in messages)
                await store.count_sent(connection, dispatches[0].mailing, ceiling, number)
        return [
            Mail(Sent(name, message.ceiling.label, dispatch.recipient), tokens)
            for dispatch, message, tokens in zip(dispatches, messages, ring.mint_many(messages, links), strict=True)
        ]

    async def _messages(self, connection: Connection, dispatches: Sequence[Dispatch]) -> list[Message]:
        first, modes = dispatches[0], {}
        for permission in _PERMISSIONS:
            terms = await read_terms(connection, self._settings, first.space, first.event, first.mailing, permission)
            modes[permission] = terms.mode
        return [dispatch.message(modes[dispatch.permission]) for dispatch in dispatches]

    async def _recorded(self, post: Post, ledger: Ledger) -> tuple[list[Recorded], list[Line]]:
        async with pool.connected(self._url) as connection:
            await _wait_until_settled(connection, post.space, len(ledger.answered))
            hits = [Recorded(*row.values()) for row in await connection.fetch(_RECORDED, post.space)]
            ids = [mailing.id for mailing in post.mailings.values()]
            rows = await connection.fetch(_FIGURES, ids)
        there: dict[Name, int] = {(row["mailing"], column): row[column] for row in rows for column in COLUMNS}
        return hits, reckon_figures([mail.sent for mail in post.mails], ledger, there)


def _dispatches(space: int, event: int, mailing: int, number: int, chance: random.Random) -> list[Dispatch]:
    """To as many customers; their numbers differ."""
    customers = chance.sample(range(10**6, 10**8), number)
    permissions = chance.choices(_PERMISSIONS, _PERMISSION_WEIGHTS, k=number)
    return [
        Dispatch(space, event, mailing, str(customer), permission)
        for customer, permission in zip(customers, permissions, strict=True)
    ]


async def _wait_until_settled(connection: Connection, space: int, answered: int) -> None:
    """Until as many hits as were answered are there and no more have come for a while, or the time is over."""
    begun = changed = time.monotonic()
    last = -1
    while time.monotonic() < begun + SHIPPED_SECONDS:
        hits = await connection.fetchval(_HITS, space)
        if hits != last:
            last, changed = hits, time.monotonic()
        elif hits >= answered and time.monotonic() > changed + SETTLED_SECONDS:
            return
        await asyncio.sleep(_RETRY_SECONDS)
