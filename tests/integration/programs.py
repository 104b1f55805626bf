"""Programs that use the API: the whole private application in this process, on a database of the test's own."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest
from pydantic import SecretStr

from app.admin.application import application
from app.config import Settings
from app.store import api_keys
from app.store.migrate import migrate
from app.store.pool import Connection, Database, Row, connected

BASE = "http://admin.test/api/v1"


def definition(of: str = "order", *, tracking: bool = True) -> bytes:
    """An event's XML, with a field for the permission or without."""
    names = "<customertracking>Customer.Tracking</customertracking>" if tracking else ""
    return f"""<event xmlns="http://www.inxmail.com/xcom/eventtype">
        <eventtype><id>{of}</id></eventtype><customermapping>Customer.Id</customermapping>{names}
        <phgroup><id>Customer</id><placeholder><id>Id</id><datatype-string/></placeholder>
        <placeholder><id>Tracking</id><datatype-boolean/></placeholder></phgroup>
    </event>""".encode()


@dataclass(frozen=True)
class Program:
    """One with a key; paths are relative to the API."""

    client: httpx2.AsyncClient
    secret: str

    async def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.secret}"} | options.pop("headers", {})
        return await self.client.request(method, f"{BASE}{path}", headers=headers, **options)

    async def get(self, path: str, status: int = 200, **options: Any) -> Any:
        return _content(await self.ask("GET", path, **options), status)

    async def post(self, path: str, body: Any = None, status: int = 201, **options: Any) -> Any:
        options |= {} if body is None else {"json": body}
        return _content(await self.ask("POST", path, **options), status)

    async def patch(self, path: str, body: Any, status: int = 200, if_match: str | None = "*") -> Any:
        headers = {} if if_match is None else {"if-match": if_match}
        return _content(await self.ask("PATCH", path, json=body, headers=headers), status)

    async def put(self, path: str, status: int = 200, **options: Any) -> Any:
        return _content(await self.ask("PUT", path, **options), status)

    async def delete(self, path: str, status: int = 204, if_match: str | None = "*") -> Any:
        headers = {} if if_match is None else {"if-match": if_match}
        return _content(await self.ask("DELETE", path, headers=headers), status)

    async def put_definition(self, event: str, xml: bytes, status: int = 200, **headers: str) -> Any:
        sent = {"content-type": "application/xml", "if-match": "*"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return await self.put(f"{event}/definition", status, content=xml, headers=sent)


def _content(answer: httpx2.Response, status: int) -> Any:
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["cache-control"] == "no-store"
    if status < 400:
        return answer.json() if answer.content else None
    return problem(answer)


def problem(answer: httpx2.Response) -> dict[str, Any]:
    """The problem document of a refusal, which is one in every respect."""
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    assert found["title"]
    assert found["detail"]
    assert found["type"] == "about:blank" or found["type"].startswith("/problems/")
    return found


@dataclass(frozen=True)
class Api:
    """The application, and a connection to look behind it."""

    client: httpx2.AsyncClient
    connection: Connection
    database: Database

    async def program(
        self, name: str = "robot", scopes: Sequence[str] = api_keys.SCOPES, space: str | None = None
    ) -> Program:
        number = None if space is None else int(space, 16)
        _, secret = await api_keys.create_api_key(self.connection, "user:erika", name, scopes, number)
        return Program(self.client, secret)

    async def audited(self) -> list[tuple[str, str, Any, Any]]:
        """Who did what, with the states before and after, the newest first."""
        rows: list[Row] = await self.connection.fetch("select * from mailtrail.audit order by id desc")
        return [
            (row["who"], row["action"], *(state and orjson.loads(state) for state in (row["old"], row["new"])))
            for row in rows
        ]

    async def add_link(self, mailing: str, number: int) -> None:
        """A registered link whose text is shown."""
        await self.connection.execute(
            "insert into mailtrail.links (mailing_id, number, fingerprint, occurrence, host, pattern, label)"
            " values ($1, $2, $3, 1, 'https://shop.example', 'https://shop.example/{value}', 'Offer')",
            int(mailing, 16),
            number,
            number.to_bytes(16, "big"),
        )


@pytest.fixture(scope="session")
def migrated_name(server_url: str) -> str:
    """The name of a database that others are copied from, one for each module that imports this."""
    name = f"programs_{os.urandom(6).hex()}"

    async def make() -> None:
        async with connected(server_url) as server:
            await server.execute(f"create database {name}")
        async with connected(_url(server_url, name)) as connection:
            await migrate(connection)

    asyncio.run(make())
    return name


@pytest.fixture
async def api(server_url: str, migrated_name: str) -> AsyncIterator[Api]:
    name = f"{migrated_name}_{os.urandom(6).hex()}"
    url = _url(server_url, name)
    async with connected(server_url) as server:
        await server.execute(f"create database {name} template {migrated_name}")
        database = Database(url)
        served = application(Settings(database_url=SecretStr(url)), database)
        async with (
            connected(url) as connection,
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app=served)) as client,
        ):
            yield Api(client, connection, database)
        await database.close()
        await server.execute(f"drop database {name} with (force)")


def _url(server_url: str, name: str) -> str:
    return server_url.replace("/postgres?", f"/{name}?")


@pytest.fixture
async def robot(api: Api) -> Program:
    """A program that may do everything everywhere."""
    return await api.program()


@pytest.fixture
async def shop(robot: Program) -> dict[str, Any]:
    """A space."""
    made: dict[str, Any] = await robot.post("/spaces", {"name": "Shop"})
    return made
