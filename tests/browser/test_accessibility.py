"""axe on every page, in light and dark, English and German, wide and narrow: nothing serious or critical."""

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe

from app.store import events
from app.tracking.settings import Notice
from tests.browser.pages import WITH_PERMISSION, WITHOUT_PERMISSION, Page, Pages, event_path, expect, follow, space_path

WAYS = [("en", "light", 1280), ("de", "dark", 1280), ("de", "light", 320), ("en", "dark", 320)]
BAD = ("serious", "critical")


@pytest.fixture(scope="module")
def space(pages: Pages) -> int:
    """One with everything that its pages can show."""
    made = pages.make_space("Shop")
    pages.make_space("Another", default="person_based")
    pages.activate(made, pages.make_event(made, "Running", by_permission=True), is_running=True)
    pages.activate(made, pages.make_event(made, "Protected", definition=WITH_PERMISSION))
    left = pages.make_event(made, "Left")
    pages.activate(made, left)
    pages.in_database(lambda each: events.leave_protected_mode(each, "test", made, left))
    pages.make_event(
        made,
        "Blind",
        by_permission=True,
        definition=WITHOUT_PERMISSION,
        acknowledged=[Notice.NO_PERMISSION_FIELD],
    )
    for number in range(60):
        pages.make_event(made, f"Plain {number:02}")
    return made


def check(page: Page, width: int) -> None:
    """Nothing that axe calls serious or critical, and nothing beyond the window's edge."""
    found = Axe().run(page).response["violations"]
    bad = [
        (each["id"], node["target"], node["failureSummary"])
        for each in found
        if each["impact"] in BAD
        for node in each["nodes"]
    ]
    assert [] == bad, page.url
    assert width >= page.evaluate("document.documentElement.scrollWidth"), page.url
    assert 1 == page.get_by_role("heading", level=1).count(), page.url
    assert 1 == page.get_by_role("main").count(), page.url


@pytest.mark.parametrize(("language", "scheme", "width"), WAYS)
def test_pages_for_everyone(pages: Pages, language: str, scheme: Literal["light", "dark"], width: int) -> None:
    pages.make_user(f"late {language} {scheme} {width}", "viewer")
    link = pages.one_time_link(f"late {language} {scheme} {width}")
    with pages.browsing(None, language=language, scheme=scheme, width=width, javascript=True) as page:
        for path in ("/sign-in", "/sign-in?left=1", link, "/nothing-here"):
            page.goto(path)
            check(page, width)
        page.goto("/sign-in")
        page.locator("#name").fill("nobody")
        page.locator("#password").fill("nothing")
        follow(page.get_by_role("main").get_by_role("button"))
        expect(page.locator("#problem")).to_be_visible()
        check(page, width)
        page.goto(link)
        follow(page.get_by_role("main").get_by_role("button"))
        check(page, width)


@pytest.mark.parametrize(("language", "scheme", "width"), WAYS)
@pytest.mark.parametrize("name", ["admin", "viewer"])
def test_pages_of_a_space(
    pages: Pages, space: int, name: str, language: str, scheme: Literal["light", "dark"], width: int
) -> None:
    rows = pages.query("select id, name from mailtrail.events where space_id = $1 order by name limit 6", space)
    paths = ["/", "/account", f"{space_path(space)}/tracking", *(event_path(space, row["id"]) for row in rows)]
    if name == "admin":
        paths += ["/spaces/new", f"{space_path(space)}/delete", f"{space_path(space)}/events/new"]
    with pages.browsing(name, language=language, scheme=scheme, width=width, javascript=True) as page:
        for path in paths:
            page.goto(path)
            check(page, width)


@pytest.mark.parametrize(("language", "scheme", "width"), WAYS)
def test_pages_that_come_back(
    pages: Pages, space: int, language: str, scheme: Literal["light", "dark"], width: int
) -> None:
    with pages.browsing("admin", language=language, scheme=scheme, width=width, javascript=True) as page:
        page.goto(f"{space_path(space)}/tracking")
        page.locator("#default input[value=person_based]").check()
        check(page, width)
        follow(page.locator("#default form button"))
        expect(page.locator("#errors")).to_be_visible()
        check(page, width)
        page.locator("#links-tracking_url").fill("nonsense")
        follow(page.locator("#links form button"))
        expect(page.locator("#errors")).to_be_visible()
        check(page, width)
        running = pages.query("select id from mailtrail.events where space_id = $1 and name = 'Running'", space)[0]
        page.goto(event_path(space, running["id"]))
        follow(page.locator("#tracking form button"))
        expect(page.locator("#errors")).to_be_visible()
        check(page, width)
        plain = pages.query("select id from mailtrail.events where space_id = $1 and name = 'Plain 00'", space)[0]
        page.goto(event_path(space, plain["id"]))
        page.locator("#definition-definition").fill("<event>")
        follow(page.locator("#definition form button"))
        expect(page.locator("#errors")).to_be_visible()
        check(page, width)
