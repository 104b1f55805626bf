"""A whole send on a real database, through a real collector: numbers, hidden links, denominators, settings in time."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from app.config import Settings
from app.errors import MailRefused, NotFound, SettingsError
from app.sending.bulk import BATCH, open_sending, register
from app.sending.dispatch import find_dispatch
from app.sending.minting import click_token, key_ids
from app.sending.prepare import prepare
from app.sending.sources import Document
from app.sending.template import Personalised, Template
from app.store import events, keys
from app.store import settings as store
from app.store.pool import Connection, Database
from app.tracking.fingerprints import SHOWN_RECIPIENTS
from app.tracking.modes import Mode, Permission
from app.tracking.tokens import Kind, Token
from tests.integration.service import Service

SETTINGS = Settings(public_url="https://t.example")
WHO = "test"
FIELDS = ("name", "order")
HTML = (
    "<p>Hello {{ name }}</p><a href='https://shop.example/orders/{{ order }}?for={{ name }}'>Order {{ order }}</a>"
    "<a href='https://shop.example/sale'>Sale</a></body>"
)
TEMPLATE = Template.compile(HTML, FIELDS)
HIDDEN = "https://shop.example (hidden until 5 recipients have had it)"
PATTERNS = ["https://shop.example/orders/{value}?for", "https://shop.example/sale"]
NAMES = ("Shop", "news", "November")


@pytest.fixture
async def database(shop: Connection, database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


def row(number: int, permission: str = "granted") -> tuple[str, str, dict[str, str]]:
    return f"r{number}", permission, {"name": f"Clara {number}", "order": str(number)}


async def send(database: Database, rows: list[tuple[str, str, dict[str, str]]], *names: str) -> list[Personalised]:
    async with open_sending(database, SETTINGS, WHO, *(names or NAMES), TEMPLATE) as sending:
        return [mail async for mail in sending.mails(rows)]


async def sent(shop: Connection, mailing: str = "November") -> dict[str, int]:
    space = (await store.find_space(shop, "Shop"))["id"]
    found = await store.find_mailing_of_space(shop, space, mailing)
    return {row["ceiling"]: row["messages"] for row in await store.list_sent(shop, found["id"])}


async def listed(shop: Connection, mailing: str = "November") -> list[tuple[int, str, str]]:
    space = (await store.find_space(shop, "Shop"))["id"]
    found = await store.find_mailing_of_space(shop, space, mailing)
    rows = await store.list_links(shop, found["id"])
    return [(row["number"], row["pattern"], row["label"]) for row in rows]


async def strangers(shop: Connection, number: int, mailing: str = "November") -> list[str]:
    """So many recipients whose marks differ, whatever the installation's key is."""
    space, event = (await store.find_space(shop, "Shop"))["id"], "news"
    event_id = (await events.find_event(shop, space, event))["id"]
    made, _ = await store.ensure_mailing(shop, WHO, space, event_id, mailing)
    fingerprints = await store.link_fingerprints(shop, made["id"])
    by_mark = {fingerprints.mark(f"r{candidate}"): f"r{candidate}" for candidate in range(1_000)}
    return list(by_mark.values())[:number]


def rows_of(recipients: list[str]) -> list[tuple[str, str, dict[str, str]]]:
    return [(recipient, "granted", {"name": "Clara", "order": recipient}) for recipient in recipients]


async def opened(shop: Connection, mail: Personalised) -> list[Token]:
    ring = await keys.key_ring(shop, (await store.find_space(shop, "Shop"))["id"])
    return [ring.open(click_token(url), Kind.CLICK) for url in re.findall(r"https://t\.example/c/[\w-]+", mail.html)]


# --- numbers and counts ----------------------------------------------------------------------------------------------


async def test_every_mail_has_its_own_message_and_the_same_numbers(shop: Connection, database: Database) -> None:
    mails = await send(database, [row(1), row(2)])
    for number, mail in enumerate(mails, 1):
        tokens = await opened(shop, mail)
        assert [(1, True), (2, True)] == [(token.link, token.registered) for token in tokens]
        destination = f"https://shop.example/orders/{number}?for=Clara%20{number}"
        assert [destination, "https://shop.example/sale"] == [token.destination for token in tokens]
        assert {f"r{number}"} == {token.recipient for token in tokens}
        assert mail.html.startswith(f"<p>Hello Clara {number}</p><a href='https://t.example/c/")
    assert 2 == len({mail.message_id for mail in mails})
    assert {"person_based": 2} == await sent(shop)


async def test_prepare_gives_the_same_links_the_same_numbers(shop: Connection, database: Database) -> None:
    dispatch, _ = await find_dispatch(shop, WHO, *NAMES, "r1", "granted")
    filled = TEMPLATE.fill({"name": "x", "order": "4711223344"})
    first = await prepare(
        shop, Document(b"<a href='https://shop.example/other'>x</a>" + filled.encode()), dispatch, SETTINGS
    )
    assert [1, 2, 3] == [link.number for link in first.links]
    (mail,) = await send(database, [row(2)])
    assert [2, 3] == [token.link for token in await opened(shop, mail)]


async def test_counts_are_kept_by_ceiling_and_written_in_batches(shop: Connection, database: Database) -> None:
    names = ("Shop", "invoice", "November")
    rows = [row(number, ("granted", "denied", "unknown")[number % 3]) for number in range(BATCH + 70)]
    async with open_sending(database, SETTINGS, WHO, *names, TEMPLATE) as sending:
        sending.clock = Clock()  # so that none is written because a second is over
        handed = 0
        async for mail in sending.mails(rows):
            handed += 1
            expected = Mode.PERSON_BASED if (handed - 1) % 3 == 0 else Mode.ANONYMIZED
            assert expected is mail.ceiling
        before_the_end = sum((await sent(shop)).values())
        assert BATCH <= before_the_end
    assert {"person_based": 190, "anonymized": 380} == await sent(shop)
    assert handed == len(rows)


async def test_mails_are_counted_whoever_stops(shop: Connection, database: Database) -> None:
    async def fail_at_the_second() -> None:
        async with open_sending(database, SETTINGS, WHO, *NAMES, TEMPLATE) as sending:
            async for mail in sending.mails([row(1), row(2), row(3)]):
                if "Clara 2" in mail.html:
                    raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        await fail_at_the_second()
    assert {"person_based": 2} == await sent(shop)


async def test_who_stops_over_a_wrong_value_goes_on_behind_it(shop: Connection, database: Database) -> None:
    rows = iter([row(1), ("r2", "granted", {"name": "x"}), ("", *row(3)[1:]), ("r4", "yes", row(4)[2]), row(5)])
    made, refused = [], []
    async with open_sending(database, SETTINGS, WHO, *NAMES, TEMPLATE) as sending:
        for _ in range(4):
            try:
                made += [mail async for mail in sending.mails(rows)]
            except SettingsError as error:
                refused.append(error.field)
    assert ["order", "recipient", "permission"] == refused
    assert 1 == len(made)
    assert {"person_based": 2} == await sent(shop)


async def test_mails_made_at_once_are_counted_once(shop: Connection, database: Database) -> None:
    async with open_sending(database, SETTINGS, WHO, *NAMES, TEMPLATE) as sending:
        made = await asyncio.gather(
            *(sending.mail(name, Permission.GRANTED, values) for name, _, values in map(row, range(2 * BATCH)))
        )
        await asyncio.gather(*(sending.count() for _ in range(4)))
    assert 2 * BATCH == len({mail.message_id for mail in made})
    assert {"person_based": 2 * BATCH} == await sent(shop)


async def test_memory_does_not_grow_with_the_recipients(shop: Connection, database: Database) -> None:
    """The recipients are asked for one at a time, and nothing of them is kept but the first ones' marks."""
    ahead = 0

    def rows() -> Iterator[tuple[str, str, dict[str, str]]]:
        nonlocal ahead
        for number in range(3 * BATCH):
            ahead += 1
            yield row(number)

    async with open_sending(database, SETTINGS, WHO, *NAMES, TEMPLATE) as sending:
        async for _ in sending.mails(rows()):
            ahead -= 1
            assert 0 == ahead
            assert SHOWN_RECIPIENTS >= len(sending._marked)


# --- hidden links ----------------------------------------------------------------------------------------------------


async def test_links_are_hidden_until_the_fifth_recipient(shop: Connection, database: Database) -> None:
    recipients = await strangers(shop, SHOWN_RECIPIENTS)
    await send(database, rows_of(recipients[:4]))
    assert [(1, HIDDEN, ""), (2, HIDDEN, "")] == await listed(shop)
    await send(database, rows_of(recipients[:4] * 3))
    assert [(1, HIDDEN, ""), (2, HIDDEN, "")] == await listed(shop)
    await send(database, rows_of(recipients[4:]))
    assert [(1, PATTERNS[0], "Order {value}"), (2, PATTERNS[1], "Sale")] == await listed(shop)


async def test_one_send_shows_its_links_and_then_writes_nothing_to_them(shop: Connection, database: Database) -> None:
    recipients = await strangers(shop, 50)
    await send(database, rows_of(recipients))
    assert PATTERNS == [pattern for _, pattern, _ in await listed(shop)]
    before = await shop.fetch("select xmin::text, number from mailtrail.links order by number")
    await send(database, rows_of(recipients))
    assert before == await shop.fetch("select xmin::text, number from mailtrail.links order by number")


async def test_a_template_that_one_person_got_leaves_no_text(shop: Connection, database: Database) -> None:
    own = Template.compile("<a href='https://clara.shop.example/clara-zetkin?clara=1'>Clara Zetkin's</a>")
    async with open_sending(database, SETTINGS, WHO, *NAMES, own) as sending:
        for _ in range(20):
            await sending.mail("clara", Permission.GRANTED, {})
    tables = await shop.fetch(
        "select format('%I.%I', table_schema, table_name) as name from information_schema.tables"
        " where table_schema in ('mailtrail', 'vault') and table_type = 'BASE TABLE'"
    )
    for table in tables:
        for stored in await shop.fetch(f"select t::text as text from {table['name']} as t"):
            assert "clara" not in stored["text"].lower(), table["name"]
            assert b"clara".hex() not in stored["text"].lower(), table["name"]
    assert [(1, f"https://{{value}}.{HIDDEN.removeprefix('https://')}", "")] == await listed(shop)


async def test_register_counts_the_recipients_of_the_first_mails(shop: Connection) -> None:
    recipients = await strangers(shop, SHOWN_RECIPIENTS)
    space = (await store.find_space(shop, "Shop"))["id"]
    mailing = (await store.find_mailing_of_space(shop, space, "November"))["id"]
    template = await register(shop, mailing, TEMPLATE)
    assert [(1, True), (2, True)] == [(link.number, link.registered) for link in template.links]
    await register(shop, mailing, template, recipients[:4])
    assert [HIDDEN] * 2 == [pattern for _, pattern, _ in await listed(shop)]
    assert template.links == (await register(shop, mailing, template, recipients)).links
    assert PATTERNS == [pattern for _, pattern, _ in await listed(shop)]


# --- the settings ----------------------------------------------------------------------------------------------------


async def test_a_stricter_setting_reaches_a_running_send_within_a_second(shop: Connection, database: Database) -> None:
    async with open_sending(database, SETTINGS, WHO, *NAMES, TEMPLATE) as sending:
        clock = sending.clock = Clock()
        mails = sending.mails(row(number) for number in range(4))
        assert Mode.PERSON_BASED is (await anext(mails)).ceiling
        await store.change_space(shop, WHO, sending.space, default="anonymized")
        clock.now += 0.99
        assert Mode.PERSON_BASED is (await anext(mails)).ceiling
        clock.now += 0.01
        assert Mode.ANONYMIZED is (await anext(mails)).ceiling
        await store.delete_space(shop, WHO, sending.space)
        clock.now += 1
        mail = await anext(mails)
        assert (None, Mode.OFF, TEMPLATE.fill(row(3)[2])) == (mail.message_id, mail.ceiling, mail.html)
    rows = await shop.fetch("select ceiling, messages from mailtrail.sent")
    assert {"person_based": 2, "anonymized": 1, "off": 1} == dict(rows)


async def test_a_key_that_was_replaced_mints_no_more_after_a_second(shop: Connection, database: Database) -> None:
    async with open_sending(database, SETTINGS, WHO, *NAMES, TEMPLATE) as sending:
        clock = sending.clock = Clock()
        await sending.mail("r1", Permission.GRANTED, row(1)[2])
        new = await keys.rotate(shop, WHO, sending.space)
        clock.now += 1
        mail = await sending.mail("r1", Permission.GRANTED, row(1)[2])
    assert {new} == {key_ids([click_token(url)]).pop() for url in re.findall(r"https://\S+?/c/[\w-]+", mail.html)}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_sender_may_take_away_and_never_add(shop: Connection, database: Database) -> None:
    for ceiling, made in ((Mode.AGGREGATE, Mode.AGGREGATE), (Mode.OFF, Mode.OFF), (Mode.PERSON_BASED, Mode.ANONYMIZED)):
        async with open_sending(
            database, SETTINGS, WHO, "Shop", "invoice", "November", TEMPLATE, ceiling=ceiling
        ) as sending:
            mail = await sending.mail("r1", Permission.DENIED, row(1)[2])
            assert made is mail.ceiling
            assert ({"personalised": 1} if ceiling is Mode.AGGREGATE else {}) == +mail.untouched
    assert {"aggregate": 1, "off": 1, "anonymized": 1} == await sent(shop)


@pytest.mark.parametrize(("place", "name"), [(0, "space"), (1, "event")])
async def test_what_is_not_there_is_named(shop: Connection, database: Database, place: int, name: str) -> None:
    names = [*NAMES]
    names[place] = "nowhere"
    with pytest.raises(NotFound, match=name):
        await send(database, [], *names)


async def test_a_template_that_was_tracked_is_refused_before_anything_is_made(
    shop: Connection, database: Database
) -> None:
    (mail,) = await send(database, [row(1)])
    with pytest.raises(MailRefused, match="compile the original"):
        async with open_sending(database, SETTINGS, WHO, "Shop", "news", "December", Template.compile(mail.html)):
            pass
    assert ["November"] == [found["name"] for found in await store.list_mailings(shop, await space_of(shop))]


async def space_of(shop: Connection) -> int:
    return int((await store.find_space(shop, "Shop"))["id"])


async def test_what_could_not_be_counted_is_counted_later(shop: Connection, database: Database) -> None:
    async with open_sending(database, SETTINGS, WHO, *NAMES, TEMPLATE) as sending:
        await sending.mail("r1", Permission.GRANTED, row(1)[2])
        await shop.execute("alter table mailtrail.sent rename to away")
        with pytest.raises(asyncpg.UndefinedTableError):
            await sending.count()
        await shop.execute("alter table mailtrail.away rename to sent")
        await sending.mail("r2", Permission.GRANTED, row(2)[2])
    assert {"person_based": 2} == await sent(shop)


# --- through a collector ---------------------------------------------------------------------------------------------


def test_clicks_lead_to_each_recipients_destination_and_are_recorded(service: Service) -> None:
    service.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    service.run("event", "create", "newsletter", "--space", "Shop", "--by-permission")
    service.serve()
    rows = [row(1, "granted"), row(2, "denied"), row(3, "granted")]

    async def work() -> list[Personalised]:
        database = Database(service.database_url)
        settings = Settings(public_url=service.base)
        async with open_sending(database, settings, WHO, "Shop", "newsletter", "November", TEMPLATE) as sending:
            mails = [mail async for mail in sending.mails(rows)]
        await database.close()
        return mails

    for number, mail in enumerate(asyncio.run(work()), 1):
        order, sale = re.findall(r"(/c/[\w-]+)", mail.html)
        (pixel,) = re.findall(r"(/o/[\w-]+\.gif)", mail.html)
        answers = [service.get(path) for path in (order, sale, pixel)]
        assert [302, 302, 200] == [answer.status for answer in answers]
        assert f"https://shop.example/orders/{number}?for=Clara%20{number}" == answers[0].location
        assert "https://shop.example/sale" == answers[1].location
    service.wait_for_hits(9)
    assert [("anonymized", None, 1, 2), ("person_based", "r1", 1, 2), ("person_based", "r3", 1, 2)] == [
        tuple(found)
        for found in service.query(
            "select mode, recipient, count(*) filter (where kind = 'open') as opens,"
            " count(*) filter (where kind = 'click') as clicks from analytics.hits group by mode, recipient"
            " order by mode, recipient"
        )
    ]
    assert [1, 2] == [
        found["link"]
        for found in service.query("select distinct link from analytics.hits where kind = 'click' order by link")
    ]
    (figures,) = service.query("select * from analytics.mailings where mailing = 'November'")
    assert (3, 2, 1) == (figures["sent"], figures["sent_person_based"], figures["sent_anonymized"])
