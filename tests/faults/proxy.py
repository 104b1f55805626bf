"""A TCP proxy between shippers and PostgreSQL that cuts connections at chosen moments of the protocol.

It follows the frontend's messages (PostgreSQL's protocol 3.0, "Message Formats") without changing them, so that a cut
can come in the middle of a COPY, between the rows and COMMIT, or between COMMIT and its answer.
"""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum, auto
from typing import Any

_READ_BYTES = 16_384
_COPY_DATA = b"d"
_SENDS_SQL = b"QP"
_COMMIT = b"COMMIT"


class _When(Enum):
    IN_COPY = auto()
    BEFORE_COMMIT = auto()
    AFTER_COMMIT = auto()


class Cut:
    """Listens on a port of this machine and hands on to a server's unix socket, in a thread of its own."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._when: _When | None = None
        self._copied_bytes = 0
        self._done = threading.Event()
        self.cuts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.port: int = self._call(self._listen)

    def url(self, url: str) -> str:
        """A database's URL, by way of the proxy."""
        name = url.partition("?")[0].rpartition("/")[2]
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}?sslmode=disable"

    def arm_in_copy(self, after_bytes: int) -> None:
        """Cuts the next connection that has sent so many bytes of rows."""
        self._copied_bytes = after_bytes
        self._arm(_When.IN_COPY)

    def arm_before_commit(self) -> None:
        """Cuts the next connection that sends COMMIT, which does not arrive."""
        self._arm(_When.BEFORE_COMMIT)

    def arm_after_commit(self) -> None:
        """Cuts the next connection that sends COMMIT when the server has answered, which does not arrive."""
        self._arm(_When.AFTER_COMMIT)

    def wait(self, seconds: float) -> bool:
        """Whether the cut came within this time; it is called off if not."""
        came = self._done.wait(seconds)
        self._when = None
        return came

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._call(stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _arm(self, when: _When) -> None:
        self._done.clear()
        self._when = when

    def _call(self, function: Callable[[], Any]) -> Any:
        called: Future[Any] = asyncio.run_coroutine_threadsafe(function(), self._loop)
        return called.result(10)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._hand_on, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server: asyncio.StreamWriter | None = None
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # one side is gone; the other is told below
                answers, server = await asyncio.open_unix_connection(self._path)
                back = _Back(answers, writer)
                both = {asyncio.create_task(work) for work in (self._follow(reader, server, back), back.pump())}
                try:
                    # The end of one side is the end of the other, as without a proxy.
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in both:
                        each.cancel()
                    await asyncio.gather(*both, return_exceptions=True)
        finally:
            for side in (writer, server):
                if side is not None:
                    side.transport.abort()

    async def _follow(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, back: "_Back") -> None:
        """Hands on the frontend's messages one by one, until one of them is where the connection is to be cut."""
        (size,) = struct.unpack(">I", await reader.readexactly(4))  # the start-up message has no type
        server.write(struct.pack(">I", size) + await reader.readexactly(size - 4))
        copied = 0
        while True:
            kind = await reader.readexactly(1)
            (size,) = struct.unpack(">I", await reader.readexactly(4))
            body = await reader.readexactly(size - 4)
            message = kind + struct.pack(">I", size) + body
            is_commit = kind in _SENDS_SQL and _COMMIT in body
            if kind == _COPY_DATA:
                copied += len(body)
                if self._when is _When.IN_COPY and copied >= self._copied_bytes:
                    server.write(message[: len(message) // 2])
                    await server.drain()
                    break
            if is_commit and self._when is _When.BEFORE_COMMIT:
                break
            if is_commit and self._when is _When.AFTER_COMMIT:
                back.is_heard = False
                server.write(message)
                await server.drain()
                await asyncio.sleep(0.05)  # the server commits though nobody hears of it
                break
            server.write(message)
            await server.drain()
        self.cuts += 1
        self._when = None
        self._done.set()


class _Back:
    """What the server says, until nobody shall hear it any more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.is_heard = True

    async def pump(self) -> None:
        while data := await self._reader.read(_READ_BYTES):
            if self.is_heard:
                self._writer.write(data)
                await self._writer.drain()
