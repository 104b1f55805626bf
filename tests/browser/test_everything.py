"""The manual as one walk: settings through the pages, links as senders make, clicks as recipients, SQL as analysts."""

import re
import time

import pytest

from tests.browser.pages import Page, Pages, expect
from tests.integration.service import until

SECONDS = 60.0
"""A change counts within a second; a machine with other work is given more before the test fails."""


@pytest.fixture
def everything(pages: Pages) -> Pages:
    """Pages, a collector and a shipper."""
    pages.service.start("collect")
    pages.service.start("ship")
    pages.service.wait_ready()
    return pages


class Shop:
    """A space, its page, and what happens to its mails."""

    def __init__(self, pages: Pages, page: Page) -> None:
        self._pages = pages
        self._service = pages.service
        self._page = page

    def open(self) -> None:
        self._page.goto("/")
        self._page.get_by_role("link", name="Shop", exact=True).click()

    def choose_default(self, mode: str) -> None:
        self.open()
        default = self._page.get_by_role("region", name="Default setting")
        default.get_by_label(mode).check()
        if mode == "Person-based":
            default.get_by_role("checkbox").check()
        self._page.get_by_role("button", name="Save as default").click()
        expect(self._page.get_by_role("status")).to_contain_text("1 event follows it")
        wait_for_version(self._pages)

    def shows(self, event: str, words: str) -> None:
        self.open()
        row = self._page.get_by_role("row").filter(has=self._page.get_by_role("rowheader", name=event, exact=True))
        expect(row).to_contain_text(words)

    def link(self, event: str, recipient: str, permission: str) -> str:
        made = self._service.run(
            *("link", "https://shop.example/", "--space", "Shop", "--event", event, "--mailing", "autumn"),
            *("--recipient", recipient, "--permission", permission),
        )
        return made.stdout.decode().strip()

    def click(self, *links: str) -> None:
        for link in links:
            until(lambda link=link: self._service.get(link).status == 302, "the link works", log=self._service.log)

    def recorded(self, hits: int) -> dict[tuple[str, str, str | None], int]:
        """What SQL says when so many hits are there, by event, mode and recipient."""
        counted = "select event, mode, recipient, count(*)::int from analytics.hits group by 1, 2, 3"

        def read() -> dict[tuple[str, str, str | None], int] | None:
            found = {tuple(row[:3]): row[3] for row in self._pages.query(counted)}
            return found if sum(found.values()) >= hits else None

        return until(read, f"{hits} hits in SQL", log=self._service.log)


def wait_for_version(pages: Pages) -> None:
    """Waits until the collector follows what the pages have saved."""
    pages.threads.submit(pages.service.wait_for_version).result(60)


def _make_event(page: Page, name: str, *, by_permission: bool) -> None:
    page.get_by_role("link", name="New event").click()
    page.get_by_label("Name").fill(name)
    if by_permission:
        page.get_by_label("Tracking depending on tracking permission").check()
    page.get_by_role("main").get_by_role("button", name=re.compile("create|make", re.IGNORECASE)).click()
    expect(page.get_by_role("status")).to_be_visible()


def test_a_default_that_changes_reaches_inheriting_events_and_no_others(everything: Pages) -> None:
    with everything.browsing("admin") as page:
        page.goto("/")
        page.get_by_role("link", name="New space").click()
        page.get_by_label("Name").fill("Shop")
        page.get_by_role("main").get_by_role("button").last.click()
        for name, by_permission in (("invoice", False), ("newsletter", True)):
            page.goto("/")
            page.get_by_role("link", name="Shop", exact=True).click()
            _make_event(page, name, by_permission=by_permission)
        wait_for_version(everything)
        shop = Shop(everything, page)

        shop.shows("invoice", "Anonymized, by the space's default")
        granted, denied = (shop.link("newsletter", who, word) for who, word in (("7", "granted"), ("8", "denied")))
        early = shop.link("invoice", "9", "granted")
        shop.click(granted, denied, early)
        before = {
            ("newsletter", "person_based", "7"): 1,
            ("newsletter", "anonymized", None): 1,
            ("invoice", "anonymized", None): 1,
        }
        assert before == shop.recorded(3)

        shop.choose_default("Person-based")
        shop.shows("invoice", "Person-based, by the space's default")
        shop.shows("newsletter", "By permission: person-based if granted, else anonymized")
        late = shop.link("invoice", "9", "denied")
        shop.click(granted, denied, early, late)
        looser = {
            ("newsletter", "person_based", "7"): 2,
            ("newsletter", "anonymized", None): 2,
            ("invoice", "anonymized", None): 2,  # the mail sent before does not get more talkative
            ("invoice", "person_based", "9"): 1,
        }
        assert looser == shop.recorded(7)

        shop.choose_default("Anonymized")
        shop.click(granted, denied, early, late)
        stricter = looser | {
            ("newsletter", "person_based", "7"): 3,
            ("newsletter", "anonymized", None): 3,
            ("invoice", "anonymized", None): 4,  # and the one sent since is anonymized again
        }
        assert stricter == shop.recorded(11)

        page.goto("/audit")
        expect(page.get_by_role("main")).to_contain_text("Shop")

        # How soon a save counts, through nothing but HTTP.
        shop.choose_default("Person-based")
        shop.click(late)
        until(lambda: shop.recorded(12).get(("invoice", "person_based", "9")) == 2, "person-based again")
        shop.open()
        page.get_by_role("region", name="Default setting").get_by_label("Anonymized").check()
        page.get_by_role("button", name="Save as default").click()
        expect(page.get_by_role("status")).to_be_visible()
        saved, clicks, before = time.monotonic(), 0, stricter["invoice", "anonymized", None]

        def counts() -> bool:
            nonlocal clicks
            shop.click(late)
            clicks += 1
            return shop.recorded(12 + clicks)["invoice", "anonymized", None] > before

        until(counts, "the saved setting counts", SECONDS)
        print(f"a saved setting counted, and its hit was in SQL, after {time.monotonic() - saved:.2f} s at most")
