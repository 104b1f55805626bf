"""The pages as tests see them: a server of their own, people who may sign in, and browsers for them."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import asyncpg
from playwright.sync_api import Browser, Locator, Page, expect

from app.store import events, people
from app.store import settings as store
from app.store.pool import Connection, Row
from app.tracking.settings import Notice
from tests.integration.service import Service

PASSWORD = "correct horse battery"
PATIENCE_SECONDS = 30.0
Result = TypeVar("Result")

expect.set_options(timeout=PATIENCE_SECONDS * 1_000)

WITH_PERMISSION = b"""<?xml version="1.0" encoding="UTF-8"?>
<event xmlns="http://www.inxmail.com/xcom/eventtype">
  <eventtype><id>order_confirmation</id></eventtype>
  <customeremail>Customer.Email</customeremail>
  <customertracking>Customer.Tracking</customertracking>
  <phgroup>
    <id>Customer</id>
    <placeholder><id>Email</id><datatype-string/></placeholder>
    <placeholder><id>Tracking</id><datatype-boolean/></placeholder>
  </phgroup>
</event>
"""
WITHOUT_PERMISSION = (
    WITH_PERMISSION.replace(b"  <customertracking>Customer.Tracking</customertracking>\n", b"")
).replace(b"order_confirmation", b"parcel_notice")


@dataclass
class Pages:
    """`mailtrail admin` on a database of its own."""

    server_url: str
    browser: Browser
    service: Service
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @classmethod
    def on(cls, server_url: str, browser: Browser, directory: Path, port: int) -> "Pages":
        name = f"pages_{os.urandom(6).hex()}"
        service = Service(directory, server_url.replace("/postgres?", f"/{name}?"))
        service.settings["MAILTRAIL_ADMIN_PORT"] = str(port)
        made = cls(server_url, browser, service)
        made._on_server(f"create database {name}")
        return made

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.service.settings['MAILTRAIL_ADMIN_PORT']}"

    def close(self) -> None:
        self.service.stop()
        name = self.service.database_url.partition("?")[0].rpartition("/")[2]
        self._on_server(f"drop database {name} with (force)")
        self.threads.shutdown()

    def _on_server(self, statement: str) -> None:
        self._run(self.server_url, lambda connection: connection.execute(statement))

    def in_database(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Does something beside the browser, as other people and programs do it."""
        return self._run(self.service.database_url, work)

    def _run(self, url: str, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        async def connected() -> Result:
            connection = await asyncpg.connect(url)
            try:
                return await work(connection)
            finally:
                await connection.close()

        # The browser's own event loop runs in this thread.
        return self.threads.submit(lambda: asyncio.run(connected())).result(60)

    def query(self, sql: str, *values: Any) -> list[Row]:
        return self.in_database(lambda connection: connection.fetch(sql, *values))

    # --- what there is ---------------------------------------------------------------------------------------------

    def make_people(self) -> None:
        for role in people.ROLES:
            self.make_user(role, role)

    def make_user(self, name: str, role: str, space: int | None = None) -> None:
        self.in_database(lambda each: people.create_user(each, "test", name, role, space=space, password=PASSWORD))

    def one_time_link(self, name: str) -> str:
        async def make(connection: Connection) -> str:
            return await people.make_one_time_sign_in(connection, "test", await people.find_user(connection, name))

        return f"{self.base}/sign-in/once/{self.in_database(make)}"

    def make_space(self, name: str, default: str = "anonymized") -> int:
        row = self.in_database(
            lambda each: store.create_space(each, "test", name, default=default, acknowledged=[Notice.CONSENT])
        )
        return int(row["id"])

    def make_event(self, space: int, name: str, **more: Any) -> int:
        return int(self.in_database(lambda each: events.create_event(each, "test", space, name, **more))["id"])

    def event(self, space: int, event: int) -> Row:
        return self.in_database(lambda each: events.get_event(each, space, event))

    def space(self, space: int) -> Row:
        return self.in_database(lambda each: store.get_space(each, space))

    def activate(self, space: int, event: int, *, is_running: bool = False) -> int:
        """Sends a dispatch of the event, which makes it active; it has ended unless it is to be running."""

        async def send(connection: Connection) -> int:
            row = await events.start_dispatch(connection, "key:shop", space, event)
            if not is_running:
                await events.end_dispatch(connection, space, row["id"])
            return int(row["id"])

        return self.in_database(send)

    # --- who looks at it -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def browsing(
        self,
        name: str | None = "admin",
        *,
        language: str = "en",
        scheme: Literal["light", "dark"] = "light",
        width: int = 1280,
        javascript: bool = False,
    ) -> Iterator[Page]:
        """A browser of its own, signed in as a user; whatever breaks the content security policy fails the test."""
        context = self.browser.new_context(
            base_url=self.base,
            locale={"en": "en-GB", "de": "de-DE"}[language],
            color_scheme=scheme,
            viewport={"width": width, "height": 900},
            java_script_enabled=javascript,
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1_000)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
        try:
            if name is not None:
                self.sign_in(page, name)
            yield page
            assert [] == complaints
        finally:
            context.close()

    def sign_in(self, page: Page, name: str) -> None:
        page.goto(self.one_time_link(name))
        page.get_by_role("main").get_by_role("button").click()
        expect(page).to_have_url(f"{self.base}/account?welcome=1")


def follow(link: Locator) -> None:
    """Clicks what leads to another page, and waits for the whole of that: a click itself ends with its first byte."""
    link.click()
    link.page.wait_for_load_state()


def space_path(space: int) -> str:
    return f"/spaces/{space:08x}"


def event_path(space: int, event: int) -> str:
    return f"{space_path(space)}/events/{event:08x}"
