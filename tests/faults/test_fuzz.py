"""Malformed requests, the short version: good ones cut and split at every place, some thousand of all sorts, and the
bugs that the long one found."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.asks import Ask, asks
from tests.faults.fuzz import Fuzzed, lanes_rig, play_round, read_answers
from tests.faults.malformed import Counted, Trial
from tests.faults.postgres import Postgres
from tests.faults.rig import Rig

EXCHANGES = 4_000
SEED = 20_261_124
GARBAGE = b"GET /\0 HTTP/1.1\r\n\r\n"


@pytest.fixture(scope="module")
def rig(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Both lanes, running; in the end without a fault in the log."""
    made = lanes_rig(tmp_path_factory.mktemp("rig") / "rig", postgres, SEED)
    try:
        made.start()
        yield made
        made.drain()
    finally:
        made.close()


def test_malformed_requests_break_nothing(postgres: Postgres, tmp_path: Path) -> None:
    fuzzed = play_round(postgres, tmp_path / "rig", SEED, EXCHANGES)
    assert [] == fuzzed.failures
    assert fuzzed.exchanges == EXCHANGES
    assert {200, 302, 400, 404, 405} <= set(fuzzed.statuses)
    assert fuzzed.recorded > fuzzed.honest > 0


def test_a_request_cut_or_split_at_every_place_breaks_nothing(postgres: Postgres, tmp_path: Path) -> None:
    split = 0

    def at_every_place(good: Iterator[Ask]) -> Iterator[Trial]:
        nonlocal split
        places = iter(range(1, 10_000))
        while True:
            place, first, second = next(places), next(good), next(good)
            # Each lane takes what comes next: every place twice.
            for ask in (first, second):
                if place < len(ask.request):
                    split += 1
                    yield Trial("good", [ask.request[:place], ask.request[place:]], [ask])
            for ask in (next(good), next(good)):
                yield Trial("cut", [ask.request[: place % len(ask.request)]], [ask])

    fuzzed: Fuzzed = play_round(postgres, tmp_path / "rig", SEED + 1, 2_500, source=at_every_place)
    assert [] == fuzzed.failures
    assert split > 400
    assert {200, 302} <= set(fuzzed.statuses)
    assert 400 in fuzzed.statuses or fuzzed.silent


@pytest.mark.parametrize("lane", [0, 1], ids=["fast", "plain"])
def test_who_asked_before_something_malformed_gets_the_answer(rig: Rig, lane: int) -> None:
    good = [next(_clicks(rig, lane)).request for _ in range(3)]
    statuses, rest = read_answers(_exchange(rig.ports[lane], b"".join(good) + GARBAGE), has_head=False)
    assert ([302, 302, 302], b"") == (statuses, rest)


@pytest.mark.parametrize("lane", [0, 1], ids=["fast", "plain"])
def test_who_leaves_while_several_answers_are_due_leaves_no_traceback(rig: Rig, lane: int) -> None:
    clicks = _clicks(rig, lane + 2)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", rig.ports[lane])) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"".join(next(clicks).request for _ in range(4)) + b"POST /c/ HTTP/1.1\r\n\r\n")
    service = rig.workers[lane].service
    assert service.get("/livez").status == 200
    assert "Traceback" not in service.log.read_text()
    assert b"mailtrail_answer_faults_total 0.0" in service.get("/metrics").body


def test_what_is_counted_as_requests_is_what_the_server_reads() -> None:
    good = b"GET / HTTP/1.1\r\n\r\n"
    assert 0 == Counted(good[:-1]).requests
    assert 2 == Counted(good * 2).requests
    assert 2 == Counted(good + b"\0" + good).requests, "one request, one fault"
    assert 2 == Counted(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + good).requests


def test_answers_are_read_one_by_one() -> None:
    answer = b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n"
    page = b"HTTP/1.1 404 Not Found\r\nContent-Type: x\r\ncontent-length: 4\r\n\r\n"
    assert ([302, 404], b"") == read_answers(answer + page + b"page", has_head=False)
    assert ([302], page) == read_answers(answer + page, has_head=False)
    assert ([302, 404, 302], b"") == read_answers(answer + page + answer, has_head=True)
    assert ([302], b"x") == read_answers(answer + b"x", has_head=False)


def _clicks(rig: Rig, seed: int) -> Iterator[Ask]:
    return (ask for ask in asks(rig.keys, rig.space, rig.day_keys(), SEED + 10 + seed) if ask.location)


def _exchange(port: int, payload: bytes) -> bytes:
    async def exchange() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(payload)
        received = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return received

    return asyncio.run(exchange())
