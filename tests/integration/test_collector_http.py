"""The plain ASGI lane over real sockets: a real uvicorn, a real journal, and clients of every sort.

Whatever is sent, no answer is a 5xx, no traceback is logged, and a hit is in the journal once its answer is here.
"""

import contextlib
import http.client
import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
import uvicorn

from app.collector import protocol
from app.collector.answer import PIXEL
from app.collector.asgi import public_app
from app.collector.collector import Collector
from app.collector.protocol import BoundedHttp
from app.config import Settings
from app.health import Health, private_app
from app.journal.lines import decode_line
from app.journal.segments import Stream, segments
from app.journal.writer import JournalWriter
from app.metrics import Metrics
from app.tracking.hits import Hit, Outcome
from app.tracking.modes import Mode
from app.tracking.snapshot import Snapshot
from tests.unit.test_answer import (
    AT,
    CHROME,
    DESTINATION,
    GOOD_CLICK,
    GOOD_OPEN,
    PAGE,
    PICTURE,
    SNAPSHOT,
    click_path,
    message,
    open_path,
)

TIMEOUT_SECONDS = 30.0


@dataclass
class Served:
    """A running server and what its tests look at and turn."""

    journals: Path
    metrics: Metrics
    current: Snapshot | None = SNAPSHOT
    confirmed: bool = True
    seconds: float = AT.timestamp()
    problems: list[str] = field(default_factory=list)
    port: int = 0
    log: list[logging.LogRecord] = field(default_factory=list)
    own_log: list[Mapping[str, Any]] = field(default_factory=list)
    _seen: dict[Path, int] = field(default_factory=dict)

    def health(self) -> Health:
        return Health(self.problems)

    def new_hits(self) -> list[Hit]:
        """The hits that were journaled since the last call, identified ones first."""
        (journal,) = self.journals.iterdir()
        new = []
        for stream in Stream:
            for segment in segments(journal, stream):
                lines = segment.path.read_bytes().splitlines(keepends=True)
                new += lines[self._seen.get(segment.path, 0) :]
                self._seen[segment.path] = len(lines)
        return [decode_line(line) for line in new]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def read(connection: socket.socket, method: str = "GET") -> Response:
    raw = http.client.HTTPResponse(connection, method=method)
    raw.begin()
    headers = {name.lower().encode(): value.encode("latin-1") for name, value in raw.getheaders()}
    return Response(raw.status, headers, raw.read())


def request(path: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    lines = [b"%s %s HTTP/%s" % (method, path, version), b"Host: t.example", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def send(served: Served, payload: bytes, method: str = "GET") -> Response:
    with served.connect() as connection:
        connection.sendall(payload)
        return read(connection, method)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("journals"), Metrics())
    settings = Settings(metrics_public=True, ip_policy="full", trusted_proxies="127.0.0.1")
    ready = threading.Event()
    stop = _serve(served, settings, ready)
    assert ready.wait(10)
    yield served
    stop()


def _serve(served: Served, settings: Settings, ready: threading.Event) -> Callable[[], None]:
    handler = logging.Handler()
    handler.emit = served.log.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    structlog.configure(processors=[_capture_into(served)], cache_logger_on_first_use=False)
    journal = JournalWriter(served.journals, segment_bytes=10_000_000, max_bytes=1_000_000_000)
    collector = Collector(settings, served.metrics, journal, served, lambda: served.seconds)
    app = public_app(collector, settings, served.metrics, served.health)
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    served.port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    ready.set()

    def stop() -> None:
        server.should_exit = True
        thread.join(10)
        listening.close()
        journal.close()
        logging.getLogger().removeHandler(handler)
        structlog.reset_defaults()

    return stop


def _capture_into(served: Served) -> Callable[..., Mapping[str, Any]]:
    def capture(_: Any, __: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        served.own_log.append(event)
        raise structlog.DropEvent

    return capture


@pytest.fixture
def served(server: Served) -> Iterator[Served]:
    """The server as every test finds it, and the check that nothing broke in it."""
    server.current, server.confirmed, server.seconds = SNAPSHOT, True, AT.timestamp()
    server.problems.clear()
    server.new_hits()
    yield server
    assert [record.getMessage() for record in server.log if record.levelno >= logging.ERROR or record.exc_info] == []
    assert server.own_log == []
    assert "mailtrail_answer_faults_total 0.0" in server.metrics.render().decode()


@pytest.fixture
def client(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=TIMEOUT_SECONDS) as opened:
        yield opened


def test_the_table_as_a_client_sees_it(served: Served, client: httpx2.Client) -> None:
    answers = {
        name: client.request(method, path.decode(), headers={"user-agent": CHROME.decode()})
        for name, method, path in [
            ("click", "GET", GOOD_CLICK),
            ("click head", "HEAD", GOOD_CLICK),
            ("open", "GET", GOOD_OPEN),
            ("open head", "HEAD", GOOD_OPEN),
            ("gone", "GET", click_path(message(), link=40)),
            ("corrected", "GET", click_path(message(), link=42)),
            ("bad click", "GET", b"/c/nonsense"),
            ("bad open", "GET", b"/o/nonsense.gif"),
            ("post", "POST", GOOD_CLICK),
        ]
    }
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "click": 302,
        "click head": 302,
        "open": 200,
        "open head": 200,
        "gone": 410,
        "corrected": 302,
        "bad click": 404,
        "bad open": 200,
        "post": 405,
    }
    assert {name for name, _ in answers["click"].headers.items()} == {
        "location",
        "content-length",
        "cache-control",
        "referrer-policy",
        "x-robots-tag",
        "date",
    }
    assert answers["click"].headers["location"] == DESTINATION
    assert answers["corrected"].headers["location"] == "https://new.example/b?customer=4711"
    assert answers["open"].content == answers["bad open"].content == PIXEL
    assert answers["post"].headers["allow"] == "GET, HEAD"
    hits = served.new_hits()
    assert [(hit.kind.name, hit.outcome.value) for hit in hits] == [
        ("CLICK", "served"),
        ("OPEN", "served"),
        ("CLICK", "gone"),
        ("CLICK", "corrected"),
    ]
    assert {(hit.recipient, hit.user_agent, hit.agent_family) for hit in hits} == {("erika", CHROME.decode(), "chrome")}
    assert {hit.client_address for hit in hits} == {"127.0.0.1"}


@pytest.mark.parametrize("path", [GOOD_CLICK, GOOD_OPEN, b"/c/x", b"/o/x"])
def test_head_is_get_without_the_body_and_without_the_hit(served: Served, path: bytes) -> None:
    got = send(served, request(path))
    served.new_hits()
    head = send(served, request(path, method=b"HEAD"), "HEAD")
    assert (got.status, b"") == (head.status, head.body)
    assert got.headers | {b"date": b""} == head.headers | {b"date": b""}
    assert served.new_hits() == []


@pytest.mark.parametrize(
    "token",
    [b"%00", b"%ff%fe", b"..%2f..%2fetc%2fpasswd", b"\xc3\xa4", b"\xff" * 50, b"'\"<>\\^`{|}", b"a/b/c", b"-" * 500],
)
def test_any_bytes_as_a_token(served: Served, token: bytes) -> None:
    click, opened = send(served, request(b"/c/" + token)), send(served, request(b"/o/" + token + b".gif"))
    assert click.status in (400, 404)
    assert opened.status in (400, 200)
    assert click.status == 400 or PAGE.items() <= click.headers.items()
    assert opened.status == 400 or PICTURE.items() <= opened.headers.items()
    assert served.new_hits() == []


@pytest.mark.parametrize(("path", "status"), [(b"/c/", 404), (b"/o/", 200), (GOOD_CLICK + b"?", 302)])
def test_long_urls(served: Served, path: bytes, status: int) -> None:
    for length in (8_000, 60_000, 100_000, 200_000):
        assert status == send(served, request(path + b"A" * length)).status
    for end in (b"", b".gif"):
        assert status == send(served, request(path + b"A" * 100_000 + end, b"Connection: close")).status


def test_a_head_has_bounds(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET " + GOOD_CLICK + b" HTTP/1.1\r\nX: ")
        for _ in range(10):
            connection.sendall(b"x" * 20_000)
            time.sleep(0.005)
        with contextlib.suppress(ConnectionError):  # it stops reading when it has seen enough
            for _ in range(50):
                connection.sendall(b"x" * 20_000)
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1 431 " in connection.recv(100)
    assert served.new_hits() == []
    # A body is no part of it, and many requests at once are many heads.
    many = request(GOOD_CLICK) * 2_000
    with served.connect() as connection:
        connection.sendall(request(GOOD_CLICK, b"Content-Length: 500000") + b"x" * 500_000)
        assert read(connection).status == 302
        threading.Thread(target=connection.sendall, args=(many,)).start()
        received = b""
        while received.count(b"HTTP/1.1 302") < 2_000:
            chunk = connection.recv(65_536)
            assert chunk
            received += chunk


@pytest.mark.parametrize("start", [b"", b"GET /c/x HTTP/1.1\r\nHost:"])
def test_a_head_that_does_not_come_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 1.0)
    with served.connect() as connection:
        connection.sendall(start)
        assert connection.recv(1_000) == b""
    with served.connect() as connection:  # the second request of a connection is not waited for either
        connection.sendall(request(GOOD_CLICK))
        assert read(connection).status == 302
        connection.sendall(start or b"G")
        assert connection.recv(1_000) == b""


def test_a_body_that_does_not_end_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 1.0)
    with served.connect() as connection:
        connection.sendall(request(GOOD_CLICK, b"Content-Length: 1000000", method=b"POST"))
        assert read(connection).status == 405
        connection.sendall(b"x")  # uvicorn waits for ever now
        assert connection.recv(1_000) == b""


def test_thousands_of_pipelined_requests_are_made_something_of_a_few_at_a_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    class Watched(deque[Any]):
        def appendleft(self, each: Any) -> None:
            nonlocal most
            super().appendleft(each)
            most = max(most, len(self))

    made = BoundedHttp.connection_made

    def connection_made(self: BoundedHttp, transport: Any) -> None:
        made(self, transport)
        self.pipeline = Watched()

    monkeypatch.setattr(BoundedHttp, "connection_made", connection_made)
    number, received = 5_000, b""
    with served.connect() as connection:
        sending = threading.Thread(target=connection.sendall, args=(b"GET /c/x HTTP/1.1\r\n\r\n" * number,))
        sending.start()
        while received.count(b"HTTP/1.1 404") < number:
            chunk = connection.recv(65_536)
            assert chunk
            received += chunk
        sending.join()
    assert 0 < most < 5 * protocol.MAX_PIPELINE


def test_too_many_header_lines_are_refused(served: Served) -> None:
    lines = [b"A: b"] * (protocol.MAX_HEADER_LINES - 1)
    assert send(served, request(GOOD_CLICK, *lines)).status == 302
    assert send(served, request(GOOD_CLICK, *lines, b"A: b")).status == 431
    assert len(served.new_hits()) == 1


def test_headers_missing_absurd_or_twice(served: Served) -> None:
    requests = {
        "none at all": (b"GET " + GOOD_CLICK + b" HTTP/1.1\r\n\r\n", None),
        "twice": (request(GOOD_CLICK, b"User-Agent: one", b"User-Agent: two"), "one"),
        "long": (request(GOOD_CLICK, b"User-Agent: " + b"u" * 60_000), "u" * 512),
        "many": (request(GOOD_CLICK, *[b"X-%d: y" % n for n in range(1_000)]), None),
        "no utf-8": (request(GOOD_CLICK, b"User-Agent: \xff\xfeM\xfcller"), "\ufffd\ufffdM\ufffdller"),
        "empty": (request(GOOD_CLICK, b"User-Agent:", b"Cookie: ", b"Accept: "), None),
    }
    for name, (payload, user_agent) in requests.items():
        answer = send(served, payload)
        assert (302, DESTINATION.encode()) == (answer.status, answer.headers[b"location"]), name
        assert [user_agent] == [hit.user_agent for hit in served.new_hits()], name


def test_a_nul_in_a_user_agent_is_refused_or_dropped(served: Served) -> None:
    answer = send(served, request(GOOD_CLICK, b"User-Agent: Foo\x00Bar"))
    assert answer.status in (302, 400)
    assert [hit.user_agent for hit in served.new_hits()] == (["FooBar"] if answer.status == 302 else [])


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([b"198.51.100.7"], "198.51.100.7"),
        ([b"192.0.2.66, 198.51.100.7:9"], "198.51.100.7"),
        ([b"192.0.2.66", b"2001:db8::7"], "2001:db8::7"),
        ([b"junk"], "127.0.0.1"),
        ([b"\xff\xff, 127.0.0.1"], "127.0.0.1"),
    ],
)
def test_addresses_behind_a_trusted_proxy(served: Served, forwarded: list[bytes], address: str) -> None:
    send(served, request(GOOD_CLICK, *[b"X-Forwarded-For: " + value for value in forwarded]))
    assert [address] == [hit.client_address for hit in served.new_hits()]


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    paths = [click_path(message(), f"https://shop.example/{number}", number + 100) for number in range(50)]
    with served.connect() as connection:
        connection.sendall(b"".join(request(path) for path in paths))
        stream = connection.makefile("rb")
        locations = [line for _ in range(50) for line in _head(stream) if line.startswith(b"location")]
    assert [f"location: https://shop.example/{number}\r\n".encode() for number in range(50)] == locations
    assert [hit.link for hit in served.new_hits()] == list(range(100, 150))


def _head(stream: Any) -> Iterator[bytes]:
    while (line := stream.readline()) != b"\r\n":
        assert line, "the connection was closed within an answer"
        yield line


def test_a_request_that_comes_byte_by_byte(served: Served) -> None:
    payload = request(GOOD_OPEN, b"User-Agent: slow")
    with served.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in payload:
            connection.sendall(bytes([byte]))
            time.sleep(0.001)
        assert read(connection).body == PIXEL
    assert [hit.user_agent for hit in served.new_hits()] == ["slow"]


def test_a_client_that_leaves_in_between_costs_nothing(served: Served) -> None:
    for payload in (b"", b"GET", request(GOOD_CLICK)[:-2], request(b"/c/x"), request(GOOD_CLICK, b"Content-Length: 9")):
        with served.connect() as connection:
            connection.sendall(payload)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    assert send(served, request(GOOD_CLICK)).status == 302


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"PROPFIND"])
def test_other_methods(served: Served, method: bytes) -> None:
    for path in (GOOD_CLICK, GOOD_OPEN):
        answer = send(served, request(path, method=method))
        assert (answer.status, answer.headers[b"allow"]) == (405, b"GET, HEAD")
    assert served.new_hits() == []


@pytest.mark.parametrize(
    "payload",
    [
        request(GOOD_CLICK, method=b"FOO"),
        request(GOOD_CLICK, method=b"get"),
        request(GOOD_CLICK, method=b""),
        request(b"*", method=b"OPTIONS"),
        request(GOOD_CLICK, version=b"9.9"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\x00\r\n\r\n",
        request(GOOD_CLICK, b"Content-Length: x"),
        request(GOOD_CLICK, b"no colon"),
    ],
)
def test_what_is_no_http_is_refused(served: Served, payload: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(payload)
        assert connection.recv(1_000)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404")
    assert served.new_hits() == []


def test_http_1_0(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET " + GOOD_CLICK + b" HTTP/1.0\r\n\r\n")
        answer = read(connection)
        assert (answer.status, answer.headers[b"connection"]) == (302, b"close")
        assert connection.recv(1) == b""
    assert len(served.new_hits()) == 1


def test_bodies_are_ignored(served: Served) -> None:
    body = b"x" * 300_000
    get = request(GOOD_CLICK, b"Content-Length: %d" % len(body)) + body
    post = request(GOOD_CLICK, b"Transfer-Encoding: chunked", method=b"POST") + b"3\r\nabc\r\n0\r\n\r\n"
    assert [send(served, get).status, send(served, post).status] == [302, 405]
    assert len(served.new_hits()) == 1


def test_an_upgrade_is_answered_as_a_click(served: Served) -> None:
    answer = send(served, request(GOOD_CLICK, b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: a"))
    assert answer.status == 302


def test_after_an_upgrade_no_request_gets_the_answer_of_another(served: Served) -> None:
    upgrade = request(GOOD_CLICK, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAAA")
    received = b""
    with served.connect() as connection, contextlib.suppress(ConnectionResetError):  # by what is left unread
        connection.sendall(upgrade + request(GOOD_OPEN))  # the parser drops what comes with it
        connection.sendall(request(GOOD_CLICK))
        while chunk := connection.recv(65_536):
            received += chunk
    assert received.count(b"HTTP/1.1 ") == received.count(b"HTTP/1.1 302 Found") == 1
    assert b"\r\nconnection: close\r\n" in received


def test_links_never_expire_and_unknown_things_are_never_guessed(served: Served) -> None:
    old = click_path(message(Mode.ANONYMIZED, issue_day=AT.date() - timedelta(days=365)))
    ancient = click_path(message(issue_day=date(2020, 1, 1)))
    paths = {
        "a year old": old,
        "ancient": ancient,
        "unknown space": click_path(message(space=9)),
        "unknown event": click_path(message(event=404)),
    }
    assert [send(served, request(path)).status for path in paths.values()] == [302] * 4
    assert [hit.mode for hit in served.new_hits()] == [Mode.PERSON_BASED] + [Mode.ANONYMIZED] * 3
    assert send(served, request(b"/c/AZmZ" + b"A" * 60)).status == 404
    assert served.new_hits() == []


@pytest.mark.parametrize(
    ("seconds", "at"),
    [
        (-1e9, datetime(1970, 1, 1, tzinfo=UTC)),
        (0.0, datetime(1970, 1, 1, tzinfo=UTC)),
        (4e9, datetime(2096, 10, 2, 7, 6, 40, tzinfo=UTC)),
        (1e15, datetime(9999, 12, 31, tzinfo=UTC)),
        (float("nan"), datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_clock_steps(served: Served, seconds: float, at: datetime) -> None:
    served.seconds = seconds
    assert [send(served, request(path)).status for path in (GOOD_CLICK, GOOD_OPEN)] == [302, 200]
    assert [at, at] == [hit.at for hit in served.new_hits()]


def test_settings_as_they_come_and_grow_old(served: Served) -> None:
    served.current = None
    assert send(served, request(GOOD_CLICK)).headers[b"retry-after"] == b"5"
    assert send(served, request(GOOD_OPEN)).body == PIXEL
    served.current, served.confirmed = SNAPSHOT, False
    assert send(served, request(GOOD_CLICK)).status == 302
    assert [hit.mode for hit in served.new_hits()] == [Mode.ANONYMIZED]


def test_everything_else(served: Served, client: httpx2.Client) -> None:
    assert client.get("/robots.txt").text == "User-agent: *\nDisallow: /\n"
    assert (client.get("/livez").status_code, client.head("/livez").status_code) == (200, 200)
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["problems"]) == (200, [])
    served.problems.append("journal_full")
    served.current = None
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "problems": ["journal_full"], "warnings": []})
    assert client.get("/livez").status_code == 200
    assert "mailtrail_answers_total" in client.get("/metrics").text


@pytest.mark.parametrize(
    "path",
    [b"/", b"/c", b"/o", b"/C/x", b"/livez/", b"//evil.example/", b"/x/../c/", b"/%63/x", b"/metrics/x", b"/.git"],
)
def test_any_other_path_is_a_plain_404(served: Served, path: bytes) -> None:
    answer = send(served, request(path))
    assert (answer.status, answer.body) == (404, b"Not found\n")
    assert PAGE.items() <= answer.headers.items()
    assert not {b"server", b"location"} & set(answer.headers)


def test_other_methods_elsewhere_are_plain_too(client: httpx2.Client) -> None:
    answer = client.post("/livez")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "text/plain; charset=utf-8")


def test_400_requests_of_noise(served: Served) -> None:
    noise = random.Random(20261124)
    seen = set()
    for _ in range(400):
        with served.connect() as connection:
            connection.sendall(_noise(noise))
            connection.shutdown(socket.SHUT_WR)
            seen.add(connection.recv(100)[:12])
    known = {b"HTTP/1.1 %d" % status for status in (200, 302, 400, 404)}
    assert known <= seen <= known | {b"", b"HTTP/1.1 405", b"HTTP/1.1 410"}
    assert {hit.outcome for hit in served.new_hits()} <= set(Outcome)
    assert send(served, request(GOOD_CLICK)).status == 302


def _noise(noise: random.Random) -> bytes:
    """A request in which nothing, one thing or another is wrong."""
    path = noise.choice([GOOD_CLICK, GOOD_OPEN, open_path(message(Mode.AGGREGATE)), b"/c/", b"/o/", b"/", b"*"])
    tail = noise.choice([b"", b"?" + _visible(noise, _ASCII), _visible(noise, _ASCII), noise.randbytes(2)])
    names = noise.choices([b"User-Agent", b"X-Forwarded-For", b"Sec-Purpose", b"Cookie"], k=noise.randrange(4))
    payload = bytearray(request(path + tail, *[name + b": " + _visible(noise, _LATIN) for name in names]))
    for _ in range(noise.choice([0, 0, 1, 3])):
        payload[noise.randrange(len(payload))] = noise.randrange(256)
    return bytes(payload)


_ASCII = range(0x21, 0x7F)
_LATIN = [*_ASCII, *range(0x80, 0x100)]


def _visible(noise: random.Random, alphabet: Sequence[int]) -> bytes:
    return bytes(noise.choices(alphabet, k=noise.choice([1, 3, 30, 600])))


# The lane without a server: what only ASGI can show.


async def call(app: Callable[..., Awaitable[None]], raw: bytes, **changed: Any) -> list[Any]:
    sent: list[Any] = []
    scope = {"type": "http", "method": "GET", "path": raw.decode(), "raw_path": raw, "headers": [], "client": None}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def take(event: Any) -> None:
        sent.append(event)

    await app(scope | changed, receive, take)
    return sent


def lane(tmp_path: Path, durable: Callable[[], Awaitable[bool]] | None = None, **settings: Any) -> tuple[Any, Served]:
    served = Served(tmp_path / "journals", Metrics())
    bound = Settings(**settings)
    journal = JournalWriter(served.journals, segment_bytes=100_000, max_bytes=100_000)
    collector = Collector(bound, served.metrics, journal, served, AT.timestamp)
    return public_app(collector, bound, served.metrics, served.health, journal_durable=durable), served


@pytest.mark.parametrize("outcome", [True, False, OSError("erika")])
@pytest.mark.parametrize(("journal_full", "status_if_lost"), [("drop_new", 302), ("refuse_503", 503)])
async def test_answers_wait_for_the_disk(
    tmp_path: Path, outcome: bool | Exception, journal_full: str, status_if_lost: int
) -> None:
    hits_before_the_answer = []

    async def durable() -> bool:
        hits_before_the_answer.extend(served.new_hits())
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    app, served = lane(tmp_path, durable, journal_full=journal_full)
    with structlog.testing.capture_logs() as logs:
        start, _ = await call(app, GOOD_CLICK)
        await call(app, b"/c/nonsense")
    assert (302 if outcome is True else status_if_lost) == start["status"]
    assert len(hits_before_the_answer) == 1
    app.turn.collector.publish()
    counted = served.metrics.render().decode()
    lost = 0 if outcome is True else 1
    assert f'hits_lost_total{{reason="write_error"}} {lost}.0' in counted
    assert f'hits_total{{kind="click",mode="person_based"}} {1 - lost}.0' in counted
    assert "erika" not in repr(logs)


async def test_servers_that_leave_parts_of_the_scope_out(tmp_path: Path) -> None:
    app, served = lane(tmp_path)
    bare = {"raw_path": None}
    assert (await call(app, GOOD_CLICK, **bare))[0]["status"] == 302
    assert (await call(app, b"/mount" + GOOD_CLICK, root_path="/mount"))[0]["status"] == 302
    assert (await call(app, b"/c/x", path="/c/\udcff", raw_path=None))[0]["status"] == 404
    assert len(served.new_hits()) == 2


async def test_websockets_are_closed_and_metrics_are_private_by_default(tmp_path: Path) -> None:
    app, served = lane(tmp_path)
    for path in (GOOD_CLICK, b"/elsewhere"):
        assert (await call(app, path, type="websocket"))[0]["type"] == "websocket.close"
    assert (await call(app, b"/metrics"))[0]["status"] == 404
    private = private_app(served.metrics, Health)
    assert [(await call(private, path))[0]["status"] for path in (b"/metrics", b"/livez", b"/readyz")] == [200] * 3
    assert (await call(private, GOOD_CLICK))[0]["status"] == 404


async def test_readiness_that_fails_is_not_ready(tmp_path: Path) -> None:
    def broken() -> Health:
        raise RuntimeError("erika")

    with structlog.testing.capture_logs() as logs:
        start, body = await call(private_app(Metrics(), broken), b"/readyz")
    assert (start["status"], b"fault" in body["body"], "erika" in repr(logs)) == (503, True, False)
