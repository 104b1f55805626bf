"""Tracking does not show: in Chromium every mail of the corpus looks the same as before, and its links lead there too.

The browser is also who says where the original links lead, charsets, bases, odd spellings and all.
"""

from collections.abc import Iterator
from email.message import Message
from itertools import count

import pytest
from playwright.sync_api import Browser, Page, Route

from app.sending.html_links import Link, pixel_tag
from app.sending.mime import rewrite_mail
from tests.corpus import EXPECTED, TRACKED, decoded, is_shown, leaves, raw_mail, text_of

URL = "https://mail.example/shown"
PIXEL = "https://t.example/o/AAAA.gif"
HIDE_PIXEL = f'img[src="{PIXEL}"] {{ display: none !important }}'
LINKS = "[...document.querySelectorAll('a[href], area[href]')].map(link => String(link.href))"


class Tracker:
    """Gives URLs as long as real ones, and knows where they lead."""

    def __init__(self) -> None:
        self.destinations: dict[str, str] = {}
        self._numbers = count(1)

    def __call__(self, link: Link) -> str:
        url = f"https://t.example/c/{next(self._numbers):0200}"
        self.destinations[url] = link.destination
        return url


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 800, "height": 600})
    yield context.new_page()
    context.close()


def html_parts(raw: bytes) -> list[Message]:
    return [part for part in leaves(raw) if part.get_content_type() == "text/html" and is_shown(part)]


def look(page: Page, part: Message) -> tuple[bytes, list[str]]:
    """A picture of the whole page, and where its links lead. As in a mail program no script runs."""
    headers = {
        "Content-Type": " ".join(str(part["Content-Type"]).split()),
        "Content-Security-Policy": "script-src 'none'",
    }

    def answer(route: Route) -> None:
        if route.request.url == URL:
            route.fulfill(body=decoded(part), headers=headers)
        else:
            route.abort()

    page.route("**/*", answer)
    page.goto(URL)
    seen = page.screenshot(full_page=True, style=HIDE_PIXEL), page.evaluate(LINKS)
    page.unroute("**/*")
    return seen


@pytest.mark.parametrize("name", [name for name in TRACKED if html_parts(raw_mail(name))])
def test_a_tracked_mail_looks_the_same_and_leads_to_the_same(page: Page, name: str) -> None:
    raw, tracker = raw_mail(name), Tracker()
    tracked = rewrite_mail(raw, tracker, PIXEL)
    with_pixel = [part for part in html_parts(tracked.raw) if pixel_tag(PIXEL) in text_of(part)]
    assert EXPECTED[name]["pixels"] == len(with_pixel)
    for before, after in zip(html_parts(raw), html_parts(tracked.raw), strict=True):
        picture, links = look(page, before)
        tracked_picture, tracked_links = look(page, after)
        assert links == [tracker.destinations.get(url, url) for url in tracked_links]
        assert picture == tracked_picture
