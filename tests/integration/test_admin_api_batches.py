# ruff: noqa: F811 (fixtures are imported)
"""Batches over HTTP: a line for each line, in constant memory, with nobody waited for at others' cost."""

import asyncio
import http.client
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx2
import psutil
import pytest

from app.admin.application import application
from app.config import Settings
from app.sending.batch import MAX_LINE_BYTES
from app.store import api_keys, events, keys, pool
from app.store import settings as store
from app.store.pool import Database
from app.tracking.tokens import Kind
from tests.integration.programs import Api, Program, api, migrated_name, problem, robot, shop  # noqa: F401
from tests.integration.service import Service, free_port, until

Shown = dict[str, Any]
NDJSON = {"content-type": "application/x-ndjson"}
HTML = "<p>Hello {{ name }}</p><a href='https://shop.example/sale?for={{ name }}'>Sale</a></body>"
XML = b"""<event xmlns="http://www.inxmail.com/xcom/eventtype"><eventtype><id>invoice</id></eventtype>
<customermapping>Customer.Id</customermapping><customertracking>Customer.Tracking</customertracking>
<phgroup><id>Customer</id><placeholder><id>Id</id><datatype-string/></placeholder>
<placeholder><id>FirstName</id><datatype-string/></placeholder>
<placeholder><id>Tracking</id><datatype-boolean/></placeholder></phgroup></event>"""


@pytest.fixture
async def event(robot: Program, shop: Shown) -> str:
    path = f"/spaces/{shop['id']}/events"
    made = await robot.post(path, {"name": "news", "tracking": "permission"})
    await robot.put_definition(f"{path}/{made['id']}", XML)
    return str(made["id"])


def head_of(shop: Shown, **changed: Any) -> Shown:
    head = {"space": shop["id"], "event": "news", "mailing": "May", "html": HTML, "fields": ["name"]}
    return {name: value for name, value in (head | changed).items() if value is not None}


def event_head(shop: Shown, **changed: Any) -> Shown:
    html = HTML.replace("{{ name }}", "{{ Customer.FirstName }}")
    return head_of(shop, event="invoice", mailing=None, html=html, fields=["Customer.FirstName"]) | changed


def row(number: int, permission: str = "granted") -> Shown:
    return {"recipient": f"r{number}", "permission": permission, "values": {"name": f"Clara {number}"}}


def written(*lines: Any) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


async def ask(program: Program, content: Any, path: str = "/messages/batch", **headers: str) -> httpx2.Response:
    return await program.ask("POST", path, content=content, headers=NDJSON | headers)


async def answers(program: Program, content: Any, path: str = "/messages/batch") -> list[Shown]:
    answer = await ask(program, content, path)
    assert (200, "application/x-ndjson") == (answer.status_code, answer.headers["content-type"]), answer.text
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


async def sent(api: Api) -> dict[str, int]:
    rows = await api.connection.fetch("select ceiling, messages from mailtrail.sent")
    return {row["ceiling"]: row["messages"] for row in rows}


# --- what is answered ------------------------------------------------------------------------------------------------


async def test_each_line_is_answered_with_its_mail(api: Api, robot: Program, shop: Shown, event: str) -> None:
    made = await answers(robot, written(head_of(shop), row(1), row(2, "denied")))
    assert [2, 3] == [line["line"] for line in made[:2]]
    assert {"done": 2, "refused": 0} == made[2]
    assert ["person_based", "anonymized"] == [line["ceiling"] for line in made[:2]]
    ring = await keys.key_ring(api.connection, int(shop["id"], 16))
    for number, line in enumerate(made[:2], 1):
        assert line["html"].startswith(f"<p>Hello Clara {number}</p><a href='")
        token = ring.open(re.search(r"/c/([\w-]+)", line["html"])[1], Kind.CLICK)
        assert f"https://shop.example/sale?for=Clara%20{number}" == token.destination
        assert (1, "r1" if number == 1 else None) == (token.link, token.recipient)
        assert ring.open(line["message_id"], Kind.MESSAGE).message.nonce == token.message.nonce
        assert {} == line["untouched"]
    assert {"person_based": 1, "anonymized": 1} == await sent(api)


async def test_the_answer_does_not_depend_on_chunks(robot: Program, shop: Shown, event: str) -> None:
    content = written(head_of(shop), b"", *map(row, range(5)))[:-1]

    async def bytewise() -> AsyncIterator[bytes]:
        for place in range(len(content)):
            yield content[place : place + 1]

    made = await answers(robot, bytewise())
    assert [3, 4, 5, 6, 7] == [line["line"] for line in made[:-1]]
    assert {"done": 5, "refused": 0} == made[-1]


async def test_a_line_that_cannot_be_ends_nothing(api: Api, robot: Program, shop: Shown, event: str) -> None:
    bad: list[tuple[Any, str, str | None]] = [
        (b"{", "malformed", None),
        (b"\xff", "malformed", None),
        (b"[" * 100_000, "malformed", None),
        (b"5", "invalid", None),
        (b'"x' + b"x" * MAX_LINE_BYTES, "too-large", None),
        ({}, "invalid", "recipient"),
        (row(1) | {"x": 1}, "invalid", "x"),
        (row(1) | {"recipient": 5}, "invalid", "recipient"),
        (row(1) | {"recipient": ""}, "invalid", "recipient"),
        (row(1, "yes"), "invalid", "permission"),
        (row(1) | {"values": {}}, "invalid", "values.name"),
        (row(1) | {"values": {"name": "x", "y": "z"}}, "invalid", "values.y"),
        (row(1) | {"values": {"name": 5}}, "invalid", "values"),
        (row(1) | {"values": {"name": "\0"}}, "invalid", "values"),
        (b'{"recipient": "a", "recipient": "b"}', "invalid", "recipient"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "invalid", None),
        (b'{"\\ud800": 1}', "invalid", None),
        (row(1) | {"recipient": "\ud800"}, "invalid", "recipient"),
    ]
    lines = [line for wrong, _, _ in bad for line in (wrong, row(7))]
    made = await answers(robot, written(head_of(shop), *lines))
    assert {"done": len(bad), "refused": len(bad)} == made.pop()
    assert list(range(2, 2 + 2 * len(bad))) == [line["line"] for line in made]
    found = [(line["problem"]["type"], line["problem"].get("field")) for line in made[::2]]
    assert [(f"/problems/{word}", field) for _, word, field in bad] == found
    assert all(line["problem"]["detail"] for line in made[::2])
    assert all("Clara 7" in line["html"] for line in made[1::2])
    assert {"person_based": len(bad)} == await sent(api)


@pytest.mark.parametrize("path", ["/messages/batch", "/events/batch"])
async def test_a_first_line_that_cannot_be_is_a_problem(robot: Program, shop: Shown, event: str, path: str) -> None:
    head = head_of(shop) if path == "/messages/batch" else event_head(shop)
    cases: list[tuple[Any, int, str | None]] = [
        (b"", 422, None),
        (b"{", 400, None),
        (b'"' + b"x" * MAX_LINE_BYTES, 413, None),
        (b"[]", 422, None),
        (head | {"space": "0badc0de"}, 404, "space"),
        (head | {"space": "Shop"}, 404, "space"),
        (head | {"event": "nothing"}, 404, "event"),
        (head | {"mailing": " "}, 422, "mailing"),
        (head | {"html": " "}, 422, "html"),
        (head | {"fields": ["1"]}, 422, "1"),
        (head | {"html": "<a {{ x }}>", "fields": ["x"]}, 422, "x"),
        (head | {"ceiling": "off"}, 422, "ceiling"),
        (head | {"recipient": "r1"}, 422, "recipient"),
        ({name: value for name, value in head.items() if name != "space"}, 422, "space"),
        ({name: value for name, value in head.items() if name != "html"}, 422, "html"),
    ]
    for first, status, field in cases:
        refused = problem(await ask(robot, written(first, row(1)) if first else b"\n", path))
        assert (status, field) == (refused["status"], refused.get("field")), first


async def test_a_batch_is_lines_of_json(robot: Program, shop: Shown, event: str) -> None:
    for path in ("/messages/batch", "/events/batch"):
        refused = problem(await robot.ask("POST", path, json=head_of(shop)))
        assert (415, "/problems/media-type") == (refused["status"], refused["type"])


async def test_a_template_of_a_tracked_mail_is_refused(robot: Program, shop: Shown, event: str) -> None:
    made = await answers(robot, written(head_of(shop), row(1)))
    tracked = head_of(shop, html=made[0]["html"], fields=[])
    assert "/problems/mail" == problem(await ask(robot, written(tracked, row(2))))["type"]


async def test_a_key_of_one_space_sends_there_only(api: Api, robot: Program, shop: Shown, event: str) -> None:
    other = await robot.post("/spaces", {"name": "Other"})
    mailer = await api.program("mailer", ["mint"], shop["id"])
    assert {"done": 1, "refused": 0} == (await answers(mailer, written(head_of(shop, space=None), row(1))))[-1]
    for path, head in (("/messages/batch", head_of(shop)), ("/events/batch", event_head(shop))):
        missing = problem(await ask(mailer, written(head | {"space": "0badc0de"}), path))
        assert (404, "there is no such space") == (missing["status"], missing["detail"])
        assert missing == problem(await ask(mailer, written(head | {"space": other["id"]}), path))


async def test_data_of_events_fill_the_template_and_decide(api: Api, robot: Program, shop: Shown, event: str) -> None:
    made = await answers(
        robot,
        written(
            event_head(shop),
            {"payload": {"Customer": {"Id": "1", "FirstName": "Erika & Co", "Tracking": True}}},
            {"payload": {"Customer": {"Id": "2", "FirstName": "Max"}}, "values": {"Customer.FirstName": "Herr M."}},
            {"payload": {"Customer": {"Id": "3", "FirstName": 5}}},
            {"payload": {"Customer": {"Id": "4"}}},
            {"payload": {"Customer": {"FirstName": "x"}}},
            {"recipient": "5"},
        ),
        "/events/batch",
    )
    erika, max_, *refused, last = made
    assert "<p>Hello Erika &amp; Co</p>" in erika["html"]
    assert "<p>Hello Herr M.</p>" in max_["html"]
    decided = {"recipient": "1", "permission": "granted", "mode": "person_based", "rule": "permission"}
    assert decided == erika["decided"]
    assert ("unknown", "anonymized") == (max_["decided"]["permission"], max_["ceiling"])
    fields = ["payload.Customer.FirstName", "values.Customer.FirstName", "payload.Customer.Id", "recipient"]
    assert fields == [line["problem"]["field"] for line in refused]
    assert {"done": 2, "refused": 4} == last
    assert ["news"] == [row["name"] for row in await store.list_mailings(api.connection, int(shop["id"], 16))]


async def test_the_sender_may_take_away(api: Api, robot: Program, shop: Shown, event: str) -> None:
    made = await answers(robot, written(head_of(shop, ceiling="anonymized"), row(1)))
    assert "anonymized" == made[0]["ceiling"]


# --- what breaks it off ----------------------------------------------------------------------------------------------


async def test_a_database_that_goes_away_ends_it_without_done(
    api: Api, robot: Program, shop: Shown, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone() -> Any:
        raise asyncpg.CannotConnectNowError("it starts")

    async def lines() -> AsyncIterator[bytes]:
        yield written(head_of(shop), row(1), row(2))
        monkeypatch.setattr(api.database, "_opened", gone)
        await asyncio.sleep(1.05)
        yield written(row(3))

    made = await answers(robot, lines())
    assert ["Clara 1", "Clara 2"] == [re.search(r"Clara \d", line["html"])[0] for line in made[:2]]
    assert ["/problems/unavailable"] == [line["problem"]["type"] for line in made[2:]]
    assert "line" not in made[2]


async def test_a_key_that_is_revoked_ends_its_batch(api: Api, robot: Program, shop: Shown, event: str) -> None:
    mailer = await api.program("mailer", ["mint"])
    by_name = {each["name"]: each["id"] for each in (await robot.get("/api-keys"))["items"]}

    async def lines() -> AsyncIterator[bytes]:
        yield written(head_of(shop), row(1))
        await robot.delete(f"/api-keys/{by_name['mailer']}")
        await asyncio.sleep(1.05)
        yield written(row(2))

    made = await answers(mailer, lines())
    assert ["line", "problem"] == [next(iter(line)) for line in made]
    assert "/problems/unauthorized" == made[1]["problem"]["type"]
    assert {"person_based": 1} == await sent(api)


async def test_who_says_nothing_for_long_is_not_waited_for(
    api: Api, robot: Program, shop: Shown, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.admin.api.batches.IDLE_SECONDS", 0.2)

    async def lines() -> AsyncIterator[bytes]:
        yield written(head_of(shop), row(1))
        await asyncio.sleep(5)
        yield written(row(2))

    made = await answers(robot, lines())
    assert "/problems/idle" == made[-1]["problem"]["type"]
    assert {"person_based": 1} == await sent(api)


async def test_a_slow_batch_holds_no_connection(api: Api, robot: Program, shop: Shown, event: str) -> None:
    """With one connection for all, who sends slowly lets another through, before the first line and behind it."""
    database = Database(api.database._url, most=1)
    served = application(Settings(), database)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=served)) as client:
        quick = Program(client, robot.secret)

        async def slow() -> AsyncIterator[bytes]:
            for piece in (b"", written(head_of(shop)), written(row(1))):
                yield piece
                assert 200 == (await quick.ask("GET", "/spaces")).status_code

        assert {"done": 1, "refused": 0} == (await answers(quick, slow()))[-1]
    await database.close()


# --- over real sockets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """The running API in a process of its own, with a space, an event and a key."""

    service: Service
    port: int
    process: psutil.Process
    space: str
    secret: str

    def open(self) -> "Streaming":
        return Streaming(self)

    def rss(self) -> int:
        return int(self.process.memory_info().rss)

    def sent(self, mailing: str) -> int:
        sql = "select coalesce(sum(messages), 0)::bigint from mailtrail.sent join mailtrail.mailings on id = mailing_id"
        return int(self.service.query(f"{sql} where name = $1", mailing)[0][0])


class Streaming:
    """A client that writes lines and reads answers as it likes."""

    def __init__(self, served: Served) -> None:
        self.socket = socket.create_connection(("127.0.0.1", served.port), timeout=30)
        self.socket.sendall(
            b"POST /api/v1/messages/batch HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"content-type: application/x-ndjson\r\nauthorization: Bearer " + served.secret.encode() + b"\r\n\r\n"
        )
        self.written = 0

    def __enter__(self) -> "Streaming":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.written += len(data)

    def send_until(self, size: int) -> None:
        """TimeoutError if the server takes no more before that."""
        lines = written(*map(row, range(100)))
        while self.written < size:
            self.send(lines)

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def answer(self) -> http.client.HTTPResponse:
        answer = http.client.HTTPResponse(self.socket, method="POST")
        answer.begin()
        assert answer.status == 200
        return answer


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Served]:
    port = free_port()
    service.settings["MAILTRAIL_ADMIN_PORT"] = str(port)
    space, secret = asyncio.run(_furnish(service.database_url))
    process = service.start("admin")
    private = Service(service.directory, service.database_url, port)
    until(lambda: _is_alive(private), "the API answers", log=service.log)
    yield Served(service, port, psutil.Process(process.pid), space, secret)
    assert "Traceback" not in service.log.read_text()


def _is_alive(private: Service) -> bool:
    try:
        return private.get("/livez").status == 200
    except OSError:
        return False


async def _furnish(url: str) -> tuple[str, str]:
    async with pool.connected(url) as connection:
        space = (await store.create_space(connection, "test", "Shop"))["id"]
        await events.create_event(connection, "test", space, "news")
        _, secret = await api_keys.create_api_key(connection, "test", "mailer", ["mint"])
    return f"{space:08x}", secret


PADDING = "<!-- " + "x" * 10_000 + " -->"
RECIPIENTS = 20_000
MEBIBYTE = 2**20


def head_for(served: Served, mailing: str) -> bytes:
    return written(head_of({"id": served.space}, mailing=mailing, html=PADDING + HTML))


def test_twenty_thousand_recipients_take_no_more_memory_than_some(served: Served) -> None:
    """200 MB of answers pass through a process that hardly grows; each is the answer to its own line."""
    grown = [grows_by(served, rounds) for rounds in (500, RECIPIENTS)]
    # The first has loaded everything that any batch needs.
    assert grown[1] < 24 * MEBIBYTE
    assert 500 + RECIPIENTS == served.sent("many")


def grows_by(served: Served, recipients: int) -> int:
    """By how many bytes the process grows at most, while a client reads what it is answered."""
    start = most = served.rss()
    with served.open() as client:
        writer = threading.Thread(target=_write, args=(client, head_for(served, "many"), recipients))
        writer.start()
        with client.answer() as answer:
            for number in range(recipients):
                line = answer.readline()
                assert len(PADDING) < len(line)
                assert f"Hello Clara {number}<" in json.loads(line)["html"]
                if number % 500 == 0:
                    most = max(most, served.rss())
            assert {"done": recipients, "refused": 0} == json.loads(answer.readline())
        writer.join()
    return most - start


def _write(client: Streaming, head: bytes, recipients: int) -> None:
    client.send(head)
    for first in range(0, recipients, 100):
        client.send(written(*map(row, range(first, min(first + 100, recipients)))))
    client.end()


def test_who_does_not_read_is_not_read_and_disturbs_nobody(served: Served) -> None:
    start = served.rss()
    with served.open() as client:
        client.send(head_for(served, "unread"))
        client.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            client.send_until(64 * MEBIBYTE)
        # What the kernel's buffers hold, and little more.
        assert client.written < 24 * MEBIBYTE
        assert served.rss() - start < 24 * MEBIBYTE
        other = Service(served.service.directory, served.service.database_url, served.port)
        assert 200 == other.get("/livez").status
        client.socket.settimeout(30)
        with client.answer() as answer:
            assert "Clara 0" in json.loads(answer.readline())["html"]


def test_answers_come_while_lines_go_and_who_leaves_has_had_them_counted(served: Served) -> None:
    with served.open() as client:
        client.send(head_for(served, "left"))
        with client.answer() as answer:
            for number in range(5):
                client.send(written(row(number)))
                assert f"Clara {number}" in json.loads(answer.readline())["html"]
    until(lambda: served.sent("left") == 5, "what was answered is counted")


def test_the_first_line_may_be_refused_while_the_client_still_writes(served: Served) -> None:
    with served.open() as client:
        client.send(b"{}\n")
        with http.client.HTTPResponse(client.socket, method="POST") as answer:
            answer.begin()
            assert (422, "application/problem+json") == (answer.status, answer.headers["content-type"])


def test_a_server_that_is_stopped_counts_what_it_has_answered_and_says_so(served: Served) -> None:
    """It comes last: nothing serves behind it."""
    with served.open() as client, served.open() as unread:
        unread.send(head_for(served, "unread when stopped"))
        unread.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            unread.send_until(64 * MEBIBYTE)
        client.send(head_for(served, "stopped"))
        with client.answer() as answer:
            for number in range(5):
                client.send(written(row(number)))
                assert f"Clara {number}" in json.loads(answer.readline())["html"]
            served.process.terminate()
            assert "/problems/stopped" == json.loads(answer.read())["problem"]["type"]
        served.process.wait(20)
    assert 5 == served.sent("stopped")
    assert 0 < served.sent("unread when stopped")
