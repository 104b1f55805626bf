"""HTTP/1.1 within bounds: uvicorn's protocol, which itself takes heads of any size and waits for them for ever.

Invariants: a request's head has at most `MAX_HEAD_BYTES` and `MAX_HEADER_LINES`, and all of it comes within
`REQUEST_SECONDS`; a target that is too long for any token is cut, so that it is answered like every bad one; whoever
asked before something malformed gets the answers, and nothing is written to a connection that is gone; what waits for
its turn takes little more memory than its bytes; no timer outlives its connection.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .room import Room

MAX_TARGET_BYTES = 8_192
"""Longest request target that is looked at: a token has 6 kB at most, and what follows `?` is ignored."""

MAX_HEAD_BYTES = 256 * 2**10
MAX_HEADER_LINES = 2_000
"""Of a request: short ones take thirty times their bytes."""

MAX_PIPELINE = 32
"""Requests of a connection that are made something of before their turn: each takes a hundred times its bytes."""

REQUEST_SECONDS = 30.0
"""From a request's first byte to its last; nobody who asks for a link sends a body."""

_SLICE_BYTES = 2 * 2**10
"""What the parser gets at once of a large read, about a usual request: in 256 kB are thousands of small ones."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 25\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"The request is too large."
)


class _TooManyLines(Exception):
    """Ends the parser's work; what is answered is not its business."""


class BoundedHttp(HttpToolsProtocol):
    """For `http=` of uvicorn, as `within` binds it to a room; by itself it knows no bound of connections.

    Relies on `data_received`, the parser's callbacks, `_unset_keepalive_if_required`, `_start_asgi_task`,
    `send_400_response`, `_unsupported_upgrade_warning`, `cycle` and `pipeline`.
    """

    # Bound once, shared by all connections of the process
    _room: Room | None = None

    # Per-connection state
    _head_bytes = 0
    _in_head = True
    _unread = b""
    _is_stranger = False
    _is_over = False
    """Whether nothing more is read: the answers that are due leave, then the connection ends."""
    _deadline: asyncio.TimerHandle | None = None
    _asking: RequestResponseCycle | None = None
    """What the application is at work on; with pipelining `cycle` is a later one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()
        if self._room is not None:
            self._is_stranger = True
            self._room.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._room is not None:
            self._room.leave(self)
        if self._asking is not None:
            self._asking.disconnected = True  # uvicorn tells the last one only; the others would write all the same
            self._asking.message_event.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it, and us with it, in memory after a reset
        self._unset_deadline()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who has said all may still wait for the answer; uvicorn would end the connection with it on the way."""
        self.shutdown()
        return True

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer here."""
        return self._last_asking() is not None

    def end(self) -> None:
        """Ends the connection at once."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Reads on as far as answers can follow; the rest waits as it came, and no more comes meanwhile."""
        if len(data) <= _SLICE_BYTES and not self._unread:
            self._read_slice(data)
            return
        data, self._unread = self._unread + data, b""
        for begin in range(0, len(data), _SLICE_BYTES):
            if self.transport.is_closing():
                return
            if len(self.pipeline) >= MAX_PIPELINE:
                self._unread = data[begin:]
                self.flow.pause_reading()
                return
            self._read_slice(data[begin : begin + _SLICE_BYTES])

    def _read_slice(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse()
                return
        super().data_received(data)
        if self._deadline is None and (self._head_bytes or not self._in_head):
            self._set_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self.url += url[: MAX_TARGET_BYTES - len(self.url)]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True  # whatever comes now is the next one's
        self._unset_deadline()
        self._be_known()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._unread and not self.pipeline:
            self.data_received(b"")
        if self.pipeline or self._unread:
            self.flow.pause_reading()  # uvicorn reads on after each answer, however many requests wait already

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADER_LINES:
            raise _TooManyLines
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        if self.headers is not None and len(self.headers) >= MAX_HEADER_LINES:
            self._refuse()
        elif not self._end_after_answers():
            super().send_400_response(msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing is upgraded; what came with the request the parser has dropped, so no later one could be trusted."""
        self._end_after_answers()

    def _refuse(self) -> None:
        if not self._end_after_answers():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _end_after_answers(self) -> bool:
        """Has the answers leave that are waited for, and nothing after them; False if none is."""
        last = self._last_asking()
        if last is None:
            return False
        last.keep_alive = False
        self._is_over = True
        self.flow.pause_reading()
        return True

    def _last_asking(self) -> RequestResponseCycle | None:
        cycle = self.cycle
        return None if cycle is None or cycle.response_complete else cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._asking = cycle
        super()._start_asgi_task(cycle, app)

    def _be_known(self) -> None:
        """From the first whole request on, this is not the first connection to go."""
        if self._is_stranger and self._room is not None:
            self._is_stranger = False
            self._room.know(self)

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def within(room: Room, http: type[BoundedHttp] = BoundedHttp) -> type[BoundedHttp]:
    """The protocol for connections that share a room."""
    return type(http.__name__, (http,), {"_room": room})
