"""The README's picture, taken of the real pages: `python -m tests.browser.pictures docs/images`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from app.store import embedded
from tests.browser.conftest import ARGUMENTS, CHROMIUM, is_alive
from tests.browser.pages import Pages, space_path
from tests.integration.service import free_port, until

WIDTH, HEIGHT = 1_160, 1_180


def take(to: Path) -> None:
    """Writes `tracking.png`: a space's tracking page with events of every kind."""
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        url = embedded.start(Path(directory) / "data")
        pages = Pages.on(url, browser, Path(directory), free_port())
        try:
            pages.service.run("migrate")
            pages.make_people()
            space = _make_shop(pages)
            pages.service.start("admin")
            until(lambda: is_alive(pages.base), "pages", log=pages.service.log)
            with pages.browsing("admin", width=WIDTH) as page:
                page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
                page.goto(f"{space_path(space)}/tracking")
                page.screenshot(path=to / "tracking.png")
        finally:
            pages.close()
            embedded.leave(Path(directory) / "data")


def _make_shop(pages: Pages) -> int:
    space = pages.make_space("Outdoor shop")
    for name, by_permission in (
        ("Invoice", False),
        ("Newsletter", True),
        ("Order confirmation", False),
        ("Shipping notice", False),
    ):
        event = pages.make_event(space, name, by_permission=by_permission)
        if name in ("Newsletter", "Order confirmation"):
            pages.activate(space, event, is_running=name == "Newsletter")
    return space


if __name__ == "__main__":
    take(Path(sys.argv[1]))
