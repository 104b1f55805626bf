"""Mails made ready for sending, on a real database: numbers, ceilings, denominators, and nothing twice."""

import asyncio
import email
import os
import re
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from app.config import Settings
from app.errors import DestinationRefused, MailRefused, NotFound, SettingsError
from app.sending.dispatch import Dispatch, find_dispatch
from app.sending.links import mint_link, read_message_id, reopen_message, start_message, start_with_link
from app.sending.minting import click_token, pixel_tokens
from app.sending.prepare import Limits, Prepared, prepare
from app.sending.sources import Document, Mail
from app.store import events, keys, pool
from app.store import settings as store
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.fingerprints import SHOWN_RECIPIENTS
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.settings import Notice
from app.tracking.tokens import Kind, Token, _decode
from tests.corpus import EXPECTED, NAMES, TRACKED, raw_mail

SETTINGS = Settings(public_url="https://t.example")
RECIPIENT = "erika.muster@example.com"
WHO = "test"
HIDDEN = "https://shop.example (hidden until 5 recipients have had it)"


async def dispatch_to(
    shop: Connection,
    recipient: str = RECIPIENT,
    permitted: str = "granted",
    *,
    space: str = "Shop",
    event: str = "news",
    mailing: str = "November",
) -> Dispatch:
    dispatch, _ = await find_dispatch(shop, WHO, space, event, mailing, recipient, permitted)
    return dispatch


async def anonymize(shop: Connection) -> None:
    await store.change_space(shop, WHO, (await store.find_space(shop, "Shop"))["id"], default="anonymized")


async def sent(shop: Connection, mailing: str = "November") -> dict[str, int]:
    space = (await store.find_space(shop, "Shop"))["id"]
    found = await store.find_mailing_of_space(shop, space, mailing)
    return {row["ceiling"]: row["messages"] for row in await store.list_sent(shop, found["id"])}


async def reasons(shop: Connection, mailing: str = "November") -> dict[tuple[str, str], int]:
    space = (await store.find_space(shop, "Shop"))["id"]
    found = await store.find_mailing_of_space(shop, space, mailing)
    return {(row["ceiling"], row["reason"]): row["messages"] for row in await store.list_sent(shop, found["id"])}


async def links(shop: Connection, dispatch: Dispatch) -> dict[int, str]:
    return {row["number"]: row["pattern"] for row in await store.list_links(shop, dispatch.mailing)}


async def strangers(shop: Connection, mailing: int, number: int = SHOWN_RECIPIENTS) -> list[str]:
    """So many recipients whose marks differ, whatever the installation's key is."""
    fingerprints = await store.link_fingerprints(shop, mailing)
    by_mark = {fingerprints.mark(f"r{candidate}"): f"r{candidate}" for candidate in range(1_000)}
    return list(by_mark.values())[:number]


async def opened(shop: Connection, prepared: Prepared) -> list[Token]:
    ring = await keys.key_ring(shop, (await store.find_space(shop, "Shop"))["id"])
    return [ring.open(click_token(link.url), Kind.CLICK) for link in prepared.links]


async def plaintexts(shop: Connection, prepared: Prepared) -> list[bytes]:
    """What the sealed bytes of all the mail's tokens say, without the program's own reading of them."""
    secrets = await shop.fetch("select id, secret from vault.token_keys")
    ciphers = {row["id"]: AESSIV(row["secret"]) for row in secrets}
    urls = [link.url for link in prepared.links]
    tokens = [click_token(url) for url in urls] + [prepared.message_id]
    tokens += pixel_tokens(Mail(prepared.raw).read().html)
    sealed = [_decode(token.encode()) for token in tokens]
    return [ciphers[int.from_bytes(each[1:4])].decrypt(each[4:], [each[:4]]) for each in sealed]


# --- whole mails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRACKED)
async def test_every_link_of_a_mail_is_tracked_once_to_where_it_led(shop: Connection, name: str) -> None:
    expected = EXPECTED[name]
    dispatch = await dispatch_to(shop)
    prepared = await prepare(shop, Mail(raw_mail(name)), dispatch, SETTINGS)
    tokens = await opened(shop, prepared)
    assert expected["links"] == [token.destination for token in tokens]
    assert expected["labels"] == [link.label for link in prepared.links]
    assert expected["untouched"] == dict(prepared.untouched)
    assert bool(expected["pixels"]) is prepared.pixel
    assert all(token.registered for token in tokens)
    # One number for one (pattern, occurrence), in the order of the mail.
    assert [*range(1, len(tokens) + 1)] == [token.link for token in tokens]
    listed = [(row["number"], row["shown"]) for row in await store.list_links(shop, dispatch.mailing)]
    assert [(number, False) for number in range(1, len(tokens) + 1)] == listed
    assert {"person_based": 1} == await sent(shop)

    await all_tokens_are_one_message(shop, name, prepared)
    await it_comes_back_as_it_is_and_is_not_counted_again(shop, name, prepared, dispatch)


async def all_tokens_are_one_message(shop: Connection, name: str, prepared: Prepared) -> None:
    ring = await keys.key_ring(shop, (await store.find_space(shop, "Shop"))["id"])
    message = read_message_id(ring, prepared.message_id)
    assert (RECIPIENT, Mode.PERSON_BASED, Permission.GRANTED) == (
        message.recipient,
        message.ceiling,
        message.permission,
    )
    assert {message} == {token.message for token in await opened(shop, prepared)}
    pixels = list(pixel_tokens(Mail(prepared.raw).read().html))
    assert [message] * EXPECTED[name]["pixels"] == [ring.open(pixel, Kind.OPEN).message for pixel in pixels]


async def it_comes_back_as_it_is_and_is_not_counted_again(
    shop: Connection, name: str, first: Prepared, dispatch: Dispatch
) -> None:
    registered = await links(shop, dispatch)
    second = await prepare(shop, Mail(first.raw), dispatch, SETTINGS)
    assert first.raw == second.raw
    assert (first.tracked, 0) == (second.untouched["already_tracked"], second.tracked)
    assert (None, Mode.OFF, False) == (second.message_id, second.ceiling, second.counted)
    assert registered == await links(shop, dispatch)
    assert {"person_based": 1} == await sent(shop)
    # What was opted out of is left alone, though its opt-out went out of the mail.
    assert EXPECTED[name]["untouched"].get("opted_out", 0) == second.untouched["prepared_before"]


@pytest.mark.parametrize("name", sorted({*NAMES} - {*TRACKED}))
async def test_a_mail_with_nothing_to_track_says_why(shop: Connection, name: str) -> None:
    prepared = await prepare(shop, Mail(raw_mail(name)), await dispatch_to(shop), SETTINGS)
    (why,) = EXPECTED[name]["untouched"] or ["nothing"]
    assert (why, True, None) == (prepared.reason, prepared.counted, prepared.message_id)
    assert EXPECTED[name]["untouched"] == dict(prepared.untouched)
    assert prepared.raw.endswith(raw_mail(name))
    assert {("off", why): 1} == await reasons(shop)


OTHERS = {
    "space": {"space": "Other", "event": "news"},
    "event": {"event": "invoice"},
    "mailing": {"mailing": "December"},
    "permission": {"permitted": "denied"},
    "recipient": {"recipient": "max@example.com"},
}


async def other_dispatch(shop: Connection, different: str) -> Dispatch:
    """One that differs in this and, as mailings belong to events and events to spaces, in what follows from it."""
    if different == "space":
        space = await store.create_space(
            shop, WHO, "Other", default="person_based", acknowledged=[Notice.CONSENT], url="https://other.example"
        )
        await events.create_event(shop, WHO, space["id"], "news")
    return await dispatch_to(shop, **OTHERS[different])


@pytest.mark.parametrize("different", OTHERS)
@pytest.mark.parametrize("limits", [Limits(), Limits(ceiling=Mode.OFF)], ids=["tracked", "off"])
async def test_a_mail_that_was_prepared_for_another_is_refused(
    shop: Connection, different: str, limits: Limits
) -> None:
    other = await other_dispatch(shop, different)
    first = await prepare(shop, Mail(raw_mail("newsletter.eml")), other, SETTINGS)
    dispatch = await dispatch_to(shop)
    state = "select * from mailtrail.links, mailtrail.sent"
    before = await shop.fetch(state)
    with pytest.raises(MailRefused, match=rf"another {different}\b.*; rewrite the original anew for each recipient"):
        await prepare(shop, Mail(first.raw), dispatch, SETTINGS, limits)
    assert before == await shop.fetch(state)


async def test_a_mail_that_was_prepared_for_the_same_stays_when_tracking_is_off(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    first = await prepare(shop, Mail(raw_mail("newsletter.eml")), dispatch, SETTINGS)
    second = await prepare(shop, Mail(first.raw), dispatch, SETTINGS, Limits(ceiling=Mode.OFF))
    assert (first.raw, False) == (second.raw, second.counted)
    assert {"person_based": 1} == await sent(shop)


async def test_whose_an_anonymized_mail_is_cannot_be_told(shop: Connection) -> None:
    await anonymize(shop)
    first = await prepare(shop, Mail(raw_mail("newsletter.eml")), await dispatch_to(shop), SETTINGS)
    second = await prepare(shop, Mail(first.raw), await dispatch_to(shop, "max@example.com"), SETTINGS)
    assert (first.raw, False) == (second.raw, second.counted)


@pytest.mark.parametrize("different", OTHERS)
async def test_links_that_are_tracked_for_another_are_told_apart(shop: Connection, different: str) -> None:
    _, theirs, _ = await start_with_link(
        shop, await other_dispatch(shop, different), "https://shop.example/a", SETTINGS
    )
    dispatch = await dispatch_to(shop, mailing="Mine" if different == "mailing" else "November")
    _, ours, _ = await start_with_link(shop, dispatch, "https://shop.example/b", SETTINGS)
    prepared = await prepare(shop, page(theirs, ours, "https://shop.example/c"), dispatch, SETTINGS)
    assert Counter(tracked_for_another=1, already_tracked=1) == prepared.untouched
    assert (1, True) == (prepared.tracked, prepared.pixel)
    assert theirs.encode() in prepared.raw
    # Nothing of ours in it: it is a mail of its own, without a token of its own.
    untracked = await prepare(shop, Mail(f"Subject: x\n\n{theirs}\n".encode()), dispatch, SETTINGS)
    assert (Mode.OFF, True, Counter(tracked_for_another=1)) == (
        untracked.ceiling,
        untracked.counted,
        untracked.untouched,
    )
    off = await prepare(shop, page(theirs), dispatch, SETTINGS, Limits(ceiling=Mode.OFF))
    assert Counter(tracked_for_another=1) == off.untouched


async def test_a_link_minted_before_stays_and_the_others_are_tracked(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    minter = await start_message(shop, dispatch, SETTINGS)
    mine, _ = await mint_link(shop, minter, "https://shop.example/mine", SETTINGS)
    html = f'<a href="{mine}">a</a><a href="https://shop.example/new">b</a>'
    prepared = await prepare(shop, Document(html.encode()), dispatch, SETTINGS)
    assert f'<a href="{mine}">a</a>'.encode() in prepared.raw
    assert ["https://shop.example/new"] == [token.destination for token in await opened(shop, prepared)]
    assert (Counter(already_tracked=1), True) == (prepared.untouched, prepared.pixel)


async def test_a_link_of_our_form_that_no_key_opens_is_a_link_like_any(shop: Connection) -> None:
    html = b'<a href="https://t.example/c/AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKl">a</a>'
    prepared = await prepare(shop, Document(html), await dispatch_to(shop), SETTINGS)
    assert (1, Counter()) == (prepared.tracked, prepared.untouched)


# --- numbers ---------------------------------------------------------------------------------------------------------


def page(*urls: str) -> Document:
    return Document("".join(f'<a href="{url}">x</a>' for url in urls).encode())


async def test_a_link_keeps_its_number_in_every_mail(shop: Connection) -> None:
    a, b, c, d = (f"https://shop.example/{name}" for name in "abcd")

    async def numbers(recipient: str, *urls: str) -> list[int]:
        prepared = await prepare(shop, page(*urls), await dispatch_to(shop, recipient), SETTINGS)
        return [token.link for token in await opened(shop, prepared)]

    assert [1, 2, 3] == await numbers("1", a, b, c)
    assert [1, 3] == await numbers("2", a, c)  # the block with b is missing
    assert [3, 2, 1] == await numbers("3", c, b, a)
    assert [4, 1] == await numbers("4", d, a)
    assert [1, 5, 3, 6] == await numbers("5", a, a, c, a)
    assert [1, 5, 6, 2] == await numbers("6", a, a, a, b)


async def test_personal_values_make_no_new_numbers_and_are_not_in_the_table(shop: Connection) -> None:
    for recipient in ("erika.muster", "max-meier"):
        html = (
            f'<a href="https://shop.example/u/{recipient}/orders?id=88213&name={recipient}">Orders of {recipient}</a>'
        )
        dispatch = await dispatch_to(shop, recipient)
        prepared = await prepare(shop, Document(html.encode()), dispatch, SETTINGS)
        assert [1] == [link.number for link in prepared.links]
        assert f"Orders of {recipient}" == prepared.links[0].label
        assert "https://shop.example/u/{value}/orders?id&name" == prepared.links[0].pattern
    assert {1: HIDDEN} == await links(shop, dispatch)


async def test_the_same_link_in_html_and_text_counts_apart(shop: Connection) -> None:
    mail = (
        b"Content-Type: multipart/alternative; boundary=x\n\n--x\nContent-Type: text/plain\n\nhttps://shop.example/a\n"
        b'--x\nContent-Type: text/html\n\n<a href="https://shop.example/a">A</a>\n--x--\n'
    )
    dispatch = await dispatch_to(shop)
    assert [1, 2] == [link.number for link in (await prepare(shop, Mail(mail), dispatch, SETTINGS)).links]
    without_text = await prepare(shop, Mail(mail, text_parts=False), dispatch, SETTINGS)
    assert [1] == [link.number for link in without_text.links]
    assert b"\n\nhttps://shop.example/a\n" in without_text.raw


async def test_a_link_that_is_too_long_stays_and_shifts_no_number(shop: Connection) -> None:
    long = "https://shop.example/a?q=" + "x" * 5_000
    prepared = await prepare(shop, page(long, long[:100], long), await dispatch_to(shop), SETTINGS)
    assert Counter(too_long=2) == prepared.untouched
    assert [2] == [link.number for link in prepared.links]
    assert 2 == prepared.raw.count(long.encode())


async def test_many_senders_at_once_agree_on_the_numbers(shop: Connection, database_url: str) -> None:
    """They make the mailing, number its links and count their messages at the same time."""
    urls = [f"https://shop.example/{name}" for name in ("a", "b", "a", "c")]

    async def send(sender: Connection, number: int) -> dict[str, int]:
        order = urls[number % 4 :] + urls[: number % 4]
        prepared = await prepare(sender, page(*order), await dispatch_to(sender, f"r{number}"), SETTINGS)
        tokens = [link.number for link in prepared.links]
        return {(url, order[:place].count(url)): tokens[place] for place, url in enumerate(order)}

    async with AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(pool.connected(database_url)) for _ in range(8)]
        numbered = await asyncio.gather(*(send(sender, number) for number, sender in enumerate(senders)))
    assert [numbered[0]] * 8 == numbered
    assert 4 == len(set(numbered[0].values()))
    assert {"person_based": 8} == await sent(shop)


async def test_one_numbering_of_a_mailings_links_waits_for_the_other(shop: Connection, database_url: str) -> None:
    mailing = (await dispatch_to(shop)).mailing
    fingerprints = await store.link_fingerprints(shop, mailing)
    a, b, c = (fingerprints.describe(("https://shop.example/" + name, 1)) for name in "abc")
    async with pool.connected(database_url) as other, pool.connected(database_url) as watcher:
        async with shop.transaction():
            first = await store.number_links(shop, mailing, [a, b], b"1")
            waiting = asyncio.create_task(store.number_links(other, mailing, [b, c], b"2"))
            await until_one_waits(watcher, waiting)
        second = await waiting
    assert [(1, False), (2, False)] == [(each.number, each.is_due) for each in first]
    # The row that was there is still to be marked for the second one; the new one is.
    assert [(2, True), False] == [(second[0].number, second[0].is_due), second[1].is_due]
    assert second[1].number > 2


async def until_one_waits(watcher: Connection, *tasks: asyncio.Task[Any]) -> None:
    """Until one of the tasks' connections waits for a lock of another's."""
    while not await watcher.fetchval("select exists (select from pg_locks where not granted)"):
        assert not any(task.done() for task in tasks)


# --- hidden and shown ------------------------------------------------------------------------------------------------

PERSONAL = '<a href="https://shop.example/account/{0}-the-great">{0}, your account</a>'
SHARED = '<a href="https://shop.example/jackets?size=38">Jackets</a><a href="https://shop.example/me">Hello {0}</a>'
NAMES = ("otto", "anna", "carl", "lena", "emil", "ruth", "paul")


async def rows(shop: Connection, dispatch: Dispatch) -> list[tuple[str, str, bool]]:
    return [(row["pattern"], row["label"], row["shown"]) for row in await store.list_links(shop, dispatch.mailing)]


@pytest.mark.parametrize("permitted", ["granted", "denied"])
async def test_what_five_recipients_had_is_shown_and_what_one_had_never_is(shop: Connection, permitted: str) -> None:
    """Names that are words like any, in paths and texts, whatever may be recorded of the recipients' hits."""
    dispatch = await dispatch_to(shop, permitted=permitted, event="invoice")
    recipients = await strangers(shop, dispatch.mailing, len(NAMES))
    for count, (recipient, name) in enumerate(zip(recipients, NAMES, strict=True), 1):
        html = (SHARED + PERSONAL).format(name).encode()
        dispatch = await dispatch_to(shop, recipient, permitted, event="invoice")
        prepared = await prepare(shop, Document(html), dispatch, SETTINGS)
        assert [1, 2, count + 2] == [link.number for link in prepared.links]
        shared, greeting, *personal = await rows(shop, dispatch)
        if count < SHOWN_RECIPIENTS:
            assert [(HIDDEN, "", False)] * 2 == [shared, greeting]
        else:
            assert ("https://shop.example/jackets?size", "Jackets", True) == shared
            # Everybody had this link, each with a text of their own.
            assert ("https://shop.example/me", "", True) == greeting
        assert [(HIDDEN, "", False)] * count == personal
    stored = str(await shop.fetch("select * from mailtrail.links")).casefold()
    assert "jackets" in stored
    assert not [name for name in NAMES if name in stored]


async def test_many_mails_to_one_recipient_show_nothing(shop: Connection) -> None:
    html = Document((SHARED + PERSONAL).format("otto").encode())
    for spelling in ("otto@example.com", "Otto@example.com ", "otto@example.com"):
        for _ in range(SHOWN_RECIPIENTS):
            dispatch = await dispatch_to(shop, spelling)
            await prepare(shop, html, dispatch, SETTINGS)
    assert [(HIDDEN, "", False)] * 3 == await rows(shop, dispatch)
    assert [1] * 3 == [row[0] for row in await shop.fetch("select length(marks) from mailtrail.links")]


async def test_once_everything_is_shown_a_mail_writes_nothing_about_links(shop: Connection) -> None:
    mailing = (await dispatch_to(shop)).mailing
    *first, last = await strangers(shop, mailing, SHOWN_RECIPIENTS + 1)
    for recipient in first:
        await prepare(shop, page("https://shop.example/a"), await dispatch_to(shop, recipient), SETTINGS)
    versions = "select xmin, xmax, marks, label_fingerprint, pattern from mailtrail.links"
    before = [tuple(row) for row in await shop.fetch(versions)]
    assert [(None, None, "https://shop.example/a")] == [row[2:] for row in before]
    await prepare(shop, page("https://shop.example/a"), await dispatch_to(shop, last), SETTINGS)
    assert before == [tuple(row) for row in await shop.fetch(versions)]


async def test_the_text_comes_with_the_fifth_though_two_come_at_once(shop: Connection, database_url: str) -> None:
    """The later of the two waits for the earlier one's row, and counts what that one left."""
    dispatch = await dispatch_to(shop)
    *first, fourth, fifth = await strangers(shop, dispatch.mailing)
    urls = ("https://shop.example/a", "https://shop.example/b")
    for recipient in first:
        await prepare(shop, page(*urls), await dispatch_to(shop, recipient), SETTINGS)
    async with pool.connected(database_url) as other, pool.connected(database_url) as watcher:
        async with shop.transaction():
            await prepare(shop, page(*urls), await dispatch_to(shop, fourth), SETTINGS)
            assert [(HIDDEN, "", False)] * 2 == await rows(shop, dispatch)
            to_fifth = await dispatch_to(other, fifth)
            waiting = asyncio.create_task(prepare(other, page(*reversed(urls)), to_fifth, SETTINGS))
            await until_one_waits(watcher, waiting)
        await waiting
    assert [(url, "x", True) for url in urls] == await rows(shop, dispatch)


async def test_hidden_links_are_marked_in_the_order_of_their_numbers(shop: Connection, database_url: str) -> None:
    """Whatever their order in the mail: or two senders could each hold what the other one waits for."""
    recipient, other_recipient = await strangers(shop, (await dispatch_to(shop)).mailing, 2)
    dispatch = await dispatch_to(shop, recipient)
    urls = [f"https://shop.example/{name}" for name in "abcd"]
    await prepare(shop, page(*urls), dispatch, SETTINGS)
    # The first one lies behind the others, where it is read last if nothing else is asked for.
    await shop.execute("create temporary table moved as select * from mailtrail.links where number = 1")
    await shop.execute("delete from mailtrail.links where number = 1")
    await shop.execute("insert into mailtrail.links select * from moved")
    lock = "select from mailtrail.links where number = any($1::integer[]) for update nowait"
    async with pool.connected(database_url) as other, pool.connected(database_url) as watcher:
        to_other = await dispatch_to(other, other_recipient)
        async with shop.transaction():
            await shop.execute(lock, [1])
            waiting = asyncio.create_task(prepare(other, page(*reversed(urls)), to_other, SETTINGS))
            await until_one_waits(watcher, waiting)
            await watcher.execute(lock, [2, 3, 4])
        await waiting


async def test_many_senders_at_once_show_a_link_exactly_at_the_fifth(shop: Connection, database_url: str) -> None:
    """Whole mails and single links, in every order, each recipient twice: no deadlock, and nobody is counted twice."""
    dispatch = await dispatch_to(shop)
    recipients = await strangers(shop, dispatch.mailing, SHOWN_RECIPIENTS - 1)
    urls = [f"https://shop.example/{name}" for name in "abcd"]

    async def send(sender: Connection, number: int) -> None:
        to = await dispatch_to(sender, recipients[number % len(recipients)])
        order = urls[number % 4 :] + urls[: number % 4]
        async with sender.transaction():
            if number < len(recipients):
                await prepare(sender, page(*order), to, SETTINGS)
            else:
                await start_with_link(sender, to, order[0], SETTINGS)

    async with AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(pool.connected(database_url)) for _ in range(2 * len(recipients))]
        await asyncio.gather(*(send(sender, number) for number, sender in enumerate(senders)))
    assert [(HIDDEN, "", False)] * 4 == await rows(shop, dispatch)
    assert [4] * 4 == [row[0] for row in await shop.fetch("select length(marks) from mailtrail.links")]
    assert {"person_based": 8} == await sent(shop)
    (fifth,) = set(await strangers(shop, dispatch.mailing)) - set(recipients)
    await prepare(shop, page(*urls), await dispatch_to(shop, fifth), SETTINGS)
    assert set(urls) == {pattern for pattern, _, _ in await rows(shop, dispatch)}


async def test_a_hidden_link_can_be_corrected_and_switched_off(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    await prepare(shop, page("https://shop.example/otto-the-great"), dispatch, SETTINGS)
    for destination in ("https://shop.example/new", None):
        await store.override_link(shop, WHO, dispatch.space, dispatch.mailing, 1, destination)
        (row,) = await store.list_links(shop, dispatch.mailing)
        assert (HIDDEN, True, destination) == (row["pattern"], row["overridden"], row["destination"])


async def test_analysts_read_no_text_of_a_hidden_link_and_not_the_key(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    await prepare(shop, page("https://shop.example/otto-the-great"), dispatch, SETTINGS)
    await shop.execute("set role mailtrail_analyst")
    (row,) = await shop.fetch("select pattern, label, shown from analytics.links")
    assert (HIDDEN, "", False) == tuple(row)
    for table in ("vault.link_key", "mailtrail.links", "mailtrail.described_links"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await shop.fetch(f"select * from {table}")


async def test_each_installation_has_a_key_of_its_own_and_only_one(
    shop: Connection, server_url: str, database_url: str
) -> None:
    mine = await shop.fetchval("select key from vault.link_key")
    assert 32 == len(mine)
    with pytest.raises(asyncpg.UniqueViolationError):
        await shop.execute("insert into vault.link_key (key) values (sha256('x'))")
    name = f"other_{os.urandom(6).hex()}"
    await shop.execute(f"create database {name}")
    async with pool.connected(server_url.replace("/postgres?", f"/{name}?")) as other:
        await migrate(other)
        assert mine != await other.fetchval("select key from vault.link_key")
    await shop.execute(f"drop database {name} with (force)")


@pytest.mark.parametrize(
    "wrong",
    [
        "pattern = 'https://shop.example/otto'",
        "label = 'Otto'",
        "marks = null",
        "marks = '123456'",
        "pattern = 'https://shop.example/otto', label = 'Otto'",
    ],
)
async def test_the_database_itself_refuses_a_text_that_is_half_hidden(shop: Connection, wrong: str) -> None:
    await prepare(shop, page("https://shop.example/otto"), await dispatch_to(shop), SETTINGS)
    with pytest.raises(asyncpg.CheckViolationError):
        await shop.execute(f"update mailtrail.links set {wrong}")


# --- how much is recorded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "permitted", "default", "ceiling"),
    [
        ("news", "denied", "person_based", Mode.PERSON_BASED),
        ("news", "granted", "anonymized", Mode.ANONYMIZED),
        ("invoice", "granted", "anonymized", Mode.PERSON_BASED),
        ("invoice", "denied", "person_based", Mode.ANONYMIZED),
        ("invoice", "unknown", "person_based", Mode.ANONYMIZED),
    ],
)
async def test_the_ceiling_is_what_the_settings_say(
    shop: Connection, event: str, permitted: str, default: str, ceiling: Mode
) -> None:
    if default == "anonymized":
        await anonymize(shop)
    raw = raw_mail("newsletter.eml")
    prepared = await prepare(shop, Mail(raw), await dispatch_to(shop, permitted=permitted, event=event), SETTINGS)
    assert ceiling is prepared.ceiling
    assert {ceiling} == {token.message.ceiling for token in await opened(shop, prepared)}
    assert {ceiling.label: 1} == await sent(shop)
    is_in = [RECIPIENT.encode() in plaintext for plaintext in await plaintexts(shop, prepared)]
    assert [ceiling is Mode.PERSON_BASED] * (len(prepared.links) + 2) == is_in


async def test_an_anonymized_token_differs_in_nothing_but_its_nonce(shop: Connection) -> None:
    await anonymize(shop)
    seen = []
    for recipient in (RECIPIENT, "max@example.com"):
        source = Mail(raw_mail("newsletter.eml"))
        prepared = await prepare(shop, source, await dispatch_to(shop, recipient), SETTINGS)
        nonces = {token.message.nonce for token in await opened(shop, prepared)}
        assert 1 == len(nonces)
        (nonce,) = nonces
        seen.append([plaintext.replace(nonce, b"") for plaintext in await plaintexts(shop, prepared)])
    assert seen[0] == seen[1]


async def test_a_deleted_space_tracks_nothing_and_counts_the_mail(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    await store.delete_space(shop, WHO, dispatch.space)
    raw = raw_mail("newsletter.eml")
    prepared = await prepare(shop, Mail(raw), dispatch, SETTINGS)
    assert (raw, None, Mode.OFF, 0) == (prepared.raw, prepared.message_id, prepared.ceiling, prepared.tracked)
    assert {"off": 1} == {row["ceiling"]: row["messages"] for row in await store.list_sent(shop, dispatch.mailing)}
    assert {} == await links(shop, dispatch)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"DKIM-Signature: v=1\nContent-Type: text/html\n\n<a href='https://a.example'>x</a>", "dkim"),
        (b"Content-Type: multipart/signed; boundary=x\n\n--x\nContent-Type: text/html\n\n<p>\n--x--\n", "signed"),
        (b"Content-Type: text/plain\n\n-----BEGIN PGP MESSAGE-----\nhttps://a.example\n", "encrypted"),
        (b"From max@example.com Mon\nDKIM-Signature: v=1\n\nhttps://a.example\n", "dkim"),
        (b"DKIM-Signature: v=1\r\n\r\nhttps://a.example\r\n", "dkim"),
        (b"Content-Type: text/plain\nhttps://a.example/", "malformed"),
        (b"Content-Type: text/plain\n\nNo link in here.\n", "nothing"),
    ],
)
async def test_a_mail_that_carries_no_token_counts_as_untracked(shop: Connection, raw: bytes, reason: str) -> None:
    dispatch = await dispatch_to(shop)
    prepared = await prepare(shop, Mail(raw), dispatch, SETTINGS)
    line_end = b"\r\n" if b"\r\n" in raw else b"\n"
    note = b"X-Mailtrail-Untracked: " + reason.encode() + line_end
    if reason in ("malformed", "nothing"):
        assert raw == prepared.raw
    else:
        assert raw == prepared.raw.replace(note, b"", 1) != prepared.raw
        assert "X-Mailtrail-Untracked" in email.message_from_bytes(prepared.raw)
    assert (None, Mode.OFF, reason) == (prepared.message_id, prepared.ceiling, prepared.reason)
    assert Counter([] if reason == "nothing" else [reason]) == prepared.untouched
    assert {("off", reason): 1} == await reasons(shop)
    assert {} == await links(shop, dispatch)


async def test_protected_mails_are_refused_where_the_settings_say_so(shop: Connection) -> None:
    strict = Settings(public_url="https://t.example", signed_mails="refuse")
    signed = Mail(b"DKIM-Signature: v=1\nContent-Type: text/html\n\n<a href='https://a.example'>x</a>")
    dispatch = await dispatch_to(shop)
    with pytest.raises(MailRefused, match=r"\(dkim\).*MAILTRAIL_SIGNED_MAILS=pass"):
        await prepare(shop, signed, dispatch, strict)
    assert {} == await reasons(shop)
    # Where nothing is to be tracked, nothing would be broken.
    untracked = await prepare(shop, signed, dispatch, strict, Limits(ceiling=Mode.OFF))
    assert (signed.raw, "declined") == (untracked.raw, untracked.reason)


async def test_limits_take_away_and_never_add(shop: Connection) -> None:
    await anonymize(shop)
    source = Mail(raw_mail("newsletter.eml"))
    dispatch = await dispatch_to(shop)
    talkative = await prepare(shop, source, dispatch, SETTINGS, Limits(ceiling=Mode.PERSON_BASED))
    assert Mode.ANONYMIZED is talkative.ceiling
    no_pixel = await prepare(shop, source, dispatch, SETTINGS, Limits(pixel=False))
    assert (8, False, b"/o/" in no_pixel.raw) == (no_pixel.tracked, no_pixel.pixel, False)
    no_links = await prepare(shop, source, dispatch, SETTINGS, Limits(links=False))
    assert (0, True, 8) == (no_links.tracked, no_links.pixel, no_links.untouched["declined"])
    assert Mode.ANONYMIZED is no_links.ceiling
    nothing = await prepare(shop, source, dispatch, SETTINGS, Limits(links=False, pixel=False))
    assert (None, Mode.OFF) == (nothing.message_id, nothing.ceiling)
    off = await prepare(shop, source, dispatch, SETTINGS, Limits(ceiling=Mode.OFF))
    assert (source.raw, Mode.OFF) == (off.raw, off.ceiling)
    assert {("anonymized", ""): 3, ("off", "declined"): 2} == await reasons(shop)


async def test_under_aggregate_everybodys_mail_is_the_same(shop: Connection) -> None:
    made = []
    for recipient in ("erika", "max"):
        html = page("https://shop.example/jackets", f"https://shop.example/?id={recipient}", "https://shop.example/#x")
        made.append(
            await prepare(shop, html, await dispatch_to(shop, recipient), SETTINGS, Limits(ceiling=Mode.AGGREGATE))
        )
    assert made[0].raw == made[1].raw.replace(b"id=max", b"id=erika")
    assert [Counter(personalised=2)] * 2 == [prepared.untouched for prepared in made]
    assert (1, True) == (made[0].tracked, made[0].pixel)
    assert {"aggregate": 2} == await sent(shop)


async def test_through_the_relay_the_relays_setting_counts(shop: Connection) -> None:
    space = await store.find_space(shop, "Shop")
    group, is_new = await store.ensure_mailing(shop, WHO, space["id"], None, "2026-11-24")
    assert is_new
    assert (group, False) == await store.ensure_mailing(shop, WHO, space["id"], None, "2026-11-24")
    dispatch = Dispatch(space["id"], None, group["id"], RECIPIENT, Permission.UNKNOWN)
    source = Mail(raw_mail("newsletter.eml"))
    assert Mode.OFF is (await prepare(shop, source, dispatch, SETTINGS)).ceiling
    await store.change_space(shop, WHO, space["id"], relay="anonymized")
    prepared = await prepare(shop, source, dispatch, SETTINGS)
    assert {(Mode.ANONYMIZED, Origin.RELAY, 0)} == {
        (token.message.ceiling, token.message.origin, token.message.event) for token in await opened(shop, prepared)
    }
    assert {("off", "off"): 1, ("anonymized", ""): 1} == await reasons(shop, "2026-11-24")


async def test_correlation_ids_are_sealed_for_persons_only(shop: Connection) -> None:
    space = await store.find_space(shop, "Shop")
    group, _ = await store.ensure_mailing(shop, WHO, space["id"], None, "2026-11-24")
    ids = ("order-17", None, "invoice-4")
    dispatch = Dispatch(space["id"], None, group["id"], RECIPIENT, Permission.UNKNOWN, ids)
    source = Mail(raw_mail("newsletter.eml"))
    for mode, sealed in (("anonymized", ()), ("person_based", ids)):
        await store.change_space(shop, WHO, space["id"], relay=mode, acknowledged=[Notice.CONSENT])
        prepared = await prepare(shop, source, dispatch, SETTINGS)
        assert {sealed} == {token.correlation_ids for token in await opened(shop, prepared)}
        assert any(b"order-17" in plaintext for plaintext in await plaintexts(shop, prepared)) is bool(sealed)


async def test_a_mailings_parameters_go_to_where_its_links_lead_and_into_no_pattern(shop: Connection) -> None:
    urls = [
        "https://shop.example/jackets",
        "https://shop.example/boots?size=42#top",
        "https://shop.example/hats?utm_source=own&utm%5Fmedium=",
        "http://shop.example/#/route?utm_source=spa",
    ]
    dispatch = await dispatch_to(shop)
    before = await prepare(shop, page(*urls), dispatch, SETTINGS)
    parameters = "utm_source=news letter&utm_medium=email"
    await store.change_mailing(shop, WHO, dispatch.space, dispatch.mailing, url_parameters=parameters)
    prepared = await prepare(shop, page(*urls), dispatch, SETTINGS)
    both = "utm_source=news%20letter&utm_medium=email"
    assert [
        f"https://shop.example/jackets?{both}",
        f"https://shop.example/boots?size=42&{both}#top",
        urls[2],
        f"http://shop.example/?{both}#/route?utm_source=spa",
    ] == [token.destination for token in await opened(shop, prepared)]
    described = [[(link.number, link.pattern) for link in each.links] for each in (before, prepared)]
    assert described[0] == described[1]

    minter, url, _ = await start_with_link(shop, dispatch, "https://shop.example/sale", SETTINGS)
    assert f"https://shop.example/sale?{both}" == minter.ring.open(click_token(url), Kind.CLICK).destination


async def test_links_are_made_for_the_spaces_own_url(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    source = page("https://shop.example/")
    made = await prepare(shop, source, dispatch, SETTINGS)
    assert re.search(rb'src="https://t\.example/o/[\w-]+\.gif"', made.raw)
    assert made.links[0].url.startswith("https://t.example/c/")
    await store.change_space(shop, WHO, dispatch.space, url="https://track.shop.example/m/")
    made = await prepare(shop, source, dispatch, SETTINGS)
    assert re.search(rb'src="https://track\.shop\.example/m/o/[\w-]+\.gif"', made.raw)
    assert made.links[0].url.startswith("https://track.shop.example/m/c/")
    await store.change_space(shop, WHO, dispatch.space, url="")
    assert (await prepare(shop, source, dispatch, SETTINGS)).links[0].url.startswith("https://t.example/c/")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipient", ["", "a\0b", "x" * 321])
async def test_a_recipient_that_cannot_be_sealed_is_refused_and_makes_nothing(shop: Connection, recipient: str) -> None:
    with pytest.raises(SettingsError, match="recipient"):
        await dispatch_to(shop, recipient)
    with pytest.raises(SettingsError, match="recipient"):
        Dispatch(1, 2, 3, recipient, Permission.GRANTED)
    assert [] == await store.list_mailings(shop, (await store.find_space(shop, "Shop"))["id"])


async def test_what_is_not_there_is_refused(shop: Connection) -> None:
    with pytest.raises(NotFound, match="Shop"):
        await dispatch_to(shop, space="Chop")
    with pytest.raises(NotFound, match="invoice, news"):
        await dispatch_to(shop, event="newt")
    dispatch = await dispatch_to(shop)
    invoice = await dispatch_to(shop, event="invoice", mailing="M")
    source = page("https://shop.example/")
    for other in (
        Dispatch(dispatch.space, dispatch.event, invoice.mailing, "r", Permission.GRANTED),  # of another event
        Dispatch(dispatch.space, None, dispatch.mailing, "r", Permission.GRANTED),
        Dispatch(dispatch.space, dispatch.event, 1, "r", Permission.GRANTED),
        Dispatch(1, dispatch.event, dispatch.mailing, "r", Permission.GRANTED),
    ):
        with pytest.raises(NotFound, match="mailtrail"):
            await prepare(shop, source, other, SETTINGS)
    assert ({}, {}) == (await sent(shop), await sent(shop, "M"))


async def test_without_a_key_nothing_is_registered_or_counted(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    (key,) = await keys.list_keys(shop, dispatch.space)
    await keys.revoke(shop, WHO, key["id"])
    with pytest.raises(NotFound, match="no minting key"):
        await prepare(shop, page("https://shop.example/"), dispatch, SETTINGS)
    assert ({}, {}) == (await links(shop, dispatch), await sent(shop))


async def test_a_mailing_is_made_once_whatever_its_name_is_written_like(shop: Connection) -> None:
    first, is_new = await find_dispatch(shop, WHO, "Shop", "news", "Nov  1", "r", "denied")
    assert is_new
    for name in ("Nov 1", " Nov 1 ", f"{first.mailing:012x}"):
        assert (first, False) == await find_dispatch(shop, WHO, "Shop", "news", name, "r", "denied")
    # An id means a mailing of this event only; elsewhere it is a name like any.
    other, is_new = await find_dispatch(shop, WHO, "Shop", "invoice", f"{first.mailing:012x}", "r", "denied")
    assert is_new
    assert first.mailing != other.mailing


# --- single links ----------------------------------------------------------------------------------------------------


async def test_a_further_link_belongs_to_the_same_message(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    prepared = await prepare(shop, page("https://shop.example/a"), dispatch, SETTINGS)
    minter = await reopen_message(shop, prepared.message_id, SETTINGS)
    known = await mint_link(shop, minter, "https://shop.example/a", SETTINGS)
    new = await mint_link(shop, minter, f"https://shop.example/u/{RECIPIENT}", SETTINGS)
    assert [1, 2] == [known[1], new[1]]
    ring = await keys.key_ring(shop, dispatch.space)
    tokens = [ring.open(click_token(url), Kind.CLICK) for url, _ in (known, new)]
    assert {token.message for token in await opened(shop, prepared)} == {token.message for token in tokens}
    assert {1: HIDDEN, 2: HIDDEN} == await links(shop, dispatch)
    assert {"person_based": 1} == await sent(shop)


async def test_a_message_id_is_lowered_by_the_settings_and_never_raised(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    talkative = (await start_message(shop, dispatch, SETTINGS)).message_id
    await anonymize(shop)
    quiet = (await start_message(shop, dispatch, SETTINGS)).message_id
    lowered = (await reopen_message(shop, talkative, SETTINGS)).message
    assert (Mode.ANONYMIZED, None) == (lowered.ceiling, lowered.recipient)
    await store.change_space(shop, WHO, dispatch.space, default="person_based", acknowledged=[Notice.CONSENT])
    assert Mode.PERSON_BASED is (await reopen_message(shop, talkative, SETTINGS)).message.ceiling
    assert Mode.ANONYMIZED is (await reopen_message(shop, quiet, SETTINGS)).message.ceiling
    await store.delete_space(shop, WHO, dispatch.space)
    with pytest.raises(SettingsError, match="off"):
        await reopen_message(shop, quiet, SETTINGS)


async def test_a_path_is_not_described_while_nobody_knows_whose_it_is(shop: Connection) -> None:
    await anonymize(shop)
    dispatch = await dispatch_to(shop, "erika")
    minter = await reopen_message(shop, (await start_message(shop, dispatch, SETTINGS)).message_id, SETTINGS)
    assert minter.message.recipient is None
    url = "https://shop.example/u/erika?a=1"
    for given, number in ((None, 1), ("erika", 2), (None, 1)):
        assert number == (await mint_link(shop, minter, url, SETTINGS, given))[1]
    # Whose it is was said once; the others count for nobody.
    assert [0, 1] == [row[0] for row in await shop.fetch("select length(marks) from mailtrail.links order by number")]
    # A description that is in the table already tells nothing new.
    assert 2 == (await mint_link(shop, minter, "https://shop.example/u/88213?a=1", SETTINGS))[1]


async def test_a_further_link_counts_for_its_recipient_once(shop: Connection) -> None:
    dispatch = await dispatch_to(shop)
    url = "https://shop.example/a"
    for recipient in await strangers(shop, dispatch.mailing):
        assert {HIDDEN} >= set((await links(shop, dispatch)).values())
        minter, _, _ = await start_with_link(shop, await dispatch_to(shop, recipient), url, SETTINGS)
        for _ in range(SHOWN_RECIPIENTS):
            again = await reopen_message(shop, minter.message_id, SETTINGS)
            assert 1 == (await mint_link(shop, again, url, SETTINGS))[1]
    assert {1: url} == await links(shop, dispatch)
    assert {"person_based": SHOWN_RECIPIENTS} == await sent(shop)


async def test_a_further_link_is_of_the_same_recipient(shop: Connection) -> None:
    minter = await start_message(shop, await dispatch_to(shop), SETTINGS)
    with pytest.raises(SettingsError, match="another recipient"):
        await mint_link(shop, minter, "https://shop.example/", SETTINGS, "max@example.com")


@pytest.mark.parametrize("message_id", ["", "abc", "A" * 60])
async def test_what_is_no_message_id_is_refused(shop: Connection, message_id: str) -> None:
    with pytest.raises(SettingsError, match="no message id"):
        await reopen_message(shop, message_id, SETTINGS)


async def test_a_link_token_is_no_message_id_and_is_not_tracked_again(shop: Connection) -> None:
    minter = await start_message(shop, await dispatch_to(shop), SETTINGS)
    url, _ = await mint_link(shop, minter, "https://shop.example/", SETTINGS)
    with pytest.raises(SettingsError, match="wrong_kind"):
        await reopen_message(shop, click_token(url), SETTINGS)
    with pytest.raises(DestinationRefused, match="already"):
        await mint_link(shop, minter, url, SETTINGS)
