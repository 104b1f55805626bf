"""Many whole mails on a real database: prepared as each alone, with fewer questions, and each counted once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.config import Settings
from app.errors import NotFound, StoreUnavailable
from app.sending.believed import BELIEVED_SECONDS
from app.sending.dispatch import Dispatch
from app.sending.links import read_message_id
from app.sending.mail_room import MailRoom
from app.sending.prepare import prepare
from app.sending.sources import Document, Mail
from app.store import keys
from app.store import settings as store
from app.store.pool import Connection, Database
from app.tracking.modes import Mode, Permission
from app.tracking.settings import Notice

MAILS = Path(__file__).parents[1] / "mails"
SETTINGS = Settings(public_url="https://t.example")
WHO = "test"
NEWSLETTER = Mail((MAILS / "newsletter.eml").read_bytes())


class Clock:
    """Goes on when it is told to."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(shop: Connection, database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def room(database: Database, clock: Clock) -> MailRoom:
    return MailRoom(database, SETTINGS, WHO, clock)


async def group(shop: Connection, room: MailRoom, mode: str = "anonymized", name: str = "day") -> tuple[int, int]:
    space = (await store.find_space(shop, "Shop"))["id"]
    await store.change_space(shop, WHO, space, relay=mode, acknowledged=[Notice.CONSENT])
    return space, await room.mailing(space, None, name)


def to(space: int, mailing: int, recipient: str = "erika@example.com") -> Dispatch:
    return Dispatch(space, None, mailing, recipient, Permission.UNKNOWN)


async def sent(shop: Connection, mailing: int) -> dict[tuple[str, str], int]:
    return {(row["ceiling"], row["reason"]): row["messages"] for row in await store.list_sent(shop, mailing)}


async def test_mails_are_prepared_as_each_alone(shop: Connection, room: MailRoom) -> None:
    space, mailing = await group(shop, room, "person_based")
    alone = await prepare(shop, NEWSLETTER, to(space, mailing), SETTINGS)
    together = [await room.prepare(NEWSLETTER, to(space, mailing, f"r{number}")) for number in range(12)]
    described = [(link.number, link.pattern, link.label) for link in alone.links]
    for prepared in together:
        assert described == [(link.number, link.pattern, link.label) for link in prepared.links]
        assert (alone.pixel, alone.untouched, alone.ceiling) == (prepared.pixel, prepared.untouched, prepared.ceiling)
    assert all(row["shown"] for row in await store.list_links(shop, mailing))


async def test_what_was_asked_is_believed_for_a_second(shop: Connection, room: MailRoom, clock: Clock) -> None:
    space, mailing = await group(shop, room, "person_based")
    assert Mode.PERSON_BASED is (await room.terms(to(space, mailing))).mode
    await store.change_space(shop, WHO, space, relay="off")
    clock.now += BELIEVED_SECONDS * 0.99
    assert Mode.PERSON_BASED is (await room.prepare(NEWSLETTER, to(space, mailing))).ceiling
    clock.now += BELIEVED_SECONDS * 0.01
    prepared = await room.prepare(NEWSLETTER, to(space, mailing))
    assert (Mode.OFF, "off", NEWSLETTER.raw) == (prepared.ceiling, prepared.reason, prepared.raw)


async def test_a_new_key_mints_within_a_second(shop: Connection, room: MailRoom, clock: Clock) -> None:
    space, mailing = await group(shop, room)
    await room.prepare(NEWSLETTER, to(space, mailing))
    key = await keys.rotate(shop, WHO, space)
    clock.now += BELIEVED_SECONDS
    prepared = await room.prepare(NEWSLETTER, to(space, mailing))
    assert prepared.message_id is not None
    ring = await keys.key_ring(shop, None, [key])
    assert mailing == read_message_id(ring, prepared.message_id).mailing


async def test_once_links_are_shown_and_settings_known_nothing_is_asked(
    shop: Connection, room: MailRoom, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, mailing = await group(shop, room)
    for number in range(30):
        await room.prepare(NEWSLETTER, to(space, mailing, f"r{number}"))

    def refuse() -> Any:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(database, "connection", refuse)
    assert 8 == (await room.prepare(NEWSLETTER, to(space, mailing, "another"))).tracked


async def test_many_at_once_are_counted_once_each_with_fewer_commits(shop: Connection, room: MailRoom) -> None:
    space, mailing = await group(shop, room)
    prepared = [await room.prepare(NEWSLETTER, to(space, mailing, f"r{number}")) for number in range(50)]
    nothing = await room.prepare(Document(b"<!-- nothing"), to(space, mailing))
    before = await shop.fetchval("select pg_current_xact_id()::text::bigint")
    await asyncio.gather(*(room.count(mailing, each) for each in [*prepared, nothing]))
    after = await shop.fetchval("select pg_current_xact_id()::text::bigint")
    assert {"anonymized"} == {ceiling for ceiling, _ in await sent(shop, mailing)} - {"off"}
    assert 51 == sum((await sent(shop, mailing)).values())
    assert after - before < 10


async def test_what_was_prepared_before_is_not_counted_again(shop: Connection, room: MailRoom) -> None:
    space, mailing = await group(shop, room)
    first = await room.prepare(NEWSLETTER, to(space, mailing))
    second = await room.prepare(Mail(first.raw), to(space, mailing))
    await room.count(mailing, first)
    await room.count(mailing, second)
    assert {("anonymized", ""): 1} == await sent(shop, mailing)


async def test_counts_wait_for_a_database_that_is_away(
    shop: Connection, room: MailRoom, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, mailing = await group(shop, room)
    prepared = await room.prepare(NEWSLETTER, to(space, mailing))
    with monkeypatch.context() as patched:
        patched.setattr(database, "_opened", _gone)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await room.count(mailing, prepared)
    await room.close()
    assert {("anonymized", ""): 2} == await sent(shop, mailing)


async def _gone() -> Any:
    raise asyncpg.CannotConnectNowError("it starts")


async def test_what_is_not_there_is_refused(shop: Connection, room: MailRoom) -> None:
    space, _ = await group(shop, room)
    with pytest.raises(NotFound, match="no mailing"):
        await room.prepare(NEWSLETTER, to(space, 4_711))
