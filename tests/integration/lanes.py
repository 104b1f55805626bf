"""Both lanes side by side: two real servers on one event loop, with the same settings, clock and hit ids.

What a client and the journal see of an exchange is a `Seen`; it is complete when the server has nothing left to do, so
that nothing here depends on time.
"""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import uvicorn
import uvicorn.server

from app.collector import collector as collecting
from app.collector.asgi import TrackingLane, public_app
from app.collector.collector import Collector, Journal
from app.collector.fastlane import FastLane, fast_lane
from app.collector.protocol import BoundedHttp
from app.collector.server import CollectorServer
from app.config import Settings
from app.health import Health
from app.journal.segments import Stream, segments
from app.journal.writer import JournalWriter
from app.metrics import Metrics
from app.tracking.modes import Mode, Space
from app.tracking.snapshot import Snapshot
from tests.unit.test_answer import AT, SNAPSHOT, SPACE
from tests.unit.test_collector import counted

PATIENCE_SECONDS = 120.0
"""After which an exchange has failed; never reached by one that works."""

DATE = "Tue, 24 Nov 2026 13:37:42 GMT"
RELAYING = replace(SNAPSHOT, spaces={**SNAPSHOT.spaces, SPACE: Space(Mode.PERSON_BASED, relay_mode=Mode.PERSON_BASED)})


class Seen(NamedTuple):
    """All that a request leads to."""

    answers: bytes
    is_closed: bool
    """Whether the server ended the connection."""
    journaled: bytes
    """The lines of both streams, identified hits first."""


class HitNumbers:
    """Hit ids that are the same in both lanes."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._numbers = itertools.count(1)

    def next(self) -> int:
        return next(self._numbers)


@dataclass
class Conditions:
    """What a lane runs under."""

    settings: dict[str, Any] = field(default_factory=dict)
    snapshot: Snapshot | None = RELAYING
    confirmed: bool = True
    room: int = 10**9
    durable: Callable[[], Awaitable[bool]] | None = None
    server: dict[str, Any] = field(default_factory=dict)
    """Of uvicorn's configuration."""
    journal: Callable[[JournalWriter], Journal] = lambda writer: writer
    """What stands between the collector and its journal."""

    @property
    def current(self) -> Snapshot | None:
        return self.snapshot


class Lane:
    """One server, its journal, and its connections in the order in which they were made."""

    def __init__(self, directory: Path, conditions: Conditions, *, is_fast: bool) -> None:
        self.metrics, self.connections = Metrics(), list[Any]()
        self._ids = HitNumbers()
        self.journal = JournalWriter(directory, segment_bytes=10**9, max_bytes=conditions.room)
        self._read = dict.fromkeys(Stream, 0)
        settings = Settings(**conditions.settings)
        with mock.patch.object(collecting, "HitIds", return_value=self._ids):
            self.collector = Collector(
                settings, self.metrics, conditions.journal(self.journal), conditions, AT.timestamp
            )
        app = public_app(self.collector, settings, self.metrics, Health, journal_durable=conditions.durable)
        self.app: TrackingLane = app
        http = _watched(fast_lane(app) if is_fast else BoundedHttp, self.connections)
        self.server = CollectorServer(_configuration(app, http, conditions))
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        self.address = self.listening.getsockname()

    async def start(self) -> None:
        self._serving = asyncio.create_task(self.server.serve([self.listening]))
        while not self.server.started:
            await asyncio.sleep(0)

    async def stop(self) -> None:
        for connection in list(self.server.server_state.connections):  # of a test that failed: nobody waits for them
            connection.transport.abort()
        self.server.should_exit = self.server.force_exit = True
        await self._serving
        self.journal.close()

    async def exchange(self, parts: Iterable[bytes]) -> Seen:
        """Sends the parts on a new connection, each when the server has done what it could with those before."""
        self._ids.begin()
        self.connections.clear()
        async with asyncio.timeout(PATIENCE_SECONDS):
            client, connection = await self.connect()
            received = asyncio.create_task(read_all(client))
            sent = 0
            for part in parts:
                sent += len(part)
                with contextlib.suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(client, part)
                await self.settle(connection, sent)
            is_closed = connection.transport.is_closing()
            if not is_closed:
                client.shutdown(socket.SHUT_WR)
            answers = await received
            client.close()
        return Seen(answers, is_closed, self.journaled())

    async def exchange_and_leave(self, payload: bytes) -> Seen:
        """The same with a client that says in the same moment that nothing more will come."""
        self._ids.begin()
        async with asyncio.timeout(PATIENCE_SECONDS):
            client, connection = await self.connect()
            client.send(payload)
            client.shutdown(socket.SHUT_WR)
            answers = await read_all(client)
            client.close()
            while connection in self.server.server_state.connections or self.server.server_state.tasks:
                await asyncio.sleep(0)
        return Seen(answers, True, self.journaled())

    async def connect(self) -> tuple[socket.socket, Any]:
        """A client's socket and the server's protocol of its connection."""
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        known = len(self.connections)
        await asyncio.get_running_loop().sock_connect(client, self.address)
        while len(self.connections) == known:
            await asyncio.sleep(0)
        return client, self.connections[-1]

    async def settle(self, connection: Any, sent: int) -> None:
        """Waits until the server has read everything, or reads no more, and has answered what it will answer."""
        while not self._is_settled(connection, sent):
            await asyncio.sleep(0)

    def _is_settled(self, connection: Any, sent: int) -> bool:
        if connection.transport.is_closing():
            return True
        if connection.bytes_read < sent and not connection.flow.read_paused:
            return False
        return not self.server.server_state.tasks and not getattr(connection, "_unanswered", 0)

    def journaled(self) -> bytes:
        """What is new in the journal since the last call."""
        new = b""
        for stream in Stream:
            for segment in segments(self.journal.directory, stream):
                with segment.path.open("rb") as file:
                    file.seek(self._read[stream])
                    lines = file.read()
                self._read[stream] += len(lines)
                new += lines
        return new

    def counted(self) -> dict[str, float]:
        return counted(self.collector, self.metrics)


class Lanes(NamedTuple):
    fast: Lane
    plain: Lane

    async def exchange(self, parts: Sequence[bytes]) -> tuple[Seen, Seen]:
        return await self.fast.exchange(parts), await self.plain.exchange(parts)

    def took(self) -> int:
        """How many reads the fast lane took on its last connection."""
        taken: int = self.fast.connections[-1].takes
        return taken


@contextlib.asynccontextmanager
async def served(directory: Path, conditions: Conditions) -> AsyncIterator[Lanes]:
    """Both lanes under the same conditions; the date that they send stands still."""
    lanes = Lanes(
        Lane(directory / "fast", conditions, is_fast=True), Lane(directory / "plain", conditions, is_fast=False)
    )
    with mock.patch.object(uvicorn.server, "formatdate", return_value=DATE):
        for lane in lanes:
            await lane.start()
        try:
            yield lanes
        finally:
            await asyncio.gather(*(lane.stop() for lane in lanes))


async def read_all(client: socket.socket) -> bytes:
    """What comes until the server ends the connection, in peace or not."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while chunk := await asyncio.get_running_loop().sock_recv(client, 2**20):
            received += chunk
    return bytes(received)


def _configuration(app: TrackingLane, http: type[asyncio.Protocol], conditions: Conditions) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        **conditions.server,
    )


def _watched(http: type[BoundedHttp], connections: list[Any]) -> type[BoundedHttp]:
    """The same protocol, of whose connections a test knows what they have read and whether the fast lane took it."""

    class Watched(http):  # type: ignore[misc, valid-type]
        bytes_read = takes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            connections.append(self)
            self.access_log = False  # pytest's capture of all logs would be one
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            self.bytes_read += len(data)
            super().data_received(data)

        if issubclass(http, FastLane):

            def _hold(self, data: bytes) -> None:
                self.bytes_read -= len(data)  # it comes again
                super()._hold(data)

            def _take(self, data: bytes) -> bool:
                took = super()._take(data)
                self.takes += took
                return bool(took)

    return Watched
