"""Mailings that were sent: their links as senders register them, and their hits as the shipper writes them."""

import os
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx2
from msgspec.structs import replace

from app.store import keys
from app.store import settings as store
from app.store.pool import Connection
from app.tracking.hits import Hit
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Kind, Message
from tests.browser.pages import PASSWORD, Pages, space_path
from tests.integration.shipping import shipper_of, write_journal

RECIPIENTS = (b"1", b"2", b"3", b"4", b"5")
MINUTE = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)


def mailing_path(space: int, mailing: int) -> str:
    return f"{space_path(space)}/mailings/{mailing:012x}"


def make_mailing(pages: Pages, space: int, name: str, event: int | None = None) -> int:
    row = pages.in_database(lambda each: store.create_mailing(each, "test", space, event, name))
    return int(row["id"])


def count_sent(pages: Pages, mailing: int, messages: dict[Mode, int]) -> None:
    async def count(connection: Connection) -> None:
        for ceiling, number in messages.items():
            await store.count_sent(connection, mailing, ceiling, number)

    pages.in_database(count)


def register_links(pages: Pages, mailing: int, shown: dict[str, str], hidden: dict[str, str]) -> None:
    """Links by pattern with their texts: five recipients had those that are shown, one those that are hidden."""

    async def register(connection: Connection) -> None:
        fingerprints = await store.link_fingerprints(connection, mailing)
        links = [fingerprints.describe((pattern, 1), label) for pattern, label in (shown | hidden).items()]
        for mark in RECIPIENTS:
            numbered = await store.number_links(connection, mailing, links, mark)
            await store.mark_links(connection, mailing, numbered, mark)
            links = links[: len(shown)]

    pages.in_database(register)


class Hits:
    """The hits of one mailing."""

    def __init__(self, pages: Pages, space: int, event: int, mailing: int) -> None:
        self._pages = pages
        self._plain = Hit(
            0, Kind.OPEN, Mode.ANONYMIZED, MINUTE, space, event, mailing, 0, link_registered=True, agent_kind="human"
        )
        self._hits: list[Hit] = []

    def add(self, kind: Kind, mode: Mode, **fields: Any) -> None:
        """A hit; fields besides the usual ones by their names."""
        number = int.from_bytes(os.urandom(7))
        self._hits.append(replace(self._plain, hit_id=number, kind=kind, mode=mode, **fields))

    def person(self, kind: Kind, recipient: str, **fields: Any) -> None:
        nonce = recipient.encode()[:8].ljust(8, b"-")
        self.add(kind, Mode.PERSON_BASED, recipient=recipient, nonce=nonce, **fields)

    def anonymous(self, kind: Kind, message: int, **fields: Any) -> None:
        self.add(kind, Mode.ANONYMIZED, pseudonym=bytes([message]) * 16, **fields)

    def ship(self) -> None:
        """Through a journal and the shipper, as every hit comes."""
        data = self._pages.service.directory / f"journal-{os.urandom(4).hex()}"
        write_journal(data, self._hits)
        shipper, _ = shipper_of(data, self._pages.service.database_url)

        async def ship(_: Connection) -> int:
            return await shipper.drain()

        assert self._pages.in_database(ship) == len(self._hits)


def sent_mailing(pages: Pages, space: int, event: int, name: str) -> int:
    """A mailing with two shown links and a hidden one, and hits of every kind: their numbers stand in the tests."""
    mailing = make_mailing(pages, space, name, event)
    count_sent(pages, mailing, {Mode.PERSON_BASED: 4, Mode.ANONYMIZED: 6, Mode.OFF: 3})
    register_links(
        pages,
        mailing,
        {"https://shop.example/jackets?size": "Jackets", "https://shop.example/boots": "Boots"},
        {"https://shop.example/erika": "Hello Erika"},
    )
    hits = Hits(pages, space, event, mailing)
    hits.person(Kind.OPEN, "4711", user_agent="<b>Mail</b>")
    hits.person(Kind.OPEN, "4711")
    hits.person(Kind.CLICK, "4711", link=1)
    hits.person(Kind.CLICK, "4712", link=1)
    hits.anonymous(Kind.OPEN, 1)
    hits.anonymous(Kind.OPEN, 2)
    hits.anonymous(Kind.OPEN, 2)
    for _ in range(3):
        hits.anonymous(Kind.CLICK, 1, link=1)
    hits.anonymous(Kind.CLICK, 2, link=2)
    hits.anonymous(Kind.CLICK, 2, link=7, link_registered=False)
    hits.anonymous(Kind.OPEN, 3, agent_kind="prefetch")
    hits.anonymous(Kind.CLICK, 3, link=1, agent_kind="scanner")
    hits.anonymous(Kind.CLICK, 4, link=2, agent_kind="bot")
    hits.ship()
    return mailing


# --- tracked links ---------------------------------------------------------------------------------------------------


def tracked_link(
    pages: Pages,
    space: int,
    event: int,
    mailing: int,
    *,
    ceiling: Mode = Mode.PERSON_BASED,
    permission: Permission = Permission.GRANTED,
    recipient: str = "4711",
    destination: str = "https://shop.example/jackets?cid=4711",
    origin: Origin = Origin.EVENT,
) -> str:
    """A link as a sender mints it with the space's key."""
    ring = pages.in_database(lambda each: keys.key_ring(each, space))
    message = Message(
        space=space,
        event=event,
        mailing=mailing,
        origin=origin,
        ceiling=ceiling,
        permission=permission,
        issue_day=date(2026, 11, 24),
        recipient=recipient if ceiling is Mode.PERSON_BASED else None,
    )
    return f"https://t.shop.example/c/{ring.mint_click(message, destination, 1)}"


# --- plain HTTP ------------------------------------------------------------------------------------------------------


class Intruder:
    """Somebody with a session and no browser, who sends what no page of ours would."""

    def __init__(self, pages: Pages, name: str) -> None:
        self._client = httpx2.Client(base_url=pages.base, follow_redirects=False)
        page = self._client.get("/sign-in")
        answer = self._client.post(
            "/sign-in", data={"name": name, "password": PASSWORD, "next": "/", "form_token": token_of(page.text)}
        )
        assert answer.status_code == 303, answer.text
        self._token = token_of(self._client.get("/account").text)

    def get(self, path: str) -> httpx2.Response:
        return self._client.get(path)

    def post(
        self, path: str, *, with_token: bool = True, headers: dict[str, str] | None = None, **fields: str
    ) -> httpx2.Response:
        token = {"form_token": self._token} if with_token else {}
        return self._client.post(path, data=token | fields, headers=headers)

    def close(self) -> None:
        self._client.close()


def token_of(page: str) -> str:
    return page.partition('name="form_token" value="')[2].partition('"')[0]
