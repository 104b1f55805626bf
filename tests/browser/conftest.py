"""A real browser on the real pages: `mailtrail admin` as a process, Chromium through playwright."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, sync_playwright

from app.store import embedded
from tests.browser.pages import Pages
from tests.integration.service import free_port, until

_PROGRAMS = [Path("/usr/bin", name) for name in ("chromium-headless-shell", "chromium")]
CHROMIUM = next((program for program in _PROGRAMS if program.exists()), _PROGRAMS[-1])
"""The shell is the same engine without a desktop's browser around it, and four times as fast to open a page."""

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return embedded.start(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")  # playwright's event loop runs as long as it lives, and other tests run their own
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium; install Debian's chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(server_url: str, chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """The pages on a database of the module's own, with an administrator, an editor and a viewer."""
    made = Pages.on(server_url, chromium, tmp_path_factory.mktemp("pages"), free_port())
    try:
        made.service.run("migrate")
        made.make_people()
        made.service.start("admin")
        until(lambda: is_alive(made.base), "pages", log=made.service.log)
        yield made
    finally:
        made.close()


def is_alive(base: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=5)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
