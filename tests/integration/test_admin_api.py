# ruff: noqa: F811 (fixtures are imported)
"""The API as programs use it: every endpoint with what it leaves in the audit log, and how hostile input ends."""

import asyncio
import base64
import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.admin.api.problems import Kind
from app.admin.application import application
from app.config import Settings
from app.store import keys
from app.store import settings as store
from app.store.pool import Database
from app.tracking.event_types import MAX_XML_BYTES
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
    shop,
)

CHECKOUT = Path(__file__).parents[2]
Shown = dict[str, Any]


async def make_event(robot: Program, shop: Shown, name: str = "news", **more: Any) -> str:
    made = await robot.post(f"/spaces/{shop['id']}/events", {"name": name, **more})
    return f"/spaces/{shop['id']}/events/{made['id']}"


async def make_mailing(robot: Program, shop: Shown, name: str = "May", event: str | None = None) -> str:
    body = {"name": name} | ({"event": event} if event else {})
    made = await robot.post(f"/spaces/{shop['id']}/mailings", body)
    return f"/spaces/{shop['id']}/mailings/{made['id']}"


async def etag(robot: Program, path: str) -> str:
    return str((await robot.ask("GET", path)).headers["etag"])


# --- spaces ----------------------------------------------------------------------------------------------------------


async def test_a_space_is_made_with_what_is_said_and_can_be_read(api: Api, robot: Program) -> None:
    body = {
        "name": "Shop",
        "default_mode": "person_based",
        "relay_mode": "anonymized",
        "tracking_url": "https://t.shop.example/",
        "acknowledge": ["consent"],
    }
    answer = await robot.ask("POST", "/spaces", json=body)
    made = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch(r"[0-9a-f]{8}", made["id"])
    assert answer.headers["location"] == f"/api/v1/spaces/{made['id']}"
    expected = {
        "name": "Shop",
        "default_mode": "person_based",
        "relay_mode": "anonymized",
        "tracking_url": "https://t.shop.example",
        "revision": 1,
        "events": 0,
        "inheriting_events": 0,
    }
    assert expected == {name: made[name] for name in expected}
    assert datetime.now(UTC) - datetime.fromisoformat(made["created"]) < timedelta(minutes=1)
    assert made == await robot.get(f"/spaces/{made['id']}")
    _, (who, action, old, new), *_ = await api.audited()
    assert ("key:robot", "space created", None) == (who, action, old)
    assert "person_based" == new["default_mode"]
    assert ["consent"] == new["acknowledged"]


async def test_a_space_is_anonymized_and_person_based_must_be_acknowledged(api: Api, robot: Program) -> None:
    made = await robot.post("/spaces", {"name": "Shop"})
    assert ("anonymized", "off", None) == (made["default_mode"], made["relay_mode"], made["tracking_url"])
    before = await api.audited()
    for method, path in (("POST", "/spaces"), ("PATCH", f"/spaces/{made['id']}")):
        body = {"name": "Another", "default_mode": "person_based"}
        refused = problem(await robot.ask(method, path, json=body, headers={"if-match": "*"}))
        assert (409, "/problems/not-acknowledged", "consent") == (
            refused["status"],
            refused["type"],
            refused["acknowledge"],
        )
    assert before == await api.audited()


async def test_a_change_says_how_many_events_follow(api: Api, robot: Program, shop: Shown) -> None:
    for name, tracking in (("a", "inherit"), ("b", "inherit"), ("c", "permission"), ("old", "inherit")):
        event = await make_event(robot, shop, name, tracking=tracking)
    await robot.patch(event, {"archived": True})
    path = f"/spaces/{shop['id']}"
    changed = await robot.patch(path, {"default_mode": "person_based", "acknowledge": ["consent"]})
    assert (3, 2, 2) == (changed["events"], changed["inheriting_events"], changed["inheriting_events_changed"])
    assert "space changed" == (await api.audited())[0][1]
    assert 0 == (await robot.patch(path, {"name": "Store"}))["inheriting_events_changed"]
    changed.pop("inheriting_events_changed")
    assert changed | {"name": "Store", "revision": 3} == await robot.get(path)


async def test_a_space_keeps_what_is_left_out_and_loses_what_is_null(robot: Program, shop: Shown) -> None:
    path = f"/spaces/{shop['id']}"
    await robot.patch(path, {"tracking_url": "https://t.example"})
    assert "https://t.example" == (await robot.patch(path, {"name": "Store"}))["tracking_url"]
    assert (await robot.patch(path, {"tracking_url": None}))["tracking_url"] is None
    refused = await robot.patch(path, {"name": None}, 422)
    assert "name" == refused["field"]


async def test_a_deleted_space_is_gone(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    await robot.delete(f"/spaces/{shop['id']}")
    assert ("key:robot", "space deleted") == (await api.audited())[0][:2]
    for path in (f"/spaces/{shop['id']}", event, f"{event}/dispatches"):
        assert "there is no such space" == (await robot.get(path, 404))["detail"]
    await robot.delete(f"/spaces/{shop['id']}", 404)
    assert [] == (await robot.get("/spaces"))["items"]


async def read_pages(robot: Program, path: str, limit: int) -> list[str]:
    """The names of a list that is read to its end."""
    names: list[str] = []
    cursor = ""
    while True:
        page = await robot.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{cursor}")
        names += [item["name"] for item in page["items"]]
        assert len(page["items"]) <= limit
        if page["next"] is None:
            return names
        cursor = f"&cursor={page['next']}"


async def test_lists_come_in_pages_and_lose_and_repeat_nothing(robot: Program, shop: Shown) -> None:
    names = sorted(["Shop", "a'; drop table mailtrail.spaces; --", "é", "b%_\\", "Z", "b"])
    for name in set(names) - {"Shop"}:
        await robot.post("/spaces", {"name": name})
        await make_event(robot, shop, name)
        await make_mailing(robot, shop, name)
    for limit in (1, 2, 3, 5, 6, 200):
        assert names == sorted(await read_pages(robot, "/spaces", limit))
        for noun in ("events", "mailings"):
            assert sorted(set(names) - {"Shop"}) == sorted(
                await read_pages(robot, f"/spaces/{shop['id']}/{noun}", limit)
            )
    assert ["b%_\\"] == await read_pages(robot, "/spaces?contains=%25_", 1)
    assert ["Shop"] == await read_pages(robot, "/spaces?contains=sHO", 5)


async def test_the_cursor_is_a_place_that_nothing_new_shifts(robot: Program, shop: Shown) -> None:
    path = f"/spaces/{shop['id']}/events"
    for name in ("b", "d", "f"):
        await make_event(robot, shop, name)
    first = await robot.get(f"{path}?limit=2")
    await make_event(robot, shop, "a")
    rest = await robot.get(f"{path}?limit=2&cursor={first['next']}")
    assert ["b", "d", "f"] == [item["name"] for item in first["items"] + rest["items"]]


def cursor_of(place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "!",
        "é",
        "%00",
        "AA",
        "e30",
        cursor_of([]),
        cursor_of(["a"]),
        cursor_of([1, "a"]),
        cursor_of(["a", 1.5]),
        cursor_of(["a", True]),
        cursor_of(["a", -1]),
        cursor_of(["a", 2**63]),
        cursor_of(["a\0", 1]),
        cursor_of([10**18, 1]),
        cursor_of(["a", 1, 1]),
        base64.urlsafe_b64encode(b'["\\ud800", 1]').decode(),
        base64.urlsafe_b64encode(b"[" * 500).decode(),
        "a" * 2_001,
    ],
)
async def test_a_damaged_cursor_is_refused(robot: Program, shop: Shown, cursor: str) -> None:
    for path in ("/spaces", f"/spaces/{shop['id']}/events", f"/spaces/{shop['id']}/mailings", "/audit"):
        assert "cursor" == (await robot.get(f"{path}?cursor={cursor}", 422))["field"]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=", "contains=%00", "contain=a", "a%00=1"])
async def test_a_query_that_cannot_be_is_refused(robot: Program, query: str) -> None:
    refused = await robot.get(f"/spaces?{query}", 422)
    assert refused["field"].startswith(query.partition("=")[0].partition("%")[0])


# --- two editors -----------------------------------------------------------------------------------------------------


async def test_the_second_of_two_editors_is_told(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    for path in (f"/spaces/{shop['id']}", event):
        read = await etag(robot, path)
        await robot.patch(path, {"name": "First"}, if_match=read)
        refused = await robot.patch(path, {"name": "Second"}, 412, if_match=read)
        assert "/problems/changed-meanwhile" == refused["type"]
        assert "First" == (await robot.get(path))["name"]
        await robot.patch(path, {"name": "Second"}, if_match=await etag(robot, path))
    await robot.delete(f"/spaces/{shop['id']}", 412, if_match='"1"')
    await robot.put_definition(event, definition(), 412, if_match='"1"')


async def test_of_editors_at_the_same_time_one_wins(robot: Program, shop: Shown) -> None:
    path = f"/spaces/{shop['id']}"
    read = await etag(robot, path)
    answers = await asyncio.gather(
        *(robot.ask("PATCH", path, json={"name": f"Shop {number}"}, headers={"if-match": read}) for number in range(8))
    )
    assert [200] + [412] * 7 == sorted(answer.status_code for answer in answers)


async def test_who_does_not_say_what_they_have_read_changes_nothing(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    for path in (f"/spaces/{shop['id']}", event):
        refused = await robot.patch(path, {"name": "x"}, 428, if_match=None)
        assert "/problems/if-match-missing" == refused["type"]
    await robot.delete(f"/spaces/{shop['id']}", 428, if_match=None)
    answer = await robot.ask(
        "PUT", f"{event}/definition", content=definition(), headers={"content-type": "application/xml"}
    )
    assert 428 == problem(answer)["status"]


async def test_which_revisions_match(robot: Program, shop: Shown) -> None:
    path = f"/spaces/{shop['id']}"
    for bad in ('W/"1"', "1", '"', '""', '"x"', '"-1"', '"99999999999999999999"', '"2"', '"3", "2"', "*, *"):
        await robot.patch(path, {"name": "x"}, 412, if_match=bad)
    for number, good in enumerate(('"1"', '"7", "2"', await etag(robot, path), " * "), 1):
        good = await etag(robot, path) if number == 3 else good
        assert number + 1 == (await robot.patch(path, {"name": f"x{number}"}, if_match=good))["revision"]


async def test_what_is_known_already_is_not_sent_again(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    for path in (f"/spaces/{shop['id']}", event):
        tag = await etag(robot, path)
        for known in (tag, f"W/{tag}", f'"else", {tag}', "*"):
            answer = await robot.ask("GET", path, headers={"if-none-match": known})
            assert (304, b"", tag) == (answer.status_code, answer.content, answer.headers["etag"])
        assert 200 == (await robot.ask("GET", path, headers={"if-none-match": '"1"'})).status_code


async def test_what_looks_different_by_another_change_is_sent_again_but_can_be_saved(
    robot: Program, shop: Shown
) -> None:
    event = await make_event(robot, shop)
    read = await etag(robot, event)
    await robot.patch(f"/spaces/{shop['id']}", {"default_mode": "person_based", "acknowledge": ["consent"]})
    answer = await robot.ask("GET", event, headers={"if-none-match": read})
    assert (200, 1) == (answer.status_code, answer.json()["revision"])
    assert "person_based" == answer.json()["effective"]["mode"]["otherwise"]
    await robot.patch(event, {"name": "letters"}, if_match=read)


# --- events ----------------------------------------------------------------------------------------------------------


async def test_an_event_says_how_it_tracks_and_why(api: Api, robot: Program, shop: Shown) -> None:
    answer = await robot.ask("POST", f"/spaces/{shop['id']}/events", json={"name": "news"})
    made = answer.json()
    path = f"/spaces/{shop['id']}/events/{made['id']}"
    assert (201, f"/api/v1{path}") == (answer.status_code, answer.headers["location"])
    assert ("key:robot", "event created") == (await api.audited())[0][:2]
    unset = {"unprotected_until": None, "active_since": None, "type": None, "permission_field": None}
    expected = {"name": "news", "tracking": "inherit", "protected": False, "archived": False, "is_running": False}
    assert expected | unset == {name: made[name] for name in expected | unset}
    assert {"mode": {"granted": "anonymized", "otherwise": "anonymized"}, "because": "default"} == made["effective"]
    assert made == await robot.get(path)
    assert [made] == (await robot.get(f"/spaces/{shop['id']}/events"))["items"]

    changed = await robot.patch(path, {"tracking": "permission", "name": "letters"})
    assert {"mode": {"granted": "person_based", "otherwise": "anonymized"}, "because": "permission"} == changed[
        "effective"
    ]
    who, action, old, new = (await api.audited())[0]
    assert ("key:robot", "event changed", False, True) == (who, action, old["by_permission"], new["by_permission"])


async def test_archived_events_are_listed_only_if_asked_for(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    assert (await robot.patch(event, {"archived": True}))["archived"]
    path = f"/spaces/{shop['id']}/events"
    assert [] == (await robot.get(path))["items"]
    assert ["news"] == [item["name"] for item in (await robot.get(f"{path}?archived=true"))["items"]]
    assert not (await robot.patch(event, {"archived": False}))["archived"]


async def test_a_consequence_of_an_events_change_must_be_acknowledged(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    await robot.put_definition(event, definition(tracking=False))
    refused = await robot.patch(event, {"tracking": "permission"}, 409)
    assert "no_permission_field" == refused["acknowledge"]
    await robot.patch(event, {"tracking": "permission", "acknowledge": ["no_permission_field"]})
    assert "acknowledge" == (await robot.patch(event, {"name": "x", "acknowledge": ["all"]}, 422))["field"]


async def test_a_definition_is_kept_byte_for_byte(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    await robot.get(f"{event}/definition", 404)
    xml = b'<?xml version="1.0" encoding="iso-8859-1"?>\r\n<!-- \xe4 -->' + definition()
    shown = await robot.put_definition(event, xml)
    assert ("order", "Customer.Tracking", 2) == (shown["type"], shown["permission_field"], shown["revision"])
    assert ("key:robot", "event changed") == (await api.audited())[0][:2]
    answer = await robot.ask("GET", f"{event}/definition")
    assert (xml, "application/xml") == (answer.content, answer.headers["content-type"])
    assert await etag(robot, event) == answer.headers["etag"]
    refused = await robot.put_definition(event, definition("another"), 422)
    assert "definition" == refused["field"]
    assert xml == (await robot.ask("GET", f"{event}/definition")).content


async def test_a_definition_that_cannot_be_is_refused_with_its_place(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    refused = await robot.put_definition(event, definition().replace(b"</eventtype>", b"</else>"), 422)
    assert ("/problems/event-type", "definition", 2) == (refused["type"], refused["field"], refused["line"])
    assert refused["column"] > 1
    await robot.put_definition(event, b"", 422)
    await robot.put_definition(event, b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><event>&b;</event>', 422)
    await robot.put_definition(event, definition() + b" " * MAX_XML_BYTES, 413)
    await robot.put_definition(event, b"{}", 415, content_type="application/json")
    assert (await robot.get(event))["type"] is None


# --- protected mode and dispatches -----------------------------------------------------------------------------------


async def test_an_active_event_is_changed_only_outside_protected_mode(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    await robot.post(f"{event}/dispatches")
    shown = await robot.get(event)
    assert (True, True) == (shown["protected"], shown["is_running"])
    refused = await robot.patch(event, {"tracking": "permission"}, 409)
    assert "/problems/protected" == refused["type"]
    assert "/problems/protected" == (await robot.put_definition(event, definition(), 409))["type"]

    refused = await robot.post(f"{event}/protected-mode-leave", status=409)
    assert "dispatch_running" == refused["acknowledge"]
    left = await robot.post(f"{event}/protected-mode-leave", {"acknowledge": ["dispatch_running"]}, 200)
    until = datetime.fromisoformat(left["unprotected_until"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < until <= timedelta(minutes=15)
    assert not left["protected"]
    who, action, _, new = (await api.audited())[0]
    assert ("key:robot", "protected mode left", {"dispatches_running": 1}) == (who, action, new)

    saved = await robot.patch(event, {"tracking": "permission", "acknowledge": ["dispatch_running"]})
    assert (True, None) == (saved["protected"], saved["unprotected_until"])
    assert ["protected mode entered", "event changed"] == [entry[1] for entry in (await api.audited())[:2]]
    await robot.patch(event, {"tracking": "inherit", "acknowledge": ["dispatch_running"]}, 409)


async def test_protected_mode_can_be_entered_again(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    await robot.post(f"{event}/dispatches")
    await robot.post(f"{event}/protected-mode-leave", {"acknowledge": ["dispatch_running"]}, 200)
    answer = await robot.ask("DELETE", f"{event}/protected-mode-leave")
    assert (200, True) == (answer.status_code, answer.json()["protected"])
    assert answer.headers["etag"] == await etag(robot, event)
    assert ("key:robot", "protected mode entered") == (await api.audited())[0][:2]


async def test_what_the_database_refuses_by_itself_is_protected_too(api: Api, robot: Program, shop: Shown) -> None:
    """Its clock is a quarter of an hour ahead of this process's, so the leave is over for it alone."""
    event = await make_event(robot, shop)
    await robot.post(f"{event}/dispatches")
    await robot.post(f"{event}/protected-mode-leave", {"acknowledge": ["dispatch_running"]}, 200)
    await api.connection.execute(
        "create or replace function mailtrail.clock_timestamp() returns timestamptz language sql as"
        " $$ select pg_catalog.now() + interval '20 minutes' $$;"
        "alter function mailtrail.keep_event_rules set search_path to mailtrail, pg_catalog"
    )
    body = {"tracking": "permission", "acknowledge": ["dispatch_running"]}
    assert "/problems/protected" == (await robot.patch(event, body, 409))["type"]


async def test_a_dispatch_runs_until_it_ends(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    mailing = await make_mailing(robot, shop, event=event[-8:])
    answer = await robot.ask("POST", f"{event}/dispatches", json={"mailing": mailing[-12:]})
    started = answer.json()
    path = f"/spaces/{shop['id']}/dispatches/{started['id']}"
    assert (201, f"/api/v1{path}") == (answer.status_code, answer.headers["location"])
    assert ("key:robot", event[-8:], mailing[-12:]) == (started["who"], started["event"], started["mailing"])
    assert (True, None) == (started["is_running"], started["ended"])
    assert started == await robot.get(path)
    assert [started] == (await robot.get(f"{event}/dispatches"))["items"]

    await api.connection.execute("update mailtrail.dispatches set heartbeat_at = now() - interval '6 minutes'")
    assert not (await robot.get(path))["is_running"]
    assert not (await robot.get(event))["is_running"]
    assert (await robot.post(f"{path}/heartbeat", status=200))["is_running"]
    ended = await robot.post(f"{path}/end", status=200)
    assert not ended["is_running"]
    assert ended == await robot.post(f"{path}/end", status=200)
    await robot.post(f"{path}/heartbeat", status=422)
    assert not (await robot.get(event))["is_running"]


async def test_a_dispatch_is_of_a_mailing_of_its_event(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    other = await make_mailing(robot, shop, event=(await make_event(robot, shop, "other"))[-8:])
    refused = await robot.post(f"{event}/dispatches", {"mailing": other[-12:]}, 422)
    assert "mailing" == refused["field"]
    assert (await robot.get(event))["active_since"] is None


# --- mailings and links ----------------------------------------------------------------------------------------------


async def test_mailings_are_listed_by_event_name_and_archive(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    answer = await robot.ask("POST", f"/spaces/{shop['id']}/mailings", json={"name": "May", "event": event[-8:]})
    may = answer.json()
    path = f"/spaces/{shop['id']}/mailings/{may['id']}"
    assert (201, f"/api/v1{path}") == (answer.status_code, answer.headers["location"])
    assert ("key:robot", "mailing created") == (await api.audited())[0][:2]
    expected = {"name": "May", "event": event[-8:], "event_name": "news", "sent": 0, "links": 0, "archived": False}
    assert expected == {name: may[name] for name in expected}
    await make_mailing(robot, shop, "relay")
    base = f"/spaces/{shop['id']}/mailings"
    assert ["relay", "May"] == await read_pages(robot, base, 1)
    assert ["May"] == await read_pages(robot, f"{base}?event={event[-8:]}", 5)
    assert ["May"] == await read_pages(robot, f"{base}?contains=mA", 5)
    assert may | {"archived": True} == await robot.patch(path, {"archived": True})
    assert ("key:robot", "mailing changed") == (await api.audited())[0][:2]
    assert ["relay"] == await read_pages(robot, base, 5)
    assert ["relay", "May"] == await read_pages(robot, f"{base}?archived=true", 5)
    assert "June" == (await robot.patch(path, {"name": "June"}))["name"]
    assert {"June", "relay"} == {each["name"] for each in (await robot.get(f"{base}?archived=1"))["items"]}
    assert "June" == (await robot.get(path))["name"]


async def test_mailings_made_at_the_same_time_are_all_paged(api: Api, robot: Program, shop: Shown) -> None:
    for number in range(7):
        await make_mailing(robot, shop, f"m{number}")
    at = datetime(2026, 5, 1, 12, 0, 0, 123457, UTC)
    await api.connection.execute("update mailtrail.mailings set created_at = $1", at)
    names = await read_pages(robot, f"/spaces/{shop['id']}/mailings", 2)
    assert [f"m{number}" for number in range(7)] == sorted(names)


async def test_a_report_counts_what_happened(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    path = await make_mailing(robot, shop, event=event[-8:])
    mailing = int(path[-12:], 16)
    await api.add_link(path[-12:], 1)
    await store.count_sent(api.connection, mailing, Mode.ANONYMIZED, 3)
    await api.connection.execute("select mailtrail.make_month(date '2026-05-01')")
    for minute, kind, link, pseudonym in ((0, "open", 0, b"a"), (1, "open", 0, b"a"), (2, "click", 1, b"b")):
        await api.connection.execute(
            "insert into mailtrail.hits (at, id, kind, mode, space_id, event_id, mailing_id, link, registered, agent,"
            " pseudonym) values ($1, $2, $3, 'anonymized', $4, $5, $6, $7, true, 'human', $8)",
            datetime(2026, 5, 1, 12, minute, tzinfo=UTC),
            minute,
            kind,
            int(shop["id"], 16),
            int(event[-8:], 16),
            mailing,
            link,
            pseudonym * 16,
        )
    report = await robot.get(f"{path}/report")
    expected = {"sent": 3, "opens": 2, "unique_opens": 1, "clicks": 1, "unique_clicks": 1, "opens_person_based": 0}
    assert expected == {name: report[name] for name in expected}
    assert "2026-05-01T12:02:00Z" == report["last_hit"]
    assert [(1, 1, 1)] == [(each["number"], each["clicks"], each["unique_clicks"]) for each in report["links"]]
    assert 3 == (await robot.get(path))["sent"]


async def test_a_link_is_sent_elsewhere_switched_off_and_restored(api: Api, robot: Program, shop: Shown) -> None:
    path = await make_mailing(robot, shop)
    await api.add_link(path[-12:], 2)
    (link,) = (await robot.get(f"{path}/links"))["items"]
    expected = {"label": "Offer", "pattern": "https://shop.example/{value}", "shown": True, "occurrence": 1}
    assert {"number": 2, "override": None} | expected == link
    override = f"{path}/links/2/override"
    for destination, action in (("https://shop.example/new?c={cid}", "link corrected"), (None, "link switched off")):
        changed = await robot.put(override, json={"destination": destination})
        assert link | {"override": {"destination": destination}} == changed
        assert ("key:robot", action) == (await api.audited())[0][:2]
    await robot.delete(override)
    assert ("key:robot", "link restored") == (await api.audited())[0][:2]
    assert [link] == (await robot.get(f"{path}/links"))["items"]


@pytest.mark.parametrize("destination", ["javascript:alert(1)", "", "shop.example", "https://{host}/", "https://a b/"])
async def test_a_destination_that_cannot_be_is_refused(api: Api, robot: Program, shop: Shown, destination: str) -> None:
    path = await make_mailing(robot, shop)
    await api.add_link(path[-12:], 1)
    refused = await robot.put(f"{path}/links/1/override", 422, json={"destination": destination})
    assert ("/problems/destination", "destination") == (refused["type"], refused["field"])
    assert (await robot.get(f"{path}/links"))["items"][0]["override"] is None


async def test_a_link_that_is_not_there_has_no_override(api: Api, robot: Program, shop: Shown) -> None:
    path = await make_mailing(robot, shop)
    await api.add_link(path[-12:], 1)
    found = []
    for number in ("2", "0", "01", "x", "99999999999", "-1", "1e0", "%31%00"):
        found.append(await robot.put(f"{path}/links/{number}/override", 404, json={"destination": None}))
        found.append(await robot.delete(f"{path}/links/{number}/override", 404))
    assert all(found[0] == each for each in found)


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_a_keys_secret_is_shown_once(api: Api, robot: Program, shop: Shown) -> None:
    body = {"name": "mailer", "scopes": ["mint", "read"], "space": shop["id"]}
    made = await robot.post("/api-keys", body)
    assert ("key:robot", "API key created", None, {"scopes": ["read", "mint"]}) == (await api.audited())[0]
    secret = made.pop("secret")
    assert secret.startswith("mtk_")
    assert (["read", "mint"], shop["id"], "key:robot") == (made["scopes"], made["space"], made["created_by"])
    listed = (await robot.ask("GET", "/api-keys")).text
    assert made["id"] in listed
    assert secret not in listed
    assert [shop] == (await Program(api.client, secret).get("/spaces"))["items"]

    await robot.delete(f"/api-keys/{made['id']}")
    assert ("key:robot", "API key revoked") == (await api.audited())[0][:2]
    await robot.delete(f"/api-keys/{made['id']}", 404)
    by_name = {each["name"]: each for each in (await robot.get("/api-keys"))["items"]}
    assert by_name["mailer"]["revoked"] is not None
    assert by_name["robot"]["revoked"] is None
    assert by_name["robot"]["last_used"] is not None


@pytest.mark.parametrize("scopes", [[], ["manage"], ["read", "all"], ["READ"]])
async def test_a_key_has_scopes_out_of_four(robot: Program, scopes: list[str]) -> None:
    assert "scopes" == (await robot.post("/api-keys", {"name": "x", "scopes": scopes}, 422))["field"]


# --- audit -----------------------------------------------------------------------------------------------------------


async def test_the_audit_log_is_read_in_pages_or_of_one_space(robot: Program, shop: Shown) -> None:
    other = await robot.post("/spaces", {"name": "Other"})
    event = await make_event(robot, other)
    await robot.patch(event, {"name": "letters"})
    entries: list[Shown] = []
    cursor = ""
    while True:
        page = await robot.get(f"/audit?limit=2{cursor}")
        entries += page["items"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    expected = ["event changed", "event created", "key made", "space created", "key made", "space created"]
    assert [*expected, "API key created"] == [entry["action"] for entry in entries]
    newest = entries[0]
    assert ("key:robot", other["id"], "Other", "news") == tuple(
        newest[name] for name in ("who", "space", "space_name", "object")
    )
    assert ("news", "letters") == (newest["old"]["name"], newest["new"]["name"])
    assert entries[4:6] == (await robot.get(f"/audit?space={shop['id']}"))["items"]


async def csv_rows(robot: Program, query: str = "?format=csv", **headers: str) -> list[list[str]]:
    answer = await robot.ask("GET", f"/audit{query}", headers=headers)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    return list(csv.reader(io.StringIO(answer.text, newline="")))


async def test_the_whole_audit_log_comes_as_csv_without_formulas(api: Api, robot: Program, shop: Shown) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", 'comma, "quote"', "a;b"]
    for name in names:
        await make_event(robot, shop, name)
    await api.connection.execute(
        "insert into mailtrail.audit (who, action, space_id, object)"
        " select 'user:=who', 'test', $1, E'\\t=2\\r\\nx' from generate_series(1, 2500)",
        int(shop["id"], 16),
    )
    heading, *rows = await csv_rows(robot)
    assert ["id", "at", "who", "action", "space", "space_name", "object", "old", "new"] == heading
    shown = [dict(zip(heading, row, strict=True)) for row in rows]
    assert len(await api.audited()) == len(rows)
    assert [int(row["id"]) for row in shown] == sorted((int(row["id"]) for row in shown), reverse=True)
    objects = [row["object"] for row in shown if row["action"] == "event created"]
    assert ["a;b", 'comma, "quote"', "'@SUM(A1)", "'-1", "'+1", "'=1+1"] == objects
    assert "'\t=2\r\nx" == shown[0]["object"]
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert "a;b" == json.loads(shown[2500]["new"])["name"]


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("text/csv", True),
        ("text/csv, */*;q=0.1", True),
        ("application/json;q=0.5, text/csv;q=0.6", True),
        ("application/json, text/csv;q=0.9", False),
        ("text/csv;q=0", False),
        ("text/csv;q=x", False),
        ("*/*", False),
    ],
)
async def test_accept_chooses_between_json_and_csv(robot: Program, accept: str, is_csv: bool) -> None:
    answer = await robot.ask("GET", "/audit", headers={"accept": accept})
    assert is_csv == answer.headers["content-type"].startswith("text/csv")
    assert "accept" == answer.headers["vary"]
    answer = await robot.ask("GET", "/audit?format=json", headers={"accept": accept})
    assert "application/json" == answer.headers["content-type"]


async def test_the_csv_of_a_space_has_its_entries_only(robot: Program, shop: Shown) -> None:
    await robot.post("/spaces", {"name": "Other"})
    _, *rows = await csv_rows(robot, f"?space={shop['id']}", accept="text/csv")
    assert {shop["id"]} == {row[4] for row in rows}
    assert ["key made", "space created"] == [row[3] for row in rows]


# --- explanations ----------------------------------------------------------------------------------------------------

RECIPIENT = "erika.planted@example.com"


async def make_link(api: Api, shop: Shown, event: str, permission: Permission = Permission.GRANTED) -> tuple[str, str]:
    """A tracked link of a new mailing, and that mailing's id."""
    space, event_id = int(shop["id"], 16), int(event[-8:], 16)
    row = await store.create_mailing(api.connection, "test", space, event_id, f"m {permission.name}")
    message = Message(
        space=space,
        event=event_id,
        mailing=row["id"],
        origin=Origin.EVENT,
        ceiling=Mode.PERSON_BASED,
        permission=permission,
        issue_day=datetime.now(UTC).date(),
        recipient=RECIPIENT,
    )
    ring = await keys.key_ring(api.connection, space)
    return f"https://t.example/c/{ring.mint_click(message, 'https://shop.example/a', 3)}?x=1", f"{row['id']:012x}"


async def test_a_link_is_explained_and_only_that_it_was_is_kept(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop, tracking="permission")
    address, mailing = await make_link(api, shop, event)
    found = await robot.post("/explain", {"address": address}, 200)
    expected = {
        "kind": "click",
        "space": shop["id"],
        "event": event[-8:],
        "mailing": mailing,
        "origin": "event",
        "permission": "granted",
        "ceiling": "person_based",
        "in_force": "person_based",
        "rule": "permission",
        "mode": "person_based",
        "is_capped": False,
        "recipient": RECIPIENT,
        "link": 3,
        "leads_to": "https://shop.example/a",
    }
    assert expected == {name: found[name] for name in expected}
    assert ("key:robot", "link explained", None, None) == (await api.audited())[0]
    entry = await api.connection.fetchrow("select * from mailtrail.audit order by id desc limit 1")
    assert (f"{mailing}/3", int(shop["id"], 16)) == (entry["object"], entry["space_id"])
    everything = str(await api.connection.fetch("select audit::text from mailtrail.audit as audit"))
    assert RECIPIENT not in everything
    assert address.rpartition("/")[2][:40] not in everything


async def test_nobody_is_named_where_nobody_would_be_recorded(api: Api, robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    address, _ = await make_link(api, shop, event)
    answer = await robot.ask("POST", "/explain", json={"address": address})
    assert ("anonymized", "default", None) == tuple(answer.json()[name] for name in ("mode", "rule", "recipient"))
    assert RECIPIENT not in answer.text


async def test_what_is_no_link_of_ours_is_not_explained(api: Api, robot: Program, shop: Shown) -> None:
    address, _ = await make_link(api, shop, await make_event(robot, shop))
    before = await api.audited()
    token = address.rpartition("/")[2].partition("?")[0]
    for bad in ("", "x", "https://t.example/c/", f"https://t.example/o/{token}.gif", f"/c/{token[:-1]}", "/c/é" * 9000):
        assert "address" == (await robot.post("/explain", {"address": bad}, 404))["field"]
    assert before == await api.audited()


# --- hostile input ---------------------------------------------------------------------------------------------------

NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, "body"),
        (b"{", 400, None),
        (b"nonsense", 400, None),
        (b'{"name": NaN}', 400, None),
        (b'{"name": -Infinity}', 400, None),
        (b'{"name": "\xff"}', 400, None),
        (b'{"name": "\xed\xa0\x80"}', 400, None),
        (b'{"name": "a\x00"}', 400, None),
        ('{"name": "x"}'.encode("utf-16"), 400, None),
        (NESTED.encode(), 400, None),
        (b'{"name": ' + b"9" * 5000 + b"}", 400, None),
        (b'{"name": ' + b"9" * 500 + b"}", 422, "name"),
        (b"null", 422, "body"),
        (b"[]", 422, "body"),
        (b'"\\u0000"', 422, None),
        (b"{}", 422, "name"),
        (b'{"name": "a", "name": "b"}', 422, "name"),
        (b'{"name": "a", "acknowledge": [{"b": 1, "b": 2}]}', 422, "b"),
        (b'{"name": "a", "nam": "b"}', 422, "nam"),
        (b'{"name": 1}', 422, "name"),
        (b'{"name": true}', 422, "name"),
        (b'{"name": ["a"]}', 422, "name"),
        (b'{"name": {"a": "b"}}', 422, "name"),
        (b'{"name": "a", "acknowledge": "consent"}', 422, "acknowledge"),
        (b'{"name": "a", "acknowledge": [1]}', 422, "acknowledge.0"),
        (b'{"name": "a", "acknowledge": ["x"]}', 422, "acknowledge"),
        (b'{"name": "a\\u0000b"}', 422, "name"),
        (b'{"name": "\\ud800"}', 422, "name"),
        (b'{"name": "a", "acknowledge": ["\\udfff"]}', 422, "acknowledge"),
        (b'{"name": "a", "\\ud800": 1}', 422, None),
        (b'{"name": "a", "\\u0000": 1}', 422, None),
        (b'{"name": "a", "default_mode": "off"}', 422, "default_mode"),
        (b'{"name": "a", "relay_mode": "permission"}', 422, "relay_mode"),
        (b'{"name": "a", "tracking_url": "ftp://x"}', 422, "tracking_url"),
        (b'{"name": ""}', 422, "name"),
        (b'{"name": " \\t "}', 422, "name"),
        (b'{"name": "\\u202e"}', 422, "name"),
        (b'{"name": "' + b"x" * 10_000 + b'"}', 422, "name"),
        (b'{"name": "a", "default_mode": "' + b"x" * 10_000 + b'"}', 422, "default_mode"),
        (b'{"name": "' + b"x" * 512 * 1024 + b'"}', 413, None),
    ],
)
async def test_a_body_that_cannot_be_is_refused(
    api: Api, robot: Program, body: bytes, status: int, field: str | None
) -> None:
    before = await api.audited()
    answer = await robot.ask("POST", "/spaces", content=body, headers={"content-type": "application/json"})
    refused = problem(answer)
    assert (status, field) == (refused["status"], refused.get("field"))
    assert len(answer.content) < 3_000
    assert before == await api.audited()


async def test_a_body_without_a_declared_length_is_bounded_too(robot: Program) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 64 * 1024
        raise AssertionError("it is read to its end")

    answer = await robot.ask("POST", "/spaces", content=endless(), headers={"content-type": "application/json"})
    assert 413 == problem(answer)["status"]


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_a_body_of_another_type_is_refused(robot: Program, media_type: str) -> None:
    headers = {"content-type": media_type} if media_type else {}
    answer = await robot.ask("POST", "/spaces", content=b'{"name": "x"}', headers=headers)
    assert "/problems/media-type" == problem(answer)["type"]


async def test_names_are_stored_as_they_are_but_for_white_space(robot: Program, shop: Shown) -> None:
    for sent, kept in (
        ('<script>alert("1")</script>&amp;', '<script>alert("1")</script>&amp;'),
        (" a\r\nset-cookie: x\t b ", "a set-cookie: x b"),
        ("{{ 7 * 7 }} %s {0}", "{{ 7 * 7 }} %s {0}"),
        ("👩" + "é" * 199, "👩" + "é" * 199),
        ("x" * 200, "x" * 200),
    ):
        made = await robot.post(f"/spaces/{shop['id']}/events", {"name": sent})
        assert kept == made["name"]
        assert kept == (await robot.get(f"/spaces/{shop['id']}/events/{made['id']}"))["name"]


async def test_a_name_that_is_taken_is_refused(robot: Program, shop: Shown) -> None:
    event = await make_event(robot, shop)
    other = await make_event(robot, shop, "other")
    assert "name" == (await robot.post("/spaces", {"name": "Shop"}, 422))["field"]
    assert "name" == (await robot.post(event.rpartition("/")[0], {"name": "news"}, 422))["field"]
    assert "name" == (await robot.patch(other, {"name": "news"}, 422))["field"]


@pytest.mark.parametrize("bad", ["x", "1", "FFFFFFFF", "0000000g", "00000000", "000000000", "%00", "%2e%2e", "١" * 8])
async def test_a_malformed_id_is_as_one_that_nothing_has(robot: Program, shop: Shown, bad: str) -> None:
    event = await make_event(robot, shop)
    path = f"/spaces/{shop['id']}"
    for good, asked in (
        ("/spaces/12345678", f"/spaces/{bad}"),
        (f"{path}/events/12345678", f"{path}/events/{bad}"),
        (f"{path}/mailings/123456789abc", f"{path}/mailings/{bad}"),
        (f"{path}/dispatches/123456789abc", f"{path}/dispatches/{bad}"),
        ("/audit?space=12345678", f"/audit?space={bad}"),
        (f"{path}/mailings?event=12345678", f"{path}/mailings?event={bad}"),
    ):
        if bad == "%00" and "?" in asked:
            continue
        assert await robot.get(good, 404) == await robot.get(asked, 404)
    if bad == "%00":
        return
    assert await robot.post(f"{event}/dispatches", {"mailing": "123456789abc"}, 404) == await robot.post(
        f"{event}/dispatches", {"mailing": bad}, 404
    )


# --- problems --------------------------------------------------------------------------------------------------------


async def test_a_path_or_method_that_is_not_there_is_a_problem(robot: Program, shop: Shown) -> None:
    for path in ("/nothing", "/spaces/", "/spaces//events", "/docs", "/redoc", "/", "/a%0Ab", "/%00"):
        assert "about:blank" == (await robot.get(path, 404))["type"]
    answer = await robot.ask("DELETE", "/spaces")
    assert (405, "GET, POST") == (problem(answer)["status"], answer.headers["allow"])
    answer = await robot.ask("TRACE", f"/spaces/{shop['id']}")
    assert (405, "DELETE, GET, PATCH") == (problem(answer)["status"], answer.headers["allow"])


async def test_a_fault_tells_nothing_of_itself(
    api: Api, robot: Program, shop: Shown, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.connection.execute("alter table mailtrail.events rename to secret_table")
    refused = await robot.get(f"/spaces/{shop['id']}/events", 500)
    assert "/problems/fault" == refused["type"]
    assert "secret" not in str(refused)
    assert "mailtrail.events" not in str(refused)
    logged = "".join(capsys.readouterr())
    assert "UndefinedTableError at" in logged
    assert "mailtrail.events" not in logged


async def test_a_fault_in_the_middle_of_the_csv_breaks_it_off(api: Api, robot: Program) -> None:
    await api.connection.execute("alter table mailtrail.audit rename to elsewhere")
    with pytest.raises(AssertionError):  # the transport's: the answer has no end
        await robot.ask("GET", "/audit?format=csv")


async def test_without_the_database_it_can_be_tried_again(api: Api, robot: Program) -> None:
    away = Database("postgresql://nobody:secret@127.0.0.1:1/none")
    served = application(Settings(), away)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=served)) as client:
        answer = await Program(client, robot.secret).ask("GET", "/spaces")
    assert (503, "5") == (problem(answer)["status"], answer.headers["retry-after"])
    assert "127.0.0.1" not in answer.text


async def test_connections_that_die_are_replaced_and_never_a_fault(api: Api, robot: Program, shop: Shown) -> None:
    """The driver notices a dead connection in many ways, by when it died."""
    path = f"/spaces/{shop['id']}"
    seen = set()
    for number in range(30):
        await api.connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.002 * (number % 3))
        for _ in range(4):
            answer = await robot.ask("PATCH", path, json={"name": f"Shop {number}"}, headers={"if-match": "*"})
            seen.add(answer.status_code)
    assert {200, 503} == seen
    assert "Shop 29" == (await robot.get(path))["name"]


async def test_who_hangs_up_in_the_middle_is_no_fault(
    api: Api, robot: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/spaces",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {robot.secret}".encode()), (b"content-type", b"application/json")],
    }
    sent = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await application(Settings(), api.database)(scope, receive, send)
    assert [] == sent
    assert "fault" not in "".join(capsys.readouterr())


# --- documents -------------------------------------------------------------------------------------------------------


async def test_the_document_is_served_without_a_key(api: Api) -> None:
    answer = await api.client.get(f"{BASE}/openapi.json")
    document = answer.json()
    assert (200, "no-store") == (answer.status_code, answer.headers["cache-control"])
    assert [{"url": "/api/v1"}] == document["servers"]
    assert {"type": "http", "scheme": "bearer"}.items() <= document["components"]["securitySchemes"]["key"].items()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["security"] == [{"key": [operation["security"][0]["key"][0]]}], (method, path)
            refusals = {status for status in operation["responses"] if status >= "400"}
            assert refusals >= {"401", "403", "404", "422", "500", "503"}
            content = [operation["responses"][status]["content"] for status in refusals]
            assert all({"application/problem+json"} == each.keys() for each in content)


async def test_the_documentation_names_every_endpoint_and_problem(api: Api) -> None:
    text = (CHECKOUT / "docs" / "api.md").read_text()
    document = (await api.client.get(f"{BASE}/openapi.json")).json()
    described = set(re.findall(r"^\| `([A-Z]+) (/[^`]*)` \| `([a-z]+)`", text, re.M))
    there = {
        (method.upper(), path, operation["security"][0]["key"][0])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert there == described
    problems = set(re.findall(r"^\| `(/problems/[a-z-]+)` \| (\d+) \|", text, re.M))
    assert {(kind.type, str(kind.status)) for kind in Kind} == problems
