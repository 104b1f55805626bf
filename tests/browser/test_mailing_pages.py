"""Mailings as people look at them: the list, the numbers of one, and where links of sent mails go instead."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator

from app.store import settings as store
from app.store.pool import Connection
from app.tracking.modes import Mode
from app.tracking.tokens import Kind
from tests.browser.pages import Page, Pages, event_path, expect, follow, space_path
from tests.browser.sent_mails import (
    Hits,
    Intruder,
    count_sent,
    mailing_path,
    make_mailing,
    register_links,
    sent_mailing,
)
from tests.integration.service import until

HOSTILE = "<script>document.title='taken'</script>"
NEW = "https://shop.example/new?customer={cid}"
MANY = 10_000


@pytest.fixture(scope="module")
def shop(pages: Pages) -> tuple[int, int, int]:
    """A space, its event, and a mailing of it with links and hits."""
    space = pages.make_space("Shop", default="person_based")
    event = pages.make_event(space, "Newsletter")
    return space, event, sent_mailing(pages, space, event, "Autumn")


@pytest.fixture
def intruder(pages: Pages, request: pytest.FixtureRequest) -> Iterator[Intruder]:
    made = Intruder(pages, request.param)
    yield made
    made.close()


def row(page: Page, name: str, table: str | None = None) -> Locator:
    tables = page.get_by_role("table", name=table) if table else page
    return tables.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=table is not None))


def cells(page: Page, name: str, table: str) -> list[str]:
    return [text.strip() for text in row(page, name, table).get_by_role("cell").all_inner_texts()]


def override(pages: Pages, mailing: int, number: int) -> list[str | None]:
    rows = pages.query(
        "select destination from mailtrail.link_overrides where mailing_id = $1 and number = $2", mailing, number
    )
    return [each["destination"] for each in rows]


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_says_what_was_sent_and_the_newest_is_first(pages: Pages, shop: tuple[int, int, int]) -> None:
    space, event, mailing = shop
    relay = make_mailing(pages, space, "Relay of Monday")
    with pages.browsing("viewer") as page:
        page.goto(f"{space_path(space)}/tracking")
        follow(page.get_by_role("navigation", name="Space").get_by_role("link", name="Mailings"))
        expect(page).to_have_url(f"{pages.base}{space_path(space)}/mailings")
        assert ["Relay of Monday", "Autumn"] == page.get_by_role("rowheader").all_inner_texts()
        expect(row(page, "Relay of Monday")).to_contain_text("Mail relay")
        assert ["3", "13"] == row(page, "Autumn").get_by_role("cell").all_inner_texts()[-2:]
        link = row(page, "Autumn").get_by_role("link", name="Newsletter")
        assert event_path(space, event) == link.get_attribute("href")
        page.get_by_role("link", name="Autumn").click()
        expect(page).to_have_url(f"{pages.base}{mailing_path(space, mailing)}")
        page.goto(mailing_path(space, relay))
        expect(page.get_by_role("main")).to_contain_text("went through the mail relay")


def test_ten_thousand_mailings_stay_usable(pages: Pages) -> None:
    space = pages.make_space("Large")
    pages.query(
        "insert into mailtrail.mailings (id, space_id, name, created_at) select 1000000 + n, $1, 'Mailing ' || n,"
        " now() + n * interval '1 second' from generate_series(1, $2::int) as n",
        space,
        MANY,
    )
    with pages.browsing("viewer") as page:
        began = time.monotonic()
        page.goto(f"{space_path(space)}/mailings")
        seen = page.get_by_role("rowheader").all_inner_texts()
        assert [f"Mailing {number}" for number in range(MANY, MANY - 50, -1)] == seen
        follow(page.get_by_role("link", name="Next page"))
        assert f"Mailing {MANY - 50}" == page.get_by_role("rowheader").first.inner_text()
        follow(page.get_by_role("link", name="First page"))
        page.get_by_role("searchbox").fill("mailing 777")
        follow(page.get_by_role("button", name="Search"))
        found = page.get_by_role("rowheader").all_inner_texts()
        assert ["Mailing 7779", *(f"Mailing 777{number}" for number in range(8, -1, -1)), "Mailing 777"] == found
        page.get_by_role("searchbox").fill("nowhere")
        follow(page.get_by_role("button", name="Search"))
        expect(page.get_by_role("main")).to_contain_text("No mailing has this in its name.")
        # Five pages and their checks; each is read by an index or one pass over the space's mailings.
        assert 20 > time.monotonic() - began


def test_archived_ones_are_shown_on_demand_and_a_page_keeps_that(pages: Pages) -> None:
    space = pages.make_space("Archive")
    for number in range(60):
        made = make_mailing(pages, space, f"Old {number:02}")
        pages.in_database(lambda each, made=made: store.change_mailing(each, "test", space, made, archived=True))
    with pages.browsing("viewer") as page:
        page.goto(f"{space_path(space)}/mailings")
        expect(page.get_by_role("main")).to_contain_text("There is no mailing yet, or all are archived.")
        page.get_by_label("Show archived ones").check()
        page.get_by_role("searchbox").fill("old")
        follow(page.get_by_role("button", name="Search"))
        assert 50 == page.get_by_role("rowheader").count()
        follow(page.get_by_role("link", name="Next page"))
        assert 10 == page.get_by_role("rowheader").count()
        expect(page.get_by_role("searchbox")).to_have_value("old")
        expect(page.get_by_label("Show archived ones")).to_be_checked()


@pytest.mark.parametrize("cursor", ["x", "0" * 12, "f" * 12, "-1", "%00", "1" * 400])
def test_a_cursor_from_elsewhere_is_the_start(pages: Pages, shop: tuple[int, int, int], cursor: str) -> None:
    with pages.browsing("viewer") as page:
        page.goto(f"{space_path(shop[0])}/mailings?after={cursor}")
        expect(page.get_by_role("rowheader").filter(has_text="Autumn")).to_be_visible()


# --- one mailing -----------------------------------------------------------------------------------------------------

BY_PEOPLE = "By people, in total and unique, by how much was recorded"
BY_PROGRAMS = "By programs, such as virus scanners, prefetching and bots; not counted above"


def test_numbers_by_mode_are_those_that_were_recorded(pages: Pages, shop: tuple[int, int, int]) -> None:
    """Reckoned by hand from the hits of `sent_mailing`: person-based, anonymized, together, rate."""
    space, _, mailing = shop
    with pages.browsing("viewer") as page:
        page.goto(mailing_path(space, mailing))
        assert ["2", "3", "5", ""] == cells(page, "Opens", BY_PEOPLE)
        assert ["1", "2", "3", "30.0\u00a0%"] == cells(page, "Unique opens", BY_PEOPLE)
        assert ["2", "5", "7", ""] == cells(page, "Clicks", BY_PEOPLE)
        assert ["2", "2", "4", "40.0\u00a0%"] == cells(page, "Unique clicks", BY_PEOPLE)
        assert ["1"] == cells(page, "Automated opens", BY_PROGRAMS)
        assert ["2"] == cells(page, "Automated clicks", BY_PROGRAMS)
        sent = page.get_by_role("region", name="Sent")
        assert ["13", "4", "6", "3"] == sent.locator("dd").all_inner_texts()
        assert ["Sent", "Person-based", "Anonymized", "Untracked"] == sent.locator("dt").all_inner_texts()
        expect(page.get_by_role("main")).to_contain_text("60 days after it was made")
        expect(page.get_by_role("main")).to_contain_text("1 click is on a link that has no number here.")


def test_aggregate_hits_have_a_column_of_their_own_where_there_are_any(pages: Pages) -> None:
    space = pages.make_space("Aggregate")
    event = pages.make_event(space, "Poster")
    mailing = make_mailing(pages, space, "Poster", event)
    count_sent(pages, mailing, {Mode.AGGREGATE: 1})
    hits = Hits(pages, space, event, mailing)
    hour = pages.query("select date_trunc('hour', now()) as at")[0]["at"]
    for _ in range(2):
        hits.add(Kind.CLICK, Mode.AGGREGATE, at=hour, link=1)
    hits.ship()
    with pages.browsing("viewer") as page:
        page.goto(mailing_path(space, mailing))
        assert ["0", "0", "2", "2"] == cells(page, "Clicks", BY_PEOPLE)
        assert ["0", "0", "–", "0"] == cells(page, "Unique clicks", BY_PEOPLE)


def test_links_are_shown_by_pattern_and_hidden_ones_are_not(pages: Pages, shop: tuple[int, int, int]) -> None:
    space, _, mailing = shop
    with pages.browsing("viewer") as page:
        page.goto(mailing_path(space, mailing))
        links = page.get_by_role("region", name="Links")
        expect(links).to_contain_text("https://shop.example/jackets?size")
        numbers = [
            links.get_by_role("row").nth(number).get_by_role("cell").all_inner_texts()[:3] for number in (1, 2, 3)
        ]
        assert [["1", "5", "3"], ["2", "1", "1"], ["3", "0", "0"]] == numbers
        hidden = links.get_by_role("row").nth(3)
        expect(hidden).to_contain_text("hidden until five recipients have had it")
        expect(page.locator("body")).not_to_contain_text(re.compile("erika", re.I))
        page.get_by_role("link", name="Link 3").click()
        expect(page.locator("body")).not_to_contain_text(re.compile("erika", re.I))


def test_a_name_or_label_with_html_is_shown_as_text(pages: Pages) -> None:
    space = pages.make_space(HOSTILE)
    event = pages.make_event(space, "<b>bold</b>")
    mailing = make_mailing(pages, space, HOSTILE, event)
    long = "https://shop.example/" + "a-very-long-path/" * 60 + "<i>"
    register_links(pages, mailing, {long: "<img src=x onerror=alert(1)>"}, {})
    pages.in_database(
        lambda each: store.override_link(each, "test", space, mailing, 1, "https://x.example/?'\"><script>alert(1)//")
    )
    for width in (320, 1280):
        with pages.browsing("editor", width=width, javascript=True) as page:
            page.on("dialog", lambda dialog: pytest.fail(dialog.message))
            for path in (
                f"{space_path(space)}/mailings",
                mailing_path(space, mailing),
                f"{mailing_path(space, mailing)}/links/1",
                f"{space_path(space)}/audit",
            ):
                page.goto(path)
                assert "taken" != page.title()
                assert 0 == page.locator("body script, main img, main i, main b").count()
                assert width >= page.evaluate("document.documentElement.scrollWidth"), path
            page.goto(mailing_path(space, mailing))
            expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
            expect(page.get_by_role("region", name="Links")).to_contain_text("<img src=x onerror=alert(1)>")


# --- where links go --------------------------------------------------------------------------------------------------


def test_a_link_is_corrected_switched_off_and_undone(pages: Pages) -> None:
    space = pages.make_space("Overrides")
    mailing = make_mailing(pages, space, "Autumn", pages.make_event(space, "Newsletter"))
    register_links(pages, mailing, {"https://shop.example/old?cid": "Old"}, {})
    with pages.browsing("editor") as page:
        page.goto(mailing_path(space, mailing))
        expect(row(page, "Old")).to_contain_text("As sent")
        page.get_by_role("link", name="Change where link 1 goes").click()
        expect(page.get_by_role("button", name="As it was sent")).to_have_count(0)
        page.get_by_label("Go to this address instead").fill(NEW)
        page.get_by_role("button", name="Correct the link").click()
        expect(page.get_by_role("status")).to_contain_text("within a second, in mails already sent too")
        expect(row(page, "Old")).to_contain_text(f"Instead to: {NEW}")
        assert [NEW] == override(pages, mailing, 1)
        page.reload()
        assert [NEW] == override(pages, mailing, 1)

        page.get_by_role("link", name="Old").click()
        expect(page.get_by_label("Go to this address instead")).to_have_value(NEW)
        page.get_by_role("button", name="Switch the link off").click()
        expect(page.get_by_role("status")).to_contain_text("switched off")
        expect(row(page, "Old")).to_contain_text("Nowhere: switched off")
        assert [None] == override(pages, mailing, 1)

        page.get_by_role("link", name="Old").click()
        expect(page.get_by_role("button", name="Switch the link off")).to_have_count(0)
        page.get_by_role("button", name="As it was sent").click()
        expect(page.get_by_role("status")).to_contain_text("where it went when it was sent")
        expect(row(page, "Old")).to_contain_text("As sent")
        assert [] == override(pages, mailing, 1)
    audited = pages.query("select who, action, object from mailtrail.audit where action like 'link %' order by id")
    of_mailing = [tuple(each) for each in audited if each["object"] == f"{mailing:012x}/1"]
    assert [
        ("user:editor", f"link {what}", f"{mailing:012x}/1") for what in ("corrected", "switched off", "restored")
    ] == (of_mailing)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("", "Enter the complete address"),
        ("shop.example/new", "Enter the complete address"),
        ("javascript:alert(1)", "Enter an address with http or https"),
        ("https://{host}/", "Parameters may stand behind the host only"),
        ("https://shop.example/{", "A parameter is written as its name in braces"),
        ("https:///", "names no host"),
        ("https://shop.example/" + "a" * 9_000, "at most 8192 are possible"),
        ("https://shop.example/a\0b", "a character in it that is none"),
    ],
)
def test_what_is_no_address_comes_back_at_its_field(
    pages: Pages, shop: tuple[int, int, int], address: str, sentence: str
) -> None:
    space, _, mailing = shop
    with pages.browsing("editor") as page:
        page.goto(f"{mailing_path(space, mailing)}/links/2")
        field = page.get_by_label("Go to this address instead")
        field.evaluate("(field, value) => { field.removeAttribute('maxlength'); field.value = value; }", address)
        page.get_by_role("button", name="Correct the link").click()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("alert")).to_contain_text(sentence)
        described = field.get_attribute("aria-describedby") or ""
        expect(page.locator(f"#{described.split()[0]}")).to_contain_text(sentence)
        assert address.replace("\0", "") == field.input_value().replace("\0", "").replace("\ufffd", "")
        assert [] == override(pages, mailing, 2)


def test_a_correction_is_in_effect_within_a_second_in_mails_already_sent(pages: Pages) -> None:
    space = pages.make_space("In effect")
    pages.make_event(space, "Newsletter")
    pages.service.start("collect")
    pages.service.wait_ready()
    made = pages.service.run(
        *("link", "https://shop.example/old?cid=4711", "--space", "In effect", "--event", "Newsletter"),
        *("--mailing", "autumn", "--recipient", "4711", "--permission", "granted"),
    )
    link = made.stdout.decode().strip()
    until(lambda: pages.service.get(link).status == 302, "the link works", log=pages.service.log)
    (mailing,) = (row["id"] for row in pages.query("select id from mailtrail.mailings where space_id = $1", space))
    with pages.browsing("editor") as page:
        page.goto(f"{mailing_path(space, mailing)}/links/1")
        page.get_by_label("Go to this address instead").fill(NEW)
        page.get_by_role("button", name="Correct the link").click()
        expect(page.get_by_role("status")).to_be_visible()
        goal = "https://shop.example/new?customer=4711"
        until(lambda: pages.service.get(link).location == goal, "the correction is in effect")
        page.get_by_role("link", name="Link 1", exact=True).click()
        page.get_by_role("button", name="Switch the link off").click()
        until(lambda: pages.service.get(link).status == 410, "the link is off")


# --- its name and the archive ----------------------------------------------------------------------------------------


def test_a_mailing_is_renamed_archived_and_restored(pages: Pages) -> None:
    space = pages.make_space("Names")
    for name in ("Spring", "Summer"):
        mailing = make_mailing(pages, space, name)
    with pages.browsing("editor") as page:
        page.goto(mailing_path(space, mailing))
        field = page.get_by_label("Name of the mailing")
        for name, sentence in (("Spring", "There is a mailing of this name already"), ("  ", "Enter a name")):
            field.fill(name)
            page.get_by_role("button", name="Save name").click()
            expect(field).to_have_attribute("aria-invalid", "true")
            expect(page.get_by_role("alert")).to_contain_text(sentence)
        field.fill(" Late  summer ")
        page.get_by_role("button", name="Save name").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Late summer")
        expect(page.get_by_role("status")).to_have_text("The name is saved.")
        page.get_by_role("button", name="Archive").click()
        expect(page.get_by_role("status")).to_contain_text("The mailing is archived.")
        page.get_by_role("button", name="Restore from the archive").click()
        expect(page.get_by_role("status")).to_contain_text("in the lists again")
    (row,) = pages.query("select name, archived_at from mailtrail.mailings where id = $1", mailing)
    assert ("Late summer", None) == tuple(row)


def test_parameters_for_web_analytics_are_saved_and_taken_away(pages: Pages) -> None:
    space = pages.make_space("Analytics")
    mailing = make_mailing(pages, space, "Spring")
    stored = "select url_parameters from mailtrail.mailings where id = $1"
    with pages.browsing("editor") as page:
        page.goto(mailing_path(space, mailing))
        field = page.get_by_label("Parameters", exact=True)
        field.fill("utm_source=a&utm_source=b")
        page.get_by_role("button", name="Save parameters").click()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("alert")).to_contain_text("Enter name=value joined by &, each name once")
        field.fill("?utm_source=spring news&utm_medium=email")
        page.get_by_role("button", name="Save parameters").click()
        expect(page.get_by_role("status")).to_contain_text("The parameters are saved.")
        expect(field).to_have_value("utm_source=spring%20news&utm_medium=email")
        assert "utm_source=spring%20news&utm_medium=email" == pages.query(stored, mailing)[0][0]
        field.fill("")
        page.get_by_role("button", name="Save parameters").click()
        expect(page.get_by_role("status")).to_contain_text("The parameters are saved.")
    assert pages.query(stored, mailing)[0][0] is None


def test_why_messages_went_out_untracked_is_said_where_some_did(pages: Pages) -> None:
    space = pages.make_space("Untracked")
    mailing = make_mailing(pages, space, "Spring")
    reasons = {"off": 5, "dkim": 2, "nothing": 1}

    async def count(connection: Connection) -> None:
        await store.count_sent(connection, mailing, Mode.ANONYMIZED, 10)

    pages.in_database(count)
    with pages.browsing("viewer") as page:
        page.goto(mailing_path(space, mailing))
        table = page.get_by_role("table", name="Why messages went out untracked")
        expect(table).to_have_count(0)
        for reason, messages in reasons.items():
            pages.in_database(lambda each, r=reason, m=messages: store.count_sent(each, mailing, Mode.OFF, m, reason=r))
        page.reload()
        expect(table.get_by_role("row").filter(has_text="Tracking was off")).to_contain_text("5")
        expect(table.get_by_role("row").filter(has_text="Signed with DKIM")).to_contain_text("2")
        expect(table.get_by_role("row")).to_have_count(4)


def test_in_german(pages: Pages, shop: tuple[int, int, int]) -> None:
    space, _, mailing = shop
    with pages.browsing("editor", language="de") as page:
        page.goto(mailing_path(space, mailing))
        table = page.get_by_role("table", name="Von Menschen, gesamt und eindeutig")
        expect(table.get_by_role("row").filter(has_text="Eindeutige Öffnungen")).to_contain_text("30,0\u00a0%")
        page.goto(f"{mailing_path(space, mailing)}/links/2")
        page.get_by_label("Stattdessen zu dieser Adresse führen").fill("ftp://x/")
        page.get_by_role("button", name="Link berichtigen").click()
        expect(page.get_by_role("alert")).to_contain_text("Geben Sie eine Adresse mit http oder https ein.")


# --- who may not -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intruder", ["viewer"], indirect=True)
def test_who_may_only_read_changes_nothing(pages: Pages, shop: tuple[int, int, int], intruder: Intruder) -> None:
    space, _, mailing = shop
    here = mailing_path(space, mailing)
    for path in ("name", "archive", "links/1/correct", "links/1/switch-off", "links/1/restore"):
        assert 403 == intruder.post(f"{here}/{path}", name="x", destination="https://x.example/").status_code, path
    assert [] == override(pages, mailing, 1)
    with pages.browsing("viewer") as page:
        for path in (here, f"{here}/links/1"):
            page.goto(path)
            assert 0 == page.get_by_role("main").locator("form").count()


@pytest.mark.parametrize("intruder", ["editor"], indirect=True)
def test_a_form_from_elsewhere_changes_nothing(pages: Pages, shop: tuple[int, int, int], intruder: Intruder) -> None:
    space, _, mailing = shop
    here = mailing_path(space, mailing)
    for path in ("name", "archive", "links/1/correct", "links/1/switch-off", "links/1/restore"):
        answer = intruder.post(f"{here}/{path}", with_token=False, name="x", destination="https://x.example/")
        assert 403 == answer.status_code, path
    assert [] == override(pages, mailing, 1)
    assert 303 == intruder.get(f"{here}/links/1/switch-off").status_code
    assert [] == override(pages, mailing, 1)


def test_another_space_is_not_there(pages: Pages, shop: tuple[int, int, int]) -> None:
    space, _, mailing = shop
    other = pages.make_space("Other")
    pages.make_user("of other", "admin", other)
    intruder = Intruder(pages, "of other")
    for of in (space, other):
        here = mailing_path(of, mailing)
        assert 404 == intruder.get(here).status_code
        assert 404 == intruder.get(f"{here}/links/1").status_code
        for path in ("name", "archive", "links/1/correct", "links/1/switch-off", "links/1/restore"):
            assert 404 == intruder.post(f"{here}/{path}", name="x", destination="https://x.example/").status_code
    assert 404 == intruder.get(f"{space_path(space)}/mailings").status_code
    assert "Shop" not in intruder.get(f"{space_path(space)}/mailings").text
    for path in (
        f"{mailing_path(other, 1)}",
        f"{space_path(other)}/mailings/x",
        f"{space_path(other)}/mailings/{'f' * 13}",
    ):
        assert 404 == intruder.get(path).status_code
    intruder.close()
    assert [] == override(pages, mailing, 1)
