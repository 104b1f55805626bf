# ruff: noqa: F811 (fixtures are imported)
"""Messages, links and event data over HTTP: what comes out opens to what was decided; a refusal counts nothing."""

import base64
import json
import re
from typing import Any

import pytest

from app.sending.minting import click_token, pixel_tokens
from app.store import keys
from app.store import settings as store
from app.tracking.modes import Mode, Permission
from app.tracking.tokens import KeyRing, Kind, Message, Token
from tests.integration.programs import Api, Program, api, migrated_name, problem, robot, shop  # noqa: F401

Shown = dict[str, Any]
HTML = '<p>Ä <a href="https://shop.example/orders/17?for=erika">Your order</a> <a href="mailto:a@b.example">us</a></p>'
XML = """<event xmlns="http://www.inxmail.com/xcom/eventtype">
    <eventtype><id>order_confirmation</id></eventtype>
    <customermapping>Customer.Id</customermapping><customeremail>Customer.Email</customeremail>
    <customertracking>Customer.Tracking</customertracking>
    <phgroup><id>Customer</id>
        <placeholder><id>Id</id><datatype-long/></placeholder>
        <placeholder><id>Email</id><datatype-string/></placeholder>
        <placeholder><id>Tracking</id><datatype-boolean/></placeholder>
        <placeholder><id>Birthday</id><datatype-datetime pattern="dd.MM.yyyy"/></placeholder>
    </phgroup>
    <phlist><id>Items</id><placeholder><id>Price</id><datatype-double/></placeholder></phlist>
</event>"""


@pytest.fixture
async def event(robot: Program, shop: Shown) -> str:
    """An event of the shop that tracks by permission, with a definition."""
    path = f"/spaces/{shop['id']}/events"
    made = await robot.post(path, {"name": "orders", "tracking": "permission"})
    await robot.put_definition(f"{path}/{made['id']}", XML.encode())
    return str(made["id"])


def message(shop: Shown, **changed: Any) -> Shown:
    body = {"space": shop["id"], "event": "orders", "mailing": "May", "recipient": "4711", "permission": "granted"}
    return {key: value for key, value in {**body, "html": HTML, **changed}.items() if value is not None}


def occurrence(shop: Shown, customer: Shown, **changed: Any) -> Shown:
    body = {"space": shop["id"], "event": "order_confirmation", "payload": {"Customer": customer}}
    return {**body, "message": {"html": HTML}, **changed}


async def ring_of(api: Api, space: str) -> KeyRing:
    return await keys.key_ring(api.connection, int(space, 16))


async def opened(api: Api, shop: Shown, text: str) -> list[Token]:
    ring = await ring_of(api, shop["id"])
    return [ring.open(token, Kind.CLICK) for token in re.findall(r"/c/([\w-]+)", text)]


async def message_of(api: Api, shop: Shown, message_id: str) -> Message:
    return (await ring_of(api, shop["id"])).open(message_id, Kind.MESSAGE).message


async def sent(api: Api) -> dict[tuple[str, str, str], int]:
    """By the names of mailings, ceilings and reasons."""
    rows = await api.connection.fetch(
        "select name, ceiling, reason, messages from mailtrail.sent join mailtrail.mailings on id = mailing_id"
    )
    return {(row["name"], row["ceiling"], row["reason"]): row["messages"] for row in rows}


# --- messages --------------------------------------------------------------------------------------------------------


async def test_a_document_is_tracked_for_one_recipient(api: Api, robot: Program, shop: Shown, event: str) -> None:
    made = await robot.post("/messages", message(shop), 200)
    (token,) = await opened(api, shop, made["html"])
    assert ("https://shop.example/orders/17?for=erika", 1) == (token.destination, token.link)
    assert ("4711", Mode.PERSON_BASED, int(event, 16)) == (token.recipient, token.message.ceiling, token.message.event)
    url = re.search(r'href="([^"]*/c/[^"]*)"', made["html"])[1]
    described = {"number": 1, "pattern": "https://shop.example/orders/17?for", "label": "Your order", "url": url}
    assert [described] == made["links"]
    rest = {"ceiling": "person_based", "mail": None, "pixel": True, "untouched": {"scheme": 1}}
    assert rest | {"counted": True, "reason": ""} == {name: made[name] for name in (*rest, "counted", "reason")}
    assert (await message_of(api, shop, made["message_id"])).nonce == token.message.nonce
    undone = re.sub(r"<img [^>]*/o/[^>]*>", "", made["html"]).replace(url, "https://shop.example/orders/17?for=erika")
    assert HTML == undone
    assert {("May", "person_based", ""): 1} == await sent(api)


async def test_without_permission_nobody_is_in_it(api: Api, robot: Program, shop: Shown, event: str) -> None:
    for number, permission in enumerate(("denied", "unknown"), 1):
        made = await robot.post("/messages", message(shop, permission=permission, event=event), 200)
        (token,) = await opened(api, shop, made["html"])
        assert ("anonymized", None) == (made["ceiling"], token.recipient)
        assert {("May", "anonymized", ""): number} == await sent(api)


async def test_a_whole_mail_comes_back_byte_for_byte_besides_its_links(
    api: Api, robot: Program, shop: Shown, event: str
) -> None:
    url = "https://shop.example/sale"
    raw = (
        b"Subject: \xe4\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nSale: "
        + url.encode()
        + b"\r\n--b\r\n"
        b"Content-Type: text/html\r\n\r\n<p>\xff<a href='" + url.encode() + b"'>Sale</a>\r\n--b--\r\nend \0"
    )
    for text_parts, links in ((True, 2), (False, 1)):
        body = message(shop, html=None, mail=base64.b64encode(raw).decode(), text_parts=text_parts)
        made = await robot.post("/messages", body, 200)
        assert (None, links) == (made["html"], len(made["links"]))
        undone = re.sub(rb"<img [^>]*/o/[^>]*>", b"", base64.b64decode(made["mail"], validate=True))
        for link in made["links"]:
            undone = undone.replace(link["url"].encode(), url.encode())
        assert raw == undone


async def test_a_text_has_no_charset_but_its_own(api: Api, robot: Program, shop: Shown, event: str) -> None:
    """Whatever a document says of the bytes that it once was, what comes in as text goes out as the same text."""
    for charset in ("iso-8859-1", "shift_jis", "utf-16", "utf-8"):
        html = f'\ufeff<meta charset="{charset}"><p>日本 Ä 😀<a href="https://shop.example/?q=ä">Größe</a>'
        made = await robot.post("/messages", message(shop, html=html, mailing=charset, pixel=False), 200)
        (link,) = made["links"]
        assert "Größe" == link["label"]
        assert html.removeprefix("\ufeff") == made["html"].replace(link["url"], "https://shop.example/?q=ä")
        (token,) = await opened(api, shop, made["html"])
        assert "https://shop.example/?q=%C3%A4" == token.destination


async def test_what_is_wished_takes_away_and_never_adds(api: Api, robot: Program, shop: Shown, event: str) -> None:
    aggregate = await robot.post("/messages", message(shop, ceiling="aggregate"), 200)
    assert ("aggregate", {"personalised": 1, "scheme": 1}) == (aggregate["ceiling"], aggregate["untouched"])
    no_pixel = await robot.post("/messages", message(shop, pixel=False), 200)
    assert [] == list(pixel_tokens([no_pixel["html"].encode()]))
    no_links = await robot.post("/messages", message(shop, links=False), 200)
    assert ([], {"declined": 1, "scheme": 1}, True) == (no_links["links"], no_links["untouched"], no_links["pixel"])
    nothing = await robot.post("/messages", message(shop, links=False, pixel=False), 200)
    assert (None, "off", "declined", HTML) == (
        *(nothing["message_id"], nothing["ceiling"], nothing["reason"], nothing["html"]),
    )
    person = await robot.post("/messages", message(shop, permission="denied", ceiling="person_based"), 200)
    assert "anonymized" == person["ceiling"]


async def test_a_mail_that_was_tracked_counts_once_and_for_another_is_refused(
    api: Api, robot: Program, shop: Shown, event: str
) -> None:
    made = await robot.post("/messages", message(shop), 200)
    again = await robot.post("/messages", message(shop, html=made["html"]), 200)
    assert (made["html"], False) == (again["html"], again["counted"])
    refused = await robot.post("/messages", message(shop, html=made["html"], recipient="4712"), 422)
    assert "/problems/mail" == refused["type"]
    assert "another recipient" in refused["detail"]
    assert {("May", "person_based", ""): 1} == await sent(api)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"html": None}, "html"),
        ({"mail": "eA=="}, "html"),
        ({"html": " \n"}, "html"),
        ({"html": None, "mail": "no base64"}, "mail"),
        ({"html": None, "mail": "eA"}, "mail"),
        ({"html": 5}, "html"),
        ({"recipient": ""}, "recipient"),
        ({"recipient": "a\nb"}, "recipient"),
        ({"recipient": "x" * 400}, "recipient"),
        ({"permission": "yes"}, "permission"),
        ({"permission": None}, "permission"),
        ({"ceiling": "off"}, "ceiling"),
        ({"mailing": " "}, "mailing"),
        ({"mailing": "x" * 201}, "mailing"),
        ({"space": None}, "space"),
        ({"links": "yes"}, "links"),
        ({"track": True}, "track"),
    ],
)
async def test_what_cannot_be_names_its_field_and_counts_nothing(
    api: Api, robot: Program, shop: Shown, event: str, changed: Shown, field: str
) -> None:
    refused = await robot.post("/messages", message(shop, **changed), 422)
    assert field == refused["field"]
    assert {} == await sent(api)
    assert 0 == await api.connection.fetchval("select count(*) from mailtrail.mailings")


async def test_an_empty_mail_is_refused(robot: Program, shop: Shown, event: str) -> None:
    assert "/problems/mail" == (await robot.post("/messages", message(shop, html=None, mail=""), 422))["type"]


async def test_events_that_are_not_there_are_not_told_from_others(api: Api, robot: Program, shop: Shown) -> None:
    other = await robot.post("/spaces", {"name": "Other"})
    theirs = await robot.post(f"/spaces/{other['id']}/events", {"name": "theirs"})
    missing = await robot.post("/messages", message(shop, event="nothing"), 404)
    assert ("there is no such event", "event") == (missing["detail"], missing["field"])
    for name in ("theirs", theirs["id"], "0badc0de"):
        assert missing == await robot.post("/messages", message(shop, event=name), 404)


async def test_a_space_that_is_called_like_an_id_of_another_is_not_taken_for_it(
    api: Api, robot: Program, shop: Shown, event: str
) -> None:
    """Ids are ids here: a name of eight hex digits leads nowhere else."""
    trap = await robot.post("/spaces", {"name": shop["id"]})
    await robot.post(f"/spaces/{trap['id']}/events", {"name": "orders"})
    made = await robot.post("/messages", message(shop), 200)
    assert int(shop["id"], 16) == (await message_of(api, shop, made["message_id"])).space


async def test_a_key_of_one_space_may_leave_it_out_and_reaches_no_other(
    api: Api, robot: Program, shop: Shown, event: str
) -> None:
    other = await robot.post("/spaces", {"name": "Other"})
    mailer = await api.program("mailer", ["mint"], shop["id"])
    assert "person_based" == (await mailer.post("/messages", message(shop, space=None), 200))["ceiling"]
    for path, body in (
        ("/messages", message(shop)),
        ("/links", message(shop, html=None, url="https://shop.example/")),
        ("/events", occurrence(shop, {"Id": 1})),
    ):
        missing = await mailer.post(path, body | {"space": "0badc0de"}, 404)
        assert "there is no such space" == missing["detail"]
        assert missing == await mailer.post(path, body | {"space": other["id"]}, 404)


async def test_a_body_with_a_mail_may_be_large_and_others_not(robot: Program, shop: Shown, event: str) -> None:
    attachment = b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n\n" + HTML.encode()
    attachment += b"\n--b\nContent-Type: application/pdf\n\n" + b"x" * (2 * 2**20) + b"\n--b--\n"
    body = message(shop, html=None, mail=base64.b64encode(attachment).decode())
    assert 1 == len((await robot.post("/messages", body, 200))["links"])
    refused = await robot.ask("POST", "/spaces", json={"name": "x" * 2**20})
    assert 413 == problem(refused)["status"]
    declared = {"content-length": str(41 * 2**20), "content-type": "application/json"}
    assert "40960 kB" in problem(await robot.ask("POST", "/messages", content=b"{", headers=declared))["detail"]


# --- links -----------------------------------------------------------------------------------------------------------


def link(shop: Shown, **changed: Any) -> Shown:
    return message(shop, html=None, **changed)


async def test_links_and_pixels_of_new_and_of_further_messages(
    api: Api, robot: Program, shop: Shown, event: str
) -> None:
    url = "https://shop.example/boots"
    first = await robot.post("/links", link(shop, url=url), 200)
    ring = await ring_of(api, shop["id"])
    token = ring.open(click_token(first["url"]), Kind.CLICK)
    assert (url, "4711", 1) == (token.destination, token.recipient, first["link"])
    further = await robot.post("/links", {"message_id": first["message_id"], "url": f"{url}/2"}, 200)
    assert 2 == further["link"]
    assert token.message.nonce == ring.open(click_token(further["url"]), Kind.CLICK).message.nonce
    pixel = await robot.post("/links", {"message_id": first["message_id"], "pixel": True}, 200)
    (opening,) = pixel_tokens([pixel["url"].encode()])
    assert (None, "person_based") == (pixel["link"], pixel["ceiling"])
    assert token.message.nonce == ring.open(opening, Kind.OPEN).message.nonce
    assert {("May", "person_based", ""): 1} == await sent(api)
    await robot.post("/links", link(shop, pixel=True, permission="denied"), 200)
    assert {("May", "person_based", ""): 1, ("May", "anonymized", ""): 1} == await sent(api)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "https://a.example/", "pixel": True}, "url"),
        ({"url": "https://a.example/"}, "event"),
        ({"url": "https://a.example/", "event": "orders"}, "mailing"),
        ({"url": "https://a.example/", "message_id": "x"}, "message_id"),
        ({"url": "https://a.example/", "message_id": "AT8tXxgV"}, "message_id"),
        ({"url": "https://a.example/", "message_id": "x", "event": "orders"}, "event"),
    ],
)
async def test_links_that_cannot_be(robot: Program, body: Shown, field: str) -> None:
    assert field == (await robot.post("/links", body, 422))["field"]


async def test_a_url_that_cannot_be_a_destination(api: Api, robot: Program, shop: Shown, event: str) -> None:
    tracked = (await robot.post("/links", link(shop, url="https://a.example/"), 200))["url"]
    for url in ("javascript:alert(1)", "/relative", "", tracked):
        refused = await robot.post("/links", link(shop, url=url), 422)
        assert ("/problems/destination", "url") == (refused["type"], refused["field"])
    assert {("May", "person_based", ""): 1} == await sent(api)


async def test_another_spaces_message_id_is_one_that_nobody_made(
    api: Api, robot: Program, shop: Shown, event: str
) -> None:
    made = await robot.post("/links", link(shop, url="https://a.example/"), 200)
    other = await robot.post("/spaces", {"name": "Other"})
    stranger = await api.program("stranger", ["mint"], other["id"])
    theirs = {"message_id": made["message_id"], "url": "https://b.example/"}
    refused = await stranger.post("/links", theirs, 422)
    forged = theirs | {"message_id": made["message_id"][:-6] + "AAAAAA"}
    assert refused == await stranger.post("/links", forged, 422)
    ring_ids = {f"{row['id']:06x}" for row in await keys.list_keys(api.connection, int(shop["id"], 16))}
    assert not [each for each in ring_ids if each in refused["detail"]]
    own = await api.program("own", ["mint"], shop["id"])
    assert 2 == (await own.post("/links", theirs, 200))["link"]


async def test_where_tracking_is_off_there_is_no_link(api: Api, robot: Program, shop: Shown, event: str) -> None:
    made = await robot.post("/links", link(shop, url="https://a.example/"), 200)
    await robot.delete(f"/spaces/{shop['id']}")
    body = {"message_id": made["message_id"], "url": "https://a.example/"}
    assert "tracking is off" in (await robot.post("/links", body, 422))["detail"]


# --- event data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tracking", "permission", "mode"),
    [
        (True, "granted", "person_based"),
        ("TRUE", "granted", "person_based"),
        (False, "denied", "anonymized"),
        ("maybe", "unknown", "anonymized"),
        (None, "unknown", "anonymized"),
        (1, "unknown", "anonymized"),
    ],
)
async def test_an_events_data_decide_who_and_how(
    api: Api, robot: Program, shop: Shown, event: str, tracking: object, permission: str, mode: str
) -> None:
    customer = {"Id": "04711", "Email": "erika@example.com", "Tracking": tracking}
    made = await robot.post("/events", occurrence(shop, customer), 200)
    assert {"recipient": "4711", "permission": permission, "mode": mode, "rule": "permission"} == made["decided"]
    sealed = await message_of(api, shop, made["message_id"])
    assert Permission[permission.upper()] is sealed.permission
    assert (mode, "4711" if mode == "person_based" else None) == (sealed.ceiling.label, sealed.recipient)
    assert {("orders", mode, ""): 1} == await sent(api)


async def test_an_event_that_inherits_asks_for_no_permission(api: Api, robot: Program, shop: Shown) -> None:
    path = f"/spaces/{shop['id']}/events"
    made = await robot.post(path, {"name": "orders"})
    await robot.put_definition(f"{path}/{made['id']}", XML.encode())
    answer = await robot.post("/events", occurrence(shop, {"Id": 1, "Tracking": True}), 200)
    assert ("anonymized", "default") == (answer["decided"]["mode"], answer["decided"]["rule"])
    await robot.patch(f"/spaces/{shop['id']}", {"default_mode": "person_based", "acknowledge": ["consent"]})
    answer = await robot.post("/events", occurrence(shop, {"Id": 1}), 200)
    assert ("person_based", "unknown") == (answer["decided"]["mode"], answer["decided"]["permission"])


async def test_the_message_may_name_its_mailing_and_restrict(api: Api, robot: Program, shop: Shown, event: str) -> None:
    wanted = {"html": HTML, "mailing": "May", "ceiling": "anonymized"}
    made = await robot.post("/events", occurrence(shop, {"Id": 1, "Tracking": True}, message=wanted), 200)
    assert ("person_based", "anonymized") == (made["decided"]["mode"], made["ceiling"])
    assert {("May", "anonymized", ""): 1} == await sent(api)


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"payload": {"Customer": {"Id": 1, "Birthday": "1980"}}}, "payload.Customer.Birthday"),
        ({"payload": {"Customer": {"Id": 1}, "Items": [{}, {}, {"Price": []}]}}, "payload.Items[2].Price"),
        ({"payload": {"Customer": {"Trackin": True}}}, "payload.Customer.Trackin"),
        ({"payload": {"Custom": {}}}, "payload.Custom"),
        ({"payload": {}}, "payload.Customer.Id"),
        ({"payload": {"Customer": {"Id": 1e400}}}, "payload.Customer.Id"),
        ({"payload": []}, "payload"),
        ({"message": {}}, "message.html"),
        ({"message": {"html": HTML, "mailing": ""}}, "message.mailing"),
        ({"message": {"mail": "?"}}, "message.mail"),
        ({"space": None}, "space"),
    ],
)
async def test_data_that_cannot_be_have_their_path_and_count_nothing(
    api: Api, robot: Program, shop: Shown, event: str, changed: Shown, path: str
) -> None:
    text = json.dumps(occurrence(shop, {"Id": 1}) | changed).replace("Infinity", "1e400")
    answer = await robot.ask("POST", "/events", content=text, headers={"content-type": "application/json"})
    assert (422, path) == (answer.status_code, problem(answer)["field"])
    assert {} == await sent(api)


async def test_an_event_is_named_by_its_definitions_id(api: Api, robot: Program, shop: Shown, event: str) -> None:
    for name in ("orders", event, "order_confirmatio"):
        refused = await robot.post("/events", occurrence(shop, {"Id": 1}, event=name), 404)
        assert "event" == refused["field"]


async def test_a_definition_that_names_nobody(robot: Program, shop: Shown) -> None:
    path = f"/spaces/{shop['id']}/events"
    made = await robot.post(path, {"name": "orders"})
    xml = re.sub(r"<customer(mapping|email)>.*?</customer(mapping|email)>", "", XML)
    await robot.put_definition(f"{path}/{made['id']}", xml.encode())
    refused = await robot.post("/events", occurrence(shop, {"Id": 1}), 422)
    assert "event" == refused["field"]
    assert "customermapping" in refused["detail"]


async def test_a_message_makes_its_event_active(robot: Program, shop: Shown, event: str) -> None:
    await robot.post("/events", occurrence(shop, {"Id": 1}), 200)
    assert (await robot.get(f"/spaces/{shop['id']}/events/{event}"))["protected"]


async def test_a_new_mailing_is_in_the_audit_log(api: Api, robot: Program, shop: Shown, event: str) -> None:
    for _ in range(2):
        await robot.post("/messages", message(shop), 200)
    made = [entry for entry in await api.audited() if entry[1] == "mailing created"]
    assert ["key:robot"] == [who for who, *_ in made]
    assert 1 == len(await store.list_mailings(api.connection, int(shop["id"], 16)))
