"""axe on mailings, links, the audit log, explanations, keys and users, in every way that the other pages are tried."""

from typing import Literal

import pytest

from app.store import settings as store
from tests.browser.pages import Pages, follow, space_path
from tests.browser.sent_mails import mailing_path, make_mailing, sent_mailing, tracked_link
from tests.browser.test_accessibility import WAYS, check


@pytest.fixture(scope="module")
def shop(pages: Pages) -> tuple[int, int, int]:
    """A space, an event and a mailing with hits, one link corrected and one switched off, and more than a page."""
    space = pages.make_space("Shop", default="person_based")
    event = pages.make_event(space, "Newsletter")
    for number in range(60):
        make_mailing(pages, space, f"Mailing {number:02}")
    mailing = sent_mailing(pages, space, event, "A name " + "of a mailing that has no end " * 6)
    destination = "https://shop.example/" + "new" * 100
    pages.in_database(lambda each: store.override_link(each, "test", space, mailing, 1, destination))
    pages.in_database(lambda each: store.override_link(each, "test", space, mailing, 2, None))
    return space, event, mailing


@pytest.mark.parametrize(("language", "scheme", "width"), WAYS)
def test_pages(
    pages: Pages, shop: tuple[int, int, int], language: str, scheme: Literal["light", "dark"], width: int
) -> None:
    space, event, mailing = shop
    here, of_mailing = space_path(space), mailing_path(space, mailing)
    with pages.browsing("admin", language=language, scheme=scheme, width=width, javascript=True) as page:
        for path in (
            f"{here}/mailings",
            f"{here}/mailings?q=nothing",
            of_mailing,
            f"{of_mailing}?saved=correct",
            f"{of_mailing}/links/1",
            f"{of_mailing}/links/3",
            "/audit",
            f"{here}/audit",
            "/explain",
            "/keys",
            f"{here}/keys",
            "/users",
        ):
            page.goto(path)
            check(page, width)
        for path, form in (("/keys", "/keys"), ("/users", "/users"), (f"{of_mailing}/links/2", "correct")):
            page.goto(path)
            follow(page.locator(f"form[action$='{form}'] button"))
            assert page.get_by_role("alert").is_visible(), path
            check(page, width)
        for address in ("nothing", tracked_link(pages, space, event, mailing)):
            page.goto("/explain")
            page.locator("textarea").fill(address)
            follow(page.get_by_role("main").get_by_role("button"))
            check(page, width)
        page.goto("/keys")
        page.locator("#key-name").fill(f"{language} {scheme} {width}")
        page.locator("#key-scope_read").check()
        page.locator("#key-space").select_option("all")
        follow(page.get_by_role("main").get_by_role("button"))
        assert page.locator("#secret").is_visible()
        check(page, width)
        follow(page.locator("a[href$='/revoke']").first)
        check(page, width)
