"""Both lanes are one: the same bytes in give the same bytes out, the same end of the connection, the same hits.

The corpus stands in lane_corpus.py. It goes through both lanes under all conditions, whole and in pieces; then good
requests are mutated at random.
"""

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.collector.protocol import MAX_HEAD_BYTES
from tests.integration.lane_corpus import CORPUS, LAST, ODD, USUAL, click, get
from tests.integration.lanes import RELAYING, Conditions, Lanes, Seen, served
from tests.unit.test_answer import CHROME, GOOD_CLICK, GOOD_OPEN

T = TypeVar("T")
BEHIND_A_PROXY = {"ip_policy": "full", "trusted_proxies": "127.0.0.0/8"}


def disk(outcome: bool) -> Callable[[], Awaitable[bool]]:
    async def durable() -> bool:
        await asyncio.sleep(0)
        return outcome

    return durable


CONDITIONS = {
    "no addresses": Conditions(),
    "full addresses behind a proxy": Conditions(BEHIND_A_PROXY),
    "full addresses, nobody trusted": Conditions({"ip_policy": "full"}),
    "truncated addresses behind two proxies": Conditions(
        {"ip_policy": "truncated", "trusted_proxies": "127.0.0.0/8,198.51.100.0/24", "referrer_policy": ""}
    ),
    "settings unconfirmed": Conditions(BEHIND_A_PROXY, confirmed=False),
    "no settings": Conditions(snapshot=None),
    "journal full": Conditions(room=0),
    "journal gets full": Conditions({"journal_full": "refuse_503"}, room=100_000),
    "disk": Conditions(BEHIND_A_PROXY, durable=disk(True)),
    "disk that refuses, no hit may be lost": Conditions({"journal_full": "refuse_503"}, durable=disk(False)),
    "server is stopping": Conditions(server={"headers": [("connection", "close")]}),
    "other headers of the server": Conditions(server={"date_header": False, "headers": [("x-own", "1")]}),
    "below another path": Conditions(server={"root_path": "/mount"}),
    "limited": Conditions(server={"limit_concurrency": 1}),
}
NEVER_FAST = {"below another path", "limited"}
NEVER_SEVERAL = {"server is stopping"}
USUAL_ALONE = {"settings unconfirmed", "no settings", "full addresses, nobody trusted", "other headers of the server"}
USUAL_ALONE |= NEVER_FAST
"""Conditions that mean nothing to what is odd in a request."""


class Bench:
    """Lanes for tests that are no coroutines: their loop runs only while something is asked of it."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.lanes: Lanes = None  # type: ignore[assignment]

    def ask(self, *parts: bytes) -> tuple[Seen, Seen]:
        return self.run(self.lanes.exchange(parts))


@pytest.fixture(autouse=True)
def _nothing_breaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.ERROR, "uvicorn.error")  # it warns of each request that it refuses
    yield
    assert [] == [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = Bench(runner)
        context = served(tmp_path_factory.mktemp("bench"), Conditions(BEHIND_A_PROXY, RELAYING))
        made.lanes = runner.run(context.__aenter__())
        yield made
        runner.run(context.__aexit__(None, None, None))


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(CORPUS) == len(USUAL) + len(ODD) >= 800
    assert len(set(CORPUS.values())) > 750
    assert max(map(len, CORPUS.values())) > MAX_HEAD_BYTES


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_corpus_whole(name: str, tmp_path: Any) -> None:
    async def compare() -> None:
        async with served(tmp_path, CONDITIONS[name]) as lanes:
            for entry, payload in CORPUS.items():
                if name in USUAL_ALONE and not entry.startswith("usual: "):
                    continue
                fast, plain = await lanes.exchange([payload])
                assert (entry, plain) == (entry, fast)
                took = lanes.took()
                if name in NEVER_FAST:
                    assert (entry, 0) == (entry, took)
                elif entry.startswith("usual: ") and not (name in NEVER_SEVERAL and payload.count(b"\r\n\r\n") > 1):
                    assert (entry, 1) == (entry, took), "the fast lane left what it is for"
            assert lanes.plain.counted() == lanes.fast.counted()
            assert "answer_faults" not in lanes.fast.counted()

    uvloop.run(compare())


def test_the_corpus_is_what_its_names_say(bench: Bench) -> None:
    """Both lanes could be wrong in the same way."""
    expected = {
        "usual: click": (b"302 Found", 1, False),
        "usual: open": (b"200 OK", 1, False),
        "usual: gone": (b"410 Gone", 1, False),
        "usual: bad click": (b"404 Not Found", 0, False),
        "usual: bad open": (b"200 OK", 0, False),
        "usual: connection cLoSe": (b"302 Found", 1, True),
        "usual: http/1.0 keep-alive": (b"302 Found", 1, True),
        "usual: deleted space click": (b"302 Found", 0, False),
        "odd: HEAD click": (b"302 Found", 0, False),
        "odd: POST open": (b"405 Method Not Allowed", 0, False),
        "odd: target fragment": (b"302 Found", 1, False),
        "odd: target absolute": (b"302 Found", 1, False),
        "odd: line folded": (b"400 Bad Request", 0, True),
        "odd: http/1.0 keep-alive then http/1.1": (b"302 Found", 1, True),
        "odd: a body that is a request": (b"302 Found", 1, False),
        f"odd: a head of {MAX_HEAD_BYTES}": (b"302 Found", 1, False),
        f"odd: a head of {MAX_HEAD_BYTES + 1}": (b"431 Request Header Fields Too Large", 0, True),
    }
    seen = {name: bench.ask(CORPUS[name])[0] for name in expected}
    assert expected == {
        name: (each.answers[9 : each.answers.index(b"\r\n")], each.journaled.count(b"\n"), each.is_closed)
        for name, each in seen.items()
    }
    together, _ = bench.ask(CORPUS["usual: 50 at once"])
    numbers = [b"%d" % number for number in range(100, 150)]
    assert numbers == re.findall(rb"location: https://shop.example/(\d+)", together.answers)
    assert numbers == re.findall(rb'"user_agent":"(\d+)"', together.journaled)


# What a second piece is read as depends on where the first one ends, in uvicorn too: after the end of its connection.
_MAY_DEPEND_ON_PIECES = (
    "body",
    "chunked",
    "upgrade",
    "transfer-encoding",
    "both,",
    "content-length",
    "an end in between",
)
_MAY_DEPEND_ON_PIECES += ("noise", "endless", "after", "between", "half a request", "in the middle", "then http/1.1")


@pytest.mark.parametrize("half", ["usual", "odd"])
def test_the_corpus_in_two_pieces(bench: Bench, half: str) -> None:
    async def compare() -> None:
        for entry, payload in CORPUS.items():
            if not entry.startswith(half):
                continue
            whole = await bench.lanes.plain.exchange([payload])
            for cut in _cuts(payload):
                fast, plain = await bench.lanes.exchange([payload[:cut], payload[cut:]])
                assert (entry, cut, plain) == (entry, cut, fast)
                assert half == "odd" or whole == fast, (entry, cut)
                if whole != plain:
                    assert any(words in entry for words in _MAY_DEPEND_ON_PIECES), (entry, cut)

    bench.run(compare())


def _cuts(payload: bytes) -> Sequence[int]:
    """Where it matters: within the method, the target and each sort of line end, and before the last byte."""
    line, head, size = payload.find(b"\r\n"), payload.find(b"\r\n\r\n"), len(payload)
    places = {1, 12, line + 1, head + 1, head + 3, head + 4, head + 6, size // 2, size - 1}
    return sorted(place for place in places if 0 < place < size)


@pytest.mark.parametrize(
    "name", ["usual: click", "usual: close in the last", "odd: a head in the middle", "odd: a body and a request"]
)
def test_a_request_byte_by_byte_and_in_any_two_pieces(bench: Bench, name: str) -> None:
    payload = CORPUS[name]
    whole, _ = bench.ask(payload)
    assert (whole, whole) == bench.ask(*[payload[at : at + 1] for at in range(len(payload))])
    for cut in range(1, len(payload)):
        assert (cut, whole, whole) == (cut, *bench.ask(payload[:cut], payload[cut:]))


def test_one_connection_for_everything(bench: Bench) -> None:
    """What the lanes know of a connection survives each request: usual and odd ones take turns on one."""
    stays_open = [payload for payload in CORPUS.values() if len(payload) < 3_000 and b"upgrade" not in payload.lower()]
    parts = [payload for payload in stays_open if _leaves_clean(bench.ask(payload)[1], payload)]
    assert len(parts) > 350
    random.Random(20261124).shuffle(parts)
    fast, plain = bench.ask(*parts)
    assert plain == fast
    assert not fast.is_closed
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", fast.answers)) >= len(parts)
    assert bench.lanes.took() > 250


def _leaves_clean(seen: Seen, payload: bytes) -> bool:
    return not seen.is_closed and bool(seen.answers) and payload.endswith(b"\r\n") and b"Length: 5" not in payload


@pytest.mark.parametrize("durable", [None, disk(True)])
def test_who_has_said_all_is_answered(durable: Any, tmp_path: Any) -> None:
    async def compare() -> None:
        async with served(tmp_path, Conditions(BEHIND_A_PROXY, durable=durable)) as lanes:
            for entry, payload in CORPUS.items():
                if len(payload) < 60_000:
                    settled, _ = await lanes.exchange([payload])
                    for lane in lanes:
                        left = await lane.exchange_and_leave(payload)
                        # Whether the server has seen the end before it answered is a matter of time.
                        assert _without_close(settled.answers) == _without_close(left.answers), entry
                        assert settled.journaled == left.journaled, entry

    uvloop.run(compare())


def _without_close(answers: bytes) -> bytes:
    return answers.replace(b"connection: close\r\n", b"")


_LINES = st.sampled_from(
    [
        b"Host: t.example",
        b"User-Agent: " + CHROME,
        b"user-agent:",
        b"X-Forwarded-For: 198.51.100.7",
        b"Sec-Purpose: prefetch",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Content-Length: 0",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Upgrade: h2c",
        b"Connection: Upgrade",
        b"Expect: 100-continue",
        b" folded",
        b"X-Note: \xff\xe4",
        b"",
    ]
)
_PIECES = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b"\x00", b" ", b"\t", b":", b"#", b"?", b"%", b"\xff", b"GET ", b"0\r\n\r\n"]
)


@st.composite
def _mutated(draw: st.DrawFn) -> list[bytes]:
    """One to three requests, nearly good, in one to three parts."""
    payload = bytearray()
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([GOOD_CLICK, GOOD_OPEN, LAST, b"/o/x.gif", GOOD_CLICK + b"?x=y"]))
        version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
        lines = b"\r\n".join([b"GET %b %b" % (path, version), *draw(st.lists(_LINES, max_size=5)), b"", b""])
        payload += lines
    for _ in range(draw(st.integers(0, 3))):
        at, length = draw(st.integers(0, len(payload))), draw(st.sampled_from([0, 0, 1, 1, 2, 20]))
        piece = draw(_PIECES | st.binary(max_size=3) | st.just(bytes(payload[at : at + 40])))
        payload[at : at + length] = piece
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=2)))
    return [bytes(payload[a:b]) for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_mutated())
def test_mutated_requests(bench: Bench, parts: list[bytes]) -> None:
    fast, plain = bench.ask(*parts)
    assert plain == fast


_VALUES = st.binary(max_size=12) | st.sampled_from([b"prefetch", b"curl/8", b" ", b"\t", b"", b"\r\n x", b"a: b"])
_NAMES = st.sampled_from([b"User-Agent", b"uSER-aGENT", b"X-Moz", b"PURPOSE", b"X-Forwarded-For", b"X-Note", b"Cookie"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_NAMES, st.sampled_from([b":", b": ", b":\t "]), _VALUES), max_size=6))
def test_any_values_of_the_headers_that_are_read(bench: Bench, lines: list[tuple[bytes, bytes, bytes]]) -> None:
    fast, plain = bench.ask(click(*[b"".join(line) for line in lines]) + get(LAST))
    assert plain == fast
