"""Real-looking mails the whole way: rewrite, serve, click every link, open, and ask SQL.

Where each link must lead is in tests/mails/expected.json: the URL that a browser would have requested from the original
mail.
"""

import asyncio
import re
from collections.abc import Iterator

import pytest

from app.config import Settings
from app.sending.dispatch import find_dispatch
from app.sending.prepare import prepare
from app.sending.sources import Mail
from app.store.pool import Database
from tests.corpus import EXPECTED, TRACKED, is_shown, leaves, raw_mail, text_of
from tests.integration.service import Service

FIREFOX = [("User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0")]


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Service]:
    service.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    service.run("event", "create", "newsletter", "--space", "Shop", "--by-permission")
    service.serve()
    yield service
    service.stop()


def rewrite(served: Service, name: str, recipient: str, permission: str) -> bytes:
    """As `mailtrail rewrite` does it, without a program's start for each mail."""

    async def prepared() -> bytes:
        database = Database(served.database_url)
        async with database.connection() as connection:
            words = ("Shop", "newsletter", name, recipient, permission)
            dispatch, _ = await find_dispatch(connection, "test", *words)
            mail = await prepare(connection, Mail(raw_mail(name)), dispatch, Settings(public_url=served.base))
        await database.close()
        return mail.raw

    return asyncio.run(prepared())


def tracked_paths(served: Service, raw: bytes) -> tuple[list[str], list[str]]:
    """The paths of links and pixels as they stand in the decoded texts of a mail, in order."""
    clicks, opens = [], []
    for part in leaves(raw):
        if is_shown(part):
            text = text_of(part)
            clicks += re.findall(re.escape(served.base) + r"(/c/[\w-]+)", text)
            opens += re.findall(re.escape(served.base) + r"(/o/[\w-]+\.gif)", text)
    return clicks, opens


@pytest.mark.parametrize("name", TRACKED)
def test_every_click_lands_where_the_original_link_led(served: Service, name: str) -> None:
    expected = EXPECTED[name]
    for permission, mode in (("granted", "person_based"), ("denied", "anonymized")):
        recipient = f"erika+{permission}@example.com"
        clicks, opens = tracked_paths(served, rewrite(served, name, recipient, permission))
        answers = [served.get(path, FIREFOX) for path in clicks]
        assert [answer.status for answer in answers] == [302] * len(expected["links"])
        assert [answer.location for answer in answers] == expected["links"]
        assert len(opens) == expected["pixels"]
        assert [served.get(path, FIREFOX).body[:6] for path in opens] == [b"GIF89a"] * len(opens)
        served.wait_for_hits_of(name, mode, len(clicks) + len(opens))
        rows = served.query(
            "select kind, link, url, recipient, agent_family from analytics.hits"
            " where mailing = $1 and mode = $2 order by kind, link",
            name,
            mode,
        )
        in_sql = [row for row in rows if row["kind"] == "click"]
        assert len(in_sql) == len(clicks)
        assert {row["agent_family"] for row in rows} == {"firefox"}
        if mode == "person_based":
            assert sorted(row["url"] for row in in_sql) == sorted(expected["links"])
            assert {row["recipient"] for row in rows} == {recipient}
        else:
            assert {(row["url"], row["recipient"]) for row in rows} == {(None, None)}


def test_analysts_see_both_kinds_side_by_side(served: Service) -> None:
    name = "newsletter.eml"
    (row,) = served.query("select * from analytics.mailings where mailing = $1", name)
    links = len(EXPECTED[name]["links"])
    assert (row["sent"], row["sent_person_based"], row["sent_anonymized"]) == (2, 1, 1)
    assert (row["opens"], row["unique_opens"]) == (2, 2)
    assert (row["clicks"], row["clicks_person_based"], row["clicks_anonymized"]) == (2 * links, links, links)
    assert (row["unique_clicks"], row["unique_recipients"]) == (2, 1)
    per_link = served.query("select * from analytics.links where mailing = $1 order by link", name)
    assert [(row["clicks"], row["unique_clicks"]) for row in per_link] == [(2, 2)] * links
    hours = served.query(
        "select sum(opens) as opens, sum(clicks) as clicks from analytics.hours where mailing = $1", name
    )
    assert (hours[0]["opens"], hours[0]["clicks"]) == (2, 2 * links)
