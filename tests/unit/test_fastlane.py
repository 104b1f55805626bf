"""The fast lane as a protocol: timers, resets, slow readers, held-back data, syncs, losses, and what it relies on."""

import asyncio
import functools
import gc
import inspect
import re
import socket
import struct
import tomllib
import weakref
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httptools
import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.server import ServerState

from app.collector import server
from app.collector.fastlane import FastLane, Scout
from app.collector.protocol import MAX_HEAD_BYTES
from app.journal.lines import decode_line
from app.journal.writer import JournalWriter, Loss
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from tests.integration.lane_corpus import click, get
from tests.integration.lanes import PATIENCE_SECONDS, Conditions, Lane, read_all, served
from tests.unit.test_answer import GOOD_CLICK, GOOD_OPEN, click_path, message

RESET = struct.pack("ii", 1, 0)
ANONYMOUS = get(click_path(message(Mode.ANONYMIZED)))
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs the test on the loop that serves in production, with a bound on its time, and fails it for stray errors."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        strays: list[dict[str, Any]] = []

        async def within_bounds() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: strays.append(context))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await test(*args, **named)

        uvloop.run(within_bounds())
        assert strays == []

    return run


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def answers(client: socket.socket, count: int) -> bytes:
    """What comes until there are so many answers, the last one's head included."""
    received = b""
    while len(STATUS.findall(received)) < count or b"\r\n\r\n" not in received[received.rindex(b"HTTP/1.1 ") :]:
        chunk = await asyncio.get_running_loop().sock_recv(client, 2**20)
        assert chunk, "the connection was closed before all answers"
        received += chunk
    return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in STATUS.findall(received)]


def hits(lane: Lane) -> list[Hit]:
    return [decode_line(line) for line in lane.journaled().splitlines(keepends=True)]


class Disk:
    """A disk whose syncs wait for a test."""

    def __init__(self, outcome: bool | Exception = True) -> None:
        self.outcome = outcome
        self.may_end = asyncio.Event()
        self.syncs = 0

    async def durable(self) -> bool:
        self.syncs += 1
        await self.may_end.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Faulty:
    """A journal that loses the hits at some places of each call, or fails."""

    def __init__(self, writer: JournalWriter, lost: set[int], error: Exception | None = None) -> None:
        self._writer, self._lost, self._error = writer, lost, error

    def append_all(self, hits: Sequence[Hit]) -> list[Loss | None]:
        if self._error:
            raise self._error
        self._writer.append_all([hit for place, hit in enumerate(hits) if place not in self._lost])
        return [Loss.JOURNAL_FULL if place in self._lost else None for place in range(len(hits))]


@on_uvloop
async def test_one_timer_for_all_requests_of_a_connection(tmp_path: Path) -> None:
    async with served(tmp_path, Conditions()) as (lane, _):
        client, connection = await lane.connect()
        timers = set()
        for _ in range(200):
            client.send(click())
            await answers(client, 1)
            timers.add(connection.timeout_keep_alive_task)
        assert (1, 200) == (len(timers), connection.takes)
        client.close()
        await until(lambda: not lane.server.server_state.connections)
        assert timers.pop().cancelled()
        assert connection.timeout_keep_alive_task is None


@on_uvloop
async def test_the_timer_closes_who_is_idle_and_nobody_else(tmp_path: Path) -> None:
    async with served(tmp_path, Conditions()) as (lane, _):
        client, connection = await lane.connect()
        client.send(click())
        await answers(client, 1)
        connection.timeout_keep_alive_handler()  # too early: it was used a moment ago
        assert not connection.transport.is_closing()
        client.send(click())
        await answers(client, 1)
        connection.timeout_keep_alive_task.cancel()
        connection._quiet_since -= connection.timeout_keep_alive
        connection.timeout_keep_alive_handler()
        assert await read_all(client) == b""
        client.close()


@on_uvloop
async def test_an_idle_connection_is_closed_by_itself(tmp_path: Path) -> None:
    async with served(tmp_path, Conditions()) as lanes:
        for lane in lanes:
            client, connection = await lane.connect()
            connection.timeout_keep_alive = 0.05
            client.send(click())
            assert statuses(await read_all(client)) == [302]
            client.close()


@on_uvloop
async def test_the_timer_waits_for_the_disk(tmp_path: Path) -> None:
    disk = Disk()
    async with served(tmp_path, Conditions(durable=disk.durable)) as (lane, _):
        client, connection = await lane.connect()
        client.send(click())
        await until(lambda: disk.syncs)
        assert connection._deadline is None  # the client has said all; a slow disk is not its fault
        connection._quiet_since -= connection.timeout_keep_alive
        connection.timeout_keep_alive_handler()
        assert not connection.transport.is_closing()
        again_in = connection.timeout_keep_alive_task.when() - asyncio.get_running_loop().time()
        assert again_in > connection.timeout_keep_alive / 2  # not at once: it may wait for long, with many others
        disk.may_end.set()
        assert statuses(await answers(client, 1)) == [302]
        client.close()


@on_uvloop
async def test_resets_leave_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path, Conditions()) as lanes:
        for lane in lanes:
            gone, timers = [], []
            for payload in (click(), click()[:20], click() * 3, click() + click()[:20], get(b"/livez"), b""):
                client, connection = await lane.connect()
                client.send(payload)
                await lane.settle(connection, len(payload))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                timers += [connection.timeout_keep_alive_task, connection._deadline]
                gone.append(weakref.ref(connection))
                del connection
                lane.connections.clear()
            await until(lambda lane=lane: not lane.server.server_state.connections)
            await asyncio.sleep(0)
            gc.collect()
            assert [None] * len(gone) == [ref() for ref in gone]
            assert all(timer is None or timer.cancelled() for timer in timers)


@on_uvloop
async def test_a_client_that_sends_much_and_reads_nothing(tmp_path: Path) -> None:
    count = 8_000
    payload = b"".join(get(click_path(message(), f"https://shop.example/{n}", n + 100)) for n in range(count))
    async with served(tmp_path, Conditions()) as lanes:
        for lane in lanes:
            client, connection = await lane.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client, payload))
            await until(lambda flow=connection.flow: flow.read_paused and flow.write_paused)
            for _ in range(500):  # it stays so: nothing more is read, and little is kept
                await asyncio.sleep(0)
                assert connection.flow.read_paused
                assert connection.transport.get_write_buffer_size() < 2 * MAX_HEAD_BYTES
                assert connection.bytes_read < len(payload)
                assert len(connection.pipeline) < 2 * MAX_HEAD_BYTES / len(payload) * count
            reading = asyncio.create_task(read_all(client))
            await sending
            client.shutdown(socket.SHUT_WR)
            numbers = [int(number) for number in re.findall(rb"location: https://shop.example/(\d+)\r", await reading)]
            client.close()
            assert list(range(count)) == numbers
            assert [number + 100 for number in numbers] == [hit.link for hit in hits(lane)]


@on_uvloop
async def test_a_client_that_asks_one_by_one_and_reads_nothing(tmp_path: Path) -> None:
    async with served(tmp_path, Conditions()) as (lane, _):
        client, connection = await lane.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        count, payload = 0, get(GOOD_OPEN) * 20
        while not connection.flow.write_paused:
            await asyncio.get_running_loop().sock_sendall(client, payload)
            count += 20
            await lane.settle(connection, count * len(payload) // 20)
        assert connection.takes == count / 20
        kept = connection.transport.get_write_buffer_size()
        for _ in range(5):
            await asyncio.get_running_loop().sock_sendall(client, payload)
            count += 20
            for _ in range(50):
                await asyncio.sleep(0)
        assert kept >= connection.transport.get_write_buffer_size()
        assert len(connection.pipeline) < 20  # of one read: then it reads no more
        client.shutdown(socket.SHUT_WR)
        assert [200] * count == statuses(await read_all(client))
        client.close()
        assert count == len(hits(lane))


@pytest.mark.parametrize("waits_for_disk", [False, True])
@on_uvloop
async def test_who_asked_before_the_end_is_answered(tmp_path: Path, waits_for_disk: bool) -> None:
    disk = Disk()
    conditions = Conditions(durable=disk.durable if waits_for_disk else None)
    async with served(tmp_path, conditions) as (lane, _):
        requests = [click(), click() * 3, get(b"/livez"), ANONYMOUS, click() + get(b"/livez"), get(b"/c/x")] * 5
        clients = [(await lane.connect())[0] for _ in requests]
        for client, payload in zip(clients, requests, strict=True):
            client.send(payload)  # nobody has read it yet
        if waits_for_disk:
            await until(lambda: sum(each.bytes_read for each in lane.connections) == sum(map(len, requests)))
        stopping = asyncio.create_task(lane.server.shutdown([lane.listening]))
        if waits_for_disk:
            await until(lambda: lane.listening.fileno() < 0)
            disk.may_end.set()
        received = [await read_all(client) for client in clients]
        await stopping
        for client in clients:
            client.close()
        assert [302, 302, 200, 302, 302, 404] * 5 == [statuses(each)[0] for each in received]
        answered, kept = sum(statuses(each).count(302) for each in received), len(hits(lane))
        # What was pipelined and waits for the disk is kept, though the first answer may end its connection.
        assert answered <= kept if waits_for_disk else answered == kept


@on_uvloop
async def test_a_connection_that_is_told_to_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.0)
    async with served(tmp_path, Conditions()) as lanes:
        for payload, answered in ((b"", []), (click()[:30], []), (click(), [302]), (get(b"/livez"), [200])):
            for lane in lanes:
                client, connection = await lane.connect()
                if payload:
                    connection.data_received(payload)
                connection.shutdown()  # in the same turn
                received = await read_all(client)
                client.close()
                assert answered == statuses(received)
                assert not answered or b"\r\nconnection: close\r\n" in received


@on_uvloop
async def test_two_reads_in_one_turn(tmp_path: Path) -> None:
    """A read that fills its buffer is followed by another one before anything else happens."""
    payload = click() + get(GOOD_OPEN, b"User-Agent: two") + get(b"/livez") + click(b"Connection: close")
    async with served(tmp_path, Conditions()) as lanes:
        whole, _ = await lanes.exchange([payload])
        for lane in lanes:
            for cut in range(1, len(payload), 3):
                lane._ids.begin()
                client, connection = await lane.connect()
                connection.data_received(payload[:cut])
                connection.data_received(payload[cut:])
                received = await read_all(client)
                client.close()
                assert (cut, whole.answers, whole.journaled) == (cut, received, lane.journaled())


@pytest.mark.parametrize("outcome", [True, False, OSError("erika@example.com")])
@pytest.mark.parametrize(("journal_full", "lost"), [("drop_new", 302), ("refuse_503", 503)])
@on_uvloop
async def test_answers_wait_for_the_disk_in_their_order(
    tmp_path: Path, outcome: bool | Exception, journal_full: str, lost: int
) -> None:
    disk = Disk(outcome)
    async with served(tmp_path, Conditions({"journal_full": journal_full}, durable=disk.durable)) as (lane, _):
        client, connection = await lane.connect()
        client.send(click(b"User-Agent: first") + get(b"/c/x"))
        await until(lambda: disk.syncs)
        client.send(get(b"/livez") + get(GOOD_CLICK, method=b"HEAD") + get(GOOD_OPEN) + get(b"/o/x"))
        await until(lambda: connection._held)
        for _ in range(100):
            await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        assert [hit.user_agent for hit in hits(lane)] == ["first"]
        assert lane.counted() == {}
        disk.may_end.set()
        received = await answers(client, 6)
        client.close()
        first = 302 if outcome is True else lost
        opened = 200 if outcome is True or lost == 302 else 503
        assert statuses(received) == [first, 404, 200, 302, opened, 200]
        counted = lane.counted()
        assert counted.get('hits_lost{reason="write_error"}', 0) == (0 if outcome is True else 2)
        assert sum(value for name, value in counted.items() if name.startswith("hits{")) == (
            2 if outcome is True else 0
        )
        assert counted.get("answer_faults", 0) == (2 if isinstance(outcome, Exception) else 0)


@on_uvloop
async def test_nothing_overtakes_what_the_plain_lane_has(tmp_path: Path) -> None:
    disk = Disk()
    async with served(tmp_path, Conditions(durable=disk.durable)) as (lane, _):
        client, connection = await lane.connect()
        odd = get(GOOD_CLICK + b"#fragment", b"User-Agent: first")
        client.send(odd)
        await until(lambda: disk.syncs)
        client.send(get(GOOD_OPEN, b"User-Agent: second"))
        await until(lambda: connection.bytes_read > len(odd))
        for _ in range(100):
            await asyncio.sleep(0)
        assert (connection._unanswered, len(connection.pipeline)) == (0, 1)
        disk.may_end.set()
        assert statuses(await answers(client, 2)) == [302, 200]
        client.close()
        assert [hit.user_agent for hit in hits(lane)] == ["first", "second"]


@on_uvloop
async def test_what_comes_during_a_sync_shares_the_next(tmp_path: Path) -> None:
    disk = Disk()
    async with served(tmp_path, Conditions(durable=disk.durable)) as (lane, _):
        clients = [(await lane.connect())[0] for _ in range(30)]
        clients[0].send(click())
        await until(lambda: disk.syncs)
        for client in clients[1:]:
            client.send(click())
        await until(lambda: sum(connection._unanswered for connection in lane.connections) == len(clients))
        disk.may_end.set()
        assert [[302]] * 30 == [statuses(await answers(client, 1)) for client in clients]
        assert disk.syncs == 2
        for client in clients:
            client.close()


@pytest.mark.parametrize(("journal_full", "lost"), [("drop_new", 302), ("refuse_503", 503)])
@pytest.mark.parametrize("durable", [None, Disk])
@on_uvloop
async def test_of_one_turn_exactly_the_lost_are_lost(
    tmp_path: Path, journal_full: str, lost: int, durable: type[Disk] | None
) -> None:
    requests = [click(b"User-Agent: a"), ANONYMOUS, get(b"/c/x"), click(b"User-Agent: b"), ANONYMOUS, get(b"/o/x.gif")]
    disk = durable() if durable else None
    if disk:
        disk.may_end.set()
    conditions = Conditions(
        {"journal_full": journal_full},
        durable=disk.durable if disk else None,
        journal=lambda writer: Faulty(writer, {1, 2}),
    )
    async with served(tmp_path, conditions) as (lane, _):
        seen = await lane.exchange([b"".join(requests)])
        assert statuses(seen.answers) == [302, lost, 404, lost, 302, 200]
        kept = [decode_line(line) for line in seen.journaled.splitlines(keepends=True)]
        assert [(hit.mode, hit.user_agent) for hit in kept] == [(Mode.PERSON_BASED, "a"), (Mode.ANONYMIZED, None)]
        counted = lane.counted()
        assert counted['hits_lost{reason="journal_full"}'] == 2
        assert counted['hits{kind="click",mode="person_based"}'] == 1
        assert counted['hits{kind="click",mode="anonymized"}'] == 1
        assert counted['tokens_refused{kind="click",reason="malformed"}'] == 1


@on_uvloop
async def test_a_journal_that_fails_takes_no_answer_with_it(tmp_path: Path) -> None:
    conditions = Conditions(journal=lambda writer: Faulty(writer, set(), RuntimeError("erika@example.com")))
    async with served(tmp_path, conditions) as (lane, _):
        seen = await lane.exchange([click() + get(b"/c/x") + get(GOOD_OPEN) + ANONYMOUS])
        assert statuses(seen.answers) == [302, 404, 200, 302]
        assert lane.counted()['hits_lost{reason="write_error"}'] == 3
        assert lane.counted()["answer_faults"] == 1


@pytest.mark.parametrize("leave", ["reset", "close"])
@on_uvloop
async def test_a_hit_whose_client_has_left_is_kept_and_counted(tmp_path: Path, leave: str) -> None:
    disk = Disk()
    async with served(tmp_path, Conditions(durable=disk.durable)) as (lane, _):
        client, connection = await lane.connect()
        other, _ = await lane.connect()
        client.send(click() * 2)
        other.send(click())
        await until(lambda: disk.syncs)
        await until(lambda: all(each._unanswered for each in lane.connections))
        if leave == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        if leave == "reset":
            await until(lambda: connection not in lane.server.server_state.connections)
        disk.may_end.set()
        assert statuses(await answers(other, 1)) == [302]
        other.close()
        assert len(hits(lane)) == 3
        assert lane.counted()['hits{kind="click",mode="person_based"}'] == 3
        assert "answer_faults" not in lane.counted()


@pytest.mark.parametrize("with_line_ends", [False, True])
@on_uvloop
async def test_a_connection_may_be_used_for_ever(tmp_path: Path, with_line_ends: bool) -> None:
    """Line ends between requests are allowed, are nobody's head, and must not add up."""
    async with served(tmp_path, Conditions()) as (lane, _):
        client, connection = await lane.connect()
        sent = 0
        for _ in range(30):
            for part in (b"\r\n" * 10_000,) * with_line_ends + (click(),):
                await asyncio.get_running_loop().sock_sendall(client, part)
                sent += len(part)
                await lane.settle(connection, sent)
            assert statuses(await answers(client, 1)) == [302]
        assert connection.takes == 30
        client.close()


def test_scout_counts_whole_requests_without_bodies() -> None:
    scout, usual = Scout(), click()
    assert [scout.count_whole(usual * number) for number in (1, 2, 3)] == [1, 2, 3]
    for payload in (usual[:-1], usual + b"G", usual + click(b"Content-Length: 1") + b"x", b"\x00", b"", usual[:9]):
        assert scout.count_whole(payload) == 0
        assert scout.count_whole(usual) == 1
    assert (scout.count_whole(click(b"Connection: close")), scout.keeps_alive) == (1, False)
    assert (scout.count_whole(usual), scout.keeps_alive) == (1, True)


def test_uvicorn_internals() -> None:
    """What the protocols take for granted of uvicorn and httptools: an upgrade that changes it must be looked at."""
    http = httptools_impl.HttpToolsProtocol
    assert issubclass(FastLane, http)
    assert {name: _parameters(getattr(http, name)) for name in _METHODS} == _METHODS
    made = http(uvicorn.Config(_nothing, ws="none", log_config=None), ServerState(), {}, asyncio.new_event_loop())
    made.loop.close()
    for name, types in _ATTRIBUTES.items():
        assert isinstance(getattr(made, name), types), name
    assert isinstance(ServerState().default_headers, list)
    assert ServerState().total_requests == 0
    assert ServerState().connections == set()
    assert httptools_impl.STATUS_LINE[302] == b"HTTP/1.1 302 Found\r\n"
    flow = flow_control.FlowControl(asyncio.Transport())
    assert (flow.read_paused, flow.write_paused) == (False, False)
    assert [_parameters(getattr(flow, name)) for name in ("pause_reading", "resume_reading")] == [[], []]
    parameters = _parameters(httptools_impl.RequestResponseCycle.__init__)
    assert {"keep_alive", "default_headers", "on_response", "flow"} <= set(parameters)
    assert "self.response_complete = False" in inspect.getsource(httptools_impl.RequestResponseCycle.__init__)
    assert {"config", "server_state", "app_state"} <= set(_parameters(http.__init__))
    assert _parameters(uvicorn.Server.shutdown) == ["self", "sockets"]
    assert _parameters(uvicorn.Server.on_tick) == ["self", "counter"]


_METHODS = {
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "eof_received": ["self"],
    "shutdown": ["self"],
    "timeout_keep_alive_handler": ["self"],
    "on_message_begin": ["self"],
    "on_message_complete": ["self"],
    "on_headers_complete": ["self"],
    "on_url": ["self", "url"],
    "on_response_complete": ["self"],
    "_unset_keepalive_if_required": ["self"],
}
_ATTRIBUTES: dict[str, Any] = {
    "config": uvicorn.Config,
    "server_state": ServerState,
    "loop": asyncio.AbstractEventLoop,
    "parser": httptools.HttpRequestParser,
    "timeout_keep_alive": int,
    "timeout_keep_alive_task": type(None),
    "access_log": bool,
    "limit_concurrency": type(None),
    "root_path": str,
    "client": type(None),
    "transport": type(None),
    "flow": type(None),
    "cycle": type(None),
}


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


async def _nothing(_: Any, __: Any, ___: Any) -> None:
    raise AssertionError("nobody asks")


def test_uvicorn_is_pinned_to_one_minor() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (pin,) = [each for each in project["dependencies"] if each.startswith("uvicorn")]
    major, minor = uvicorn.__version__.split(".")[:2]
    assert pin == f"uvicorn>={major}.{minor},<{major}.{int(minor) + 1}"


def test_the_docstrings_name_what_the_protocols_rely_on() -> None:
    relied_on = inspect.getdoc(FastLane) or ""
    known = {*_METHODS, *_ATTRIBUTES, "cycle.response_complete", "flow.write_paused"}
    known |= {"server_state.default_headers", "server_state.total_requests", "fast_lane", "http="}
    assert set(re.findall(r"`([\w.=]+)`", relied_on)) <= known
