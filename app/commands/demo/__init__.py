"""The demo: a real newsletter for three recipients, real opens and clicks, and what SQL may know of each afterwards."""

import asyncio
import http.client
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import click

from ... import config
from ...config import Settings
from ...errors import MailtrailError
from ...sending.dispatch import find_dispatch
from ...sending.prepare import prepare
from ...sending.sources import read_source
from ...store import events, migrate, pool
from ...store import settings as store
from ...store.pool import Connection
from ...store.queries import queries
from ..context import run
from ..tables import show_records, show_rows

_SQL = queries("demo")
_MAIL = Path(__file__).with_name("newsletter.eml")
WHO = "demo"
SPACE, EVENT = "Demo shop", "newsletter"
SERVER_SECONDS = 30.0
SHIPPED_SECONDS = 30.0
RETRY_SECONDS = 0.1
_TIMES = {1: "once", 2: "twice"}
_TRACKED = re.compile(r'"(http[^"]+/(c|o)/[^"]+)"')
_THUNDERBIRD = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Thunderbird/140.0"


class DemoFailed(MailtrailError):
    """The demo could not be played to its end."""


@dataclass(frozen=True, slots=True)
class Person:
    """A recipient of the demo; `clicks` are the links, from 0, in the order they are clicked."""

    recipient: str
    permission: str
    clicks: Sequence[int]


PEOPLE = (
    Person("erika@example.com", "granted", (0, 1)),
    Person("max@example.com", "denied", (0, 0)),
    Person("kim@example.com", "unknown", (1,)),
)


@click.command()
def demo() -> None:
    """Play a short demo on the running server: a space, an event, three recipients, and what SQL shows."""
    settings = config.load()
    run(play(settings, pool.url_of(settings, may_create=False)))


async def play(settings: Settings, url: str) -> None:
    """Sends, opens and clicks through the running collector, waits for the rows and prints what they say."""
    async with pool.connected(url) as connection:
        await migrate.check(connection)
        await _ensure_event(connection)
        mailing = f"autumn {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        prepared = [await _prepare(connection, settings, mailing, person) for person in PEOPLE]
        mailing_id = prepared[0][0]
        await asyncio.to_thread(_wait_for_server, settings, prepared[0][1])
        hits = 0
        for person, (_, mail) in zip(PEOPLE, prepared, strict=True):
            hits += await asyncio.to_thread(_read_mail, settings, person, mail)
        await _wait_for_hits(connection, mailing_id, hits)
        _show(await connection.fetch(_SQL["messages"], mailing_id), await connection.fetch(_SQL["mailing"], mailing_id))


async def _ensure_event(connection: Connection) -> None:
    if SPACE not in [row["name"] for row in await store.list_spaces(connection)]:
        space = await store.create_space(connection, WHO, SPACE)
        await events.create_event(connection, WHO, space["id"], EVENT, by_permission=True)


async def _prepare(connection: Connection, settings: Settings, mailing: str, person: Person) -> tuple[int, str]:
    """The mailing's id, and the HTML of the person's mail with its tracked links."""
    dispatch, _ = await find_dispatch(
        connection,
        WHO,
        space=SPACE,
        event=EVENT,
        mailing=mailing,
        recipient=person.recipient,
        permitted=person.permission,
    )
    source = read_source(_MAIL.read_bytes().replace(b"{recipient}", person.recipient.encode()))
    prepared = await prepare(connection, source, dispatch, settings)
    return dispatch.mailing, b"".join(read_source(prepared.raw).read().html).decode()


def _urls(mail: str, kind: str) -> list[str]:
    return [url for url, found in _TRACKED.findall(mail) if found == kind]


def _wait_for_server(settings: Settings, mail: str) -> None:
    """Until the collector runs and has the space's key; it is asked with HEAD, which records nothing."""
    link = _urls(mail, "c")[0]
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        try:
            if _ask(settings, "HEAD", link) == http.client.FOUND:
                return
        except ConnectionError:
            pass  # it is still starting
        time.sleep(RETRY_SECONDS)
    raise DemoFailed(f"no collector answers on {settings.host}:{settings.port}; start one with `mailtrail up`")


def _read_mail(settings: Settings, person: Person, mail: str) -> int:
    """Loads the picture and clicks as a mail program does; gives the number of hits."""
    links = _urls(mail, "c")
    targets = [*_urls(mail, "o"), *(links[number] for number in person.clicks)]
    for target in targets:
        _ask(settings, "GET", target)
    return len(targets)


def _ask(settings: Settings, method: str, url: str) -> int:
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=5)
    try:
        # The proxy that the public URL leads to takes its path away.
        path = url.removeprefix(settings.public_url)
        connection.request(method, path, headers={"User-Agent": _THUNDERBIRD})
        return connection.getresponse().status
    finally:
        connection.close()


async def _wait_for_hits(connection: Connection, mailing: int, number: int) -> None:
    deadline = time.monotonic() + SHIPPED_SECONDS
    while await connection.fetchval(_SQL["hits"], mailing) < number:
        if time.monotonic() > deadline:
            raise DemoFailed("the hits do not arrive in the database; see that `mailtrail ship` runs")
        await asyncio.sleep(RETRY_SECONDS)


def _show(messages: list[asyncpg.Record], mailing: list[asyncpg.Record]) -> None:
    click.secho("\nThree people got the same newsletter; its event tracks by permission:\n", bold=True)
    show_rows(
        ("recipient", "permission", "did"),
        [(p.recipient, p.permission, f"opened it, clicked {_TIMES[len(p.clicks)]}") for p in PEOPLE],
    )
    click.secho("\nWhat the database knows of each message:\n", bold=True)
    show_records(messages)
    click.secho("\nThe mailing's figures, whoever may be known:\n", bold=True)
    show_records(mailing)
    click.echo(
        "\nOne person, two pseudonyms: nobody can tell who the latter two are.\n"
        'Ask yourself: mailtrail sql "select * from analytics.hits" (in a checkout: .venv/bin/python -m app sql …)\n'
    )
