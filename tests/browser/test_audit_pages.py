"""The audit log as people read it: in words, in pages, of one space or all, and as CSV for a spreadsheet."""

import csv
import io
import re
from collections.abc import Iterator

import pytest

from app.store import settings as store
from app.store.audit import audit
from app.store.pool import Connection
from app.tracking.settings import Notice
from tests.browser.pages import Page, Pages, expect, follow, space_path
from tests.browser.sent_mails import Intruder, mailing_path, make_mailing, register_links

HOSTILE = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def shop(pages: Pages) -> int:
    """A space whose log has a line of every kind that its pages tell."""
    space = pages.make_space("Shop")
    mailing = make_mailing(pages, space, "Autumn", pages.make_event(space, "Newsletter"))
    register_links(pages, mailing, {"https://shop.example/old": "Old"}, {})

    async def change(connection: Connection) -> None:
        place = (connection, "user:admin", space, mailing, 1)
        await store.override_link(*place, "https://shop.example/new")
        await store.override_link(*place, None)
        await store.override_link(*place, "https://shop.example/newer")
        await store.restore_link(*place)
        await audit(connection, "key:robot", "link explained", space, f"{mailing:012x}/0")
        await store.change_space(connection, "cli:root", space, default="person_based", acknowledged=[Notice.CONSENT])
        await audit(connection, "user:admin", "moon phased", space, HOSTILE, {"phase": {"of": 1}}, {"phase": [2, 3]})

    pages.in_database(change)
    return space


@pytest.fixture
def viewer(pages: Pages) -> Iterator[Intruder]:
    made = Intruder(pages, "viewer")
    yield made
    made.close()


def lines(page: Page) -> list[str]:
    rows = page.get_by_role("table").locator("tbody tr").all_inner_texts()
    return [re.sub(r"\s+", " ", text).replace(" : ", ": ").strip() for text in rows]


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_space_is_told_in_words(pages: Pages, shop: int) -> None:
    with pages.browsing("viewer") as page:
        page.goto(f"{space_path(shop)}/tracking")
        follow(page.get_by_role("navigation", name="Space").get_by_role("link", name="Changes"))
        said = lines(page)
        assert re.match(r"\d\d? \w+ \d{4}, \d\d:\d\d:\d\d UTC ", said[0])
        expected = [
            f'admin moon phased: {HOSTILE} phase: {{"of":1}} → becomes [2,3]',
            "root, at the command line Space changed: Shop Default setting: Anonymized → becomes Person-based"
            " acknowledged: person-based tracking needs consent",
            "the program with the key “robot” Link explained: the pixel of Autumn",
            "admin Link as it was sent again: link 1 of Autumn Goes to: before: https://shop.example/newer",
            "admin Link corrected: link 1 of Autumn Goes to: https://shop.example/newer",
            "admin Link switched off: link 1 of Autumn Goes to: before: https://shop.example/new",
            "admin Link corrected: link 1 of Autumn Goes to: https://shop.example/new",
        ]
        assert expected == [line.partition(" UTC ")[2] for line in said[: len(expected)]]
        assert "Space made: Shop Name: Shop Mail relay: Off Default setting: Anonymized" in said[-1]
        page.get_by_role("link", name="link 1 of Autumn").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Autumn")


def test_what_nobody_gave_words_to_is_told_as_it_is_stored_and_escaped(pages: Pages, shop: int) -> None:
    with pages.browsing("viewer", javascript=True) as page:
        for path in ("/audit", f"{space_path(shop)}/audit"):
            page.goto(path)
            expect(page.get_by_role("main")).to_contain_text("moon phased")
            assert "taken" != page.title()
            assert 0 == page.locator("body script").count()


def test_all_spaces_are_told_together_in_pages(pages: Pages, shop: int) -> None:
    space = pages.make_space("Busy")
    for number in range(120):
        make_mailing(pages, space, f"Mailing {number:03}")
    with pages.browsing("viewer") as page:
        page.goto(f"{space_path(space)}/audit")
        seen = lines(page)
        while page.get_by_role("link", name="Next page").count():
            follow(page.get_by_role("link", name="Next page"))
            seen += lines(page)
        told = [found[0] for line in seen if (found := re.search(r"Mailing \d{3}", line))]
        assert [f"Mailing {number:03}" for number in range(119, -1, -1)] == told
        page.get_by_role("link", name="First page").click()
        expect(page.get_by_role("table")).to_contain_text("Mailing 119")
        page.goto("/audit")
        assert 50 == len(lines(page))
        assert page.get_by_role("link", name="Busy").first.get_attribute("href") == f"{space_path(space)}/audit"


@pytest.mark.parametrize("cursor", ["x", "-1", "0", "9" * 30, "1.5"])
def test_a_cursor_from_elsewhere_is_the_start(pages: Pages, viewer: Intruder, shop: int, cursor: str) -> None:
    answer = viewer.get(f"{space_path(shop)}/audit?after={cursor}")
    assert 200 == answer.status_code
    assert "moon phased" in answer.text


def test_csv_has_everything_and_no_formula(pages: Pages, viewer: Intruder) -> None:
    space = pages.make_space("=cmd|' /C calc'!A0")

    async def write(connection: Connection) -> None:
        for start in ("=1+1", "+1", "-1", "@sum", "\tx", "\rx", "plain, “quoted”"):
            await audit(connection, "user:admin", "space changed", space, start)
        await connection.execute(
            "insert into mailtrail.audit (who, action, space_id, object)"
            " select 'test', 'many', $1, 'n' || n from generate_series(1, 2500) as n",
            space,
        )

    pages.in_database(write)
    answer = viewer.get(f"{space_path(space)}/audit.csv")
    assert ("text/csv; charset=utf-8", f'attachment; filename="audit-{space:08x}.csv"') == (
        answer.headers["content-type"],
        answer.headers["content-disposition"],
    )
    assert answer.text.startswith("\ufeffid,at,who,action,space,space_name,object,old,new\r\n")
    rows = read_csv(answer.text)
    assert [f"n{number}" for number in range(2500, 0, -1)] == [row["object"] for row in rows[:2500]]
    assert ["plain, “quoted”", "'\rx", "'\tx", "'@sum", "'-1", "'+1", "'=1+1"] == [
        row["object"] for row in rows[2500:2507]
    ]
    assert {"'=cmd|' /C calc'!A0"} == {row["space_name"] for row in rows}
    assert {f"{space:08x}"} == {row["space"] for row in rows}
    everything = read_csv(viewer.get("/audit.csv").text)
    assert pages.query("select count(*) from mailtrail.audit")[0][0] == len(everything)
    with pages.browsing("viewer") as page:
        page.goto("/audit")
        with page.expect_download() as download:
            page.get_by_role("link", name="Export as CSV").click()
        assert "audit.csv" == download.value.suggested_filename


def test_who_sees_one_space_reads_of_that_one_only(pages: Pages, shop: int) -> None:
    own = pages.make_space("Own")
    pages.make_user("of own", "viewer", own)
    somebody = Intruder(pages, "of own")
    assert f"{space_path(own)}/audit" == somebody.get("/audit").headers["location"]
    assert f"{space_path(own)}/audit.csv" == somebody.get("/audit.csv").headers["location"]
    for path in ("audit", "audit.csv"):
        answer = somebody.get(f"{space_path(shop)}/{path}")
        assert 404 == answer.status_code
        assert "Shop" not in answer.text
    assert {"Own"} == {row["space_name"] for row in read_csv(somebody.get(f"{space_path(own)}/audit.csv").text)}
    somebody.close()


def test_in_german(pages: Pages, shop: int) -> None:
    with pages.browsing("viewer", language="de", width=320) as page:
        page.goto(f"{space_path(shop)}/audit")
        expect(page.get_by_role("table")).to_contain_text("root, auf der Kommandozeile")
        expect(page.get_by_role("table")).to_contain_text("Link berichtigt: Link 1 von Autumn")
        assert 320 >= page.evaluate("document.documentElement.scrollWidth")


def test_a_link_of_a_mailing_that_is_gone_keeps_its_id(pages: Pages) -> None:
    space = pages.make_space("Gone")
    pages.in_database(lambda each: audit(each, "key:robot", "link explained", space, "0000000000ff/2"))
    with pages.browsing("viewer") as page:
        page.goto(f"{space_path(space)}/audit")
        expect(page.get_by_role("table")).to_contain_text("link 2 of 0000000000ff")
        assert 0 == page.locator(f"a[href='{mailing_path(space, 255)}']").count()
