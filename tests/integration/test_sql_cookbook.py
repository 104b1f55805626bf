"""The SQL that the documents show, on a real database: every statement runs, as whom it is for, and finds something."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.store import events
from app.store import settings as store
from app.store.day_keys import keep_day_keys
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.modes import Mode

DOCS = Path(__file__).parents[2] / "docs"
ANALYST = "mailtrail_analyst"
SENT = {Mode.PERSON_BASED: 4, Mode.ANONYMIZED: 5, Mode.AGGREGATE: 1, Mode.OFF: 2}
JACKETS, BOOTS, HATS = "https://shop.example/jackets", "https://shop.example/boots", "https://shop.example/hats"
MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC)
ERIKA, MAX = "erika@example.com", "4711"


def statements(document: str) -> Iterator[tuple[str, str]]:
    """The fenced SQL of a document, each with the heading that it stands under."""
    heading = ""
    pieces = re.split(r"^(?:#+ ([^\n]+)|```sql\n(.*?)^```)$", (DOCS / document).read_text(), flags=re.M | re.S)
    for title, statement in zip(pieces[1::3], pieces[2::3], strict=True):
        heading = title or heading
        if statement:
            yield heading, statement


def hit(minute: float, kind: str, mode: str, **fields: Any) -> dict[str, Any]:
    """A row of `mailtrail.hits`, so many minutes after nine."""
    at = MONDAY + timedelta(minutes=minute)
    made = {"at": at, "kind": kind, "mode": mode, "link": 0, "registered": True, "agent": "human", "outcome": "served"}
    return made | fields


def person(minute: float, kind: str, recipient: str, **fields: Any) -> dict[str, Any]:
    nonce = recipient.encode()[:8].ljust(8, b"-")
    known = {"recipient": recipient, "nonce": nonce, "user_agent": "Thunderbird", "agent_family": "thunderbird"}
    return hit(minute, kind, "person_based", **known, **fields)


def anonymous(minute: int, kind: str, number: int, **fields: Any) -> dict[str, Any]:
    return hit(minute, kind, "anonymized", pseudonym=bytes([number]) * 16, **fields)


HITS = [
    person(0.1, "open", ERIKA),
    person(1.5, "click", ERIKA, link=1, url=JACKETS + "?size=m"),
    person(1.6, "click", ERIKA, link=1, url=JACKETS + "?size=m"),
    person(70, "click", ERIKA, link=2, url=BOOTS, outcome="corrected"),
    person(3, "click", MAX, link=1, url=JACKETS),
    anonymous(2, "open", 1, agent_family="outlook"),
    anonymous(6, "click", 1, link=2, agent_family="edge"),
    anonymous(9, "click", 1, link=3, outcome="gone"),
    anonymous(4, "open", 2, agent="proxy", agent_family="gmail"),
    anonymous(1, "click", 3, link=1, agent="scanner", agent_family="mimecast"),
    anonymous(1, "open", 4, agent="prefetch", agent_family="chrome"),
    anonymous(1, "click", 5, link=3, registered=False),
    hit(9, "open", "anonymized", pseudonym_gap="key_destroyed"),
    hit(0, "open", "aggregate", clock_clamped=True),
]


@pytest.fixture
async def shop(connection: Connection) -> Connection:
    """A space with one mailing and its hits, some of every kind."""
    await migrate(connection)
    space = (await store.create_space(connection, "test", "Shop"))["id"]
    event = (await events.create_event(connection, "test", space, "newsletter", by_permission=True))["id"]
    mailing = (await store.create_mailing(connection, "test", space, event, "autumn"))["id"]
    await register_links(connection, mailing)
    for ceiling, messages in SENT.items():
        await store.count_sent(connection, mailing, ceiling, messages)
    await keep_day_keys(connection, anonymization_days=60)
    await connection.execute("select mailtrail.make_month($1)", MONDAY.date())
    for number, fields in enumerate(HITS, 1):
        row = {"id": number, "space_id": space, "event_id": event, "mailing_id": mailing} | fields
        places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
        await connection.execute(f"insert into mailtrail.hits ({', '.join(row)}) values ({places})", *row.values())
    await connection.execute(
        "insert into mailtrail.hit_totals select date_trunc('hour', at, 'UTC'), space_id, event_id, mailing_id, kind,"
        " link, registered, mode, agent, count(*) from mailtrail.hits group by 1, 2, 3, 4, 5, 6, 7, 8, 9"
    )
    line = f'00000000 {{"recipient":"{ERIKA}"}}\n'.encode()
    await connection.execute(
        "insert into mailtrail.quarantine (stream, reason, line) values ('identified', 'x', $1)", line
    )
    return connection


async def register_links(connection: Connection, mailing: int) -> None:
    """Three links that five recipients had, and one that only the first of them had."""
    fingerprints = await store.link_fingerprints(connection, mailing)
    texts = {JACKETS + "?size": "Jackets", BOOTS: "Boots", HATS: "Hats", "https://shop.example/erika": "Hello Erika"}
    links = [fingerprints.describe((pattern, 1), label) for pattern, label in texts.items()]
    for mark in (b"1", b"2", b"3", b"4", b"5"):
        numbered = await store.number_links(connection, mailing, links, mark)
        await store.mark_links(connection, mailing, numbered, mark)
        links = links[:3]


async def rows_of(connection: Connection, statement: str, role: str = "") -> list[asyncpg.Record]:
    """What a statement gives; whatever it changes is taken back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        if role:
            await connection.execute(f"set local role {role}")
        return await connection.fetch(statement)
    finally:
        await transaction.rollback()


@pytest.mark.parametrize(("document", "role", "at_least"), [("sql-cookbook.md", ANALYST, 12), ("privacy.md", "", 8)])
async def test_every_statement_runs_and_finds_something(
    shop: Connection, document: str, role: str, at_least: int
) -> None:
    found = list(statements(document))
    assert len(found) >= at_least
    silent = []
    for heading, statement in found:
        if statement.startswith("delete"):
            statement = statement.rstrip().rstrip(";") + " returning 1"
        if not await rows_of(shop, statement, role):
            silent.append(heading)
    assert silent == []


async def test_rates_are_of_the_messages_that_can_be_told_apart(shop: Connection) -> None:
    """Reckoned by hand from HITS and SENT."""
    cookbook = dict(statements("sql-cookbook.md"))
    (rates,) = await rows_of(shop, cookbook["Open and click rates"], ANALYST)
    # Opened: Erika, 1 and 2. Clicked: Erika, Max, 1 and 5; the scanner and the prefetch are none of them.
    assert dict(rates) == {
        "mailing": "autumn",
        "sent": 12,
        "sent_untracked": 2,
        "countable": 9,
        "unique_opens": 3,
        "open_rate": Decimal("33.3"),
        "unique_clicks": 4,
        "click_rate": Decimal("44.4"),
        "clicks_of_openers": Decimal("133.3"),
    }
    (silent,) = await rows_of(shop, cookbook["Messages without any hit"], ANALYST)
    assert (silent["countable"], silent["with_a_hit"], silent["without_a_hit"]) == (9, 5, 4)
    clickers = await rows_of(shop, cookbook["Who clicked"], ANALYST)
    assert [(row["recipient"], row["clicks"], row["addresses"]) for row in clickers] == [(ERIKA, 3, 2), (MAX, 1, 1)]
    changed = await rows_of(shop, cookbook["Corrected and switched-off links"], ANALYST)
    outcomes = ("link", "to_the_original", "to_the_correction", "told_that_it_is_gone")
    assert [tuple(row[name] for name in outcomes) for row in changed] == [(2, 1, 1, 0), (3, 1, 0, 1)]
    times = await rows_of(shop, cookbook["Time to the first click"], ANALYST)
    assert [(row["mode"], row["median"]) for row in times] == [
        ("anonymized", timedelta(minutes=4)),
        ("person_based", timedelta(minutes=1.4)),
    ]


async def test_nothing_of_a_person_is_left_after_an_erasure(shop: Connection) -> None:
    for _, statement in statements("privacy.md"):
        if statement.startswith("delete"):
            await shop.execute(statement)
    recipients = await shop.fetch("select distinct recipient from mailtrail.hits where recipient is not null")
    assert [row["recipient"] for row in recipients] == [MAX]
    assert await shop.fetchval("select count(*) from mailtrail.hits") == len(HITS) - 4
    assert await shop.fetchval("select count(*) from mailtrail.quarantine") == 0


async def test_every_view_and_column_is_described(connection: Connection) -> None:
    await migrate(connection)
    rows = await connection.fetch(
        "select table_name, column_name from information_schema.columns where table_schema = 'analytics'"
    )
    _, *sections = re.split(r"^## analytics\.(\w+)$", (DOCS / "sql-cookbook.md").read_text(), flags=re.M)
    described = set()
    for view, section in zip(sections[::2], sections[1::2], strict=True):
        endings = re.findall(r"`(_\w+)`", section.partition("| column |")[0])
        divided = re.findall(r"`(\w+)`", section.partition("| column |")[0]) if endings else []
        for column in re.findall(r"^\| `(\w+)` \|", section, re.M):
            described |= {(view, column)}
            described |= {(view, column + ending) for ending in endings if column in divided}
    assert {(row["table_name"], row["column_name"]) for row in rows} == described
