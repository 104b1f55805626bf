# ruff: noqa: F811 (fixtures are imported)
"""Who may do what through the API: every route by every scope, by keys of one space, and by keys that are no good.

The table of requests has exactly the routes of the application: a new one fails here until it is said who may use it.
"""

import csv
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from typing import Any

import httpx2
import pytest

from app.admin.api import api as make_api
from app.admin.api.requests import ApiRoute
from app.admin.application import application
from app.config import Settings
from app.store import api_keys, keys
from app.store.pool import Database
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Message
from tests.integration.programs import (  # noqa: F401
    BASE,
    Api,
    Program,
    api,
    definition,
    migrated_name,
    problem,
    robot,
)


@dataclass(frozen=True)
class Asking:
    """A request that is good, who may make it, and how it is answered."""

    scope: str
    status: int
    body: Any = None
    query: str = ""
    xml: bytes = b""
    lines: bytes = b""
    for_all_spaces: bool = False


SPACE, EVENT, MAILING = "/spaces/{space}", "/spaces/{space}/events/{event}", "/spaces/{space}/mailings/{mailing}"
DISPATCH = "/spaces/{space}/dispatches/{dispatch}"
MESSAGE = {"space": "{space}", "event": "news", "mailing": "June", "recipient": "4711", "permission": "granted"}
CUSTOMER = {"Customer": {"Id": "4711", "Tracking": True}}
REQUESTS = {
    ("GET", "/spaces"): Asking("read", 200),
    ("POST", "/spaces"): Asking("write", 201, {"name": "New"}, for_all_spaces=True),
    ("GET", SPACE): Asking("read", 200),
    ("PATCH", SPACE): Asking("write", 200, {"name": "Changed"}),
    ("DELETE", SPACE): Asking("write", 204, for_all_spaces=True),
    ("GET", "/spaces/{space}/events"): Asking("read", 200),
    ("POST", "/spaces/{space}/events"): Asking("write", 201, {"name": "New"}),
    ("GET", EVENT): Asking("read", 200),
    ("PATCH", EVENT): Asking("write", 200, {"name": "Changed"}),
    ("GET", f"{EVENT}/definition"): Asking("read", 200),
    ("PUT", f"{EVENT}/definition"): Asking("write", 200, xml=definition()),
    ("POST", f"{EVENT}/protected-mode-leave"): Asking("write", 200, {"acknowledge": ["dispatch_running"]}),
    ("DELETE", f"{EVENT}/protected-mode-leave"): Asking("write", 200),
    ("GET", f"{EVENT}/dispatches"): Asking("read", 200),
    ("POST", f"{EVENT}/dispatches"): Asking("mint", 201),
    ("GET", DISPATCH): Asking("read", 200),
    ("POST", f"{DISPATCH}/heartbeat"): Asking("mint", 200),
    ("POST", f"{DISPATCH}/end"): Asking("mint", 200),
    ("GET", "/spaces/{space}/mailings"): Asking("read", 200),
    ("POST", "/spaces/{space}/mailings"): Asking("write", 201, {"name": "New"}),
    ("GET", MAILING): Asking("read", 200),
    ("PATCH", MAILING): Asking("write", 200, {"name": "Changed"}),
    ("GET", f"{MAILING}/report"): Asking("read", 200),
    ("GET", f"{MAILING}/links"): Asking("read", 200),
    ("PUT", f"{MAILING}/links/{{number}}/override"): Asking("write", 200, {"destination": "https://shop.example/"}),
    ("DELETE", f"{MAILING}/links/{{number}}/override"): Asking("write", 204),
    ("POST", "/messages"): Asking("mint", 200, MESSAGE | {"html": "<p>Hello"}),
    ("POST", "/links"): Asking("mint", 200, MESSAGE | {"url": "https://shop.example/"}),
    ("POST", "/events"): Asking(
        "mint", 200, {"space": "{space}", "event": "order", "payload": CUSTOMER, "message": {"html": "<p>Hello"}}
    ),
    ("POST", "/messages/batch"): Asking(
        "mint", 200, lines=b'{"space": "{space}", "event": "news", "mailing": "M", "html": "<p>"}'
    ),
    ("POST", "/events/batch"): Asking("mint", 200, lines=b'{"space": "{space}", "event": "order", "html": "<p>"}'),
    ("GET", "/api-keys"): Asking("read", 200),
    ("POST", "/api-keys"): Asking("write", 201, {"name": "New", "scopes": ["write"]}),
    ("DELETE", "/api-keys/{key}"): Asking("write", 204),
    ("GET", "/audit"): Asking("read", 200, query="?space={space}"),
    ("POST", "/explain"): Asking("privacy", 200, {"address": "{link}"}),
}
ROUTES = sorted(REQUESTS)
OF_A_SPACE = [route for route in ROUTES if "{space}" in route[1]]
MISSING = {
    "space": "0badc0de",
    "event": "0badc0de",
    "mailing": "0badc0de0bad",
    "dispatch": "0badc0de0bad",
    "number": "9",
}


@dataclass(frozen=True)
class World:
    """A space with one of everything. `ids` has what stands in paths and bodies."""

    ids: dict[str, str] = field(default_factory=dict)


async def build_world(api: Api, robot: Program, name: str) -> World:
    space = (await robot.post("/spaces", {"name": name}))["id"]
    event = (await robot.post(f"/spaces/{space}/events", {"name": "news"}))["id"]
    await robot.put_definition(f"/spaces/{space}/events/{event}", definition())
    mailing = (await robot.post(f"/spaces/{space}/mailings", {"name": "May", "event": event}))["id"]
    dispatch = (await robot.post(f"/spaces/{space}/events/{event}/dispatches"))["id"]
    key = (await robot.post("/api-keys", {"name": f"of {name}", "scopes": ["read"], "space": space}))["id"]
    await api.add_link(mailing, 1)
    ring = await keys.key_ring(api.connection, int(space, 16))
    message = Message(
        space=int(space, 16),
        event=int(event, 16),
        mailing=int(mailing, 16),
        origin=Origin.EVENT,
        ceiling=Mode.ANONYMIZED,
        permission=Permission.UNKNOWN,
        issue_day=datetime.now(UTC).date(),
    )
    link = f"https://t.example/c/{ring.mint_click(message, 'https://shop.example/', 1)}"
    ids = {"space": space, "event": event, "mailing": mailing, "dispatch": dispatch, "key": key, "number": "1"}
    return World(ids | {"link": link})


@pytest.fixture
async def world(api: Api, robot: Program) -> World:
    return await build_world(api, robot, "Shop")


async def ask(program: Program, route: tuple[str, str], ids: dict[str, str]) -> httpx2.Response:
    """Makes the route's good request, about what these ids name."""
    method, path = route
    asking = REQUESTS[route]
    options: dict[str, Any] = {"headers": {"if-match": "*"}}
    if asking.xml:
        options |= {"content": asking.xml, "headers": {"if-match": "*", "content-type": "application/xml"}}
    elif asking.lines:
        lines = asking.lines.replace(b"{space}", ids["space"].encode())
        options = {"content": lines, "headers": {"content-type": "application/x-ndjson"}}
    elif asking.body is not None:
        options["json"] = {name: ids.get(str(value).strip("{}"), value) for name, value in asking.body.items()}
    return await program.ask(method, (path + asking.query).format(**ids), **options)


def test_for_every_route_it_is_said_who_may_use_it() -> None:
    served = make_api(Settings(), Database("postgresql://nowhere/"))
    ours = [route for route in served.routes if isinstance(route, ApiRoute)]
    assert ROUTES == sorted((method, route.path) for route in ours for method in route.methods)
    assert ["/openapi.json"] == [getattr(route, "path", "?") for route in served.routes if route not in ours]


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_a_route_takes_keys_with_its_scope_only(
    api: Api,
    world: World,
    route: tuple[str, str],
) -> None:
    if route == ("PUT", f"{EVENT}/definition"):
        await (await api.program()).post(
            f"/spaces/{world.ids['space']}/events/{world.ids['event']}/protected-mode-leave",
            {"acknowledge": ["dispatch_running"]},
            200,
        )
    before = await api.audited()
    for scope in set(api_keys.SCOPES) - {REQUESTS[route].scope}:
        refused = problem(await ask(await api.program(f"only {scope}", [scope]), route, world.ids))
        assert (403, "/problems/not-allowed") == (refused["status"], refused["type"])
        assert REQUESTS[route].scope in refused["detail"]
    assert before == [entry for entry in await api.audited() if entry[1] != "API key created" or entry in before]
    answer = await ask(await api.program("the one", [REQUESTS[route].scope]), route, world.ids)
    assert REQUESTS[route].status == answer.status_code, answer.text


async def test_no_route_lets_anybody_in_without_a_good_key(api: Api, robot: Program, world: World) -> None:
    revoked = await api.program("revoked")
    by_name = {each["name"]: each["id"] for each in (await robot.get("/api-keys"))["items"]}
    await robot.delete(f"/api-keys/{by_name['revoked']}")
    before = await api.audited()
    secret = robot.secret
    bad = ["", "Bearer", "Bearer ", f"Basic {secret}", secret, f"Bearer {secret}x", f"Bearer {secret[4:]}"]
    bad += [f"Bearer {revoked.secret}", "Bearer mtk_", f"Bearer mtk_{'x' * 43}", "Bearer mtk_\xff\xfe"]
    for (method, path), header in product(ROUTES, bad):
        url = f"{BASE}{path.format(**world.ids)}?key={secret}"
        headers = [(b"authorization", header.encode("latin-1"))] if header else []
        answer = await api.client.request(method, url, headers=headers, content=b"{")
        assert (401, "/problems/unauthorized") == (answer.status_code, problem(answer)["type"]), (path, header)
        assert "Bearer" == answer.headers["www-authenticate"]
    assert before == await api.audited()


async def test_nobody_is_read_to_the_end_without_a_key(api: Api) -> None:
    async def unread() -> Any:
        raise AssertionError("it is read")
        yield b""

    answer = await api.client.post(f"{BASE}/spaces", content=unread())
    assert 401 == answer.status_code


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_the_scheme_has_no_case(api: Api, robot: Program, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {robot.secret}"}
    assert 200 == (await api.client.get(f"{BASE}/spaces", headers=headers)).status_code


# --- keys of one space -----------------------------------------------------------------------------------------------


async def test_another_space_is_as_one_that_is_not_there(api: Api, robot: Program, world: World) -> None:
    other = (await build_world(api, robot, "Other")).ids
    own = await api.program("own", space=world.ids["space"])
    before = await api.audited()
    for route in [*OF_A_SPACE, ("GET", "/audit")]:
        missing = await ask(own, route, world.ids | MISSING)
        assert (404, "there is no such space") == (missing.status_code, problem(missing)["detail"])
        for ids in (other, other | {"space": "zzz"}, other | MISSING | {"space": other["space"]}):
            answer = await ask(own, route, ids)
            assert (missing.status_code, missing.content) == (answer.status_code, answer.content)
            assert missing.headers == answer.headers
    assert before == await api.audited()


async def test_what_another_space_has_is_not_found_in_the_own_one(api: Api, robot: Program, world: World) -> None:
    other = (await build_world(api, robot, "Other")).ids
    own = await api.program("own", space=world.ids["space"])
    before = await api.audited()
    found = set()
    for route, noun in product(OF_A_SPACE, ("event", "mailing", "dispatch")):
        if f"{{{noun}}}" in route[1]:
            missing = await ask(own, route, world.ids | {noun: MISSING[noun]})
            answer = await ask(own, route, world.ids | {noun: other[noun]})
            assert (404, f"there is no such {noun}") == (answer.status_code, problem(answer)["detail"])
            assert missing.content == answer.content
            found.add(noun)
    assert {"event", "mailing", "dispatch"} == found
    assert before == await api.audited()


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_a_key_of_one_space_does_there_what_it_may(
    api: Api,
    world: World,
    route: tuple[str, str],
) -> None:
    own = await api.program("own", space=world.ids["space"])
    if route == ("PUT", f"{EVENT}/definition"):
        leave = f"/spaces/{world.ids['space']}/events/{world.ids['event']}/protected-mode-leave"
        await own.post(leave, {"acknowledge": ["dispatch_running"]}, 200)
    answer = await ask(own, route, world.ids)
    expected = 403 if REQUESTS[route].for_all_spaces else REQUESTS[route].status
    assert expected == answer.status_code, answer.text


async def test_a_key_of_one_space_lists_nothing_of_others(api: Api, robot: Program, world: World) -> None:
    other = await build_world(api, robot, "Other")
    own = await api.program("own", space=world.ids["space"])
    assert [world.ids["space"]] == [each["id"] for each in (await own.get("/spaces"))["items"]]
    assert [] == (await own.get("/spaces?contains=Other"))["items"]
    assert {"own", "of Shop"} == {each["name"] for each in (await own.get("/api-keys"))["items"]}
    assert {world.ids["space"]} == {each["space"] for each in (await own.get("/audit?limit=200"))["items"]}
    rows = list(csv.reader(io.StringIO((await own.ask("GET", "/audit?format=csv")).text)))
    assert {"space", world.ids["space"]} == {row[4] for row in rows}
    text = "".join([(await own.ask("GET", path)).text for path in ("/spaces", "/api-keys", "/audit?format=csv")])
    assert not [each for each in (other.ids["space"], other.ids["key"], "Other") if each in text]
    # A cursor of somebody who sees all leads no further.
    for path in ("/spaces", "/audit"):
        cursor = (await robot.get(f"{path}?limit=1"))["next"]
        seen = (await own.get(f"{path}?limit=200&cursor={cursor}"))["items"]
        assert {world.ids["space"]} >= {each.get("space", each["id"]) for each in seen}


async def test_what_bodies_name_of_another_space_is_not_there(api: Api, robot: Program, world: World) -> None:
    other = (await build_world(api, robot, "Other")).ids
    own = await api.program("own", space=world.ids["space"])
    space, event = f"/spaces/{world.ids['space']}", f"/spaces/{world.ids['space']}/events/{world.ids['event']}"
    before = await api.audited()
    for path, body, missing in (
        (f"{event}/dispatches", {"mailing": other["mailing"]}, {"mailing": MISSING["mailing"]}),
        (f"{space}/mailings", {"name": "x", "event": other["event"]}, {"name": "x", "event": MISSING["event"]}),
        (
            "/api-keys",
            {"name": "x", "scopes": ["read"], "space": other["space"]},
            {"name": "x", "scopes": ["read"], "space": MISSING["space"]},
        ),
        ("/explain", {"address": other["link"]}, {"address": other["link"][:-9] + "AAAAAAAAA"}),
    ):
        assert await own.post(path, missing, 404) == await own.post(path, body, 404)
    all_keys = {each["name"]: each["id"] for each in (await robot.get("/api-keys"))["items"]}
    missing_key = await own.delete("/api-keys/0badc0de", 404)
    for name in ("of Other", "robot"):
        assert missing_key == await own.delete(f"/api-keys/{all_keys[name]}", 404)
    assert await own.get(f"{space}/mailings?event={MISSING['event']}", 404) == await own.get(
        f"{space}/mailings?event={other['event']}", 404
    )
    assert before == await api.audited()


async def test_a_key_for_all_spaces_finds_nothing_in_the_wrong_one(
    api: Api,
    robot: Program,
    world: World,
) -> None:
    other = (await build_world(api, robot, "Other")).ids
    for noun, plural in (("event", "events"), ("mailing", "mailings"), ("dispatch", "dispatches")):
        await robot.get(f"/spaces/{world.ids['space']}/{plural}/{other[noun]}", 404)


# --- what a key may hand on ------------------------------------------------------------------------------------------


async def test_a_key_makes_none_that_may_more(api: Api, world: World) -> None:
    before = len(await api.audited())
    writer = await api.program("writer", ["write", "read"], world.ids["space"])
    for scopes in (["privacy"], ["mint"], ["write", "read", "mint"]):
        await writer.post("/api-keys", {"name": "x", "scopes": scopes}, 403)
    await writer.post("/api-keys", {"name": "x", "scopes": ["read"], "space": None}, 403)
    assert before + 1 == len(await api.audited())

    made = await writer.post("/api-keys", {"name": "child", "scopes": ["write"]})
    assert (["write"], world.ids["space"], "key:writer") == (made["scopes"], made["space"], made["created_by"])
    child = Program(api.client, made["secret"])
    await child.post("/api-keys", {"name": "x", "scopes": ["read"]}, 403)
    await child.get("/spaces", 403)
    everywhere = await api.program("everywhere", ["write"])
    assert (await everywhere.post("/api-keys", {"name": "a", "scopes": ["write"]}))["space"] is None
    assert (await everywhere.post("/api-keys", {"name": "b", "scopes": ["write"], "space": None}))["space"] is None


async def test_what_the_relay_records_is_a_matter_of_privacy(api: Api, world: World) -> None:
    path = f"/spaces/{world.ids['space']}"
    editor = await api.program("editor", ["read", "write"])
    body = {"name": "x", "relay_mode": "anonymized"}
    assert "privacy" in (await editor.patch(path, body, 403))["detail"]
    assert "privacy" in (await editor.post("/spaces", body, 403))["detail"]
    assert "Shop" == (await editor.get(path))["name"]
    assert "off" == (await editor.patch(path, {"name": "y", "relay_mode": "off"}))["relay_mode"]
    guardian = await api.program("guardian", ["write", "privacy"])
    assert "anonymized" == (await guardian.patch(path, body))["relay_mode"]
    assert "anonymized" == (await editor.patch(path, body))["relay_mode"]
    await editor.patch(path, {"relay_mode": "off"}, 403)


# --- keys that end ---------------------------------------------------------------------------------------------------


async def test_a_key_that_is_revoked_in_mid_use_is_out_at_once(api: Api, robot: Program, world: World) -> None:
    mailer = await api.program("mailer", ["mint", "write"])
    dispatch = f"/spaces/{world.ids['space']}/dispatches/{world.ids['dispatch']}"
    await mailer.post(f"{dispatch}/heartbeat", status=200)
    by_name = {each["name"]: each["id"] for each in (await robot.get("/api-keys"))["items"]}
    await mailer.delete(f"/api-keys/{by_name['mailer']}")
    await mailer.post(f"{dispatch}/heartbeat", status=401)
    assert (await robot.get(dispatch))["is_running"]


async def test_the_keys_of_a_deleted_space_are_out(api: Api, robot: Program, world: World) -> None:
    own = await api.program("own", space=world.ids["space"])
    await own.get("/spaces")
    await robot.delete(f"/spaces/{world.ids['space']}")
    await own.get("/spaces", 401)


async def test_a_slow_body_holds_no_connection(api: Api, robot: Program) -> None:
    """With one connection for all, who is read slowly lets another through."""
    database = Database(await _url_of(api), most=1)
    served = application(Settings(), database)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=served)) as client:
        quick = Program(client, robot.secret)

        async def slow() -> Any:
            yield b'{"name": '
            assert 200 == (await quick.ask("GET", "/spaces")).status_code
            yield b'"Slow"}'

        answer = await quick.ask("POST", "/spaces", content=slow(), headers={"content-type": "application/json"})
        assert 201 == answer.status_code
    await database.close()


async def _url_of(api: Api) -> str:
    return api.database._url
