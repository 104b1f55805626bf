"""The end of the public server: whoever was connected before it is answered."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app import sockets
from app.collector import server
from app.collector.protocol import BoundedHttp
from app.collector.server import CollectorServer
from app.lasting import LastingServer
from app.sockets import bind

REQUEST = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
HEADERS = [(b"content-length", b"2")]


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"hi"})


@dataclass
class Running:
    server: CollectorServer
    listening: socket.socket
    task: "asyncio.Task[None]"

    def connect(self) -> socket.socket:
        """Without letting the server run: the connection waits in the kernel's queue."""
        client = socket.create_connection(self.listening.getsockname())
        client.setblocking(False)
        return client


@pytest.mark.parametrize("seconds", [1e18, -1e18, float("inf"), float("nan")])
async def test_no_clock_ends_a_server(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    made = LastingServer(uvicorn.Config(hello, log_config=None))
    assert not await made.on_tick(0)
    known = made.server_state.default_headers
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: seconds)
        assert not await made.on_tick(0)
        made.should_exit = True
        assert await made.on_tick(0)
    assert known == made.server_state.default_headers
    assert b"date" in dict(known)


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(server, "LINGER_SECONDS", 30.0)
    listening = bind("127.0.0.1", 0)
    configuration = uvicorn.Config(hello, http=BoundedHttp, lifespan="off", ws="none", log_config=None)
    made = CollectorServer(configuration)
    task = asyncio.create_task(made.serve(sockets=[listening]))
    while not made.started:
        await asyncio.sleep(0)
    yield Running(made, listening, task)
    made.should_exit = made.force_exit = True
    await task


async def answer(client: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    loop = asyncio.get_running_loop()
    received = b""
    while chunk := await loop.sock_recv(client, 65_536):
        received += chunk
    client.close()
    return received


async def test_who_waits_in_the_queue_is_answered(running: Running) -> None:
    clients = [running.connect() for _ in range(50)]
    for client in clients:
        client.send(REQUEST)
    stopping = asyncio.create_task(running.server.shutdown([running.listening]))
    for received in await asyncio.gather(*map(answer, clients)):
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.endswith(b"\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi")
    await stopping


async def test_who_has_not_asked_yet_is_answered_and_nobody_new_is_taken(running: Running) -> None:
    address = running.listening.getsockname()
    clients = [running.connect() for _ in range(2)]
    while len(running.server.server_state.connections) < len(clients):
        await asyncio.sleep(0)
    running.server.should_exit = True
    while running.listening.fileno() >= 0:
        await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    for client in clients:
        client.send(REQUEST)
    assert [True, True] == [b"\r\n\r\nhi" in received for received in await asyncio.gather(*map(answer, clients))]
    await running.task


async def test_a_connection_that_never_asks_does_not_hold_it_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.05)
    client = running.connect()
    while not running.server.server_state.connections:
        await asyncio.sleep(0)
    running.server.should_exit = True
    assert await answer(client) == b""
    await running.task


async def test_who_takes_no_answer_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "STALL_SECONDS", 0.3)
    with bind("127.0.0.1", 0) as listening:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(listening.getsockname())
        with client, listening.accept()[0] as accepted:
            accepted.settimeout(30.0)
            with pytest.raises(TimeoutError, match="Connection timed out"):  # ETIMEDOUT, long before our own timeout
                accepted.sendall(b"x" * 2**26)
